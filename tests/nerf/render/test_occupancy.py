"""The occupancy grid follows the density that is seen, and only visible cells may be occupied."""

import math

import pytest
import torch

from peak_nerf.nerf.render.occupancy import RATE, UNKNOWN, OccupancyGrid, block_occupancy, opacity_of

STEP = 0.02


def test_occupancy_follows_density() -> None:
    grid = OccupancyGrid(8, step=STEP)
    points = torch.tensor([[-0.9, -0.9, -0.9], [0.9, 0.9, 0.9]])
    cells = grid.cells(points)
    assert cells.tolist() == [0, 8**3 - 1]
    assert torch.equal(grid.cells(grid.points_in(cells)), cells)
    grid.refresh()
    assert grid.occupied.all()  # nothing is known to be empty yet
    scene = torch.arange(8**3) < 256
    grid.observe(torch.arange(8**3), torch.where(scene, 50.0, 0.0))
    grid.refresh()
    assert torch.equal(grid.occupied.view(-1), scene)
    assert grid.blocks.all()
    # Matter that is gone decays away: 50 * 0.95^n falls below the threshold in some 90 visits.
    for _ in range(200):
        grid.observe(cells[:1].repeat(5), torch.zeros(5))
    assert 0 < grid.density.view(-1)[0] < 50 * 0.95**199
    grid.observe(cells[1:], torch.tensor([50.0]))
    grid.refresh()
    scene[0], scene[-1] = False, True
    assert torch.equal(grid.occupied.view(-1), scene)
    assert grid.fraction.item() == pytest.approx(0.5)


def test_a_cell_is_occupied_by_the_opacity_of_its_own_step() -> None:
    """A step in cascade k is 2^k times as long, so the least density that counts is 2^k times as small."""
    grid = OccupancyGrid(32, threshold=0.01, n_cascades=3, step=STEP)
    everywhere = torch.arange(3 * 32**3)
    level = everywhere // 32**3
    limit = -math.log(1 - 0.01) / (STEP * 2.0**level)
    dense = everywhere % 2 == 0  # enough of it that the mean opacity is above the threshold
    grid.observe(everywhere, torch.where(dense, 50.0, torch.where(everywhere % 4 == 1, 1.01, 0.99) * limit))
    grid.refresh()
    assert torch.equal(grid.occupied.view(-1), dense | (everywhere % 4 == 1))


def test_thin_matter_is_judged_by_the_long_steps_of_the_beginning() -> None:
    """Opacity 0.001 of a step is too little to keep a cell, that of a step four times as long is enough."""
    grid = OccupancyGrid(32, threshold=0.002, step=STEP)
    density = torch.full((32**3,), 50.0 / STEP)
    density[:1000] = 0.001 / STEP
    grid.observe(torch.arange(32**3), density)
    grid.refresh(coarseness=4.0)
    assert bool(grid.occupied.all())
    grid.refresh()
    assert int(grid.occupied.sum()) == 32**3 - 1000


def test_a_thin_scene_counts_by_its_mean() -> None:
    """Where even visible cells are thinner than the threshold on average, that average decides."""
    grid = OccupancyGrid(8, threshold=0.5, step=STEP)
    cells = torch.arange(8**3)
    grid.observe(cells, torch.where(cells < 256, 0.2, 0.1))  # opacities 0.004 and 0.002
    grid.refresh()
    assert torch.equal(grid.occupied.view(-1), cells < 256)


def test_invisible_cells_stay_empty() -> None:
    grid = OccupancyGrid(8, step=0.1)
    visible = torch.ones(1, 8, 8, 8, dtype=torch.bool)
    visible[:, :4] = False
    grid.restrict(visible)
    assert torch.equal(grid.occupied, visible)
    cells = grid.random_cells(400)
    assert len(cells)
    assert (cells >= 4 * 64).all()
    grid.observe(torch.arange(8**3), torch.full((8**3,), 9.0))
    grid.refresh()
    assert not grid.occupied[:, :4].any()
    assert grid.occupied[:, 4:].all()


def test_half_of_the_random_cells_are_occupied() -> None:
    grid = OccupancyGrid(32, n_cascades=2)
    grid.occupied[:] = False
    grid.occupied[1, :8] = True
    cells = grid.random_cells(4000)
    found = grid.occupied.view(-1)[cells].float().mean().item()
    assert found == pytest.approx(0.5 + 0.5 / 8, abs=0.03)  # an eighth of those from anywhere are occupied as well


