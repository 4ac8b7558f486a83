"""The regularisers of other methods, against values worked out by hand and slow double loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.nerf.losses.regularizers import (
    distortion_loss,
    grid_total_variation,
    occlusion_loss,
    opacity_entropy,
    regularization_losses,
)
from peak_nerf.nerf.options import LossOptions
from peak_nerf.nerf.render.field import level_mask
from tests.nerf.losses.toy import ToyField, rays, toy_renderer
from tests.nerf.runs import start, tiny_config, train


def slow_distortion(
    weights: torch.Tensor, t: torch.Tensor, dt: torch.Tensor, ray: torch.Tensor, n_rays: int
) -> torch.Tensor:
    total = weights.new_zeros(())
    for r in range(n_rays):
        w, t_r = weights[ray == r], t[ray == r]
        if len(w):
            p = w / w.sum()
            between = (p[:, None] * p * (t_r[:, None] - t_r).abs()).sum()
            total = total + w.sum().detach() * (between + (p**2 * dt[ray == r]).sum() / 3)
    return total / n_rays


def test_distortion_by_hand() -> None:
    """Weights 0.5 and 0.25, 2 apart: 2 * 0.125 * 2 between them, (0.25 * 0.3 + 0.0625 * 0.6) / 3 within; over their
    sum, and over two rays."""
    weights, t, dt = torch.tensor([0.5, 0.25]), torch.tensor([1.0, 3.0]), torch.tensor([0.3, 0.6])
    loss = distortion_loss(weights, t, dt, torch.tensor([0, 0]), 2)
    assert loss.item() == pytest.approx((0.5 + 0.0375) / 0.75 / 2)


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_distortion_equals_the_double_sum(counts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ray = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    n = len(ray)
    weights, dt = (
        torch.rand(n, generator=generator, dtype=torch.float64).add_(0.01).requires_grad_(),
        torch.rand(n, generator=generator, dtype=torch.float64),
    )
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    t = torch.cat([part.sort().values for part in t.split(counts)])
    fast = distortion_loss(weights, t, dt, ray, len(counts))
    slow = slow_distortion(weights, t, dt, ray, len(counts))
    assert fast.item() == pytest.approx(slow.item(), abs=1e-12)
    if n:
        gradients = [torch.autograd.grad(loss, weights)[0] for loss in (fast, slow)]
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)


def test_distortion_does_not_care_how_opaque_a_ray_is() -> None:
    """No step along a ray's weights, which would make it fainter, is downhill; one towards its nearer half is."""
    weights = torch.tensor([0.1, 0.3, 0.2, 0.05, 0.05], dtype=torch.float64, requires_grad=True)
    ray = torch.tensor([0, 0, 0, 2, 2])
    t = torch.tensor([1.0, 1.2, 2.0, 0.5, 0.9], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(distortion_loss(weights, t, torch.full_like(t, 0.1), ray, 3), weights)
    assert (gradient * weights)[ray == 0].sum().item() == pytest.approx(0, abs=1e-12)
    assert (gradient * weights)[ray == 2].sum().item() == pytest.approx(0, abs=1e-12)
    assert gradient[2] > 0 > gradient[1]


def test_a_ray_that_hits_nothing_has_no_distortion() -> None:
    weights = torch.zeros(2, requires_grad=True)
    loss = distortion_loss(weights, torch.tensor([1.0, 2.0]), torch.full((2,), 0.1), torch.tensor([0, 0]), 1)
    loss.backward()
    assert loss == 0
    assert weights.grad is not None
    assert (weights.grad == 0).all()


def test_no_samples_cost_nothing() -> None:
    none, no_ray = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    for n_rays in (0, 3):
        assert distortion_loss(none, none, none, no_ray, n_rays) == 0
        assert occlusion_loss(none, none, 0.1, n_rays) == 0
        assert opacity_entropy(none, no_ray, n_rays) == 0


def test_total_variation_of_a_ramp() -> None:
    """A table that holds 1 i + 2 j + 3 k at vertex (i, j, k) differs by 1, 2 and 3 everywhere: 1 + 4 + 9."""
    grid = HashGridEncoding(3, n_levels=3, n_features=1, log2_table_size=9, base_resolution=4, finest_resolution=16)
    assert grid.dense_levels == [(0, 4)]  # 5^3 = 125 rows fit into 512, 9^3 = 729 do not
    k, j, i = torch.meshgrid(*[torch.arange(5.0)] * 3, indexing="ij")
    with torch.no_grad():
        grid.table[:125, 0] = (i + 2 * j + 3 * k).flatten()
    assert grid_total_variation(grid, 50).item() == pytest.approx(14.0, abs=1e-4)
    with torch.no_grad():
        grid.table[:125] = 7.0
    assert grid_total_variation(grid, 50) == 0
    assert grid_total_variation(HashGridEncoding(3, n_levels=2, log2_table_size=4), 50) == 0


def test_dense_levels_are_where_the_grid_looks() -> None:
    grid = HashGridEncoding(3, n_levels=3, n_features=2, log2_table_size=12, base_resolution=4, finest_resolution=9)
    rows, weights = grid.corners(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    for level, (first, n) in enumerate(grid.dense_levels):
        assert rows[0, level, weights[0, level].argmax()] == first
        assert rows[1, level, weights[1, level].argmax()] == first + (n + 1) ** 3 - 1


def test_occlusion_counts_what_is_near() -> None:
    alpha, distance = torch.tensor([0.5, 0.25, 1.0]), torch.tensor([0.1, 0.29, 0.3])
    assert occlusion_loss(alpha, distance, 0.3, 3).item() == pytest.approx(0.25)


def test_entropy_by_hand() -> None:
    """Two equal alphas: log 2. One alone: 0. A ray below the threshold: 0. The mean over the three."""
    alpha, ray = torch.tensor([0.3, 0.3, 0.9, 0.04, 0.05]), torch.tensor([0, 0, 1, 2, 2])
    assert opacity_entropy(alpha, ray, 3).item() == pytest.approx(math.log(2) / 3, rel=1e-6)


def test_entropy_has_a_gradient_at_nothing() -> None:
    alpha = torch.tensor([0.0, 0.8], requires_grad=True)
    opacity_entropy(alpha, torch.tensor([0, 0]), 1).backward()
    assert alpha.grad.isfinite().all()


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, [1, 1, 0, 0]), (0.25, [1, 1, 0.5, 0]), (0.5, [1, 1, 1, 0]), (1.0, [1, 1, 1, 1]), (3.0, [1, 1, 1, 1])],
)
def test_levels_open_in_turn(progress: float, expected: list[float]) -> None:
    assert level_mask(4, 1, progress).tolist() == expected
    assert level_mask(4, 2, progress).tolist() == [value for value in expected for _ in range(2)]


