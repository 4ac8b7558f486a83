"""COLMAP's cameras, poses and points as transforms.json has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from peak_nerf.errors import PeakError
from peak_nerf.photos.convert import BEHIND, Z_UP, intrinsics_of, pose_of, scaled, sparse_model
from peak_nerf.photos.model import Intrinsics
from tests.photos.posed import Posed

SOURCE = Path("sparse/0")


def camera(model: str, params: list[float]) -> pycolmap.Camera:
    return pycolmap.Camera(camera_id=1, model=model, width=80, height=60, params=params)


def reconstruction() -> pycolmap.Reconstruction:
    """Two cameras side by side, 1 apart, that look along COLMAP's z; three points 4 before them."""
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera("SIMPLE_PINHOLE", [40.0, 40, 30]))
    at = {1: np.zeros(3), 2: np.array([1.0, 0, 0])}
    # Points (0, 0, 4), (1, 1, 4), (0, -1, 4); pixels x = 40 + 10 X, y = 30 + 10 Y, the first one 3 px off in image 2.
    pixels = {1: [(40, 30), (50, 40), (40, 20)], 2: [(30, 33), (40, 40), (30, 20)]}
    for i, centre in at.items():
        image = pycolmap.Image(name=f"{i}.jpg", camera_id=1, image_id=i)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array(xy, float)) for xy in pixels[i]])
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pycolmap.Rotation3d(), -centre))
    for k, xyz in enumerate([(0, 0, 4), (1, 1, 4), (0, -1, 4)]):
        track = pycolmap.Track()
        track.add_element(1, k)
        track.add_element(2, k)
        model.add_point3D(np.array(xyz, float), track, np.array([10 * k, 20, 30], np.uint8))
    model.update_point_3d_errors()
    return model


FILES = {"1.jpg": "images/b.jpg", "2.jpg": "images/a.jpg"}


def test_a_pose_by_hand() -> None:
    # In COLMAP's world (x right, y down, z forward) the camera is at (1, 2, 3) and looks along x, its y still down.
    rotation = np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])  # world to camera: x -> forward, z -> left
    centre = np.array([1.0, 2, 3])
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera("SIMPLE_PINHOLE", [40.0, 40, 30]))
    image = pycolmap.Image(name="a.jpg", camera_id=1, image_id=1)
    model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ centre))
    # With z up, (x, y, z) becomes (x, z, -y): it looks along x (back is -x), up is z, right is -y.
    wanted = [[0, 0, -1, 1], [-1, 0, 0, 3], [0, 1, 0, -2], [0, 0, 0, 1]]
    np.testing.assert_allclose(pose_of(model.image(1)), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "params", "wanted"),
    [
        ("SIMPLE_PINHOLE", [50, 41, 29], {"fl_x": 50, "fl_y": 50}),
        ("PINHOLE", [50, 51, 41, 29], {"fl_x": 50, "fl_y": 51}),
        ("SIMPLE_RADIAL", [50, 41, 29, 0.1], {"fl_x": 50, "fl_y": 50, "k1": 0.1}),
        ("RADIAL", [50, 41, 29, 0.1, 0.2], {"fl_x": 50, "fl_y": 50, "k1": 0.1, "k2": 0.2}),
        (
            "OPENCV",
            [50, 51, 41, 29, 0.1, 0.2, 0.3, 0.4],
            {"fl_x": 50, "fl_y": 51, "k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4},
        ),
    ],
)
def test_ordinary_lenses(model: str, params: list[float], wanted: dict[str, float]) -> None:
    zeros = {"k1": 0, "k2": 0, "p1": 0, "p2": 0}
    found = intrinsics_of(camera(model, params), SOURCE)
    assert found == Intrinsics(80, 60, {**zeros, "cx": 41, "cy": 29, **wanted}, "OPENCV")


