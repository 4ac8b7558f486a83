"""The compiled sampler equals the plain one; what it takes of a ray stands for the whole of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from peak_nerf.nerf.render.contraction import contract, uncontract
from peak_nerf.nerf.render.marcher import (
    BLUR,
    March,
    PackedSamples,
    Steps,
    box_intersection,
    sample_numba,
    sample_rays,
    sample_torch,
)
from peak_nerf.nerf.render.occupancy import UNKNOWN, OccupancyGrid

ALL = 1 << 12
"""A budget that every candidate fits into."""


def random_rays(n: int, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """From anywhere within `reach` boxes towards points of the box: from inside, from outside, and some that miss.

    The first six are parallel to the axes.
    """
    origins = 2.7 * reach * (2 * torch.rand(n, 3) - 1)
    directions = F.normalize(reach * (2.4 * torch.rand(n, 3) - 1.2) - origins, dim=-1)
    origins[:6] = 0.137 * reach
    directions[:6] = torch.cat((torch.eye(3), -torch.eye(3)))
    return origins, directions


def reloaded(grid: OccupancyGrid) -> OccupancyGrid:
    """The grid with what rays look at worked out anew, after its occupancy or opacities were set by hand."""
    grid.digest()
    return grid


def random_grid(n_cascades: int, occupied: float = 0.3, unknown: float = 0.3, resolution: int = 32) -> OccupancyGrid:
    """Cells occupied, and their opacity known, at random."""
    grid = OccupancyGrid(resolution, n_cascades=n_cascades, step=0.02, thin=0.5)
    grid.occupied.copy_(torch.rand(grid.occupied.shape) < occupied)
    grid.occupied[:, : resolution // 2, :8] = False  # whole blocks are empty, as in a scene
    opacity = 0.3 * torch.rand(grid.opacity.shape) ** 4
    grid.opacity.copy_(torch.where(torch.rand(opacity.shape) < unknown, UNKNOWN, opacity))
    return reloaded(grid)


def both(grid: OccupancyGrid, steps: Steps, origins: Tensor, directions: Tensor) -> tuple[PackedSamples, PackedSamples]:
    enter, leave = box_intersection(origins, directions, 0.05, 2.0 ** (grid.n_cascades - 1))
    jitter, offset = torch.rand(2, len(origins))
    given = March(origins, directions, enter, leave, jitter, offset), grid, steps
    return sample_numba(*given), sample_torch(*given)


def of_rays(samples: PackedSamples, n: int) -> list[PackedSamples]:
    return [samples.select(samples.ray == r) for r in range(n)]


@pytest.mark.parametrize(("n_cascades", "cone"), [(1, 0.0), (4, 0.0), (4, 1 / 64), (6, 1 / 256)])
@pytest.mark.parametrize("budget", [1, 7, 64, ALL])
def test_compiled_equals_plain(n_cascades: int, cone: float, budget: int) -> None:
    """Ray by ray; roundings may put a sample across a cell's wall, which moves the others of its ray."""
    n, grid = 150, random_grid(n_cascades)
    origins, directions = random_rays(n, 2.0 ** (n_cascades - 1))
    ours, theirs = both(grid, Steps(0.021, cone, budget), origins, directions)
    assert ours.n_candidates == pytest.approx(theirs.n_candidates, rel=1e-3)
    equal = 0
    for fast, slow in zip(of_rays(ours, n), of_rays(theirs, n), strict=True):
        assert bool(torch.cat((fast.t, fast.dt, fast.x.view(-1))).isfinite().all())
        equal += (
            len(fast) == len(slow)
            and torch.equal(fast.cell, slow.cell)
            and torch.allclose(fast.t, slow.t, rtol=1e-5)
            and torch.allclose(fast.dt, slow.dt, rtol=1e-3)
            and torch.allclose(fast.x, slow.x, atol=1e-5)
        )
    assert equal >= 0.96 * n
    assert 0.3 * n < len(ours.ray.unique()) < n


