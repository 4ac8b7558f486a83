"""The compiled kernels of `ReluMLP` against torch in float64, and who gets torch instead of them."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap

from peak_nerf.core import relu_mlp
from peak_nerf.core.backbones import ReluMLP


@pytest.fixture(autouse=True)
def kernels_for_any_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relu_mlp, "MIN_ROWS", 1)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def network(in_dim: int, out_dim: int, hidden_dim: int, n_hidden: int, bias: bool) -> ReluMLP:
    torch.manual_seed(in_dim + 7 * hidden_dim + n_hidden)
    return ReluMLP(in_dim, out_dim, hidden_dim, n_hidden, bias=bias)


def uses_kernels(mlp: ReluMLP, x: Tensor) -> bool:
    return "Fused" in type(mlp(x).grad_fn).__name__ or "Fused" in str(mlp(x).grad_fn.next_functions)


def outputs_and_gradients(mlp: ReluMLP, x: Tensor, slope: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = mlp(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *mlp.parameters()], slope)]


def compare(mlp: ReluMLP, n: int) -> None:
    """Values to 1e-5 of the size of what they are sums of."""
    x, slope = torch.randn(n, mlp.in_dim), torch.randn(n, mlp.out_dim)
    ours = outputs_and_gradients(mlp, x, slope)
    theirs = outputs_and_gradients(copy.deepcopy(mlp).double(), x.double(), slope.double())
    for mine, right in zip(ours, theirs, strict=True):
        scale = max(1.0, float(right.abs().max())) if right.numel() else 1.0
        torch.testing.assert_close(mine.double(), right, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_hidden", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "widths", [(1, 1, 1), (3, 5, 31), (36, 16, 64), (31, 3, 64), (64, 1, 17), (5, 36, 9), (8, 7, 24)]
)
def test_against_torch_in_float64(widths: tuple[int, int, int], n_hidden: int, bias: bool) -> None:
    mlp = network(*widths, n_hidden, bias)
    for n in (1, 2, 7, 71, 72, 73, 500):
        assert relu_mlp.kernels_apply(torch.zeros(n, widths[0]), [*mlp.hidden, mlp.output])
        compare(mlp, n)


@pytest.mark.parametrize("n", [0, 127, 128, 129, 1000, 9001])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_rows_and_threads(threads, n: int, n_threads: int) -> None:
    threads(n_threads)
    compare(network(31, 3, 64, 2, True), n)
    compare(network(36, 16, 64, 1, False), n)


def test_the_number_of_threads_changes_no_bit(threads) -> None:
    mlp, x, slope = network(31, 3, 64, 2, True), torch.randn(9001, 31), torch.randn(9001, 3)
    results = []
    for n_threads in (1, 1, 2, 3):
        threads(n_threads)
        results.append(outputs_and_gradients(mlp, x, slope))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nothing_is_written_outside_the_result() -> None:
    """Rows that are no multiple of a vector are written with vectors; the neighbours belong to other threads."""
    from peak_nerf.core import relu_mlp_numba as kernels

    for width in range(1, 18):
        columns = int(kernels.padded(width))
        for n in (1, 2, 5, 9, 20):
            room = torch.full(((n + 16) * width,), -7.0).numpy()
            a, b = torch.rand(n, 4), torch.zeros(4, columns)
            b[:, :width] = torch.rand(4, width)
            spare, nothing = torch.empty(7 * columns).numpy(), torch.zeros(columns).numpy()
            flat_a, flat_b = a.reshape(-1).numpy(), b.reshape(-1).numpy()
            kernels._product_into(
                room, 8 * width, width, spare, nothing, 0, flat_a, 0, 4, flat_b, 0, columns, (n, columns, 4)
            )
            result = torch.from_numpy(room).view(-1, width)
            torch.testing.assert_close(result[8 : 8 + n], (a @ b)[:, :width])
            assert bool((torch.cat([result[:8], result[8 + n :]]) == -7).all())


def test_the_gradient_of_relu_at_zero_is_zero_and_nan_passes() -> None:
    mlp = network(2, 1, 3, 1, False)
    with torch.no_grad():
        mlp.hidden[0].weight.fill_(1.0)
        mlp.output.weight.fill_(1.0)
    x = torch.tensor([[1.0, -1.0], [1.0, 1.0], [float("nan"), 0.0]], requires_grad=True)
    y = mlp(x)
    y[:2].sum().backward()
    assert y[0].item() == 0
    assert y[1].item() == 6
    assert y[2].isnan().all()
    assert x.grad is not None
    assert x.grad[:2].tolist() == [[0.0, 0.0], [3.0, 3.0]]


def test_inputs_of_any_layout_and_leading_dimensions() -> None:
    mlp = network(5, 3, 16, 2, True)
    wide = torch.randn(4, 9, 10)
    x = wide[..., ::2]
    torch.testing.assert_close(mlp(x), mlp(x.contiguous().view(-1, 5)).view(4, 9, 3), rtol=0, atol=0)
    transposed = torch.randn(5, 36).T.requires_grad_()
    mlp(transposed).sum().backward()
    gradient = transposed.grad
    transposed.grad = None
    mlp(transposed.contiguous()).sum().backward()
    torch.testing.assert_close(transposed.grad, gradient, rtol=0, atol=0)


def test_only_gradients_that_are_asked_for() -> None:
    mlp, x = network(5, 3, 16, 2, True), torch.randn(300, 5)
    right = outputs_and_gradients(mlp, x, torch.ones(300, 3))
    with torch.no_grad():
        assert not mlp(x).requires_grad
    mlp(x).sum().backward()
    for p, gradient in zip(mlp.parameters(), right[2:], strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=0, atol=0)
    mlp.requires_grad_(False)
    assert not mlp(x).requires_grad
    mlp.hidden[1].weight.requires_grad_()
    mlp.zero_grad()
    mlp(x).sum().backward()
    assert [p.grad is not None for p in mlp.parameters()] == [False, False, True, False, False, False]
    torch.testing.assert_close(mlp.hidden[1].weight.grad, right[4], rtol=0, atol=0)


def test_a_weight_changed_between_forward_and_backward_is_refused() -> None:
    mlp = network(5, 3, 16, 2, True)
    y = mlp(torch.randn(300, 5))
    with torch.no_grad():
        mlp.hidden[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_differentiated_twice() -> None:
    """Also where x depends on a weight, and the result on x by both ways."""
    mlp = network(4, 2, 8, 2, True)
    points = torch.randn(50, 4)

    def second(mlp: ReluMLP, points: Tensor) -> list[Tensor]:
        x = (points * mlp.hidden[0].weight[0]).requires_grad_()
        (first,) = torch.autograd.grad(mlp(x).pow(2).sum(), x, create_graph=True)
        return list(torch.autograd.grad(first.pow(2).sum(), list(mlp.parameters()), allow_unused=True))

    double = copy.deepcopy(mlp).double()
    for mine, right in zip(second(mlp, points), second(double, points.double()), strict=True):
        assert (mine is None) == (right is None)
        if right is not None:
            torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-5)


def test_transforms_of_functions_get_torch() -> None:
    mlp, x = network(4, 2, 8, 1, True), torch.randn(30, 4)
    parameters = dict(mlp.named_parameters())
    jacobian = jacrev(lambda p: functional_call(mlp, p, (x,)).sum(0))(parameters)
    per_point = vmap(lambda point: mlp(point[None])[0])(x)
    torch.testing.assert_close(per_point, mlp(x), rtol=1e-5, atol=1e-6)
    for k in range(2):
        gradients = torch.autograd.grad(mlp(x)[:, k].sum(), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(jacobian[name][k], gradient, rtol=1e-4, atol=1e-5)
    slope = torch.randn(30, 4)
    right = (torch.autograd.functional.jvp(mlp, x, slope))[1]
    torch.testing.assert_close(jvp(mlp, (x,), (slope,))[1], right, rtol=1e-4, atol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, slope)
        tangent = torch.autograd.forward_ad.unpack_dual(mlp(dual)).tangent
    torch.testing.assert_close(tangent, right, rtol=1e-4, atol=1e-5)


def test_who_gets_torch() -> None:
    mlp, x = network(4, 2, 8, 1, True), torch.randn(30, 4)
    layers = [*mlp.hidden, mlp.output]
    assert relu_mlp.kernels_apply(x, layers)
    assert not relu_mlp.kernels_apply(x.double(), layers)
    assert not relu_mlp.kernels_apply(x.to("meta"), layers)
    assert not relu_mlp.kernels_apply(x[:0], layers)
    with torch.autocast("cpu", torch.bfloat16):
        assert not relu_mlp.kernels_apply(x, layers)
        assert mlp(x).dtype == torch.bfloat16
    assert not relu_mlp.kernels_apply(x, [nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), mlp.output])
    seen = []
    handle = mlp.hidden[0].register_forward_hook(lambda *args: seen.append(args[2].shape))
    mlp(x)
    assert seen == [(30, 8)]
    handle.remove()
    mlp(x)
    assert len(seen) == 1


def test_few_rows_get_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relu_mlp, "MIN_ROWS", 100)
    layers = [nn.Linear(4, 2)]
    assert not relu_mlp.kernels_apply(torch.zeros(99, 4), layers)
    assert relu_mlp.kernels_apply(torch.zeros(100, 4), layers)


def test_importing_the_backbones_imports_no_numba() -> None:
    code = "import sys; import peak_nerf.core; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