@pytest.mark.parametrize(
    ("model", "params", "wanted"),
    [
        ("SIMPLE_RADIAL_FISHEYE", [50, 41, 29, 0.1], {"fl_y": 50, "k1": 0.1}),
        ("RADIAL_FISHEYE", [50, 41, 29, 0.1, 0.2], {"fl_y": 50, "k1": 0.1, "k2": 0.2}),
        (
            "OPENCV_FISHEYE",
            [50, 51, 41, 29, 0.1, 0.2, 0.3, 0.4],
            {"fl_y": 51, "k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4},
        ),
    ],
)
def test_fisheyes(model: str, params: list[float], wanted: dict[str, float]) -> None:
    zeros = {"k1": 0, "k2": 0, "k3": 0, "k4": 0}
    found = intrinsics_of(camera(model, params), SOURCE)
    assert found == Intrinsics(80, 60, {**zeros, "fl_x": 50, "cx": 41, "cy": 29, **wanted}, "OPENCV_FISHEYE")


def test_a_lens_that_nerfstudio_has_not_is_refused_by_its_name() -> None:
    with pytest.raises(PeakError, match=r"sparse/0: camera model FOV .*OPENCV_FISHEYE"):
        intrinsics_of(camera("FOV", [50, 51, 41, 29, 0.1]), SOURCE)


def test_a_lens_for_a_copy_of_another_size() -> None:
    lens = Intrinsics(80, 60, {"fl_x": 50, "fl_y": 51, "cx": 41, "cy": 29, "k1": 0.1, "p2": 0.2})
    half = Intrinsics(40, 20, {"fl_x": 25, "fl_y": 17, "cx": 20.5, "cy": pytest.approx(29 / 3), "k1": 0.1, "p2": 0.2})
    assert scaled(lens, (40, 20)) == half


def test_points_and_what_saw_them_by_hand() -> None:
    found = sparse_model(reconstruction(), SOURCE, FILES, {"1.jpg": (80, 60), "2.jpg": (80, 60)})
    assert found.files == ("images/a.jpg", "images/b.jpg")  # by name: COLMAP's image 2 comes first
    np.testing.assert_allclose(found.poses[:, :3, 3], [[1, 0, 0], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(found.points, [[0, 4, 0], [1, 4, -1], [0, 4, 1]], atol=1e-12)  # z up
    assert found.colors.tolist() == [[0, 20, 30], [10, 20, 30], [20, 20, 30]]
    assert found.point_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.image_index.tolist() == [1, 0, 1, 0, 1, 0]
    assert found.pixels.tolist() == [[40, 30], [30, 33], [50, 40], [40, 40], [40, 20], [30, 20]]
    np.testing.assert_allclose(found.pixel_errors, [0, 3, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.errors, [1.5, 0, 0], atol=1e-6)


def test_pixels_are_those_of_the_copies() -> None:
    found = sparse_model(reconstruction(), SOURCE, FILES, {"1.jpg": (80, 60), "2.jpg": (40, 30)})
    assert [lens.parameters["fl_x"] for lens in found.intrinsics] == [20, 40]
    assert found.pixels.tolist() == [[40, 30], [15, 16.5], [50, 40], [20, 20], [40, 20], [15, 10]]
    np.testing.assert_allclose(found.pixel_errors, [0, 1.5, 0, 0, 0, 0], atol=1e-6)


def test_images_without_a_copy_and_points_that_only_they_saw_are_left_out() -> None:
    model = reconstruction()
    model.delete_observation(1, 1)  # leaves one observation: COLMAP deletes the point
    found = sparse_model(model, SOURCE, {"1.jpg": "images/b.jpg"}, {"1.jpg": (80, 60)})
    assert found.files == ("images/b.jpg",)
    assert found.image_index.tolist() == [0, 0]
    np.testing.assert_allclose(found.points, [[0, 4, 0], [0, 4, 1]], atol=1e-12)


def test_a_point_behind_its_camera_has_an_error_that_shows() -> None:
    model = reconstruction()
    model.point3D(1).xyz = np.array([0.0, 0, -4])
    found = sparse_model(model, SOURCE, FILES, {"1.jpg": (80, 60), "2.jpg": (80, 60)})
    assert found.pixel_errors.tolist()[:2] == [BEHIND, BEHIND]


def test_errors_are_colmaps_own(posed: Posed) -> None:
    folder = posed.scene / "sparse" / "0"
    model = pycolmap.Reconstruction(folder)
    model.update_point_3d_errors()
    copies = {photo.file.removeprefix("images/"): photo for photo in posed.photos()}
    files = {name: photo.file for name, photo in copies.items()}
    found = sparse_model(model, folder, files, {name: photo.size for name, photo in copies.items()})
    wanted = np.array([point.error for _, point in sorted(model.points3D.items())])
    assert len(found.points) == model.num_points3D() > 500
    np.testing.assert_allclose(found.errors, wanted, atol=1e-5)
    lengths = [point.track.length() for _, point in sorted(model.points3D.items())]
    assert found.track_lengths.tolist() == lengths


def test_z_up_turns_and_does_not_mirror() -> None:
    assert np.linalg.det(Z_UP[:, :3]) == pytest.approx(1)
    np.testing.assert_array_equal(Z_UP @ [0, 1, 0, 1], [0, 0, -1])  # COLMAP's down
