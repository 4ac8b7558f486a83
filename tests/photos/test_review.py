"""What the page says of a model, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peak_nerf.photos.model import Photo, SparseModel
from peak_nerf.photos.review import coverage, ray_angles, review, shared_points, warnings
from tests.photos import models


def test_coverage_counts_cells() -> None:
    # Cells of 10 x 7.5 pixels: two pixels in one, one each in two others, the last on the far corner.
    pixels = np.array([[1.0, 1.0], [9.9, 7.4], [10.1, 7.4], [80.0, 60.0]])
    assert coverage(pixels, 80, 60) == 3 / 64
    assert coverage(np.zeros((0, 2)), 80, 60) == 0
    centres = np.stack(np.meshgrid(np.arange(8) * 10 + 5, np.arange(8) * 7.5 + 3), axis=-1).reshape(-1, 2)
    assert coverage(centres, 80, 60) == 1


def test_shared_points_count_each_point_once() -> None:
    assert shared_points(models.model()).tolist() == [[4, 3, 2], [3, 3, 1], [2, 1, 2]]
    twice = models.model(
        image_index=np.array([0, 0, 1], np.int32), point_index=np.zeros(3, np.int32), pixels=models.PIXELS[:3]
    )
    assert shared_points(twice).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_ray_angles_by_hand() -> None:
    angles = ray_angles(models.model())
    # Of point 1, 0.5 to the right of camera a and 0.1 to the right of b, both 2 above it.
    assert angles[1] == pytest.approx(np.degrees(np.arctan(0.5 / 2) - np.arctan(0.1 / 2)))
    # The rays of point 0 are (0, 0, 2), (0.4, 0, 2), (0, 0.4, 2): the one farthest from their mean is a tilted one.
    rays = np.array([[0, 0, 1], [0.2, 0, 1] / np.sqrt(1.04), [0, 0.2, 1] / np.sqrt(1.04)])
    mean = rays.sum(axis=0) / np.linalg.norm(rays.sum(axis=0))
    assert angles[0] == pytest.approx(2 * np.degrees(np.arccos(min(rays @ mean))))
    unseen = models.model(points=np.vstack([models.POINTS, [9, 9, 9]]))
    assert np.isnan(ray_angles(unseen)).tolist() == [False] * 4 + [True]


def test_a_review_by_hand() -> None:
    found = review(models.model())
    assert [view.n_points for view in found.views] == [4, 3, 2]
    assert [view.n_shared for view in found.views] == [3, 3, 2]
    assert [view.coverage for view in found.views] == [4 / 64, 3 / 64, 2 / 64]
    # Camera b's errors are the 2nd, 5th and 9th of 0.1, 0.2, ... 0.9.
    assert found.views[1].mean_error == pytest.approx((0.2 + 0.5 + 0.9) / 3)
    assert (found.mean_error, found.mean_track) == (0.625, 2.25)
    assert found.angle == pytest.approx(float(np.median(ray_angles(models.model()))))


def test_a_review_of_nothing() -> None:
    found = review(empty())
    assert [(view.n_points, view.mean_error, view.coverage) for view in found.views] == [(0, 0.0, 0.0)] * 3
    assert (found.mean_error, found.mean_track, found.angle) == (0.0, 0.0, 0.0)


def empty() -> SparseModel:
    none, index = np.zeros(0, np.float32), np.zeros(0, np.int32)
    points = {"points": np.zeros((0, 3)), "colors": np.zeros((0, 3), np.uint8), "errors": none}
    pixels = {"pixels": np.zeros((0, 2), np.float32), "pixel_errors": none}
    return models.model(image_index=index, point_index=index, **points, **pixels)


def good(tmp_path: Path) -> tuple[list[Photo], SparseModel]:
    """Nine cameras on a ring, each seeing 64 points in all its cells."""
    step = np.linspace(0, 2 * np.pi, 10)[:9]
    poses = np.tile(np.eye(4), (9, 1, 1))
    poses[:, :3, 3] = np.stack([np.cos(step), np.sin(step), np.full(9, 2.0)], axis=1)
    files = tuple(f"images/{i}.png" for i in range(9))
    cells = np.stack(np.meshgrid(np.arange(8) * 10 + 5, np.arange(8) * 7.5 + 3), axis=-1).reshape(-1, 2)
    made = models.model(
        files=files,
        poses=poses,
        intrinsics=(models.intrinsics(),) * 9,
        points=np.random.default_rng(0).uniform(-1, 1, (64, 3)),
        colors=np.zeros((64, 3), np.uint8),
        errors=np.full(64, 0.5, np.float32),
        image_index=np.tile(np.arange(9, dtype=np.int32), 64),
        point_index=np.repeat(np.arange(64, dtype=np.int32), 9),
        pixels=np.repeat(cells, 9, axis=0).astype(np.float32),
        pixel_errors=np.full(576, 0.5, np.float32),
    )
    return [Photo(f"{i}.jpg", file) for i, file in enumerate(files)], made


def lines(photos: list[Photo], model: SparseModel) -> list[str]:
    return warnings(photos, model, review(model))


def test_a_good_capture_has_no_warnings(tmp_path: Path) -> None:
    assert lines(*good(tmp_path)) == []


def test_each_weakness_is_said_with_the_photo_and_a_remedy(tmp_path: Path) -> None:
    photos, model = good(tmp_path)
    (line,) = lines(photos, replace(model, errors=np.full(64, 1.6, np.float32)))
    assert line.startswith("The mean reprojection error is 1.6 pixels")
    poses = model.poses.copy()
    poses[:, :2, 3] *= 0.02
    (line,) = lines(photos, replace(model, poses=poses))
    assert line.startswith("Small baseline: rays meet at ")

    kept = (model.image_index != 3) | (model.point_index < 59)
    fewer = {k: getattr(model, k)[kept] for k in ("image_index", "point_index", "pixels", "pixel_errors")}
    (line,) = lines(photos, replace(model, **fewer))
    assert line.startswith("Fewer than 60 points in 3.jpg: ")

    pixels = model.pixels.copy()
    pixels[model.image_index == 5] /= 4  # into a quarter of the width and height: 4 cells
    bare = replace(model, pixels=pixels)
    (line,) = lines(photos, bare)
    assert line.startswith("Points in less than 25% of 5.jpg: ")
    photos[5].mask = "masks/5.png"  # most of it may be masked
    assert lines(photos, bare) == []


def test_a_handful_of_photos_is_said(tmp_path: Path) -> None:
    photos = models.photos(tmp_path)
    assert any(line.startswith("Only 3 photos: ") for line in lines(photos, models.model()))


def test_left_out_photos_are_told_by_remedy(tmp_path: Path) -> None:
    photos, model = good(tmp_path)
    photos += [Photo(f"b{i}.jpg", state="left out", reason="too blurred (sharpness 3, median 14)") for i in range(8)]
    photos += [Photo("d.jpg", state="left out", reason="duplicate of 1.jpg"), Photo("lost.jpg", "images/lost.jpg")]
    blurred, lost = lines(photos, model)
    assert blurred == (
        "Left out, too blurred: b0.jpg, b1.jpg, b2.jpg, b3.jpg, b4.jpg, b5.jpg and 2 more. What helps: take them again "
        "with a steadier hand or more light."
    )
    assert lost.startswith("Left out, no pose was found: lost.jpg. What helps: take more pictures between")
