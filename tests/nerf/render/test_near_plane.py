"""Where rays begin: before the sparse points, and nearer where a view comes nearer."""

import pytest
import torch
from torch.nn.functional import normalize

from peak_nerf.nerf.render.near_plane import BEFORE_POINTS, before_points, near_of_view


def rays(origin: tuple[float, float, float], half_angle: float = 0.4) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a picture that looks along x."""
    y, z = torch.meshgrid(*(torch.linspace(-1, 1, 9),) * 2, indexing="ij")
    directions = normalize(torch.stack((torch.ones_like(y), half_angle * y, half_angle * z), -1), dim=-1)
    return torch.tensor(origin).expand_as(directions), directions


def wall(x: float, n: int = 400) -> torch.Tensor:
    """Points of a wall across the x axis."""
    return torch.cat((torch.full((n, 1), x), torch.rand(n, 2, generator=torch.Generator().manual_seed(0)) - 0.5), 1)


def test_one_in_a_hundred_may_be_a_mistake() -> None:
    distances = torch.linspace(2, 4, 200)
    assert before_points(distances) == pytest.approx(BEFORE_POINTS * 2, rel=0.02)
    assert before_points(torch.cat((torch.tensor([1e-3]), distances))) == pytest.approx(BEFORE_POINTS * 2, rel=0.02)
    assert before_points(torch.tensor([3.0])) == BEFORE_POINTS * 3


def test_a_view_that_comes_nearer_begins_nearer() -> None:
    points = wall(10.0)
    assert near_of_view(2.0, points, *rays((0.0, 0.0, 0.0))) == 2.0  # never farther away than training's
    for distance in (3.0, 1.0, 0.3):
        near = near_of_view(2.0, points, *rays((10 - distance, 0.0, 0.0)))
        assert near == pytest.approx(BEFORE_POINTS * distance, rel=0.05)


def test_points_that_the_view_does_not_have_before_it_do_not_matter() -> None:
    behind, beside = wall(-1.0), wall(1.0) + torch.tensor([0.0, 5.0, 0.0])
    seen = rays((0.0, 0.0, 0.0))
    assert near_of_view(2.0, torch.cat((behind, beside)), *seen) == 2.0
    assert near_of_view(2.0, torch.cat((behind, beside, wall(1.0))), *seen) == pytest.approx(BEFORE_POINTS, rel=0.02)


def test_without_points_rays_begin_where_they_were_told_to() -> None:
    assert near_of_view(0.3, None, *rays((0.0, 0.0, 0.0))) == 0.3
    assert near_of_view(0.3, torch.zeros(0, 3), *rays((0.0, 0.0, 0.0))) == 0.3
