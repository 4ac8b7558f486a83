"""Triton's sampler and compositing under the interpreter, against the plain ones.

`TRITON_INTERPRET=1 python -m tests.nerf.render.triton_rendering`
"""

from dataclasses import replace

import torch
from torch import Tensor

from peak_nerf.nerf.render import occupancy, renderer, volrend
from peak_nerf.nerf.render.contraction import contract
from peak_nerf.nerf.render.marcher import (
    BLUR,
    March,
    PackedSamples,
    Steps,
    box_intersection,
    sample_rays,
    sample_torch,
    sample_triton,
)
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.renderer import VolumeRenderer
from tests.nerf.losses.toy import ToyField, rays
from tests.nerf.render.test_marcher import of_rays, random_grid, random_rays
from tests.nerf.render.test_volrend import weights_written_out
from tests.quick_interpreter import quicken

EVERY = 2**31 - 1


def both(grid: OccupancyGrid, steps: Steps, origins: Tensor, directions: Tensor) -> tuple[PackedSamples, PackedSamples]:
    enter, leave = box_intersection(origins, directions, 0.05, 2.0 ** (grid.n_cascades - 1))
    given = March(origins, directions, enter, leave, *torch.rand(2, len(origins))), grid, steps
    return sample_triton(*given), sample_torch(*given)


def check_samples_equal_the_plain_ones() -> None:
    """Ray by ray; roundings may put a sample across a cell's wall, which moves the others of its ray."""
    n = 200
    for n_cascades, dt, cone, budget, opaque in (
        (1, 0.1, 0.0, 4, 1e-3),
        (1, 0.1, 0.0, EVERY, 0.0),
        (4, 0.1, 1 / 6, 4, 1e-3),
        (3, 0.1, 1 / 6, EVERY, 1e-3),
    ):
        grid = random_grid(n_cascades)
        origins, directions = random_rays(n, 2.0 ** (n_cascades - 1))
        ours, theirs = both(grid, Steps(dt, cone, budget, opaque), origins, directions)
        equal = 0
        for fast, slow in zip(of_rays(ours, n), of_rays(theirs, n), strict=True):
            equal += (
                len(fast) == len(slow)
                and torch.equal(fast.cell, slow.cell)
                and torch.allclose(fast.t, slow.t, rtol=1e-5)
                and torch.allclose(fast.dt, slow.dt, rtol=1e-4)
                and torch.allclose(fast.x, slow.x, atol=1e-5)
            )
        assert equal >= 0.98 * n, (n_cascades, budget, equal)
        assert abs(ours.n_candidates - theirs.n_candidates) <= 1e-3 * theirs.n_candidates + 1
        assert bool((ours.ray.diff() >= 0).all())
        assert 0.3 * n < len(ours.ray.unique()) < n
        if budget < EVERY:
            assert int(torch.bincount(ours.ray).max()) <= budget + 1 < theirs.n_candidates / n * 3


def check_rows_that_are_given() -> None:
    """More than there are samples, or fewer: the same, then rows of no ray, or an end."""
    n = 40
    for n_cascades, budget in ((1, EVERY), (3, 4)):
        grid, given = random_grid(n_cascades), random_rays(n, 2.0 ** (n_cascades - 1))
        steps = Steps(0.1, 0.0, budget)
        plain = sample_rays(*given, grid, steps)
        assert len(plain) > 50
        for n_rows in (len(plain) + 30, 50):
            ours, found = sample_rays(*given, grid, steps, n_rows=n_rows), min(n_rows, len(plain))
            assert len(ours) == n_rows
            assert int(ours.n_candidates) == plain.n_candidates
            for name in ("ray", "t", "dt", "x", "cell"):
                assert torch.equal(getattr(ours, name)[:found], getattr(plain, name)[:found]), name
            assert ours.ray[found:].tolist() == [n] * (n_rows - found)
            assert not ours.dt[found:].any()
            assert not ours.x[found:].any()


def a_renderer(n_cascades: int = 1) -> VolumeRenderer:
    """Behind a wall, whose depth the grid does not know, a ray is opaque."""
    return VolumeRenderer(ToyField(4.0), OccupancyGrid(32, n_cascades=n_cascades), Steps(0.1, 0.0, 4), 0.0, 1.0)


def check_training_samples_are_those_of_a_cpu() -> None:
    """With room, and with too little of it at first."""
    given, results = rays(200), []
    for renderer.triton_takes, per_ray in ((lambda device: False, 0.0), (TAKES, 100.0), (TAKES, 0.0)):
        one = a_renderer()
        one.coarseness, one.candidates_per_ray = 1.0, per_ray
        torch.manual_seed(1)
        results.append(one.training_samples(*given))
    renderer.triton_takes = TAKES
    assert one.candidates_per_ray == results[0].n_candidates / 200
    assert 200 < len(results[0]) < results[0].n_candidates
    assert results[0].n_candidates > 1024  # the least room there is
    for other in results[1:]:
        assert other.n_candidates == results[0].n_candidates
        for name in ("ray", "t", "dt", "x", "cell"):
            assert torch.equal(getattr(other, name), getattr(results[0], name)), name


