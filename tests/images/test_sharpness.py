"""Sharpness that compares, and copies told from neighbours."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from peak_nerf.images.sharpness import find_copy, same_picture, sharpness, shrink, thumbnail_signature
from tests.images.pictures import scenery


def saved_again(rgb: np.ndarray, quality: int, scale: float = 1.0) -> np.ndarray:
    image = Image.fromarray(rgb)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as again:
        return np.array(again)


def test_what_changes_in_one_direction_only_counts_as_shaken() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert sharpness(stripes) == pytest.approx(0, abs=1e-6)
    assert sharpness(stripes.transpose(1, 0, 2).copy()) == pytest.approx(0, abs=1e-6)


def test_isolated_dots_by_hand() -> None:
    dots = np.zeros((64, 64, 3), np.uint8)
    dots[4::8, 4::8] = 100
    # Each 8 x 8 block holds one dot: -200 there and 100 beside it twice; the diagonals' are smaller by sqrt(2).
    expected = np.sqrt((200**2 + 2 * 100**2) / 64) / np.sqrt(2)
    assert sharpness(dots) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("angle", [0, 30, 45, 90])
def test_shaken_and_defocused_pictures_lose_nearly_all(angle: int) -> None:
    rgb = scenery()
    sharp = sharpness(rgb)
    assert sharpness(cv2.GaussianBlur(rgb, (0, 0), 2)) < 0.25 * sharp
    turn = cv2.getRotationMatrix2D((10, 10), angle, 1)
    kernel = np.zeros((21, 21), np.float32)
    kernel[10, 2:19] = 1
    kernel = cv2.warpAffine(kernel, turn, (21, 21))
    assert sharpness(cv2.filter2D(rgb, -1, kernel / kernel.sum())) < 0.25 * sharp


def test_half_a_picture_of_sky_changes_little() -> None:
    rgb = scenery()
    sky = rgb.copy()
    sky[: len(sky) // 2] = 200
    assert sharpness(sky) > 0.8 * sharpness(rgb)


def test_pictures_are_measured_at_one_size() -> None:
    large = cv2.resize(scenery(h=480, w=640), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    assert shrink(large, 640).shape == (480, 640, 3)
    assert sharpness(shrink(large, 1280)) == pytest.approx(sharpness(large), rel=0.05)
    tiny = scenery()[:5, :3]
    assert np.isfinite(sharpness(tiny))


@pytest.mark.parametrize(("quality", "scale"), [(60, 1.0), (90, 0.5), (75, 0.7), (95, 1.5)])
def test_copies_are_found(quality: int, scale: float) -> None:
    rgb = scenery()
    copy = saved_again(rgb, quality, scale)
    own = thumbnail_signature(rgb)
    assert same_picture(own, thumbnail_signature(copy)) == "duplicate"
    for mirror in (copy[:, ::-1], copy[::-1]):
        assert same_picture(own, thumbnail_signature(np.ascontiguousarray(mirror))) == "mirrored"


def test_neighbouring_views_are_no_copies() -> None:
    rgb = scenery(h=400, w=520)
    first, moved = rgb[20:380, 20:500], rgb[20:380, 25:505]  # by 1 % of the width
    assert same_picture(thumbnail_signature(first.copy()), thumbnail_signature(moved.copy())) is None
    turntable = first.copy()
    turntable[150:220, 200:280] = turntable[150:220, 205:285]  # only the object in the middle moves
    assert same_picture(thumbnail_signature(first.copy()), thumbnail_signature(turntable)) is None


def test_walls_without_texture_are_the_same_only_when_equal() -> None:
    black, grey = np.zeros((40, 60, 3), np.uint8), np.full((40, 60, 3), 90, np.uint8)
    dusty = grey + np.random.default_rng(0).integers(0, 2, grey.shape, dtype=np.uint8)
    signatures = [thumbnail_signature(rgb) for rgb in (black, grey, dusty)]
    assert [[same_picture(a, b) for b in signatures] for a in signatures] == [
        ["duplicate" if i == j else None for j in range(3)] for i in range(3)
    ]


def test_the_first_copy_is_found_as_by_comparing_with_each() -> None:
    pictures = [scenery(seed, 120, 160) for seed in range(6)]
    others = [thumbnail_signature(rgb) for rgb in (*pictures, pictures[2])]
    assert find_copy(thumbnail_signature(scenery(99, 120, 160)), others) is None
    assert find_copy(thumbnail_signature(saved_again(pictures[2], 80)), others) == (2, "duplicate")
    assert find_copy(thumbnail_signature(pictures[4][::-1].copy()), others) == (4, "mirrored")
    assert find_copy(others[0], []) is None
