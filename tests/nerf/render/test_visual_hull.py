"""Cells are left empty when no camera sees them, or when one sees through them, and matter never is."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from peak_nerf.nerf.render.visual_hull import carve_occupancy
from tests.nerf.runs import start, tiny_config


def camera_on_x(distance: float, size: int = 100, focal: float = 100.0) -> Cameras:
    """At (distance, 0, 0), looking at the origin; y of the world is right in its picture, z is up."""
    pose = torch.tensor([[[0.0, 0.0, 1.0, distance], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]])
    return Cameras(pose, fx=focal, fy=focal, cx=size / 2, cy=size / 2, width=size, height=size)


def centres(resolution: int) -> torch.Tensor:
    axis = (torch.arange(resolution) + 0.5) * (2 / resolution) - 1
    return torch.cartesian_prod(axis, axis, axis).reshape(resolution, resolution, resolution, 3)


def test_only_cells_in_the_frustum_are_seen() -> None:
    """A camera in the middle of the box that looks along -x, its opening 2 |y| < |x|."""
    possible = carve_occupancy(camera_on_x(0.0), None, torch.zeros(3), 1.0, 32)
    x, y, z = centres(32).unbind(-1)
    inside = (x < 0) & (2 * y.abs() < -x) & (2 * z.abs() < -x)
    assert possible[inside].all()
    # A cell more than its diagonal away from the frustum is not seen.
    slack = 3**0.5 * 2 / 32 * 1.5
    outside = (x > slack) | (2 * y.abs() > -x + 2 * slack) | (2 * z.abs() > -x + 2 * slack)
    assert not possible[outside].any()
    assert 0 < possible.float().mean() < 0.25


def test_what_a_camera_sees_through_is_carved() -> None:
    """A silhouette that fills the right half of the picture: the box's far left is empty, its right is not."""
    silhouette = torch.zeros(100, 100, dtype=torch.bool)
    silhouette[:, 50:] = True
    camera = camera_on_x(4.0, focal=150.0)
    possible = carve_occupancy(camera, [silhouette], torch.zeros(3), 1.0, 32)
    _, y, z = centres(32).unbind(-1)
    assert possible[y > 0].all()
    assert not possible[(y < -0.4) & (y > -0.7) & (z.abs() < 0.5)].any()
    assert carve_occupancy(camera, None, torch.zeros(3), 1.0, 32).all()


def test_finer_answers_repeat_coarse_ones() -> None:
    coarse = carve_occupancy(camera_on_x(0.0), None, torch.zeros(3), 1.0, 64)
    fine = carve_occupancy(camera_on_x(0.0), None, torch.zeros(3), 1.0, 128)
    assert torch.equal(fine[::2, ::2, ::2], coarse)
    assert torch.equal(fine[1::2, 1::2, 1::2], coarse)


def test_a_ball_survives_its_hull(tmp_path) -> None:
    """The ball of radius 1 in the box of half side 1.5, as training sets it up; the corners of the box are carved."""
    model = start(tiny_config(tmp_path)).pipeline.model
    visible = model.occupancy.visible
    radius = 1.5 * centres(visible.shape[0]).norm(dim=-1)
    assert visible[radius < 1].all()
    assert visible.float().mean() < 0.9
    assert torch.equal(model.occupancy.occupied, visible)


@pytest.mark.parametrize("options", [{"cull_cells": False}, {"train_background": "white"}])
def test_nothing_is_carved_unless_alpha_is_used(tmp_path, options: dict) -> None:
    model = start(tiny_config(tmp_path, **options)).pipeline.model
    assert model.occupancy.visible.float().mean() > 0.9


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_lies_beside_an_image_that_shows_the_scene_whole(whole: bool) -> None:
    """The frustum ends at |y| = (4 - x) / 8 inside the box; a silhouette that is cut off says nothing about beyond."""
    silhouette = torch.zeros(100, 100, dtype=torch.bool)
    silhouette[30:70, (30 if whole else 0) : 70] = True
    possible = carve_occupancy(camera_on_x(4.0, focal=400.0), [silhouette], torch.zeros(3), 1.0, 64)
    x, y, z = centres(64).unbind(-1)
    beside = (y < 0) & (y.abs() > (4 - x) / 8 + 0.1) & (z.abs() < 0.15)
    in_front = (y.abs() < 0.1) & (z.abs() < 0.1)
    assert possible[in_front].all()
    # Unseen cells are carved anyhow: only a second camera that sees them makes the difference.
    poses = torch.cat([camera_on_x(4.0).camera_to_worlds, camera_on_x(6.0).camera_to_worlds])
    focal = torch.tensor([[400.0], [100.0]])
    cameras = Cameras(poses, fx=focal, fy=focal, cx=50.0, cy=50.0, width=100, height=100)
    everywhere = torch.ones(100, 100, dtype=torch.bool)
    possible = carve_occupancy(cameras, [silhouette, everywhere], torch.zeros(3), 1.0, 64)
    assert possible[beside].any() != whole