def test_every_cell_of_every_cascade_is_found_again() -> None:
    """Of the cells that are used: the middle of cascade k > 0 belongs to the one before."""
    grid = OccupancyGrid(32, n_cascades=3)
    cells = torch.arange(3 * 32**3)
    x = grid.points_in(cells)
    level, corner = cells // 32**3, torch.stack((cells // 1024 % 32, cells // 32 % 32, cells % 32), -1)
    low = (corner / 16.0 - 1) * 2.0 ** level[:, None]
    assert bool(((x >= low - 1e-5) & (x <= low + 2.0 ** level[:, None] / 16 + 1e-5)).all())
    used = (level == 0) | ~((corner >= 8) & (corner < 24)).all(-1)
    near_a_wall = ((x - low) / 2.0 ** level[:, None] * 16 - 0.5).abs().amax(-1) > 0.4999
    assert torch.equal(grid.cells(x)[used & ~near_a_wall], cells[used & ~near_a_wall])
    assert bool((grid.cells(x)[~used] // 32**3 < level[~used]).all())
    outside = torch.tensor([[9.0, 0.1, 0.1]])
    assert grid.cells(outside).tolist() == [((2 * 32 + 31) * 32 + 16) * 32 + 16]


def test_the_mean_opacity_moves_towards_what_is_seen() -> None:
    """From the first observation on, at once; then by `RATE`, with the step of the cell's cascade."""
    grid = OccupancyGrid(32, n_cascades=2, step=STEP)
    cells = torch.tensor([5, 32**3 + 5])
    grid.observe(cells, torch.tensor([3.0, 3.0]))
    first = [1 - math.exp(-3.0 * STEP), 1 - math.exp(-6.0 * STEP)]
    assert grid.opacity.view(-1)[cells].tolist() == pytest.approx(first, rel=1e-5)
    grid.observe(cells, torch.zeros(2))
    assert grid.opacity.view(-1)[cells].tolist() == pytest.approx([(1 - RATE) * value for value in first], rel=1e-5)
    assert (grid.opacity == UNKNOWN).sum() == 2 * 32**3 - 2


def test_a_byte_says_what_rays_must_know() -> None:
    """0 where a cell is empty, else its opacity, that of `thin` where nothing has been seen, nearly as it is."""
    grid = OccupancyGrid(32, n_cascades=2, step=STEP, thin=0.5)
    cells = torch.arange(0, 2 * 32**3, 2)
    density = 400 * torch.rand(len(cells)) ** 6
    grid.observe(cells, density)
    grid.refresh()
    expected = torch.where(grid.opacity < 0, 0.0, grid.opacity)
    for k in range(2):
        expected[k][grid.opacity[k] < 0] = 1 - math.exp(-0.5 * STEP * 2**k)
    assert torch.equal(grid.candidates > 0, grid.occupied)
    assert 0.5 < float(grid.fraction) < 1
    occupied = grid.occupied
    stored = opacity_of(grid.candidates.long())[occupied]
    torch.testing.assert_close(stored.sqrt(), expected[occupied].sqrt(), atol=0.51 / 254, rtol=0)
    torch.testing.assert_close(grid.log_clear[grid.candidates[occupied].long()], torch.log1p(-stored))
    again = OccupancyGrid(32, n_cascades=2, step=STEP, thin=0.5)
    again.load_state_dict(grid.state_dict())
    assert torch.equal(again.candidates, grid.candidates)
    assert torch.equal(again.fraction, grid.fraction)


def test_blocks_by_a_loop() -> None:
    occupied = torch.rand(2, 32, 32, 32) < 0.002
    blocks = block_occupancy(occupied)
    assert blocks.shape == (2, 4, 4, 4)
    assert 0 < blocks.sum() < blocks.numel()
    for k, i, j, m in torch.cartesian_prod(*(torch.arange(n) for n in blocks.shape)).tolist():
        cells = occupied[k, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8, 8 * m : 8 * m + 8]
        assert blocks[k, i, j, m] == cells.any()


def test_a_checkpoint_without_cascades_and_opacities_loads() -> None:
    grid = OccupancyGrid(8, step=STEP)
    grid.observe(torch.arange(100), 5 * torch.rand(100))
    grid.refresh()
    state = {
        name: value[0]
        for name, value in grid.state_dict().items()
        if name not in ("opacity", "candidates", "log_clear")
    }
    loaded = OccupancyGrid(8, step=STEP)
    loaded.load_state_dict(state)
    for name in ("density", "occupied", "blocks", "visible"):
        assert torch.equal(getattr(loaded, name), getattr(grid, name)), name
    # What rays look at: occupied cells, none of them more than another.
    assert bool((loaded.opacity == UNKNOWN).all())
    assert torch.equal(loaded.candidates > 0, loaded.occupied)
    assert len(loaded.candidates[loaded.occupied].unique()) == 1


@pytest.mark.parametrize(("resolution", "n_cascades"), [(16, 2), (48, 2), (12, 1)])
def test_blocks_do_not_straddle_cascades(resolution: int, n_cascades: int) -> None:
    with pytest.raises(ValueError, match="resolution must be a multiple of 32"):
        OccupancyGrid(resolution, n_cascades=n_cascades)
