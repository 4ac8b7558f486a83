import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from peak_nerf.core.anchors import GlobalAnchors, LocalAnchors
from peak_nerf.core.encodings import PolynomialEncoding
from peak_nerf.core.kar import (
    KernelAlignmentRegularizer,
    dirichlet_energy,
    kernel_alignment_residual,
    kernel_alignment_residual_local,
)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference_attention(g_query: Tensor, g_anchor: Tensor, self_index: Tensor | None = None) -> Tensor:
    """A, one exponential at a time."""
    rows = []
    for i, g in enumerate(g_query):
        weights = [(g @ h).exp() for h in g_anchor]
        if self_index is not None and self_index[i] >= 0:
            weights[int(self_index[i])] = torch.zeros((), dtype=g.dtype)
        rows.append(torch.stack(weights) / torch.stack(weights).sum())
    return torch.stack(rows)


def reference_residual(
    f_query: Tensor, g_query: Tensor, f_anchor: Tensor, g_anchor: Tensor, self_index: Tensor | None = None
) -> Tensor:
    return f_query - reference_attention(g_query, g_anchor, self_index) @ f_anchor


class LargestTensor(TorchDispatchMode):
    """Records the most elements of any tensor that an operation returns, in forward and backward."""

    n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.n_elements = max(self.n_elements, tensor.numel())
        return result


# --- shared anchors


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 7),
    m=st.integers(2, 6),
    r=st.integers(1, 4),
    c=st.integers(1, 4),
    chunk_size=st.integers(1, 9),
    masked=st.booleans(),
    seed=st.integers(0, 100),
)
def test_residual_and_gradients_agree_with_the_reference(
    n: int, m: int, r: int, c: int, chunk_size: int, masked: bool, seed: int
) -> None:
    tensors = [
        randn(n, c, seed=seed),
        randn(n, r, seed=seed + 1),
        randn(m, c, seed=seed + 2),
        randn(m, r, seed=seed + 3),
    ]
    own = (torch.arange(n) + seed) % (m + 1) - 1 if masked else None
    fast_in = [t.clone().requires_grad_() for t in tensors]
    slow_in = [t.clone().requires_grad_() for t in tensors]
    fast = kernel_alignment_residual(*fast_in, self_index=own, chunk_size=chunk_size)
    slow = reference_residual(*slow_in, self_index=own)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    weights = randn(n, c, seed=seed + 4)
    (fast * weights).sum().backward()
    (slow * weights).sum().backward()
    for a, b in zip(fast_in, slow_in, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)


def test_residual_agrees_with_torch_attention_in_float32() -> None:
    f_q, g_q, f_a, g_a = (
        randn(*s, seed=i, dtype=torch.float32) for i, s in enumerate([(50, 3), (50, 8), (60, 3), (60, 8)])
    )
    attention = torch.nn.functional.scaled_dot_product_attention(g_q[None], g_a[None], f_a[None], scale=1.0)[0]
    torch.testing.assert_close(kernel_alignment_residual(f_q, g_q, f_a, g_a), f_q - attention, rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    f_q, f_a = torch.zeros(1, 1), torch.tensor([[3.0], [5.0]])
    residual = kernel_alignment_residual(f_q, torch.tensor([[200.0]]), f_a, torch.tensor([[1.0], [2.0]]))
    assert residual.item() == -5.0


def test_self_exclusion_by_hand() -> None:
    """Equal logits, so A averages the other anchors: f = (1, 2, 6) loses its own entry."""
    f = torch.tensor([[1.0], [2.0], [6.0], [9.0]])
    g = torch.zeros(4, 2)
    residual = kernel_alignment_residual(f, g, f[:3], g[:3], self_index=torch.tensor([0, 1, 2, -1]))
    torch.testing.assert_close(residual, torch.tensor([[1 - 4.0], [2 - 3.5], [6 - 1.5], [9 - 3.0]]))


def test_without_exclusion_a_sharp_g_solves_it_trivially_and_with_it_does_not() -> None:
    f = torch.tensor([[0.0], [1.0], [4.0], [9.0], [16.0]], dtype=torch.float64)
    g = 30 * torch.eye(5, dtype=torch.float64)
    assert float(kernel_alignment_residual(f, g, f, g).abs().max()) < 1e-12
    assert float(kernel_alignment_residual(f, g, f, g, torch.arange(5)).abs().min()) > 1e-2


@pytest.mark.parametrize(("n", "masked"), [(4_000, False), (12_000, True)])
def test_memory_is_linear(n: int, masked: bool) -> None:
    tensors = [randn(n, k, seed=i, dtype=torch.float32).requires_grad_() for i, k in enumerate([2, 8, 2, 8])]
    own = torch.arange(n) if masked else None
    with LargestTensor() as mode:
        kernel_alignment_residual(*tensors, self_index=own, chunk_size=64).square().sum().backward()
    assert all(t.grad is not None and bool(t.grad.isfinite().all()) for t in tensors)
    assert n * 8 <= mode.n_elements <= 64 * n  # A alone would have n * n


def test_mixed_precision_is_promoted() -> None:
    f_q, f_a = randn(4, 2, dtype=torch.float32), randn(5, 2, dtype=torch.float32)
    g_q, g_a = randn(4, 3, dtype=torch.float32).half(), randn(5, 3, dtype=torch.float32).half()
    found = kernel_alignment_residual(f_q, g_q, f_a, g_a)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, reference_residual(f_q, g_q.float(), f_a, g_a.float()))
    assert kernel_alignment_residual(f_q.half(), g_q, f_a.half(), g_a).dtype == torch.float32


