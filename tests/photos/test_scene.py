"""The scene's files, as nerfstudio's and our data parser read them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.observations import read_observations
from peak_nerf.photos.model import Intrinsics, SparseModel
from peak_nerf.photos.projection import project
from peak_nerf.photos.scene import write_scene
from tests.photos import models

APPLIED = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0.5]])
LENS = {"k1": -0.1, "k2": 0.02, "p1": 0.004, "p2": -0.003}


def written(folder: Path, model: SparseModel) -> dict:
    write_scene(folder, model, models.photos(folder), APPLIED)
    return json.loads((folder / "transforms.json").read_text())


def test_transforms_json_of_one_camera(tmp_path: Path) -> None:
    values = written(tmp_path, models.model())
    assert {k: v for k, v in values.items() if k != "frames"} == {
        "camera_model": "OPENCV",
        "w": 80,
        "h": 60,
        "fl_x": 40.0,
        "fl_y": 40.0,
        "cx": 40.0,
        "cy": 30.0,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "applied_transform": APPLIED.tolist(),
        "ply_file_path": "sparse_pc.ply",
    }
    assert [set(frame) for frame in values["frames"]] == [{"file_path", "transform_matrix"}] * 3
    assert values["frames"][1] == {
        "file_path": "images/b.png",
        "transform_matrix": [[1, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]],
    }


def test_cameras_that_differ_have_all_their_intrinsics_in_their_frames(tmp_path: Path) -> None:
    ones = (models.intrinsics(), models.intrinsics(fl_x=41.0, **LENS), models.intrinsics())
    values = written(tmp_path, models.model(intrinsics=ones))
    assert set(values) == {"camera_model", "applied_transform", "ply_file_path", "frames"}
    own = {"w": 80, "h": 60, "fl_x": 41.0, "fl_y": 40.0, "cx": 40.0, "cy": 30.0, **LENS}
    assert {k: v for k, v in values["frames"][1].items() if k in own} == own


def test_frames_and_indices_are_in_the_order_of_names(tmp_path: Path) -> None:
    turned = models.model(files=("images/c.png", "images/a.png", "images/b.png"))
    values = written(tmp_path, turned)
    assert [frame["file_path"] for frame in values["frames"]] == list(models.FILES)
    assert [frame["transform_matrix"][0][3] for frame in values["frames"]] == [0.4, 0.0, 0.0]
    read = read_observations(tmp_path / "observations.npz")
    assert read.image_names.tolist() == list(models.FILES)
    # What was image 0 (now called c) is image 2.
    assert read.image_index.tolist() == [2, 0, 1, 2, 0, 2, 1, 2, 0]
    np.testing.assert_array_equal(read.pixels, models.PIXELS)


def test_observations_by_hand(tmp_path: Path) -> None:
    written(tmp_path, models.model())
    read = read_observations(tmp_path / "observations.npz")
    np.testing.assert_array_equal(read.points, models.POINTS)
    np.testing.assert_array_equal(read.depths, models.DEPTHS)
    np.testing.assert_allclose(read.pixel_errors, np.linspace(0.1, 0.9, 9), atol=1e-7)
    assert read.errors.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert read.point_index.tolist() == [point for _, point in models.SEEN]


def test_an_observation_of_a_point_behind_its_camera_is_left_out(tmp_path: Path) -> None:
    points = models.POINTS.copy()
    points[3, 2] = 3.0  # above the cameras, which look down
    written(tmp_path, models.model(points=points, pixel_errors=np.zeros(0, np.float32)))
    read = read_observations(tmp_path / "observations.npz")
    assert read.point_index.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert len(read.points) == 4


@pytest.mark.parametrize("lens", [{}, LENS], ids=["no distortion", "distortion"])
def test_matrices_and_intrinsics_of_the_file_give_the_pixels_back(tmp_path: Path, lens: dict[str, float]) -> None:
    model = models.model(intrinsics=(models.intrinsics(**lens),) * 3)
    pixels = np.stack(
        [project(model.intrinsics[i], model.poses[i], model.points[p : p + 1])[0][0] for i, p in models.SEEN]
    )
    values = written(tmp_path, replace(model, pixels=pixels.astype(np.float32)))
    read = read_observations(tmp_path / "observations.npz")
    matrix = np.array([[values["fl_x"], 0, values["cx"]], [0, values["fl_y"], values["cy"]], [0, 0, 1]])
    distortion = np.array([values[name] for name in ("k1", "k2", "p1", "p2")])
    for i, p, pixel in zip(read.image_index, read.point_index, read.pixels, strict=True):
        w2c = np.diag([1.0, -1, -1, 1]) @ np.linalg.inv(np.array(values["frames"][i]["transform_matrix"]))
        turn, shift = cv2.Rodrigues(w2c[:3, :3])[0], w2c[:3, 3]
        expected, _ = cv2.projectPoints(read.points[p].reshape(1, 1, 3), turn, shift, matrix, distortion)
        np.testing.assert_allclose(pixel, expected.ravel(), atol=1e-5)


@pytest.mark.parametrize("lens", [{}, LENS], ids=["no distortion", "distortion"])
@pytest.mark.parametrize("config", [NerfstudioDataParserConfig, PeakDataParserConfig], ids=["nerfstudio", "peak"])
def test_rays_of_both_data_parsers_meet_the_points(tmp_path: Path, config: type, lens: dict[str, float]) -> None:
    model = models.model(
        intrinsics=(models.intrinsics(**lens), models.intrinsics(fl_x=42.0, **lens), models.intrinsics(**lens))
    )
    written(tmp_path, model)
    keep = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    keep |= (
        {"eval_mode": "all"} if config is NerfstudioDataParserConfig else {"view_indices": (0, 1), "eval_interval": 3}
    )
    outputs = config(data=tmp_path, **keep).setup().get_dataparser_outputs("train")
    names = [path.name for path in outputs.image_filenames]
    for i, p in models.SEEN:
        if Path(models.FILES[i]).name not in names:  # peak-data: a is for evaluation
            assert i == 0
            continue
        pixel, depth = project(model.intrinsics[i], model.poses[i], model.points[p : p + 1])
        camera = names.index(Path(models.FILES[i]).name)
        coords = torch.tensor(pixel[0, ::-1].copy(), dtype=torch.float32)[None]
        ray = outputs.cameras.generate_rays(camera_indices=torch.tensor([[camera]]), coords=coords)
        direction = ray.directions[0].double().numpy()
        towards = model.points[p] - model.poses[i, :3, 3]
        np.testing.assert_allclose(direction, towards / np.linalg.norm(towards), atol=2e-5)
        np.testing.assert_allclose(ray.origins[0].numpy(), model.poses[i, :3, 3], atol=1e-6)
        assert depth[0] > 0


def test_nerfstudio_places_the_points_with_the_cameras(tmp_path: Path) -> None:
    pytest.importorskip("open3d", exc_type=ImportError)  # which nerfstudio reads points with, and which wants libusb
    written(tmp_path, models.model())
    outputs = NerfstudioDataParserConfig(data=tmp_path, load_3D_points=True).setup().get_dataparser_outputs("train")
    transform, scale = outputs.dataparser_transform.double().numpy(), outputs.dataparser_scale
    # dataparser_transform starts from COLMAP's coordinates: undo what was applied to come to those of the file.
    applied = np.vstack([APPLIED, [0, 0, 0, 1]])
    points = np.concatenate([models.POINTS, np.ones((4, 1))], axis=1)
    expected = points @ np.linalg.inv(applied).T @ transform.T * scale
    np.testing.assert_allclose(outputs.metadata["points3D_xyz"].numpy(), expected, atol=1e-6)
    assert outputs.metadata["points3D_rgb"][:3].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_a_fisheye_scene_keeps_its_four_coefficients(tmp_path: Path) -> None:
    lens = Intrinsics(
        80,
        60,
        {"fl_x": 40, "fl_y": 40, "cx": 40, "cy": 30, "k1": 0.1, "k2": 0.01, "k3": 0.002, "k4": 3e-4},
        "OPENCV_FISHEYE",
    )
    values = written(tmp_path, models.model(intrinsics=(lens,) * 3))
    assert values["camera_model"] == "OPENCV_FISHEYE"
    assert "p1" not in values
    outputs = NerfstudioDataParserConfig(data=tmp_path, eval_mode="all").setup().get_dataparser_outputs("train")
    expected = torch.tensor([0.1, 0.01, 0.002, 3e-4, 0, 0])
    torch.testing.assert_close(outputs.cameras.distortion_params[0], expected)


def test_lenses_of_two_kinds_are_refused_and_nothing_calls_itself_a_scene(tmp_path: Path) -> None:
    fisheye = Intrinsics(80, 60, {"fl_x": 40, "fl_y": 40, "cx": 40, "cy": 30}, "OPENCV_FISHEYE")
    with pytest.raises(PeakError, match="fisheye lenses"):
        written(tmp_path, models.model(intrinsics=(models.intrinsics(), fisheye, fisheye)))
    assert not (tmp_path / "transforms.json").exists()


def test_a_parameter_that_the_model_does_not_have_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="OPENCV has no parameter k3"):
        written(tmp_path, models.model(intrinsics=(models.intrinsics(k3=0.1),) * 3))


@pytest.mark.parametrize("downscale", [1, 2])
def test_where_one_picture_has_a_mask_the_others_get_white_ones(tmp_path: Path, downscale: int) -> None:
    photos = models.photos(tmp_path)
    photos[1].mask = "masks/a.png"  # another's name: the white mask of a must not overwrite it
    for folder, size in (("masks", (80, 60)), ("masks_2", (40, 30))):
        (tmp_path / folder).mkdir()
        mask = Image.new("L", size, 0)
        mask.putpixel((1, 2), 255)
        mask.save(tmp_path / folder / "a.png")
    (tmp_path / "images_2").mkdir()
    for file in models.FILES:
        with Image.open(tmp_path / file) as picture:
            picture.resize((40, 30)).save(tmp_path / "images_2" / Path(file).name)
    write_scene(tmp_path, models.model(), photos, APPLIED)
    config = NerfstudioDataParserConfig(data=tmp_path, eval_mode="all", downscale_factor=downscale)
    outputs = config.setup().get_dataparser_outputs("train")
    assert outputs.mask_filenames is not None
    masks = [np.asarray(Image.open(path)) for path in outputs.mask_filenames]
    assert [mask.shape for mask in masks] == [(60 // downscale, 80 // downscale)] * 3
    assert [(mask.min(), mask.max()) for mask in masks] == [(255, 255), (0, 255), (255, 255)]
    peak = PeakDataParserConfig(data=tmp_path, downscale_factor=downscale).setup().get_dataparser_outputs("train")
    assert [path.name for path in peak.mask_filenames or []] == ["a.png", "c.png"]


def test_without_masks_none_are_written(tmp_path: Path) -> None:
    values = written(tmp_path, models.model())
    assert all("mask_path" not in frame for frame in values["frames"])
    assert not (tmp_path / "masks").exists()


def test_a_model_without_points_is_a_scene_too(tmp_path: Path) -> None:
    none = {name: np.zeros(0, np.float32) for name in ("errors", "pixel_errors")}
    index = {name: np.zeros(0, np.int32) for name in ("image_index", "point_index")}
    pixels, points, colors = np.zeros((0, 2), np.float32), np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    written(tmp_path, models.model(points=points, colors=colors, pixels=pixels, **none, **index))
    assert len(read_observations(tmp_path / "observations.npz").points) == 0
    pytest.importorskip("open3d", exc_type=ImportError)
    config = NerfstudioDataParserConfig(data=tmp_path, load_3D_points=True)
    assert "points3D_xyz" not in config.setup().get_dataparser_outputs("train").metadata


@pytest.mark.parametrize(("offset", "kind"), [(0.0, "<f4"), (5e6, "<f8")])
def test_points_on_a_map_keep_their_digits(tmp_path: Path, offset: float, kind: str) -> None:
    """float32 has steps of 0.5 at five million."""
    from plyfile import PlyData

    poses = models.model().poses
    poses[:, 0, 3] += offset
    model = models.model(poses=poses, points=models.POINTS + np.array([offset, 0, 0]))
    write_scene(tmp_path, model, models.photos(tmp_path), APPLIED)
    vertices = PlyData.read(tmp_path / "sparse_pc.ply")["vertex"]
    assert vertices["x"].dtype == kind
    np.testing.assert_allclose(vertices["x"], model.points[:, 0], rtol=0, atol=1e-6)
