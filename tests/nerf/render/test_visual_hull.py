"""Cells are left empty when no camera sees them, or when one sees through them, and matter never is."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from peak_nerf.nerf.cameras import project
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


def test_enough_cameras_must_see_a_cell() -> None:
    """Two that look at each other's backs share nothing; two in one place share all."""
    first = camera_on_x(0.0)
    turned = first.camera_to_worlds * torch.tensor([[-1.0], [-1.0], [1.0]])  # half a turn about z
    back = Cameras(turned, fx=100.0, fy=100.0, cx=50.0, cy=50.0, width=100, height=100)
    seen, seen_back = (carve_occupancy(camera, None, torch.zeros(3), 1.0, 32) for camera in (first, back))
    poses = torch.cat((first.camera_to_worlds, first.camera_to_worlds, turned))
    three = Cameras(poses, fx=100.0, fy=100.0, cx=50.0, cy=50.0, width=100, height=100)
    answers = [carve_occupancy(three, None, torch.zeros(3), 1.0, 32, min_cameras=n) for n in (1, 2, 3)]
    for possible, expected in zip(answers, (seen | seen_back, seen, seen & seen_back), strict=True):
        assert torch.equal(possible, expected)
    assert bool((seen & ~seen_back).any())
    assert bool((seen_back & ~seen).any())


def test_finer_answers_repeat_coarse_ones() -> None:
    coarse = carve_occupancy(camera_on_x(0.0), None, torch.zeros(3), 1.0, 64)
    fine = carve_occupancy(camera_on_x(0.0), None, torch.zeros(3), 1.0, 128)
    assert torch.equal(fine[::2, ::2, ::2], coarse)
    assert torch.equal(fine[1::2, 1::2, 1::2], coarse)


def test_a_ball_survives_its_hull(tmp_path) -> None:
    """The ball of radius 1 in the box of half side 1.5, as training sets it up; the corners of the box are carved."""
    model = start(tiny_config(tmp_path)).pipeline.model
    visible = model.occupancy.visible
    radius = 1.5 * centres(visible.shape[-1]).norm(dim=-1)
    assert visible[0][radius < 1].all()
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


DISTORTED = {
    "barrel": (CameraType.PERSPECTIVE, 100.0, [-0.15, 0.02, 0.0, 0.0, 0.003, -0.004]),
    "pincushion": (CameraType.PERSPECTIVE, 100.0, [0.25, 0.0, 0.0, 0.0, 0.0, 0.0]),
    "fisheye": (CameraType.FISHEYE, 60.0, [0.02, 0.0, 0.0, 0.0, 0.0, 0.0]),
    "fisheye beyond 180 degrees": (CameraType.FISHEYE, 25.0, [0.0] * 6),
}


def distorted_camera(name: str, distance: float) -> Cameras:
    kind, focal, parameters = DISTORTED[name]
    plain = camera_on_x(distance)
    return Cameras(
        plain.camera_to_worlds, fx=focal, fy=focal, cx=50.0, cy=50.0, width=100, height=100,
        distortion_params=torch.tensor([parameters]), camera_type=kind,
    )  # fmt: skip


def cells_on_rays(camera: Cameras, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Per pixel of the border and of every ninth row, the cells along nerfstudio's own ray: (n, 3), and whose pixel."""
    v, u = (a.flatten() for a in torch.meshgrid(torch.linspace(0, 100, 12), torch.linspace(0, 100, 45), indexing="ij"))
    rays = camera.generate_rays(torch.zeros(len(u), 1, dtype=torch.int64), torch.stack((v, u), -1))
    t = torch.linspace(0.01, 8.0, 800)
    x = rays.origins[:, None] + t[:, None] * rays.directions[:, None]
    cell = torch.floor((x + 1) * (resolution / 2)).long()
    inside = ((cell >= 0) & (cell < resolution)).all(-1)
    pixel = torch.stack((v, u), -1)[:, None].expand(-1, 800, 2)
    return cell[inside], pixel[inside].long().clamp(max=99)


@pytest.mark.parametrize("name", DISTORTED)
def test_no_lens_loses_a_cell_that_it_sees(name: str) -> None:
    camera = distorted_camera(name, 0.0)
    possible = carve_occupancy(camera, None, torch.zeros(3), 1.0, 64)
    cell, _ = cells_on_rays(camera, 64)
    assert possible[tuple(cell.T)].all()
    # And it is worth the while: behind a camera nothing is kept, unless it looks behind.
    x = centres(64)[..., 0]
    assert bool(possible[x > 0.2].any()) == (name == "fisheye beyond 180 degrees")
    if name in ("barrel", "pincushion"):
        assert 0.04 < possible.float().mean() < 0.08  # 1/24 is seen without distortion


@pytest.mark.parametrize("name", ["barrel", "pincushion"])
def test_a_silhouette_is_carved_through_its_lens(name: str) -> None:
    """What is seen through the right half's pixels stays, though distortion has bent the edge; the left goes."""
    silhouette = torch.zeros(100, 100, dtype=torch.bool)
    silhouette[:, 70:] = True
    camera = distorted_camera(name, 3.0)
    possible = carve_occupancy(camera, [silhouette], torch.zeros(3), 1.0, 64)
    cell, pixel = cells_on_rays(camera, 64)
    opaque = silhouette[tuple(pixel.T)]
    assert possible[tuple(cell[opaque].T)].all()
    # Near a picture's border its window is not whole.
    clear = (pixel[:, 1] > 15) & (pixel[:, 1] < 45) & (pixel[:, 0] > 15) & (pixel[:, 0] < 85)
    assert not possible[tuple(cell[clear].T)].any()


@pytest.mark.parametrize("name", ["barrel", "pincushion"])
def test_projection_inverts_nerfstudios_rays(name: str) -> None:
    camera = distorted_camera(name, 3.0)
    v, u = torch.rand(2, 500) * 100
    rays = camera.generate_rays(torch.zeros(500, 1, dtype=torch.int64), torch.stack((v, u), -1))
    t = torch.rand(500, 1) + 1
    again = project(camera, 0, rays.origins + t * rays.directions)
    assert torch.allclose(again[0], u, atol=2e-3)
    assert torch.allclose(again[1], v, atol=2e-3)
    assert torch.allclose(again[2], -(rays.origins + t * rays.directions)[:, 0] + 3, atol=1e-5)
