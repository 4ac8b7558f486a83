"""The occupancy grid follows the density that is seen, and only visible cells may be occupied."""

import pytest
import torch

from peak_nerf.nerf.render.occupancy import OccupancyGrid


def test_occupancy_follows_density() -> None:
    grid = OccupancyGrid(8)
    points = torch.tensor([[-0.9, -0.9, -0.9], [0.9, 0.9, 0.9]])
    cells = grid.cells(points)
    assert cells.tolist() == [0, 8**3 - 1]
    assert torch.equal(grid.cells(grid.points_in(cells)), cells)
    grid.refresh(dt=0.02)
    assert grid.occupied.all()  # nothing is known to be empty yet
    grid.observe(torch.arange(8**3), torch.zeros(8**3))
    grid.observe(cells, torch.tensor([50.0, 0.0]))
    grid.refresh(dt=0.02)
    assert grid.occupied.nonzero().tolist() == [[0, 0, 0]]
    assert grid.blocks.all()
    # Matter that is gone decays away: 50 * 0.95^n falls below the threshold in some 90 visits.
    for _ in range(200):
        grid.observe(cells[:1].repeat(5), torch.zeros(5))
    assert 0 < grid.density.max() < 50 * 0.95**199
    grid.observe(cells[1:], torch.tensor([50.0]))
    grid.refresh(dt=0.02)
    assert grid.occupied.nonzero().tolist() == [[7, 7, 7]]
    assert grid.fraction.item() == pytest.approx(8**-3)


def test_invisible_cells_stay_empty() -> None:
    grid = OccupancyGrid(8)
    visible = torch.ones(8, 8, 8, dtype=torch.bool)
    visible[:4] = False
    grid.restrict(visible)
    assert torch.equal(grid.occupied, visible)
    cells = grid.random_cells(400)
    assert len(cells)
    assert (cells >= 4 * 64).all()
    grid.observe(torch.arange(8**3), torch.full((8**3,), 9.0))
    grid.refresh(dt=0.1)
    assert not grid.occupied[:4].any()
    assert grid.occupied[4:].all()