def check_random_samples_are_some_of_them() -> None:
    for n_cascades in (1, 3):
        one, given = a_renderer(n_cascades), rays(30)
        one.coarseness = 1.0
        torch.manual_seed(1)
        x, directions = one.random_samples(*given, 64)
        torch.manual_seed(1)
        every = one._march(*given, torch.rand(30))
        same = (x[:, None] == every.x).all(-1)
        assert bool(same.any(1).all())
        assert torch.equal(directions, given[1][every.ray[same.int().argmax(1)]])
        assert len(x.unique(dim=0)) > 30
        one.occupancy.occupied[:] = False
        one.occupancy.digest()
        assert one.random_samples(*given, 5)[0].tolist() == [[0.0] * 3] * 5


def check_samples_by_hand() -> None:
    """As `test_samples_by_hand` of the numba kernel."""
    grid = OccupancyGrid(8, step=0.25)
    grid.occupied[:] = False
    grid.occupied[:, 4:6] = True
    grid.digest()
    origins, directions = torch.tensor([[-2.0, 0.1, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]])
    samples = sample_rays(origins, directions, grid, Steps(0.25, 0.0, 4))
    assert samples.t.tolist() == [2.125, 2.375]
    assert samples.dt.tolist() == [0.25, 0.25]
    assert samples.n_candidates == 2


