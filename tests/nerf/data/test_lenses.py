"""Lenses of other tools are what OpenCV and nerfstudio have under these names, or are refused by name."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.cameras import project, undistort
from peak_nerf.nerf.data import dataparser
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.lenses import RationalCameras
from peak_nerf.nerf.data.pixel_rays import PixelRays, rays_of_picture
from peak_nerf.nerf.distortion import distort
from tests.nerf.scene_factory import edit_frame, edit_json, write_nerfstudio_scene

KINECT = {"k1": 0.51, "k2": -2.77, "k3": 1.61, "k4": 0.39, "k5": -2.58, "k6": 1.53, "p1": 0.0008, "p2": -0.0002}
"""Of an Azure Kinect's colour camera, near enough."""
CASE = {"k1": 0.1, "k2": 0.01, "k3": 0.001, "k4": 0.3, "k5": 0.02, "k6": 0.001}
TOLERANCES = (3e-4, 2e-5, 2e-5)
U = torch.tensor([0.5, 3.5, 9.0, 31.5, 16.0])
V = torch.tensor([0.5, 30.5, 2.0, 31.5, 16.0])


@pytest.fixture(autouse=True)
def _silent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataparser, "_said", set())


def cameras_of(folder: Path, size: int = 32, **values: Any) -> Cameras:
    data = write_nerfstudio_scene(folder, size=size, **values)
    return PeakDataParserConfig(data=data).setup().get_dataparser_outputs("train").cameras


def local(cameras: Cameras, directions: torch.Tensor) -> np.ndarray:
    """In the axes of the first camera as OpenCV has them: y down, z forward."""
    return (directions @ cameras.camera_to_worlds[0, :, :3]).double().numpy() * [1, -1, -1]


def by_opencv(cameras: Cameras, values: dict[str, float], fisheye: bool = False) -> np.ndarray:
    """Unit directions of U, V in the first camera's axes, (5, 3)."""
    f_x, f_y, c_x, c_y = (float(getattr(cameras, name)[0]) for name in ("fx", "fy", "cx", "cy"))
    matrix = np.array([[f_x, 0, c_x], [0, f_y, c_y], [0, 0, 1]])
    pixels = torch.stack((U, V), -1).double().numpy()[:, None]
    if fisheye:
        k = np.array([values.get(f"k{i}", 0.0) for i in range(1, 5)])
        plane = cv2.fisheye.undistortPoints(pixels, matrix, k)[:, 0]
    else:
        k = np.array([values.get(name, 0.0) for name in ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")])
        precise = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
        plane = cv2.undistortPointsIter(pixels, matrix, k, None, None, precise)[:, 0]
    directions = np.concatenate([plane, np.ones((len(plane), 1))], 1)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def all_directions(cameras: Cameras) -> list[np.ndarray]:
    """By training's tables, whose tolerance is some thousandths of a pixel, and by nerfstudio."""
    camera = torch.zeros(len(U), dtype=torch.int64)
    bundles = [
        PixelRays(cameras).bundle(camera, U, V),
        cameras.generate_rays(camera[:, None], torch.stack((V, U), -1)),
        cameras[0:1].generate_rays(camera[:, None], torch.stack((V, U), -1)),
    ]
    return [local(cameras, bundle.directions) for bundle in bundles]


@pytest.mark.parametrize(
    "values",
    [
        {"camera_model": "FULL_OPENCV", **KINECT},
        {"camera_model": "FULL_OPENCV", **CASE},
        {"camera_model": "FULL_OPENCV", "k1": 0.1, "k2": 0, "k3": 0, "k4": 0.1, "k5": 0, "k6": 0},
        {"camera_model": "OPENCV", **CASE},
        {"camera_model": None, **KINECT},
        {"distortion_params": [-0.08, 0.02, 0, 0, 0.001, -0.0005]},
        {"k1": -0.08, "k2": 0.02, "k3": 0.01, "p1": 0.001, "p2": -0.0005},
    ],
)
def test_a_perspective_lens_is_opencvs(tmp_path: Path, values: dict[str, Any]) -> None:
    cameras = cameras_of(tmp_path, **values)
    listed = dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), values.get("distortion_params", []), strict=False))
    expected = by_opencv(cameras, {**values, **listed})
    for ours, tolerance in zip(all_directions(cameras), TOLERANCES, strict=True):
        np.testing.assert_allclose(ours, expected, atol=tolerance)


@pytest.mark.parametrize("key", [{"camera_model": None, "is_fisheye": True}, {"camera_model": "OPENCV_FISHEYE"}])
def test_a_fisheye_is_opencvs(tmp_path: Path, key: dict[str, Any]) -> None:
    values = {"k1": 0.05, "k2": 0.01, "k3": -0.004, "k4": 0.002}
    cameras = cameras_of(tmp_path, **key, **values)
    assert (cameras.camera_type == CameraType.FISHEYE.value).all()
    expected = by_opencv(cameras, values, fisheye=True)
    for ours, tolerance in zip(all_directions(cameras), TOLERANCES, strict=True):
        ours = np.where(np.isfinite(ours), ours, [0, 0, 1])  # nerfstudio's own, in the middle
        np.testing.assert_allclose(ours, expected, atol=tolerance)


