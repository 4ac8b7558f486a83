"""Projection against values by hand and against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from peak_nerf.photos.model import Intrinsics
from peak_nerf.photos.projection import corner_shift, observed_errors, observed_projections, project
from tests.photos import models

POINTS = np.random.default_rng(0).uniform((-1, -1, -4), (1, 1, -2), (50, 3))  # before a camera at the origin


def test_hand_made_cameras_see_their_points_where_they_should() -> None:
    pixels, depths = observed_projections(models.model())
    np.testing.assert_allclose(pixels, models.PIXELS, atol=1e-12)
    np.testing.assert_allclose(depths, models.DEPTHS, atol=1e-12)


@pytest.mark.parametrize("kind", ["OPENCV", "OPENCV_FISHEYE"])
def test_distortion_is_opencvs(kind: str) -> None:
    names = ("k1", "k2", "p1", "p2") if kind == "OPENCV" else ("k1", "k2", "k3", "k4")
    values = np.array([-0.21, 0.07, 0.013, -0.008])
    parameters = {"fl_x": 500.0, "fl_y": 510.0, "cx": 320.0, "cy": 239.0, **dict(zip(names, values, strict=True))}
    pose = np.eye(4)
    pose[:3, :3], _ = cv2.Rodrigues(np.array([0.1, -0.2, 0.3]))
    pose[:3, 3] = 0.1, 0.2, 0.3
    pixels, depth = project(Intrinsics(640, 480, parameters, kind), pose, POINTS)  # type: ignore[arg-type]

    flip = np.diag([1.0, -1.0, -1.0])  # OpenCV's cameras: y down, z forward
    rotation = flip @ pose[:3, :3].T
    shift = -rotation @ pose[:3, 3]
    matrix = np.array([[500.0, 0, 320], [0, 510, 239], [0, 0, 1]])
    apply = cv2.projectPoints if kind == "OPENCV" else cv2.fisheye.projectPoints
    points = POINTS.reshape(-1, 1, 3)
    expected = apply(points, cv2.Rodrigues(rotation)[0], shift, matrix, values)[0].reshape(-1, 2)
    np.testing.assert_allclose(pixels, expected, atol=1e-8)
    np.testing.assert_allclose(depth, (POINTS @ rotation.T + shift)[:, 2], atol=1e-12)


def test_a_point_behind_a_camera_has_no_pixel_and_one_on_a_fisheyes_axis_has() -> None:
    pixels, depth = project(models.intrinsics(), np.eye(4), np.array([[0.0, 0, 1], [0, 0, -1]]))
    assert np.isnan(pixels[0]).all()
    assert depth[0] == -1
    np.testing.assert_allclose(pixels[1], [40, 30])
    fisheye = Intrinsics(80, 60, {"fl_x": 40, "fl_y": 40, "cx": 40, "cy": 30}, "OPENCV_FISHEYE")
    # Straight ahead, and 90 degrees to the right: pi / 2 focal lengths from the centre.
    pixels, _ = project(fisheye, np.eye(4), np.array([[0.0, 0, -1], [1, 0, 0]]))
    np.testing.assert_allclose(pixels, [[40, 30], [40 + 20 * np.pi, 30]])


def test_errors_are_computed_where_none_are_given() -> None:
    moved = models.PIXELS + np.array([3.0, -4.0])
    given = models.model(pixels=moved.astype(np.float32))
    np.testing.assert_allclose(observed_errors(given), np.linspace(0.1, 0.9, 9), atol=1e-6)
    computed = models.model(pixels=moved.astype(np.float32), pixel_errors=np.zeros(0, np.float32))
    np.testing.assert_allclose(observed_errors(computed), 5.0, atol=1e-5)


def test_corner_shift_by_hand() -> None:
    # Corner at (1, 0.75), r^2 = 25 / 16, so k1 = 0.1 moves it by 0.15625 of (40, 30) pixels, 50 long.
    assert corner_shift(models.intrinsics(k1=0.1)) == pytest.approx(7.8125)
    assert corner_shift(models.intrinsics(k1=-0.1)) == pytest.approx(-7.8125)
    assert corner_shift(models.intrinsics()) == 0