def test_no_anchors_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1 anchor"):
        kernel_alignment_residual(randn(3, 1), randn(3, 2), randn(0, 1), randn(0, 2))
    with pytest.raises(ValueError, match="at least 1 anchor"):
        kernel_alignment_residual_local(randn(3, 1), randn(3, 2), randn(3, 0, 1), randn(3, 0, 2))
    with pytest.raises(ValueError, match="itself"):
        kernel_alignment_residual(randn(1, 1), randn(1, 2), randn(1, 1), randn(1, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="chunk_size"):
        kernel_alignment_residual(randn(1, 1), randn(1, 2), randn(1, 1), randn(1, 2), chunk_size=0)


# --- anchors per query


def test_local_residual_and_gradients_agree_with_the_reference() -> None:
    shapes = [(5, 2), (5, 3), (5, 4, 2), (5, 4, 3)]
    fast_in = [randn(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
    slow_in = [t.detach().clone().requires_grad_() for t in fast_in]
    fast = kernel_alignment_residual_local(*fast_in)
    f_q, g_q, f_a, g_a = slow_in
    slow = torch.cat([reference_residual(f_q[i : i + 1], g_q[i : i + 1], f_a[i], g_a[i]) for i in range(5)])
    torch.testing.assert_close(fast, slow)
    fast.square().sum().backward()
    slow.square().sum().backward()
    for a, b in zip(fast_in, slow_in, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# --- Dirichlet energy


def test_dirichlet_energy_is_the_laplacian_form_and_the_weighted_differences() -> None:
    f, g = randn(6, 3), randn(6, 2, seed=1)
    a = reference_attention(g, g, torch.arange(6))
    w = (a + a.T) / 2
    laplacian = torch.diag(w.sum(1)) - w
    differences = 0.5 * sum(w[i, j] * (f[i] - f[j]).square().sum() for i in range(6) for j in range(6))
    torch.testing.assert_close(dirichlet_energy(f, g), (f.T @ laplacian @ f).trace())
    torch.testing.assert_close(dirichlet_energy(f, g), differences)


def test_dirichlet_energy_of_a_constant_is_zero() -> None:
    energy = dirichlet_energy(torch.full((9, 2), 1000.3), torch.randn(9, 4))
    assert abs(energy.item()) < 1e-5
    with pytest.raises(ValueError, match="at least 2"):
        dirichlet_energy(torch.zeros(1, 2), torch.zeros(1, 4))


# --- the module


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("norm", ["l2", "squared", "huber"])
@pytest.mark.parametrize("local", [False, True])
def test_forward_agrees_with_the_reference_and_reaches_everything(similarity: Any, norm: Any, local: bool) -> None:
    torch.manual_seed(0)
    kar = KernelAlignmentRegularizer(
        2, n_features=4, hidden_dim=5, omega_0=3.0, similarity=similarity, norm=norm, chunk_size=2
    ).double()
    x_q = randn(5, 2)
    x_a = randn(5, 3, 2, seed=1) if local else randn(6, 2, seed=1)
    f_q, f_a = randn(5, 3, seed=2).requires_grad_(), randn(*x_a.shape[:-1], 3, seed=3).requires_grad_()
    own = None if local else torch.tensor([0, 3, -1, 5, -1])
    loss = kar(x_q, f_q, x_a, f_a, own)

    s_q, s_a = kar.siren(x_q), kar.siren(x_a)
    if similarity == "cosine":
        scale = math.sqrt(10.0)
        g_q, g_a = (scale * s / s.norm(dim=-1, keepdim=True) for s in (s_q, s_a))
    else:
        g_q, g_a = s_q.softmax(-1), s_a.softmax(-1)
    if local:
        a = torch.cat([reference_attention(g_q[i : i + 1], g_a[i]) for i in range(5)])
        residual = f_q - (a[:, :, None] * f_a).sum(1)
    else:
        a = reference_attention(g_q, g_a, own)
        residual = f_q - a @ f_a
    per_query = residual.square().sum(1)
    huber = 2 * 0.03 * ((per_query + 0.03**2).sqrt() - 0.03)
    expected = {"l2": per_query.sqrt(), "squared": per_query, "huber": huber}[norm].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(kar.residual(x_q, f_q, x_a, f_a, own), residual, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(kar.attention(x_q, x_a, own), a, rtol=1e-6, atol=1e-7)

    loss.backward()
    assert f_q.grad is not None
    assert f_a.grad is not None
    assert float(f_q.grad.abs().min()) > 0
    assert float(f_a.grad.abs().sum()) > 0
    for name, parameter in kar.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_dot_logits_lie_in_the_unit_interval() -> None:
    kar = KernelAlignmentRegularizer(1, similarity="dot")
    a = kar.attention(torch.linspace(-1, 1, 20)[:, None], torch.linspace(-1, 1, 30)[:, None])
    assert float((a.amax(1) / a.amin(1)).max()) <= math.e
    torch.testing.assert_close(a.sum(1), torch.ones(20))
    assert not hasattr(kar, "log_temperature")


def test_zero_residual_has_a_finite_gradient() -> None:
    kar = KernelAlignmentRegularizer(2)
    f_q, f_a = torch.ones(3, 2, requires_grad=True), torch.ones(4, 2, requires_grad=True)
    x_a = torch.zeros(4, 2)
    loss = kar(torch.zeros(3, 2), f_q, x_a, f_a)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    for tensor in (f_q, f_a, *kar.parameters()):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())


@pytest.mark.parametrize("shape", [(6, 2), (0, 3, 2)])
def test_no_queries_give_zero_on_the_graph(shape: tuple[int, ...]) -> None:
    kar = KernelAlignmentRegularizer(2)
    f_q, f_a = torch.zeros(0, 3, requires_grad=True), torch.randn(*shape[:-1], 3).requires_grad_()
    loss = kar(torch.zeros(0, 2), f_q, torch.randn(shape), f_a)
    assert loss.item() == 0
    loss.backward()
    for tensor in (f_q, f_a, *kar.parameters()):
        assert tensor.grad is not None
        assert float(tensor.grad.abs().sum()) == 0


def test_self_index_is_refused_with_anchors_per_query() -> None:
    kar = KernelAlignmentRegularizer(2)
    with pytest.raises(ValueError, match="shared anchors"):
        kar(torch.zeros(2, 2), torch.zeros(2, 1), torch.zeros(2, 3, 2), torch.zeros(2, 3, 1), torch.zeros(2).long())


def test_weight_warms_up_linearly() -> None:
    kar = KernelAlignmentRegularizer(1, weight=0.5, warmup=0.2)
    assert [kar.weight_at(p) for p in (0.0, 0.05, 0.1, 0.2, 1.0)] == pytest.approx([0, 0.125, 0.25, 0.5, 0.5])
    assert KernelAlignmentRegularizer(1, weight=0.5, warmup=0.0).weight_at(0.0) == 0.5
    for progress in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="progress"):
            kar.weight_at(progress)


@pytest.mark.parametrize("bad", [{"weight": -1.0}, {"warmup": 2.0}, {"chunk_size": 0}, {"in_dim": 0}])
def test_bad_settings(bad: dict) -> None:
    with pytest.raises(ValueError, match="at least"):
        KernelAlignmentRegularizer(**{"in_dim": 2, **bad})


def test_g_learns_which_anchors_resemble_the_query() -> None:
    """Two interleaved constants: only an A that tells them apart makes f = A f hold, and g finds it."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 32)[:, None]
    f = (torch.arange(32) // 4 % 2).float()[:, None]
    kar = KernelAlignmentRegularizer(1)
    own = torch.arange(32)
    optimizer = torch.optim.Adam(kar.parameters(), lr=5e-3)
    start = kar(x, f, x, f, own).item()
    for _ in range(150):
        optimizer.zero_grad()
        kar(x, f, x, f, own).backward()
        optimizer.step()
    assert kar(x, f, x, f, own).item() < 0.2 * start
    a = kar.attention(x, x, own)
    same = f == f.T
    assert float((a * same).sum(1).min()) > 0.5


# --- of a whole field


def test_field_loss_is_the_same_for_all_samplers_as_by_hand() -> None:
    field = nn.Linear(2, 3).double()
    kar = KernelAlignmentRegularizer(2).double()
    x = 0.9 * randn(5, 2).tanh()

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    for sampler in (GlobalAnchors(6), LocalAnchors(4, 0.1)):
        anchors = sampler.sample(x, generator=seeded())
        torch.testing.assert_close(
            kar.field_loss(field, sampler, x, generator=seeded()), kar(x, field(x), anchors, field(anchors))
        )
    # An output without a channel dimension counts as one channel.
    torch.testing.assert_close(
        kar.field_loss(lambda p: field(p)[:, 0], LocalAnchors(4, 0.1), x, generator=seeded()),
        kar.field_loss(lambda p: field(p)[:, :1], LocalAnchors(4, 0.1), x, generator=seeded()),
    )


# --- the paper's own


def test_as_published_takes_the_steps_of_algorithm_1() -> None:
    """Two steps of gradient descent on eq. (12), for f, the a_j and g, against the equations written out."""
    rate, weight = 0.05, 0.3
    grid, x, y = randn(7, 2, seed=2).tanh(), randn(3, 2, seed=3).tanh(), randn(3, 1, seed=4)

    def steps(regulariser: Callable[[KernelAlignmentRegularizer, Tensor], Tensor]) -> list[Tensor]:
        torch.manual_seed(0)
        gamma, f = PolynomialEncoding(2, 1, coordinate_map="raw").double(), nn.Sequential(nn.Linear(3, 8), nn.Tanh())
        f = nn.Sequential(gamma, f, nn.Linear(8, 1)).double()
        kar = KernelAlignmentRegularizer.as_published(2, n_features=6, weight=weight).double()
        parameters = [*f.parameters(), *kar.parameters()]
        for _ in range(2):
            loss = (f(x) - y).square().sum() + regulariser(kar, f(grid))
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.data -= rate * gradient
        return parameters

    def written_out(kar: KernelAlignmentRegularizer, f: Tensor) -> Tensor:
        g = torch.softmax(kar.siren(grid), dim=1)
        a = torch.softmax(g @ g.T, dim=1)
        return weight * sum((f[i] - a[i] @ f).square().sum().sqrt() for i in range(7))

    ours = steps(lambda kar, f: kar.weight_at(0.0) * len(grid) * kar(grid, f, grid, f))
    torch.testing.assert_close(ours, steps(written_out))
    assert ours[-1].shape == (6,)