def test_a_rational_lens_by_hand() -> None:
    """(0.5, 0): r = 0.25, d = (1 + 0.1 r) / (1 + 0.3 r + 0.02 r^2 + 0.001 r^3) = 1.025 / 1.076265625."""
    parameters = torch.tensor([[0.1, 0, 0, 0, 0, 0, 0.3, 0.02, 0.001]], dtype=torch.float64)
    plane = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    moved = distort(plane, parameters)
    torch.testing.assert_close(moved, torch.tensor([[0.5 * 1.025 / 1.076265625, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(undistort(moved, parameters), plane)


def test_lenses_without_and_with_a_denominator_in_one_scene(tmp_path: Path) -> None:
    data = write_nerfstudio_scene(tmp_path, size=32, k4=0.05)
    edit_frame(data / "transforms.json", 2, camera_model="FULL_OPENCV", **CASE)
    cameras = PeakDataParserConfig(data=data).setup().get_dataparser_outputs("train").cameras
    assert isinstance(cameras, RationalCameras)
    assert isinstance(cameras[1:2].to("cpu").flatten(), RationalCameras)
    wanted = torch.tensor([[0, 0, 0, 0.05, 0, 0, 0, 0, 0], [0.1, 0.01, 0.001, 0, 0, 0, 0.3, 0.02, 0.001]])
    torch.testing.assert_close(cameras.distortion_params[:2], wanted)
    # There and back: what a position sees is projected to it.
    for i in (0, 1):
        camera = torch.full((5,), i)
        rays = PixelRays(cameras).bundle(camera, U, V)
        u, v, _ = project(cameras, i, rays.origins + 3 * rays.directions)
        torch.testing.assert_close(torch.stack((u, v)), torch.stack((U, V)), atol=0.02, rtol=0)


def test_whole_pictures_of_a_rational_lens(tmp_path: Path) -> None:
    camera = cameras_of(tmp_path, camera_model="FULL_OPENCV", **KINECT)[0:1]
    ours, theirs = rays_of_picture(camera), camera.generate_rays(0, keep_shape=True)
    torch.testing.assert_close(ours.directions, theirs.directions, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.pixel_area, theirs.pixel_area, atol=0, rtol=0.05)


# ------------------------------------------------------------------------------------------------------- panoramas


def panoramas(folder: Path, **values: Any) -> Cameras:
    data = write_nerfstudio_scene(folder, **{"fl_x": None, "fl_y": None, "cx": None, "cy": None, **values}, w=32, h=16)
    for path in (data / "images").iterdir():
        Image.new("RGB", (32, 16), (90, 120, 60)).save(path)
    return PeakDataParserConfig(data=data).setup().get_dataparser_outputs("train").cameras


@pytest.mark.parametrize(
    "values",
    [
        {"camera_model": "EQUIRECTANGULAR"},
        {"camera_model": "EQUIRECTANGULAR", "fl_x": 16.0, "fl_y": 16.0, "cx": 16, "cy": 8},
        {"camera_model": "EQUIRECTANGULAR", "fl_x": 32 / (2 * math.pi)},
        {"camera_model": None, "latlong": True, "fl_x": 44.0, "fl_y": 44.0},
    ],
)
def test_a_panorama_shows_all_around(tmp_path: Path, values: dict[str, Any]) -> None:
    """The middle looks ahead, a quarter to the right of it to the right, the upper border up."""
    cameras = panoramas(tmp_path, **values)
    assert (cameras.camera_type == CameraType.EQUIRECTANGULAR.value).all()
    assert [float(getattr(cameras, name)[0]) for name in ("fx", "fy", "cx", "cy")] == [16, 16, 16, 8]
    u, v = torch.tensor([16.0, 24.0, 16.0, 31.5]), torch.tensor([8.0, 8.0, 0.5, 8.0])
    camera = torch.zeros(4, dtype=torch.int64)
    angle, back = math.pi / 32, math.pi / 32
    expected = np.array(
        [[0, 0, 1], [1, 0, 0], [0, -math.cos(angle), math.sin(angle)], [math.sin(back), 0, -math.cos(back)]]
    )
    for bundle, tolerance in (
        (PixelRays(cameras).bundle(camera, u, v), 1e-3),
        (cameras.generate_rays(camera[:, None], torch.stack((v, u), -1)), 1e-5),
    ):
        np.testing.assert_allclose(local(cameras, bundle.directions), expected, atol=tolerance)


def test_a_part_of_a_panorama_is_nerfstudios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cameras = panoramas(tmp_path, camera_model="EQUIRECTANGULAR", fl_x=40.0, fl_y=40.0)
    assert [float(getattr(cameras, name)[0]) for name in ("fx", "fy", "cx", "cy")] == [40, 40, 16, 8]
    assert "360" not in capsys.readouterr().out


def test_a_panorama_of_more_than_a_turn_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    panoramas(tmp_path, camera_model="EQUIRECTANGULAR", fl_x=5.0)
    assert "taken to show 360 x 180 degrees, fl_x 16 and fl_y 16, not 5 and 5" in capsys.readouterr().out


def test_panoramas_look_at_nothing_in_particular(tmp_path: Path) -> None:
    data = write_nerfstudio_scene(tmp_path, camera_model="EQUIRECTANGULAR")
    outputs = PeakDataParserConfig(data=data).setup().get_dataparser_outputs("train")
    assert outputs.metadata["unbounded"]
    torch.testing.assert_close(outputs.scene_box.aabb, torch.tensor([[-1.0] * 3, [1.0] * 3]))


# --------------------------------------------------------------------------------------------------------- refused


REFUSED = {
    "ftheta": ({"ftheta_p0": 0.0, "ftheta_p1": 0.03}, r"ftheta_p1 of images/.*f-theta lens\) is not supported"),
    "equal areas": ({"equirectangular": True}, r"equirectangular of .* is not supported"),
    "orthographic": ({"orthographic": True}, r"orthographic of .* is not supported"),
    "shutter": ({"rolling_shutter": [0.0, 0.01, 0, 0]}, r"rolling_shutter of .* is not supported"),
    "prism": ({"s1": 0.1}, r"s1 of .*thin prism\) is not supported"),
    "model": ({"camera_model": "THIN_PRISM_FISHEYE"}, r"camera_model 'THIN_PRISM_FISHEYE' is not supported; use"),
    "no text": ({"camera_model": ["PINHOLE"]}, r"camera_model \['PINHOLE'\] is not supported"),
    "latlong": ({"latlong": True}, r"latlong is true but camera_model of .* is OPENCV; remove the wrong one"),
    "fisheye": ({"is_fisheye": True}, r"is_fisheye is true but camera_model of .* is OPENCV"),
    "fisheye k5": ({"camera_model": "OPENCV_FISHEYE", "k5": 0.1}, r"k5 and k6 of .* mean nothing for OPENCV_FISHEYE"),
    "panorama k1": ({"camera_model": "EQUIRECTANGULAR", "k1": 0.1}, r"k1 of .* mean nothing for a panorama"),
    "list of 4": ({"distortion_params": [0.1, 0, 0, 0]}, r"distortion_params of .*give the six numbers k1, k2"),
    "list and k1": ({"distortion_params": [0.1, 0, 0, 0, 0, 0], "k1": 0.2}, r"distortion_params and k1; remove one"),
    "k1": ({"k1": 1e10}, r"distortion of images/frame_00001.png \(k1 1e\+10\) cannot be undone"),
    "k6": ({"k6": -1e10}, r"distortion of images/frame_00001.png \(d3 -1e\+10\) cannot be undone"),
    "focal": ({"fl_x": 1e30}, r"focal length of images/frame_00001.png, 1e\+30 pixels for a picture 16 wide, is an an"),
    "short": ({"fl_y": 1e-9}, r"1e-09 pixels for a picture 16 high, is an angle of view of 180 degrees; correct fl_y"),
    "angle": ({"fl_x": None, "fl_y": None, "camera_angle_x": 1e-9}, r"angle of view of 5.73e-08 degrees; correct fl_x"),
    "centre": ({"cx": 1e30}, r"cx of images/frame_00001.png, 1e\+30, is far beside its picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_camera_can_do_is_refused_by_name(tmp_path: Path, name: str) -> None:
    values, message = REFUSED[name]
    with pytest.raises(PeakError, match=message) as caught:
        cameras_of(tmp_path, size=16, **values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"is_fisheye": False, "latlong": False, "rolling_shutter": [0.0, 0.0, 0.0, 0.0], "k5": 0, "k6": 0, "s1": 0},
        {"orthographic": False, "ftheta_p0": 0, "ftheta_p1": 0.0, "distortion_params": [0] * 6},
    ],
)
def test_keys_that_say_no_mean_nothing(tmp_path: Path, values: dict[str, Any]) -> None:
    cameras = cameras_of(tmp_path, **values)
    assert cameras.distortion_params is None
    assert (cameras.camera_type == CameraType.PERSPECTIVE.value).all()


def test_a_lens_that_bends_back_in_its_corners_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """k1 -0.9 at 40 degrees: x (1 - 0.9 x^2) is at most 0.41, and a corner is at 0.516."""
    cameras_of(tmp_path, k1=-0.9)
    assert "(k1 -0.9) cannot be undone in" in capsys.readouterr().out


def test_one_frame_of_another_lens_is_named(tmp_path: Path) -> None:
    data = write_nerfstudio_scene(tmp_path)
    edit_frame(data / "transforms.json", 3, fl_x=1e30)
    with pytest.raises(PeakError, match=r"focal length of images/frame_00003.png"):
        PeakDataParserConfig(data=data).setup().get_dataparser_outputs("train")
    edit_json(data / "transforms.json", latlong=True)
    with pytest.raises(PeakError, match=r"latlong is true"):
        PeakDataParserConfig(data=data).setup().get_dataparser_outputs("train")
