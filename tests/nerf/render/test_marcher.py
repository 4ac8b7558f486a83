"""The compiled marcher equals the plain one, visits exactly the occupied cells, and goes on where it stopped."""

import pytest
import torch
import torch.nn.functional as F

from peak_nerf.nerf.render.marcher import RayMarcher, box_intersection, join_waves, march_torch
from peak_nerf.nerf.render.occupancy import block_occupancy


def random_rays(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from a sphere of radius 2.7 towards points of the box; some miss it."""
    generator = torch.Generator().manual_seed(seed)
    origins = 2.7 * F.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    targets = 2.4 * torch.rand(n, 3, generator=generator) - 1.2
    return origins, F.normalize(targets - origins, dim=-1)


def random_occupancy(resolution: int, fraction: float, seed: int = 0) -> torch.Tensor:
    return torch.rand((resolution,) * 3, generator=torch.Generator().manual_seed(seed)) < fraction


def marcher(origins, directions, occupied, dt=0.02, jitter=None) -> RayMarcher:
    return RayMarcher(origins, directions, occupied, block_occupancy(occupied), dt, near=0.05, jitter=jitter)


@pytest.mark.parametrize("resolution", [8, 30, 64])  # 30 is no multiple of the block of 8
@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("limit", [3, 1 << 20])
def test_compiled_equals_plain(resolution: int, fraction: float, limit: int) -> None:
    origins, directions = random_rays(300)
    occupied = random_occupancy(resolution, fraction)
    jitter = torch.rand(300, generator=torch.Generator().manual_seed(1))
    fast, slow = (
        marcher(origins, directions, occupied, jitter=jitter),
        marcher(origins, directions, occupied, jitter=jitter),
    )
    for _ in range(3):
        ours, theirs = fast.next(limit), march_torch(slow, limit)
        assert torch.equal(ours.ray, theirs.ray)
        assert torch.allclose(ours.t, theirs.t, atol=1e-6)
        assert torch.allclose(ours.x, theirs.x, atol=1e-6)


def test_waves_add_up_to_one_march() -> None:
    origins, directions = random_rays(200)
    occupied = random_occupancy(32, 0.2)
    whole = marcher(origins, directions, occupied).next()
    waves = marcher(origins, directions, occupied)
    parts = []
    while len(part := waves.next(5)):
        assert torch.bincount(part.ray).max() <= 5
        parts.append(part)
    joined = join_waves(parts, whole.dt)
    assert torch.equal(joined.ray, whole.ray)
    assert torch.equal(joined.t, whole.t)
    assert torch.equal(joined.x, whole.x)


def test_stopped_rays_give_no_more() -> None:
    origins, directions = random_rays(100)
    m = marcher(origins, directions, torch.ones(16, 16, 16, dtype=torch.bool))
    m.next(2)
    m.stop(torch.arange(100) % 2 == 0)
    assert (m.next(2).ray % 2 == 1).all()


def test_samples_by_hand() -> None:
    """A ray along x through a grid of 4 cells a side, of which only the cells with i = 2 are occupied."""
    occupied = torch.zeros(4, 4, 4, dtype=torch.bool)
    occupied[2] = True
    m = marcher(torch.tensor([[-2.0, 0.1, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]]), occupied, dt=0.25)
    samples = m.next()
    # The box is entered at t = 1; middles of steps at 1.125 + 0.25 k; cell i = 2 spans x in [0, 0.5), t in [2, 2.5).
    assert samples.t.tolist() == pytest.approx([2.125, 2.375])
    assert samples.x[:, 0].tolist() == pytest.approx([0.125, 0.375])
    assert samples.ray.tolist() == [0, 0]


def test_rays_that_miss_and_axis_parallel_rays() -> None:
    origins = torch.tensor([[0.0, 0.0, -3.0], [0.0, 5.0, -3.0], [0.0, 0.0, 0.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    enter, leave = box_intersection(origins, directions, near=0.0)
    assert (leave > enter).tolist() == [True, False, True]
    assert enter[0].item() == pytest.approx(2.0)
    assert (enter[2].item(), leave[2].item()) == pytest.approx((0.0, 1.0))
    samples = marcher(origins, directions, torch.ones(8, 8, 8, dtype=torch.bool)).next()
    assert samples.ray.unique().tolist() == [0, 2]
    assert samples.x.abs().max() <= 1 + 1e-5


def test_no_rays() -> None:
    assert len(marcher(torch.empty(0, 3), torch.empty(0, 3), random_occupancy(8, 0.5)).next()) == 0
