"""Rays from tables are those of nerfstudio's cameras, whatever the lens."""

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.pixel_rays import PixelRays, rays_of_picture

FISHEYE = CameraType.FISHEYE
LENSES = {
    # width, height, focal length, (k1, k2, k3, k4, p1, p2), kind
    "no distortion": (800, 600, 700.0, None, CameraType.PERSPECTIVE),
    "the fox's phone": (540, 960, 687.0, (0.058, -0.08, 0.0, 0.0, -0.00098, 0.00016), CameraType.PERSPECTIVE),
    "a phone": (1000, 750, 800.0, (0.1, -0.2, 0.0, 0.0, 0.001, 0.001), CameraType.PERSPECTIVE),
    "wide angle": (1000, 750, 500.0, (-0.28, 0.08, 0.0, 0.0, 0.0005, -0.0005), CameraType.PERSPECTIVE),
    "a small picture": (32, 32, 44.0, (0.05, 0.0, 0.0, 0.0, 0.0, 0.0), CameraType.PERSPECTIVE),
    "fisheye": (1000, 750, 320.0, (0.02, -0.005, 0.001, 0.0, 0.0, 0.0), FISHEYE),
    "fisheye of 200 degrees": (900, 900, 256.0, None, FISHEYE),
    "panorama": (1000, 500, 500.0, None, CameraType.EQUIRECTANGULAR),
}


def cameras_of(name: str, n: int = 1) -> Cameras:
    width, height, focal, distortion, kind = LENSES[name]
    shift = 0.0 if name == "panorama" else 3.3
    rotation = torch.linalg.qr(torch.randn(n, 3, 3))[0]
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    return Cameras(
        torch.cat((rotation, torch.randn(n, 3, 1)), -1),
        fx=focal,
        fy=focal * (1.0 if name == "panorama" else 1.01),
        cx=width / 2 + shift,
        cy=height / 2 - shift,
        width=width,
        height=height,
        distortion_params=None if distortion is None else torch.tensor(distortion).expand(n, 6),
        camera_type=kind,
    )


