"""Sparse points from pictures of known cameras."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from peak_nerf.nerf.data.pixel_rays import PixelRays
from peak_nerf.nerf.data.triangulation import Tracks, _features, _points, choose_pairs, triangulate
from peak_nerf.nerf.data.triangulation_numba import best_on_lines
from tests.nerf.scene_factory import ring_pose

SIZE, FOCAL = 240, 300.0


def texture() -> np.ndarray:
    noise = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    return (255 * cv2.resize(noise, (768, 768), interpolation=cv2.INTER_CUBIC).clip(0, 1)).astype(np.uint8)


def picture(pose: np.ndarray) -> np.ndarray:
    """The plane z = 0, painted within [-2, 2]^2 and grey beyond."""
    x = (np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    d = np.stack([*np.meshgrid(x, -x), -np.ones((SIZE, SIZE))], axis=-1) @ pose[:3, :3].T
    at = pose[:3, 3] - d * (pose[2, 3] / d[..., 2])[..., None]
    place = ((at[..., :2] + 2) * (768 / 4) - 0.5).astype(np.float32)
    return cv2.remap(texture(), place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderValue=(128, 128, 128))


def poses(n: int = 5) -> np.ndarray:
    return np.stack([ring_pose(0.25 * i, height=3.2) for i in range(n)])


def rays_of(poses: np.ndarray) -> PixelRays:
    c2w = torch.from_numpy(poses[:, :3]).float()
    return PixelRays(Cameras(c2w, FOCAL, FOCAL, SIZE / 2, SIZE / 2, SIZE, SIZE))


def pictures(images: list[torch.Tensor], mask: torch.Tensor | None = None) -> Callable[[int], tuple[Any, Any]]:
    return lambda i: (images[i], mask)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    return [torch.from_numpy(picture(pose)) for pose in poses()]


def test_points_lie_where_the_pictures_show_them(images) -> None:
    told = []
    points, seen = triangulate(pictures(images), rays_of(poses()), lambda i, n: told.append((i, n)))
    assert told == [(i, 15) for i in range(1, 16)]  # five pictures, ten pairs
    assert len(points.xyz) > 200
    assert np.percentile(points.xyz[:, 2].abs(), 90) < 0.02  # of cameras 4 away
    assert points.xyz[:, 2].abs().median() < 0.01
    # A point has the colour of the plane there.
    column, row = ((points.xyz[:, :2].numpy() + 2) * (768 / 4)).astype(int).clip(0, 767).T
    assert np.median(np.abs(texture()[row, column].astype(float) - points.rgb.numpy())) < 12
    # Sightings: where the camera sees it, that far along its axis, with that error.
    c2w = torch.from_numpy(poses()).float()[seen.image]
    local = torch.linalg.solve(c2w[:, :3, :3], (points.xyz[seen.point] - c2w[:, :3, 3])[:, :, None])[:, :, 0]
    assert torch.allclose(-local[:, 2], seen.depth, atol=1e-4)
    pixel = torch.stack([local[:, 0], -local[:, 1]], -1) / -local[:, 2:] * FOCAL + SIZE / 2
    off = (pixel - seen.xy).norm(dim=-1)
    assert off.max() < 2.5
    assert torch.allclose(off, seen.error, atol=0.05, rtol=0.25)
    count = torch.bincount(seen.point, minlength=len(points.xyz))
    assert count.min() >= 2
    assert count.float().mean() > 2.5
    mean = torch.bincount(seen.point, seen.error.double(), len(points.xyz)) / count
    assert torch.allclose(mean.float(), points.error, atol=1e-5)
    pairs = torch.stack([seen.point, seen.image], -1)
    assert len(torch.unique(pairs, dim=0)) == len(pairs)  # no picture sees a point twice


def test_what_a_mask_hides_has_no_points(images) -> None:
    mask = torch.ones(SIZE, SIZE, dtype=torch.bool)
    mask[:, : SIZE // 2] = False
    _, seen = triangulate(pictures(images, mask), rays_of(poses()))
    assert len(seen.xy) > 100
    assert seen.xy[:, 0].min() > SIZE / 2


def test_what_is_transparent_has_no_points(images) -> None:
    clear = [torch.cat((image, torch.full((SIZE, SIZE, 1), 255, dtype=torch.uint8)), -1) for image in images]
    for image in clear:
        image[:, : SIZE // 2, 3] = 0
    _, seen = triangulate(pictures(clear), rays_of(poses()))
    assert len(seen.xy) > 100
    assert seen.xy[:, 0].min() > SIZE / 2


def test_large_pictures_are_looked_at_in_a_smaller_size(images, monkeypatch) -> None:
    whole = len(_features(images[0], None).xy)
    monkeypatch.setattr("peak_nerf.nerf.data.triangulation.REFERENCE_SIDE", 160.0)
    assert len(_features(images[0], None).xy) < 0.8 * whole
    points, seen = triangulate(pictures(images), rays_of(poses()))
    assert seen.xy.max() > 200  # pixels of the whole size
    assert len(points.xyz) > 100
    assert points.xyz[:, 2].abs().median() < 0.02


def test_wrong_cameras_and_empty_pictures_give_few_points_and_none(images) -> None:
    """Two rays that a mistake puts on one epipolar line always meet; three do not."""
    turned = poses()[[2, 4, 1, 3, 0]]
    by_three = []
    for cameras in (turned, poses()):
        points, seen = triangulate(pictures(images), rays_of(cameras))
        by_three.append(int((torch.bincount(seen.point, minlength=len(points.xyz)) >= 3).sum()))
    assert by_three[0] < 0.05 * by_three[1]
    grey = [torch.full((SIZE, SIZE, 3), 128, dtype=torch.uint8)] * 3
    points, seen = triangulate(pictures(grey), rays_of(poses(3)))
    assert len(points.xyz) == len(seen.point) == 0


def test_only_what_lies_on_the_line_is_compared() -> None:
    """Lines y = 0 and x = 0; the most similar feature of all is off the first of them."""
    normals = np.float32([[0, 1, 0], [1, 0, 0]])
    directions = np.float32([[0.6, 0.1, 0.8], [0.6, 0.01, 0.8], [0.8, -0.01, 0.6], [0, 0.5, 0.8]])
    p = np.float32([[1, 0], [0, 1]])
    q = np.float32([[1, 0], [0.9, 0.1], [0.8, 0.3], [0.5, 0.4]])
    best, first, second, back = best_on_lines(normals, directions, np.float32(0.05), p, q)
    assert best.tolist() == [1, 3]
    assert first.tolist() == pytest.approx([0.9, 0.4])
    assert second.tolist() == pytest.approx([0.8, -1.0])
    assert back.tolist() == [-1, 0, 0, 1]


def tracks_to(x: np.ndarray, origins: np.ndarray, wrong: int | None = None) -> Tracks:
    """One track of rays that meet in x, but for one that passes by."""
    d = x - origins
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    if wrong is not None:
        d[wrong] += [0.0, 0.0, 0.1]
        d[wrong] /= np.linalg.norm(d[wrong])
    n = len(origins)
    rows = np.arange(n)
    return Tracks(np.zeros(n, int), rows, np.zeros((n, 2)), np.full((n, 3), 7), origins, d, np.full(n, 300.0), 1)


def test_rays_that_pass_by_are_left_out() -> None:
    x, origins = np.array([0.2, 0.3, 5.0]), np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    points, seen = _points(tracks_to(x, origins, wrong=2), tolerance=2.0)
    assert torch.allclose(points.xyz, torch.from_numpy(x).float()[None], atol=1e-4)
    assert seen.image.tolist() == [0, 1, 3]
    assert points.rgb.tolist() == [[7, 7, 7]]
    assert points.error[0] < 1e-3


def test_points_too_far_to_tell_and_behind_cameras_are_left_out() -> None:
    origins = np.array([[0.0, 0, 0], [1, 0, 0]])
    for distance, n in ((50.0, 1), (65.0, 0)):  # 1.15 and 0.88 degrees
        assert len(_points(tracks_to(np.array([0.5, 0, distance]), origins), 2.0)[0].xyz) == n
    tracks = tracks_to(np.array([0.5, 0, 5.0]), origins)
    tracks.d[:] *= -1
    assert len(_points(tracks, 2.0)[0].xyz) == 0


def test_pictures_are_matched_with_near_ones_that_look_the_same_way() -> None:
    positions = np.stack([np.arange(40.0), np.zeros(40), np.zeros(40)], 1)
    axes = np.tile([0.0, 0, 1], (40, 1))
    partners = [b for a, b in choose_pairs(positions, axes) if a == 0]
    assert partners[:5] == [1, 2, 3, 4, 5]
    assert max(partners) <= 14
    assert len(choose_pairs(positions, axes)) < 40 * 10
    axes[::2] = [0.0, 0, -1]
    assert all((a - b) % 2 == 0 for a, b in choose_pairs(positions, axes))
