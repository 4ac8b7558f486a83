import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peak_nerf.core.kernels.alignment import (
    centered,
    centered_kernel_alignment,
    kernel_alignment,
    kernel_target_alignment,
    spectrum,
)


def kernel(n: int, seed: int, rank: int | None = None) -> Tensor:
    a = torch.randn(n, rank or n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T


def test_alignment_by_hand() -> None:
    """<I, y y^T> / (||I|| ||y y^T||) = |y|^2 / (sqrt(2) |y|^2)."""
    eye, y = torch.eye(2), torch.tensor([[3.0], [4.0]])
    assert kernel_target_alignment(eye, y) == pytest.approx(1 / math.sqrt(2))
    # Centred, I becomes [[1, -1], [-1, 1]] / 2, and so does any kernel on two points.
    assert centered_kernel_alignment(eye, y @ y.T) == pytest.approx(1)
    assert kernel_alignment(torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0]))) == 0


@settings(deadline=None, max_examples=30)
@given(n=st.integers(3, 8), seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(0, 10))
def test_cka_lies_in_the_unit_interval_and_ignores_scale_and_constants(
    n: int, seed: int, scale: float, shift: float
) -> None:
    k, other = kernel(n, seed), kernel(n, seed + 1)
    cka = centered_kernel_alignment(k, other)
    assert 0 <= cka <= 1
    assert centered_kernel_alignment(scale * k + shift, other) == pytest.approx(cka, abs=1e-9)
    assert centered_kernel_alignment(other, k) == pytest.approx(cka, abs=1e-12)
    assert centered_kernel_alignment(k, k) == pytest.approx(1)
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    torch.testing.assert_close(centered(k), h @ k @ h)


def test_spectrum_by_hand() -> None:
    found = spectrum(torch.diag(torch.tensor([1.0, 4.0, 0.0, 4.0])))
    torch.testing.assert_close(found.values, torch.tensor([4.0, 4.0, 1.0, 0.0], dtype=torch.float64))
    p = [4 / 9, 4 / 9, 1 / 9]
    assert found.effective_rank == pytest.approx(math.exp(-sum(q * math.log(q) for q in p)))
    # y has no part in the eigenvalues of 4, two thirds in that of 1 and a third in that of 0.
    y = torch.tensor([[math.sqrt(2)], [0.0], [1.0], [0.0]])
    torch.testing.assert_close(found.share_of(y), torch.tensor([0.0, 0.0, 2 / 3, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_spectrum_rebuilds_the_kernel(rank: int) -> None:
    k = kernel(6, 0, rank)
    found = spectrum(k)
    torch.testing.assert_close((found.vectors * found.values) @ found.vectors.T, k)
    assert int((found.values > 1e-12 * found.values[0]).sum()) == rank
    assert 1 <= found.effective_rank <= rank + 1e-9


def test_bad_input() -> None:
    good = kernel(3, 0)
    cases = {
        "is empty": torch.zeros(0, 0),
        "must be square": torch.zeros(2, 3) + 1,
        "entries that are not finite": torch.full((2, 2), torch.nan),
        "not symmetric": torch.tensor([[1.0, 0.5], [0.0, 1.0]]),
        "not positive semi-definite": -good,
        "is 0": torch.zeros(3, 3),
    }
    for message, k in cases.items():
        with pytest.raises(Exception, match=message if message != "must be square" else "square|shape|n n"):
            spectrum(k)
    with pytest.raises(ValueError, match=r"aligned with nothing"):
        centered_kernel_alignment(torch.ones(3, 3), good)
    with pytest.raises(Exception, match=r"size|Type-check"):
        kernel_alignment(kernel(4, 0), good)
    with pytest.raises(ValueError, match=r"targets are 0|targets y are 0"):
        spectrum(good).share_of(torch.zeros(3, 1))