@pytest.mark.parametrize("name", LENSES)
def test_directions_are_nerfstudios(name: str) -> None:
    """To 1e-4, and to a hundredth of a pixel, at every pixel of some rows and columns and of the border."""
    torch.manual_seed(0)
    cameras = cameras_of(name)
    width, height = LENSES[name][:2]
    rays = PixelRays(cameras)
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    chosen = torch.zeros(height, width, dtype=torch.bool)
    chosen[[0, 1, height // 3, -1]] = chosen[:, [0, 1, width // 3, -1]] = True
    chosen[::17, ::13] = True
    u, v = u[chosen], v[chosen]
    camera = torch.zeros(len(u), dtype=torch.int64)
    ours = rays.bundle(camera, u, v)
    theirs = cameras.generate_rays(camera[:, None], torch.stack((v, u), -1))
    assert torch.equal(ours.origins, theirs.origins)
    error = (ours.directions - theirs.directions).norm(dim=-1)
    assert error.max() < 1e-4
    pixel = (cameras.generate_rays(camera[:, None], torch.stack((v, u + 1), -1)).directions - theirs.directions).norm(
        dim=-1
    )
    if name == "panorama":  # pixels at its poles are nothing
        pixel = torch.full_like(pixel, 2 * math.pi / width)
    assert (error / pixel).max() < 0.01
    assert torch.allclose(ours.metadata["directions_norm"], theirs.metadata["directions_norm"], atol=1e-4)
    assert torch.equal(ours.camera_indices, camera[:, None])


@pytest.mark.parametrize(("name", "bytes_per_pixel"), [("a phone", 1.0), ("wide angle", 3.0), ("fisheye", 3.0)])
def test_tables_are_smaller_than_the_pictures(name: str, bytes_per_pixel: float) -> None:
    width, height = LENSES[name][:2]
    assert PixelRays(cameras_of(name)).nodes.numel() * 4 / (width * height) < bytes_per_pixel


def test_a_lens_without_distortion_is_its_corners() -> None:
    assert PixelRays(cameras_of("no distortion", n=7)).nodes.shape == (4, 4)


def test_cameras_of_several_lenses_and_sizes() -> None:
    """A scene of pictures of three lenses, in turns: each pixel has its own camera's ray."""
    torch.manual_seed(0)
    wide, phone = (LENSES[name] for name in ("wide angle", "a phone"))
    lenses = [wide, phone, (400, 300, 300.0, (0.0,) * 6, CameraType.PERSPECTIVE)] * 3
    cameras = Cameras(
        cameras_of("a phone", n=9).camera_to_worlds,
        fx=torch.tensor([[lens[2]] for lens in lenses]),
        fy=torch.tensor([[lens[2]] for lens in lenses]),
        cx=torch.tensor([[lens[0] / 2] for lens in lenses]),
        cy=torch.tensor([[lens[1] / 2] for lens in lenses]),
        width=torch.tensor([[lens[0]] for lens in lenses]),
        height=torch.tensor([[lens[1]] for lens in lenses]),
        distortion_params=torch.tensor([lens[3] for lens in lenses]),
    )
    rays = PixelRays(cameras)
    camera = torch.arange(9).repeat(200)
    u, v = torch.rand(2, 1800)
    u, v = u * cameras.width[camera, 0], v * cameras.height[camera, 0]
    ours = rays.bundle(camera, u, v)
    theirs = cameras.generate_rays(camera[:, None], torch.stack((v, u), -1))
    assert torch.allclose(ours.directions, theirs.directions, atol=3e-5)
    # The three cameras with the first lens have one table.
    assert len(PixelRays(cameras[::3]).nodes) == len(PixelRays(cameras[:1]).nodes)


@pytest.mark.parametrize(("name", "angle"), [("no distortion", None), ("fisheye of 200 degrees", 80.0)])
def test_pixel_areas_add_up_to_the_solid_angle(name: str, angle: float | None) -> None:
    """Of a rectangle a x b at distance 1, 4 asin(a b / sqrt((4 + a^2) (4 + b^2))); of a cone, 2 pi (1 - cos)."""
    cameras = cameras_of(name)
    width, height, focal = LENSES[name][:3]
    cameras.cx[:], cameras.cy[:] = width / 2, height / 2
    v, u = (a.flatten() for a in torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"))
    bundle = PixelRays(cameras).bundle(torch.zeros(len(u), dtype=torch.int64), u, v)
    area = bundle.pixel_area[:, 0].double()
    if angle is None:
        a, b = width / focal, height / (focal * 1.01)
        expected = 4 * math.asin(a * b / math.sqrt((4 + a * a) * (4 + b * b)))
    else:
        axis = -cameras.camera_to_worlds[0, :, 2]
        area = area[bundle.directions @ axis > math.cos(math.radians(angle))]
        expected = 2 * math.pi * (1 - math.cos(math.radians(angle)))
    assert float(area.sum()) == pytest.approx(expected, rel=3e-3)


def test_a_picture_of_one_pixel() -> None:
    cameras = Cameras(torch.eye(4)[None, :3], fx=1.0, fy=1.0, cx=0.5, cy=0.5, width=1, height=1)
    half, zero = torch.full((1,), 0.5), torch.zeros(1, dtype=torch.int64)
    bundle = PixelRays(cameras).bundle(zero, half, half)
    assert torch.allclose(bundle.directions, torch.tensor([[0.0, 0.0, -1.0]]))


def test_cameras_whose_rays_begin_in_many_points_are_refused() -> None:
    cameras = Cameras(
        torch.eye(4)[None, :3], fx=1.0, fy=1.0, cx=0.5, cy=0.5, width=8, height=8, camera_type=CameraType.ORTHOPHOTO
    )
    with pytest.raises(PeakError, match="ORTHOPHOTO"):
        PixelRays(cameras)


@pytest.mark.parametrize("stride", [1, 3])
def test_rays_of_a_picture_are_in_its_order(stride: int) -> None:
    cameras = cameras_of("a small picture")
    theirs = cameras.generate_rays(camera_indices=0, keep_shape=True)[::stride, ::stride]
    for camera in (cameras, cameras[0]):
        ours = rays_of_picture(camera, stride)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.directions, theirs.directions, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            ours.metadata["directions_norm"], theirs.metadata["directions_norm"], rtol=1e-3, atol=0
        )