@pytest.mark.parametrize(("n_cascades", "cone"), [(1, 0.0), (3, 0.0), (3, 1 / 64)])
def test_all_candidates_are_an_obvious_lattice(n_cascades: int, cone: float) -> None:
    """Step by step in Python: t_0 at half of the first step, each later one by a step's length further."""
    grid = random_grid(n_cascades)
    grid.opacity[:] = 0.0  # nothing is hidden
    reloaded(grid)
    origins, directions = random_rays(40, 2.0 ** (n_cascades - 1))
    steps = Steps(0.021, cone, ALL)
    samples = sample_rays(origins, directions, grid, steps, near=0.05)
    enter, leave = box_intersection(origins, directions, 0.05, 2.0 ** (n_cascades - 1))
    n_different = 0
    for r, found in enumerate(of_rays(samples, 40)):
        assert torch.allclose(found.dt, (cone * found.t).clamp(min=0.021), rtol=1e-5)
        expected, s = [], _count(float(enter[r]), steps) + 0.5
        while float(leave[r]) > float(enter[r]) and (t := _distance(s, steps)) < float(leave[r]):
            x = (origins[r] + t * directions[r]).tolist()
            size = max(abs(c) for c in x)
            k = next(k for k in range(n_cascades) if size <= 2**k or k == n_cascades - 1)
            i, j, m = (min(int((c / 2**k + 1) * 16), 31) for c in x)
            if grid.occupied[k, i, j, m]:
                expected.append(t)
            s += 1
        n_different += len(expected) != len(found) or not torch.allclose(found.t, torch.tensor(expected), rtol=2e-5)
    assert n_different <= 1  # roundings at a wall


def _count(t: float, steps: Steps) -> float:
    """By adding up what steps are so long: ds = dt / max(dt, cone t)."""
    if steps.cone == 0 or t <= steps.dt / steps.cone:
        return t / steps.dt
    bend = steps.dt / steps.cone
    return 1 / steps.cone + math.log(t / bend) / steps.cone


def _distance(s: float, steps: Steps) -> float:
    if steps.cone == 0 or s <= 1 / steps.cone:
        return s * steps.dt
    return steps.dt / steps.cone * math.exp(s * steps.cone - 1)