OPTIONS = {
    "distortion": {"distortion_weight": 0.01},
    "tv": {"tv_weight": 0.01},
    "occlusion": {"occlusion_weight": 0.01, "occlusion_reach": 3.0},
    "entropy": {"entropy_weight": 0.01},
}


def test_each_option_adds_its_loss(tmp_path) -> None:
    """With the option's weight as a factor, and a gradient for the field."""
    everything = {name: value for options in OPTIONS.values() for name, value in options.items()}
    losses = {}
    everything["log2_table_size"] = 13  # 17^3 rows fit: one dense level
    for factor in (1, 2):
        scaled = {k: factor * v if k.endswith("weight") else v for k, v in everything.items()}
        trainer = start(tiny_config(tmp_path, kar_weight=0.0, **scaled))
        trainer.pipeline.train()
        torch.manual_seed(0)
        losses[factor] = trainer.pipeline.get_train_loss_dict(0)[1]
        assert set(losses[factor]) == {"rgb", *OPTIONS}
    for name in OPTIONS:
        assert losses[2][name].item() == pytest.approx(2 * losses[1][name].item(), rel=1e-3), name
        trainer.pipeline.model.field.zero_grad()
        losses[2][name].backward(retain_graph=True)
        assert trainer.pipeline.model.field.grid.table.grad.abs().sum() > 0, name


def test_annealing_keeps_fine_levels_shut_until_their_turn(tmp_path) -> None:
    """After half of the time with 4 levels, three are open: the finest level's rows have had no gradient."""
    trainer = train(tiny_config(tmp_path, steps=4, level_annealing=2.0, kar_weight=0.0))
    field = trainer.pipeline.model.field
    assert field.feature_mask.tolist()[: 4 * 4] == [1.0] * 8 + [0.75] * 4 + [0.0] * 4
    untouched = field.grid.table[-(2**12) :]
    assert untouched.abs().max() <= 1e-4
    field.open_levels(1.0)
    assert field.feature_mask is None


def test_the_weight_of_distortion_rises() -> None:
    rendered = toy_renderer(ToyField()).training_rays(*rays(20))
    grid = HashGridEncoding(3, n_levels=2, log2_table_size=8)

    def loss(progress: float, warmup: float | None) -> float:
        options = LossOptions(distortion_weight=0.5, distortion_warmup=warmup)
        return float(regularization_losses(options, grid, rendered, progress)["distortion"].detach())

    whole = loss(0.0, None)
    assert whole > 0
    assert loss(0.0, 0.4) == 0
    assert loss(0.1, 0.4) == pytest.approx(whole / 4)
    assert loss(0.4, 0.4) == loss(0.9, 0.4) == loss(0.2, 0.0) == pytest.approx(whole)
