"""Adjoints, agreement of dense and chunked matrices, agreement with plain FFTs and with deepinv."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from peak_nerf.tasks.phase_retrieval import operators
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator, GaussianOperator, Operator, inner


def random_measurement(operator: Operator, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kind = torch.complex64 if operator.name == "fourier" or operator.complex_valued else torch.float32
    v = torch.randn(operator.shape, dtype=kind, generator=generator)
    if isinstance(operator, FourierOperator):
        # Only transforms of real pictures have measurements of this half: project onto them.
        v = torch.fft.rfft2(operator.adjoint_padded(v), norm="ortho")
    return v


@pytest.mark.parametrize(
    "operator",
    [
        FourierOperator(9, 9),
        FourierOperator(8, 15),
        FourierOperator(8, 16),
        GaussianOperator(6, 30, seed=1),
        GaussianOperator(6, 30, seed=1, complex_valued=True),
        GaussianOperator(6, 30, seed=1, storage="chunked"),
    ],
    ids=["fourier", "fourier-odd", "fourier-even", "real", "complex", "chunked"],
)
def test_adjoint_passes_the_dot_product_test(operator: Operator) -> None:
    x = torch.randn(operator.size, operator.size, generator=torch.Generator().manual_seed(0))
    v = random_measurement(operator, 1)
    left = float(inner(operator, operator.apply(x), v))
    right = float((x * operator.adjoint(v)).sum())
    assert left == pytest.approx(right, rel=1e-5, abs=1e-5)


@given(n=st.integers(1, 12), extra=st.integers(0, 12))
def test_fourier_is_the_plain_fft_of_the_padded_picture(n: int, extra: int) -> None:
    operator = FourierOperator(n, n + extra)
    x = np.random.default_rng(n).random((n, n)).astype(np.float32)
    padded = np.zeros((n + extra, n + extra))
    padded[:n, :n] = x
    z = operator.apply(torch.from_numpy(x))
    np.testing.assert_allclose(z.numpy(), np.fft.fft2(padded)[:, : operator.shape[1]] / (n + extra), atol=1e-5)
    # Unitary but for the padding, with each frequency of the half counted as often as it stands for.
    assert float(inner(operator, z, z)) == pytest.approx(float((x**2).sum()), rel=1e-5)
    np.testing.assert_allclose(operator.adjoint(z).numpy(), x, atol=1e-5)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_chunked_rows_are_those_of_the_dense_matrix(complex_valued: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "CHUNK_BYTES", 7 * 36 * (8 if complex_valued else 4))
    dense = GaussianOperator(6, 40, seed=3, complex_valued=complex_valued, storage="dense")
    chunked = GaussianOperator(6, 40, seed=3, complex_valued=complex_valued, storage="chunked")
    assert dense.block == 7
    assert dense.matrix is not None
    assert chunked.matrix is None
    x = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(dense.apply(x), dense.matrix @ x.reshape(-1).to(dense.matrix.dtype), atol=1e-6)
    np.testing.assert_allclose(dense.apply(x), chunked.apply(x), atol=1e-6)
    v = random_measurement(dense, 1)
    np.testing.assert_allclose(dense.adjoint(v), chunked.adjoint(v), atol=1e-6)
    assert [start for start, _ in chunked.blocks()] == [0, 7, 14, 21, 28, 35]


@pytest.mark.parametrize("storage", ["dense", "chunked"])
def test_gradient_of_the_matrix_product_is_the_adjoint(storage: str) -> None:
    operator = GaussianOperator(5, 12, seed=0, complex_valued=True, storage=storage)  # type: ignore[arg-type]
    x = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    z = operator.apply(x)
    (z.abs().square().sum() / 2).backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, operator.adjoint(z.detach()), rtol=1e-4, atol=1e-5)


def test_entries_have_the_variance_promised() -> None:
    for complex_valued in (False, True):
        operator = GaussianOperator(20, 300, seed=0, complex_valued=complex_valued, storage="dense")
        assert operator.matrix is not None
        assert float(operator.matrix.abs().square().mean()) == pytest.approx(1 / 300, rel=0.02)


def test_another_seed_is_another_matrix_and_the_same_is_the_same() -> None:
    x = torch.ones(6, 6)
    one, same, other = (GaussianOperator(6, 9, seed=seed).apply(x) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_too_little_memory_makes_it_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "free_memory", lambda: 2 * 4 * 36 * 40)
    assert GaussianOperator(6, 40).storage == "dense"
    monkeypatch.setattr(operators, "free_memory", lambda: 2 * 4 * 36 * 40 - 1)
    assert GaussianOperator(6, 40).storage == "chunked"


def test_a_matrix_of_ones_own_is_used_as_it_is() -> None:
    matrix = torch.arange(12.0).reshape(3, 4)
    operator = GaussianOperator.from_matrix(matrix, 2)
    np.testing.assert_allclose(operator.apply(torch.eye(2)), [0 + 3, 4 + 7, 8 + 11])
    with pytest.raises(ValueError, match="must be"):
        GaussianOperator.from_matrix(matrix, 3)


@pytest.mark.parametrize("arguments", [(0, 4), (4, 3)])
def test_fourier_sizes_are_checked(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="side"):
        FourierOperator(*arguments)


def test_gaussian_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GaussianOperator(4, 0)


def test_agrees_with_deepinv_where_they_overlap() -> None:
    deepinv = pytest.importorskip("deepinv", reason="pip install 'peak_nerf[deepinv]'")
    generator = torch.Generator().manual_seed(0)
    ours = GaussianOperator(6, 50, seed=0, complex_valued=True, storage="dense")
    assert ours.matrix is not None
    theirs = deepinv.physics.RandomPhaseRetrieval(m=50, img_size=(1, 6, 6), dtype=torch.complex64)
    # Theirs draws a matrix of its own, with variance 1 / m as ours: hand it ours.
    assert theirs.B._A.shape == ours.matrix.shape
    assert float(theirs.B._A.abs().square().mean()) == pytest.approx(1 / 50, rel=0.2)
    theirs.B._A.copy_(ours.matrix)
    if hasattr(theirs.B, "_A_adjoint"):
        theirs.B._A_adjoint.copy_(ours.matrix.mH)
    x = torch.rand(6, 6, generator=generator)
    typed = x[None, None].to(torch.complex64)
    np.testing.assert_allclose(theirs.B.A(typed)[0].numpy(), ours.apply(x).numpy(), atol=1e-5)
    # They measure intensities |A x|^2, we magnitudes.
    np.testing.assert_allclose(theirs(typed)[0].sqrt().numpy(), ours.apply(x).abs().numpy(), atol=1e-5)
    v = random_measurement(ours, 2)
    np.testing.assert_allclose(theirs.B.A_adjoint(v[None])[0, 0].real.numpy(), ours.adjoint(v).numpy(), atol=1e-5)


def test_memory_of_128_pixels_at_ratio_1_is_a_gibibyte() -> None:
    operator = GaussianOperator(128, 128 * 128, storage="chunked")
    assert operator.n_bytes == 2**30
    assert math.prod(operator.shape) == 16384
