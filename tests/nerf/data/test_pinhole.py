"""Pictures without distortion, and where planes are in them."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from peak_nerf.nerf.cameras import project
from peak_nerf.nerf.data.pinhole import PinholePicture, pinhole_picture
from tests.nerf.scene_factory import ring_pose

W, H = 40, 30


def cameras(distortion: float = 0.0) -> Cameras:
    matrices = torch.from_numpy(np.stack([ring_pose(0.3 * i, height=2.0)[:3] for i in range(2)])).float()
    parameters = torch.tensor([distortion, 0.02, 0, 0, 0.01, 0]) * (distortion != 0)
    return Cameras(matrices, 50.0, 48.0, 21.0, 14.0, W, H, distortion_params=parameters.expand(2, -1))


def image() -> torch.Tensor:
    return torch.randint(256, (H, W, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def made(i: int, most_pixels: int = W * H, distortion: float = 0.0) -> PinholePicture:
    return pinhole_picture(cameras(distortion), i, image(), None, most_pixels)


def test_a_picture_without_distortion_stays_as_it_is() -> None:
    picture = made(0)
    assert np.array_equal(picture.rgb, image().numpy())
    assert picture.used.all()
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    u, v, z = picture.place(x.double().numpy())
    for ours, theirs, shift in zip((u, v, z), project(cameras(), 0, x), (0.5, 0.5, 0), strict=True):
        assert ours + shift == pytest.approx(theirs.numpy(), abs=1e-3)
    assert picture.points_at(u, v, z) == pytest.approx(x.double().numpy(), abs=1e-6)  # of a rotation in 24 bits


def test_a_shrunken_one_shows_the_same_in_the_same_place() -> None:
    small, whole = made(0, W * H // 4), made(0)
    assert small.used.shape == (H // 2, W // 2)
    assert np.abs(small.rgb - image().numpy().reshape(H // 2, 2, W // 2, 2, 3).mean((1, 3))).max() <= 1
    x = np.array([[0.1, 0.2, 0.3], [-0.2, 0.0, 0.1]])
    for ours, theirs in zip(small.place(x)[:2], whole.place(x)[:2], strict=True):
        assert 2 * (ours + 0.5) == pytest.approx(theirs + 0.5)


def test_a_plane_is_a_homography_away() -> None:
    one, other = made(0), made(1)
    a, b = one.to_other(other)
    u, v, z = np.array([3.0, 20.0]), np.array([4.0, 25.0]), np.array([3.0, 5.0])
    expected = other.place(one.points_at(u, v, z))
    for i in range(2):
        homography = a.copy()
        homography[:, 2] += b / z[i]
        at = homography @ (u[i], v[i], 1)
        assert at[:2] / at[2] == pytest.approx([expected[0][i], expected[1][i]])


def test_distortion_is_undone() -> None:
    """A pixel of the picture without distortion has the colour that the lens brought to where it sees that point."""
    v, u = np.mgrid[:H, :W]
    ramp = torch.from_numpy(np.stack([3 * u, 4 * v, 0 * u], -1)).byte()
    seen_by = cameras(0.1)
    picture = pinhole_picture(seen_by, 1, ramp, None, W * H)
    x = picture.points_at(u.ravel(), v.ravel(), np.full(u.size, 2.0))
    where_u, where_v, _ = (a.numpy().reshape(H, W) for a in project(seen_by, 1, torch.from_numpy(x).float()))
    inside = (where_u > 1) & (where_u < W - 1) & (where_v > 1) & (where_v < H - 1)
    assert np.abs(picture.rgb[..., 0] - 3 * (where_u - 0.5))[inside].max() < 1
    assert np.abs(picture.rgb[..., 1] - 4 * (where_v - 0.5))[inside].max() < 1
    beyond = (where_u < -0.1) | (where_u > W + 0.1) | (where_v < -0.1) | (where_v > H + 0.1)
    assert beyond.any()
    assert not picture.used[beyond].any()
    assert picture.used[inside].all()


def test_masks_and_transparency_say_what_is_used() -> None:
    mask = torch.ones(H, W, dtype=torch.bool)
    mask[:, :10] = False
    picture = pinhole_picture(cameras(), 0, image(), mask, W * H)
    assert np.array_equal(picture.used > 0, mask.numpy())
    alpha = torch.full((H, W, 1), 255, dtype=torch.uint8)
    alpha[:5] = 0
    picture = pinhole_picture(cameras(), 0, torch.cat((image(), alpha), -1), mask, W * H)
    assert np.array_equal(picture.used > 0, (mask & (alpha[..., 0] > 0)).numpy())


def test_inside_is_where_there_is_a_pixel() -> None:
    u, v = np.array([-0.6, -0.4, W - 0.6, W - 0.4, 5, 5]), np.array([5, 5, 5, 5, -0.6, H - 0.6])
    assert made(0).inside(u, v).tolist() == [False, True, True, False, False, True]