def check_behind_an_opaque_wall_there_is_nothing() -> None:
    grid = OccupancyGrid(16, step=0.125)
    grid.opacity[:] = 0.0
    grid.opacity[:, 8] = 1.0  # x in [0, 0.125)
    grid.digest()
    origins, directions = torch.tensor([[-2.0, 0.1, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    for draw in both(grid, Steps(0.125, 0.0, EVERY), origins, directions):
        assert int((draw.x[:, 0] >= 0).sum()) == 1 + BLUR
        assert len(draw) == 8 + 1 + BLUR


def check_no_rays_and_none_that_hit_and_rays_that_are_no_numbers() -> None:
    away = torch.full((2, 3), 5.0), torch.nn.functional.normalize(torch.ones(2, 3), dim=-1)
    nowhere = torch.full((2, 3), float("nan")), torch.full((2, 3), float("nan"))
    for budget in (8, EVERY):
        for given in ((torch.empty(0, 3), torch.empty(0, 3)), away, nowhere):
            samples = sample_rays(*given, OccupancyGrid(8), Steps(0.1, 0.0, budget))
            assert (len(samples), samples.n_candidates) == (0, 0)


def check_positions_are_differentiable_in_the_rays() -> None:
    grid, steps = random_grid(3), Steps(0.3, 0.0, 4)
    origins, directions = random_rays(20, 4.0)
    plain = sample_rays(origins, directions, grid, steps)
    moved = sample_rays(origins.requires_grad_(), directions.requires_grad_(), grid, steps)
    torch.testing.assert_close(moved.x, plain.x, atol=1e-6, rtol=0)
    to = torch.randn(len(plain), 3)
    gradients = torch.autograd.grad((moved.x * to).sum(), (origins, directions))
    x = contract(origins[plain.ray] + plain.t[:, None] * directions[plain.ray])
    for ours, theirs in zip(gradients, torch.autograd.grad((x * to).sum(), (origins, directions)), strict=True):
        torch.testing.assert_close(ours, theirs)


def packed(n_rays: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Optical depths from 1e-6 to 2000 of 0 to 80 samples a ray; the first and the last ray have none."""
    counts = torch.randint(0, 80, (n_rays,))
    counts[[0, -1]] = 0
    ray = torch.arange(n_rays).repeat_interleave(counts)
    return (10 ** (9 * torch.rand(len(ray), dtype=dtype) - 6)).clamp(max=2000.0), ray


def check_weights_and_their_gradient() -> None:
    tau, ray = packed(12)
    grad_w, grad_T = torch.randn(2, len(tau)).double()
    results = []
    for reference in (False, True):
        depth = (tau.double() if reference else tau).requires_grad_()
        if reference:
            volrend.triton_takes = lambda device: False
        weights, transmittance = volrend.packed_weights(depth, ray, 12)
        volrend.triton_takes = TAKES
        (weights * grad_w + transmittance * grad_T).sum().backward()
        results.append((weights.detach(), transmittance.detach(), depth.grad))
        tau = tau.detach()
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-5)


def check_weights_by_hand_and_gradcheck() -> None:
    tau = [[0.1, 2.0, 0.5], [], [1e-4], [30.0, 1.0], []]
    ray = torch.tensor([i for i, samples in enumerate(tau) for _ in samples])
    flat = torch.tensor([depth for samples in tau for depth in samples])
    weights, transmittance = volrend.packed_weights(flat, ray, len(tau))
    expected = weights_written_out(tau)
    torch.testing.assert_close(weights, torch.tensor(expected[0]), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(transmittance, torch.tensor(expected[1]), atol=1e-7, rtol=1e-5)
    depth = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: volrend.packed_weights(t, torch.tensor([0, 0, 0, 2, 2]), 4), (depth,))


def check_long_rays_and_none() -> None:
    """A ray longer than a tile behind others; no samples; no rays."""
    tau = torch.full((302,), 0.02)
    ray = torch.tensor([0, 1] + [2] * 300)
    weights, _ = volrend.packed_weights(tau, ray, 4)
    expected = weights_written_out([[0.02], [0.02], [0.02] * 300])[0]
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-7, rtol=1e-5)
    none = torch.empty(0, dtype=torch.int64)
    for n_rays in (3, 0):
        weights, transmittance = volrend.packed_weights(torch.empty(0), none, n_rays)
        assert weights.shape == transmittance.shape == (0,)
        assert volrend.accumulate(weights, torch.empty(0, 3), none, n_rays).tolist() == [[0.0] * 3] * n_rays


def check_sums_and_their_gradients() -> None:
    _, ray = packed(12)
    given = torch.rand(len(ray)), torch.randn(len(ray), 3)
    to = torch.randn(12, 3)
    results = []
    for reference in (False, True):
        weights, values = (a.clone().requires_grad_() for a in given)
        if reference:
            out = torch.zeros(12, 3).index_add(0, ray, weights[:, None] * values)
        else:
            out = volrend.accumulate(weights, values, ray, 12)
        results.append((out.detach(), *torch.autograd.grad((out * to).sum(), (weights, values))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def check_that_few_of_many_are_right_on_average() -> None:
    """A quarter of the candidates, whose lengths add up to the whole."""
    grid = OccupancyGrid(32, step=0.02)
    n = 512
    origins, directions = torch.tensor([[-2.0, 0.1, 0.2]]).repeat(n, 1), torch.tensor([[1.0, 0.0, 0.0]]).repeat(n, 1)
    steps = Steps(0.1, 0.0, 5)
    few = sample_rays(origins, directions, grid, steps, 0.0, torch.rand(n))
    assert few.n_candidates == 20 * n
    assert abs(len(few) / n - 5) < 0.1
    length = torch.zeros(n).index_add(0, few.ray, few.dt)
    assert abs(float(length.mean()) - 2.0) < 4 * float(length.std()) / n**0.5 + 1e-3
    every = sample_rays(origins, directions, grid, replace(steps, budget=EVERY), 0.0)
    assert len(every) == 20 * n


def check_the_occupancy_grid_needs_no_answers() -> None:
    """What a GPU does without waiting, against what a CPU does: the same cells, and probes of as many."""
    grid = random_grid(2)
    grid.density.copy_(torch.where(torch.rand(grid.density.shape) < 0.3, -1.0, 2 * torch.rand(grid.density.shape) ** 6))
    grid.visible.copy_(torch.rand(grid.visible.shape) < 0.8)
    results = []
    for ahead in (True, False):
        occupancy.runs_ahead = lambda device, ahead=ahead: ahead
        grid.refresh(2.0)
        results.append(grid.occupied.clone())
    assert int((results[0] != results[1]).sum()) <= 2  # at the very limit
    assert 0.05 < float(results[0].float().mean()) < 0.9
    occupancy.runs_ahead = lambda device: True
    grid.visible[:] = True
    cells = grid.random_cells(1000)
    assert len(cells) == 1000
    assert bool(grid.occupied.view(-1)[cells[500:]].all())
    before = grid.opacity.view(-1)[cells].clone()
    grid.observe(cells.unique(), torch.ones(len(cells.unique())))
    seen = -torch.expm1(-grid.step * torch.exp2((cells // grid.resolution**3).float()))
    expected = torch.where(before < 0, seen, torch.lerp(before, seen, occupancy.RATE))
    torch.testing.assert_close(grid.opacity.view(-1)[cells], expected)


def check_the_background_of_opaque_rays_is_nothing() -> None:
    renderer = VolumeRenderer(Wall(), OccupancyGrid(32, n_cascades=2), Steps(0.1, 0.0, 4), 0.0, 1.0)
    colour = renderer.background_of(torch.eye(3), torch.tensor([[0.5], [1.0], [0.0]]))
    assert colour.tolist() == [[0.25] * 3, [0.0] * 3, [0.25] * 3]


class Wall:
    """A field of one density and one colour."""

    def density(self, u: Tensor, n_levels: int | None = None) -> tuple[Tensor, Tensor]:
        return torch.ones(len(u)), u

    def colour(self, geometry: Tensor, directions: Tensor, ray: Tensor | None = None) -> Tensor:
        return torch.full((len(geometry), 3), 0.25)


TAKES = volrend.triton_takes

if __name__ == "__main__":
    quicken()
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            torch.manual_seed(0)
            check()
            print("ok", name)
