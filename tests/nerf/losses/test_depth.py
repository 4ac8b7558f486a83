"""The depth loss: against an obvious loop, and what its gradient does to a ray's weights."""

import math

import pytest
import torch

from peak_nerf.nerf.losses.depth import OUTLIERS, depth_loss, loss_at_points
from peak_nerf.nerf.render.volrend import packed_weights
from tests.nerf.losses.toy import ToyField, rays, toy_renderer
from tests.waits import waits


def slow(weights: list[list[float]], y: list[list[float]], point: list[float], deviation: list[float]) -> float:
    total = 0.0
    for r in range(len(point)):
        likelihood = sum(
            w * math.exp(-((y_i - point[r]) ** 2) / (2 * deviation[r] ** 2))
            for w, y_i in zip(weights[r], y[r], strict=True)
        )
        total -= math.log((OUTLIERS + likelihood) / (OUTLIERS + 1))
    return total / len(point)


def test_it_is_the_loop() -> None:
    weights, y = [[0.2, 0.5, 0.1], [], [0.9]], [[0.5, 1.0, 1.4], [], [2.0]]
    point, deviation = [0.9, 1.0, 2.3], [0.1, 0.3, 0.2]
    fast = depth_loss(
        torch.tensor([w for row in weights for w in row]),
        torch.tensor([y_i for row in y for y_i in row]),
        torch.tensor([0, 0, 0, 2]),
        torch.tensor(point),
        torch.tensor(deviation),
    )
    assert fast.item() == pytest.approx(slow(weights, y, point, deviation), abs=1e-6)


def test_by_hand() -> None:
    """All weight at the point costs nothing; none at all costs log(1 + 1 / E); no rays, nothing."""
    y, zero, one = torch.tensor([1.5]), torch.tensor([0]), torch.tensor([1.5])
    deviation = torch.tensor([0.1])
    assert depth_loss(torch.ones(1), y, zero, one, deviation).item() == pytest.approx(0.0, abs=1e-6)
    nothing = depth_loss(torch.zeros(1), y, zero, one, deviation)
    assert nothing.item() == pytest.approx(math.log(51), abs=1e-5)
    none = torch.zeros(0)
    assert depth_loss(none, none, none.long(), none, none).item() == 0


def test_the_last_rays_saw_the_points() -> None:
    """Of the others nothing counts; and no GPU has to be waited for."""
    renderer, (origins, directions) = toy_renderer(ToyField()), rays(20)
    rendered = renderer.training_rays(origins, directions)
    points, deviation = origins[15:] + 2.9 * directions[15:], torch.full((5,), 0.1)
    with waits() as found:
        loss = loss_at_points(renderer, rendered, origins, points, deviation)
    assert found == []
    chosen = rendered.samples.ray >= 15
    assert 0 < int(chosen.sum()) < len(chosen)
    y, s = renderer.measured(torch.full((5,), 2.9), deviation)
    expected = depth_loss(rendered.weights[chosen], rendered.distance[chosen], rendered.samples.ray[chosen] - 15, y, s)
    torch.testing.assert_close(loss, expected)
    (ours,) = torch.autograd.grad(loss, rendered.weights, retain_graph=True)
    assert bool((ours[chosen] != 0).any())
    assert not ours[~chosen].any()


@pytest.fixture
def slab() -> dict[str, torch.Tensor]:
    """One ray in thin fog, 40 steps of 0.1; its point at 2."""
    return {"tau": torch.full((40,), 0.05), "y": 0.05 + 0.1 * torch.arange(40.0), "ray": torch.zeros(40).long()}


def descend(slab: dict[str, torch.Tensor], point: float, deviation: float, steps: int = 400) -> torch.Tensor:
    """The weights after descent on the logarithms of optical depths."""
    log_tau = slab["tau"].log().requires_grad_()
    optimizer = torch.optim.Adam([log_tau], lr=0.05)
    for _ in range(steps):
        weights, _ = packed_weights(log_tau.exp(), slab["ray"], 1)
        loss = depth_loss(weights, slab["y"], slab["ray"], torch.tensor([point]), torch.tensor([deviation]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return packed_weights(log_tau.exp(), slab["ray"], 1)[0].detach()


def test_weight_goes_to_the_point(slab: dict[str, torch.Tensor]) -> None:
    weights = descend(slab, 2.0, 0.1)
    near = (slab["y"] - 2.0).abs() < 0.15
    assert weights[near].sum() > 0.9
    assert weights[slab["y"] < 1.8].sum() < 0.05  # what is before it has cleared


def test_what_is_uncertain_asks_for_less(slab: dict[str, torch.Tensor]) -> None:
    """The same ray, all of its weight 0.3 before the point: the gradient towards the point, and the cost."""
    y, ray = slab["y"], slab["ray"]
    costs, pulls = [], []
    for deviation in (0.1, 0.3, 1.0):
        weights = torch.where((y - 1.65).abs() < 0.01, 0.9, 0.001).requires_grad_()
        loss = depth_loss(weights, y, ray, torch.tensor([1.95]), torch.tensor([deviation]))
        (slope,) = torch.autograd.grad(loss, weights)
        at_point, before = (-slope[(y - place).abs() < 0.01].item() for place in (1.95, 1.65))
        costs.append(loss.item())
        pulls.append(at_point - before)
    assert costs[0] > 2 * costs[1] > 4 * costs[2]
    assert pulls[0] > 4 * pulls[1] > 16 * pulls[2]
    assert min(pulls) > 0


def test_outliers_do_not_move_what_is_certain(slab: dict[str, torch.Tensor]) -> None:
    """A surface 10 deviations from a wrong point feels nothing of it; one within two does."""
    tau = torch.where((slab["y"] - 3.05).abs() < 0.01, 5.0, 1e-4)
    slopes = []
    for point in (2.05, 2.85):
        leaf = tau.clone().requires_grad_()
        weights, _ = packed_weights(leaf, slab["ray"], 1)
        depth_loss(weights, slab["y"], slab["ray"], torch.tensor([point]), torch.tensor([0.1])).backward()
        slopes.append(leaf.grad[30].abs().item())
    assert slopes[0] < 1e-6
    assert slopes[1] > 1e-4
