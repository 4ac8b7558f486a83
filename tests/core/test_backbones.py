import math

import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from peak_nerf.core.backbones import ReluMLP, Siren


def test_relu_mlp_against_plain_matrix_products() -> None:
    mlp = ReluMLP(3, 2, hidden_dim=5, n_hidden=2).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    h = x
    for layer in mlp.hidden:
        h = (h @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(mlp(x), h @ mlp.output.weight.T + mlp.output.bias)
    assert len(mlp.hidden) == 2


def test_siren_against_plain_sines() -> None:
    siren = Siren(2, 3, hidden_dim=6, n_hidden=2, omega_0=5.0).double()
    x = torch.randn(4, 2, dtype=torch.float64)
    h = x
    for layer in siren.hidden:
        h = torch.sin(5.0 * (h @ layer.weight.T + layer.bias))
    torch.testing.assert_close(siren(x), h @ siren.output.weight.T + siren.output.bias)


@pytest.mark.parametrize("backbone", [ReluMLP(2, 1, 8, 2), Siren(2, 1, 8, 2, omega_0=2.0)])
def test_in_place_operations_leave_the_gradient_right(backbone: torch.nn.Module) -> None:
    backbone = backbone.double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(backbone, x)
    weight = backbone.hidden[0].weight

    def of_weight(w: torch.Tensor) -> torch.Tensor:
        return functional_call(backbone, {"hidden.0.weight": w}, x.detach())

    assert torch.autograd.gradcheck(of_weight, weight)


@pytest.mark.parametrize("backbone", [ReluMLP(2, 1, 8), Siren(2, 1, 8)])
def test_per_sample_jacobians_work(backbone: torch.nn.Module) -> None:
    """The NTK is made from these."""
    parameters = dict(backbone.named_parameters())
    x = torch.randn(3, 2)

    def f(p: dict, point: torch.Tensor) -> torch.Tensor:
        return functional_call(backbone, p, point[None])[0, 0]

    jacobian = vmap(jacrev(f), in_dims=(None, 0))(parameters, x)
    backbone(x[1:2]).sum().backward()
    for name, parameter in backbone.named_parameters():
        torch.testing.assert_close(jacobian[name][1], parameter.grad, rtol=1e-4, atol=1e-6)


def test_sitzmann_bounds() -> None:
    siren = Siren(3, 7, hidden_dim=200, n_hidden=3, omega_0=20.0)
    later = math.sqrt(6 / 200) / 20
    for layer, bound in zip([*siren.hidden, siren.output], [1 / 3, later, later, later], strict=True):
        largest = float(layer.weight.detach().abs().max())
        assert 0.97 * bound < largest <= bound


def test_sitzmann_keeps_the_spread_of_every_layer() -> None:
    """The point of the initialisation: sin(N(0, 1)) at every depth, hence a standard deviation near 0.66 to 0.71."""
    torch.manual_seed(0)
    siren = Siren(1, 1, hidden_dim=256, n_hidden=6)
    h = 2 * torch.rand(2000, 1) - 1
    for layer in siren.hidden:
        h = torch.sin(30 * layer(h))
        assert 0.6 < h.std().item() < 0.75


def test_he_bounds() -> None:
    """sqrt(6 / fan_in) for weights, torch's own 1 / sqrt(fan_in) for biases."""
    mlp = ReluMLP(20, 300, hidden_dim=100, n_hidden=1, init="he")
    for layer, fan_in in ((mlp.hidden[0], 20), (mlp.output, 100)):
        bound = (6 / fan_in) ** 0.5
        assert 0.98 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert float(layer.bias.detach().abs().max()) <= fan_in**-0.5


def test_leading_dimensions_are_kept() -> None:
    assert Siren(2, 3)(torch.zeros(4, 5, 2)).shape == (4, 5, 3)
    assert ReluMLP(2, 3, n_hidden=0)(torch.zeros(0, 2)).shape == (0, 3)


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="n_hidden"):
        ReluMLP(2, 1, n_hidden=-1)
    with pytest.raises(ValueError, match="n_hidden"):
        Siren(2, 1, n_hidden=0)
    with pytest.raises(ValueError, match="omega_0"):
        Siren(2, 1, omega_0=0.0)
