"""Where the occupancy grid begins: matter at sparse points, nothing before them, and nothing forbidden."""

import pytest
import torch

from peak_nerf.nerf.render.marcher import Steps, sample_rays
from peak_nerf.nerf.render.occupancy import EXPECTED, UNKNOWN, OccupancyGrid

POINTS, CAMERAS = torch.tensor([[0.9, 0.1, 0.1], [2.6, 0.2, 0.2]]), torch.tensor([[-0.9, 0.1, 0.1], [-0.9, 0.2, 0.2]])


@pytest.fixture
def grid() -> OccupancyGrid:
    grid = OccupancyGrid(32, n_cascades=3, step=2 / 128, thin=0.1353)
    grid.expect(POINTS, CAMERAS)
    return grid


def at(grid: OccupancyGrid, x: float, y: float, z: float) -> float:
    return grid.opacity.view(-1)[grid.cells(torch.tensor([[x, y, z]]))].item()


def test_points_lines_of_sight_and_the_rest(grid: OccupancyGrid) -> None:
    expected = pytest.approx(EXPECTED)
    assert at(grid, 0.9, 0.1, 0.1) == expected
    assert at(grid, 0.9 - 1 / 16, 0.1 + 1 / 16, 0.1) == expected  # a cell of the first cascade is 1/16
    assert at(grid, 0.9, 0.1 - 3 / 16, 0.1) == UNKNOWN
    assert at(grid, 2.6, 0.2, 0.2) == expected
    assert at(grid, 2.6 + 0.25, 0.2, 0.2) == expected  # of the third, 1/4
    assert at(grid, 2.6, 0.2, 0.2 + 0.6) == UNKNOWN
    for x in torch.linspace(-0.9, 0.7, 40).tolist():
        assert at(grid, x, 0.1, 0.1) == 0
    for x in torch.linspace(1.2, 2.0, 20).tolist():
        assert at(grid, x, 0.2, 0.2) == 0
    assert at(grid, 0.0, 0.8, -0.3) == UNKNOWN
    # Behind the point nothing is known.
    assert at(grid, 3.5, 0.2, 0.2) == UNKNOWN


def test_nothing_is_forbidden(grid: OccupancyGrid) -> None:
    grid.refresh()
    assert grid.occupied.all()
    # Matter where it was not expected, and none where it was: the mean follows what is seen.
    cells = grid.cells(torch.tensor([[0.0, 0.1, 0.1], [0.9, 0.1, 0.1]]))
    for _ in range(30):
        grid.observe(cells, torch.tensor([40.0, 0.0]))
    seen = -torch.expm1(torch.tensor(-40.0 * grid.step))
    assert grid.opacity.view(-1)[cells].tolist() == pytest.approx([seen.item(), 0.0], abs=2e-3)


def test_what_training_has_seen_stays(grid: OccupancyGrid) -> None:
    """A run that goes on has its grid from the checkpoint."""
    cell = grid.cells(POINTS[:1])
    grid.observe(cell, torch.tensor([3.0]))
    before = grid.opacity.clone()
    grid.expect(POINTS, CAMERAS)
    assert torch.equal(grid.opacity, before)


def test_samples_go_to_the_points_and_some_elsewhere(grid: OccupancyGrid) -> None:
    n = 400
    origins, directions = torch.tensor([[-0.9, 0.1, 0.1]]).repeat(n, 1), torch.tensor([[1.0, 0.0, 0.0]]).repeat(n, 1)
    steps = Steps(2 / 128, 0.0, 16)
    samples = sample_rays(origins, directions, grid, steps, 0.0, torch.rand(n))
    near = (samples.x - 0.0)[:, 0]
    x = -0.9 + samples.t
    at_point, before = (x - 0.9).abs() < 0.12, x < 0.75
    assert near.isfinite().all()
    # 15 of the 310 steps are near the point, 105 before it; evenly drawn, 0.8 and 5.5 of 16.
    assert at_point.sum() / n > 3
    assert 0.5 < before.sum() / n < 2.5
    # They stand for as much of the ray as without expectations.
    assert (samples.dt[before].sum() / n).item() == pytest.approx(1.65, abs=0.15)