@pytest.mark.parametrize("cone", [0.0, 1 / 64, 1 / 256])
def test_steps(cone: float) -> None:
    """Distance inverts count, its slope is the length, and the length grows with the distance."""
    steps = Steps(0.01, cone, 1)
    s = torch.linspace(0, 900 if cone else 3000, 5001, dtype=torch.float64, requires_grad=True)
    t = steps.distance(s)
    torch.testing.assert_close(steps.count(t), s, rtol=1e-9, atol=1e-9)
    (slope,) = torch.autograd.grad(t.sum(), s)
    torch.testing.assert_close(slope, steps.length(t.detach()), rtol=1e-9, atol=1e-12)
    assert bool((slope.diff() >= -1e-12).all())
    assert (float(slope[-1]) > 0.011) == (cone > 0)
    longer = steps.longer(3.0)
    torch.testing.assert_close(longer.length(t), 3 * steps.length(t))
    torch.testing.assert_close(longer.count(t)[-1] - longer.count(t)[99], (s[-1] - s[99]) / 3, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sampler", ["numba", "torch"])
@pytest.mark.parametrize(("n_cascades", "cone", "budget"), [(1, 0.0, 1), (1, 0.0, 16), (4, 1 / 64, 16)])
def test_optical_depth_is_right_on_average(sampler: str, n_cascades: int, cone: float, budget: int) -> None:
    """Over all offsets, of a density that the grid knows nothing of: what is left out is stood for by the rest."""
    n, n_offsets = 12, 400
    grid = random_grid(n_cascades, occupied=0.5)
    origins, directions = random_rays(n, 2.0 ** (n_cascades - 1))
    enter, leave = box_intersection(origins, directions, 0.05, 2.0 ** (n_cascades - 1))
    middle = torch.full((n,), 0.5)

    def depth(budget: int, copies: int, offset: Tensor) -> tuple[Tensor, PackedSamples]:
        rays = [a.repeat_interleave(copies, 0) for a in (origins, directions, enter, leave, middle)]
        draw = sample_numba if sampler == "numba" else sample_torch
        samples = draw(March(*rays, offset), grid, Steps(0.021, cone, budget))
        density = 1 + torch.sin(7 * samples.t) * torch.cos(5 * samples.x[:, 0])
        tau = torch.zeros(n * copies).index_add(0, samples.ray, density * samples.dt)
        return tau.view(n, copies), samples

    whole, every = depth(ALL, 1, middle)
    offsets = (torch.arange(n_offsets) + 0.5) / n_offsets
    part, few = depth(budget, n_offsets, offsets.repeat(n))
    assert len(few) < 0.5 * n_offsets * len(every)
    assert int(torch.bincount(few.ray).max()) <= budget + 1
    assert float(part.std(1).max()) > 0.05 * float(whole.max())  # it is the mean alone that is right
    torch.testing.assert_close(part.mean(1), whole[:, 0], rtol=0.02, atol=1e-3)


def test_places_and_choices_of_training_rays_do_not_hang_together() -> None:
    """One number draws both: the mean over it is right as well, here of rays through fog of density t."""
    grid = OccupancyGrid(32, step=0.02)
    n = 4000
    origins, directions = torch.tensor([[-2.0, 0.1, 0.2]]).repeat(n, 1), torch.tensor([[1.0, 0.0, 0.0]]).repeat(n, 1)
    samples = sample_rays(origins, directions, grid, Steps(0.02, 0.0, 5), 0.0, torch.rand(n))
    for density, expected in ((torch.ones_like(samples.t), 2.0), (samples.t, (3.0**2 - 1) / 2)):
        tau = torch.zeros(n).index_add(0, samples.ray, density * samples.dt)
        assert float(tau.mean()) == pytest.approx(expected, abs=4 * float(tau.std()) / n**0.5)


def test_samples_go_where_the_colour_comes_from() -> None:
    """Of a ray through thin fog onto a wall: more than half of them are at the wall, none far behind it."""
    grid = OccupancyGrid(64, step=0.02)
    grid.opacity[:] = 0.0005
    grid.opacity[:, 48:50] = 0.9  # x in [0.5, 0.5625)
    reloaded(grid)
    origins, directions = torch.tensor([[-2.0, 0.1, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    dt = 0.01
    samples = sample_rays(origins, directions, grid, Steps(dt, 0.0, 16))
    x = samples.x[:, 0]
    assert ((x > 0.5 - 2.5 * dt) & (x < 0.5625)).float().mean() > 0.5
    # A step is half as long as the opacity's: 0.9 is 0.68 of it. After seven of them 0.001 is left, BLUR more are kept.
    assert 0.5 < x.max() < 0.5 + (7 + BLUR) * dt
    assert bool((x < 0.4).any())  # fog is not forgotten


def test_behind_an_opaque_wall_there_is_nothing() -> None:
    grid = OccupancyGrid(64, step=0.02)
    grid.opacity[:] = 0.0
    grid.opacity[:, 32] = 1.0  # x in [0, 0.03125)
    reloaded(grid)
    origins, directions = torch.tensor([[-2.0, 0.1, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    for draw in both(grid, Steps(0.02, 0.0, ALL), origins, directions):
        behind = draw.x[:, 0][draw.x[:, 0] >= 0]
        assert len(behind) == 1 + BLUR
        assert behind.max() < 3 * 0.02
        assert len(draw) == 50 + 1 + BLUR or len(draw) == 51 + 1 + BLUR


@pytest.mark.parametrize("n_cascades", [1, 4])
def test_a_sample_is_in_its_cell(n_cascades: int) -> None:
    grid = random_grid(n_cascades)
    origins, directions = random_rays(200, 2.0 ** (n_cascades - 1))
    cone = 1 / 64 if n_cascades > 1 else 0.0
    samples = sample_rays(origins, directions, grid, Steps(0.021, cone, 16), 0.05, torch.rand(200))
    assert bool(grid.occupied.view(-1)[samples.cell].all())
    x = uncontract(samples.x) if n_cascades > 1 else samples.x
    assert float((grid.cells(x) == samples.cell).float().mean()) > 0.998  # roundings at a wall
    torch.testing.assert_close(
        x, origins[samples.ray] + samples.t[:, None] * directions[samples.ray], atol=1e-3, rtol=1e-3
    )
    assert bool((samples.t >= 0.05).all())
    assert bool((samples.ray.diff() >= 0).all())
    assert bool((samples.t.diff()[samples.ray.diff() == 0] > 0).all())


@pytest.mark.parametrize("n_cascades", [1, 4])
def test_positions_are_differentiable_in_the_rays(n_cascades: int) -> None:
    grid, steps = random_grid(n_cascades), Steps(0.021, 0.0, 16)
    origins, directions = random_rays(50, 2.0 ** (n_cascades - 1))
    plain = sample_rays(origins, directions, grid, steps)
    moved = sample_rays(origins.requires_grad_(), directions.requires_grad_(), grid, steps)
    assert not plain.x.requires_grad
    torch.testing.assert_close(moved.x, plain.x, atol=1e-6, rtol=0)
    assert torch.equal(moved.t, plain.t)
    to = torch.randn(len(plain), 3)
    gradients = torch.autograd.grad((moved.x * to).sum(), (origins, directions))
    x = origins[plain.ray] + plain.t[:, None] * directions[plain.ray]
    expected = torch.autograd.grad(((contract(x) if n_cascades > 1 else x) * to).sum(), (origins, directions))
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_samples_by_hand() -> None:
    """A ray along x through a grid of 8 cells a side, of which only the cells with i = 4 or 5 are occupied."""
    grid = OccupancyGrid(8, step=0.25)
    grid.occupied[:] = False
    grid.occupied[:, 4:6] = True
    reloaded(grid)
    origins, directions = torch.tensor([[-2.0, 0.1, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]])
    samples = sample_rays(origins, directions, grid, Steps(0.25, 0.0, 4))
    # The box is entered at t = 1; middles of steps at 1.125 + 0.25 k; the cells span x in [0, 0.5), t in [2, 2.5).
    assert samples.t.tolist() == pytest.approx([2.125, 2.375])
    assert samples.x[:, 0].tolist() == pytest.approx([0.125, 0.375])
    assert samples.dt.tolist() == pytest.approx([0.25, 0.25])
    assert samples.ray.tolist() == [0, 0]
    assert samples.n_candidates == 2


def test_rays_that_miss_and_axis_parallel_rays() -> None:
    origins = torch.tensor([[0.0, 0.0, -3.0], [0.0, 5.0, -3.0], [0.0, 0.0, 0.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    enter, leave = box_intersection(origins, directions, near=0.0)
    assert (leave > enter).tolist() == [True, False, True]
    assert enter[0].item() == pytest.approx(2.0)
    assert (enter[2].item(), leave[2].item()) == pytest.approx((0.0, 1.0))
    assert (box_intersection(origins, directions, 0.0, 4.0)[1][2].item()) == pytest.approx(4.0)
    samples = sample_rays(origins, directions, OccupancyGrid(8), Steps(0.1, 0.0, ALL))
    assert samples.ray.unique().tolist() == [0, 2]
    assert torch.bincount(samples.ray).tolist() == [20, 0, 10]
    assert samples.x.abs().max() <= 1 + 1e-5


def test_no_rays_and_none_that_hit() -> None:
    steps = Steps(0.1, 0.0, 8)
    none = torch.empty(0, 3), torch.empty(0, 3)
    away = torch.full((2, 3), 5.0), F.normalize(torch.ones(2, 3), dim=-1)
    for rays in (none, away):
        for samples in both(OccupancyGrid(8), steps, *rays):
            assert (len(samples), samples.n_candidates) == (0, 0)
