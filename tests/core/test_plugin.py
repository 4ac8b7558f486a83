import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peak_nerf.core.anchors import GlobalAnchors, LocalAnchors
from peak_nerf.core.plugin import Peak


class UsersSiren(nn.Module):
    """A user's own network: knows nothing of this package and has no in_dim."""

    def __init__(self, d: int, c: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(d, 64), nn.Linear(64, c)
        nn.init.uniform_(self.first.weight, -1 / d, 1 / d)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sin(30 * self.first(x)))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("degree", [1, 3])
def test_starts_as_the_users_network(d: int, degree: int) -> None:
    module = UsersSiren(d, 2).double()
    peak = Peak(module, in_dim=d, degree=degree, init=[0.3 + k for k in range(degree + 1)]).double()
    x = 2 * torch.rand(20, d, dtype=torch.float64) - 1
    # P is made in float32, hence not 1e-12.
    torch.testing.assert_close(peak.project(peak.encoding(x)), x, rtol=0, atol=5e-7)
    torch.testing.assert_close(peak(x), module(x), rtol=0, atol=1e-4)
    assert peak.module is module


def test_features_can_be_fed_raw() -> None:
    peak = Peak(nn.Linear(15, 3), in_dim=2, degree=2, coordinate_map="unit_sphere", project=False)
    assert peak.encoding.out_dim == 15
    x = torch.rand(4, 2)
    assert torch.equal(peak(x), peak.module(peak.encoding(x)))


def test_fits_a_signal_with_the_users_siren_unchanged() -> None:
    torch.manual_seed(0)
    siren = UsersSiren(1, 1)
    before = [(name, p.shape) for name, p in siren.named_parameters()]
    peak = Peak(siren, in_dim=1, weight=0.01)
    x = torch.linspace(-1, 1, 64)[:, None]
    y = torch.sin(4 * math.pi * x)
    optimizer = torch.optim.Adam(peak.parameters(), lr=2e-3)
    for step in range(200):
        loss = (peak(x) - y).square().mean() + peak.kar_loss(n_queries=64, progress=step / 200)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (peak(x) - y).square().mean().item() < 2e-3
    assert [(name, p.shape) for name, p in siren.named_parameters()] == before
    assert not torch.equal(peak.project.weight, Peak(siren, in_dim=1).project.weight)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_kar_reaches_module_encoding_projection_and_g(d: int) -> None:
    torch.manual_seed(0)
    peak = Peak(UsersSiren(d, 3), in_dim=d, degree=2, n_features=8, hidden_dim=8)
    peak.kar_loss(n_queries=32).backward()
    for name, parameter in peak.named_parameters():
        if name == "module.second.bias":  # a constant has no residual: A's rows sum to 1
            continue
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_former_names_of_settings_are_known() -> None:
    peak = Peak(UsersSiren(2, 1), in_dim=2, r=7, logits="dot")
    assert (peak.regularizer.n_features, peak.regularizer.similarity) == (7, "dot")


def test_minimising_kar_lowers_it() -> None:
    torch.manual_seed(0)
    peak = Peak(UsersSiren(2, 1), in_dim=2, weight=1.0, anchors=LocalAnchors(8, 0.1))
    optimizer = torch.optim.Adam(peak.parameters(), lr=1e-3)

    def loss() -> Tensor:
        return peak.kar_loss(n_queries=128, generator=torch.Generator().manual_seed(0))

    start = loss().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.5 * start


def test_weight_and_warmup_scale_the_loss() -> None:
    peak = Peak(UsersSiren(2, 1), in_dim=2, weight=0.5, warmup=0.4)
    x = torch.rand(10, 2)

    def loss(progress: float) -> float:
        return peak.kar_loss(x, progress=progress, generator=torch.Generator().manual_seed(0)).item()

    unweighted = peak.regularizer.field_loss(peak, peak.anchors, x, torch.Generator().manual_seed(0)).item()
    assert loss(0.0) == 0
    assert loss(0.1) == pytest.approx(0.125 * unweighted)
    assert loss(1.0) == pytest.approx(0.5 * unweighted)


def test_queries_fill_the_box() -> None:
    asked: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x.detach())
            return x

    peak = Peak(Spy(), in_dim=2, low=[0.0, -3.0], high=[1.0, 5.0])
    peak.kar_loss(n_queries=500)
    points = torch.cat(asked)
    assert len(points) == 500 * (1 + 12)
    torch.testing.assert_close(points.amin(0), torch.tensor([0.0, -3.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(points.amax(0), torch.tensor([1.0, 5.0]), atol=0.1, rtol=0)


def test_works_with_global_anchors() -> None:
    peak = Peak(UsersSiren(2, 3), in_dim=2, anchors=GlobalAnchors(10))
    assert peak.kar_loss(torch.rand(20, 2)).item() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degree": 0}, "degree at least 1"),
        ({"coordinate_map": "unit_sphere"}, "project=False"),
        ({"low": 2.0}, "below high"),
        ({"weight": -1.0}, "weight"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Peak(nn.Linear(2, 1), **{"in_dim": 2, **settings})


def test_bad_number_of_queries() -> None:
    with pytest.raises(ValueError, match="n_queries"):
        Peak(nn.Linear(2, 1), in_dim=2).kar_loss(n_queries=0)
