"""`peak-data` agrees with nerfstudio's own parsers where both can read a scene, and picks views as it says."""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
import yaml
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import dataparser
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig, choose_views
from tests.nerf.scene_factory import CAMERA_ANGLE_X, edit_frame, edit_json, write_blender_scene, write_nerfstudio_scene

FOCAL_16 = 8 / math.tan(0.5 * CAMERA_ANGLE_X)


@pytest.fixture(autouse=True)
def _silent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataparser, "_said", set())


def parse(data: Path, split: str = "train", **options) -> DataparserOutputs:
    return PeakDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split=split)


def assert_same_cameras(ours: Cameras, theirs: Cameras) -> None:
    assert ours.shape == theirs.shape
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "camera_type"):
        a, b = getattr(ours, name), getattr(theirs, name)
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5, msg=f"{name}: {a} {b}")
    pixels = torch.tensor([[0.5, 0.5], [3.5, 12.5]])
    for index in range(len(ours)):
        a, b = (c.generate_rays(torch.full((2, 1), index), coords=pixels) for c in (ours, theirs))
        torch.testing.assert_close(a.directions, b.directions, rtol=1e-4, atol=1e-5)


# --- agreement with nerfstudio's parsers


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_blender_as_nerfstudio_reads_it(blender: Path, split: str):
    ours = parse(blender, split)
    theirs = BlenderDataParserConfig(data=blender).setup().get_dataparser_outputs(split=split)
    assert_same_cameras(ours.cameras, theirs.cameras)
    assert ours.image_filenames == theirs.image_filenames
    torch.testing.assert_close(ours.scene_box.aabb, theirs.scene_box.aabb)
    torch.testing.assert_close(ours.dataparser_transform.float(), theirs.dataparser_transform)
    assert ours.dataparser_scale == 1.0


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"orientation_method": "vertical", "center_method": "focus", "scene_scale": 2.0},
        {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False},
    ],
)
@pytest.mark.parametrize(
    "values",
    [
        {"k1": 0.1, "k2": -0.02, "p1": 0.01, "p2": -0.01, "cx": 7.5, "fl_y": 20.0},
        {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.02, "k3": 0.01, "k4": -0.01},
        {"applied_transform": [[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 0]], "applied_scale": 2.0},
    ],
)
def test_capture_as_nerfstudio_reads_it(tmp_path: Path, split: str, options: dict, values: dict):
    data = write_nerfstudio_scene(tmp_path, **values)
    ours = parse(data, split, space="box", **options)
    config = NerfstudioDataParserConfig(data=data, eval_mode="interval", downscale_factor=1, **options)
    theirs = config.setup().get_dataparser_outputs(split=split)
    assert_same_cameras(ours.cameras, theirs.cameras)
    assert ours.image_filenames == theirs.image_filenames
    # Their box is that of scaled cameras, also where they are not scaled: ours is the cameras' cube either way.
    unit = 1.0 if "auto_scale_poses" not in options else math.sqrt(15)  # camera 0, 1 above the ground, 4 away
    torch.testing.assert_close(ours.scene_box.aabb, unit * theirs.scene_box.aabb, rtol=1e-4, atol=0)
    assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale)
    # Theirs moves by what it should have divided by `applied_scale`: see `test_from_the_capture_to_the_field`.
    theirs.dataparser_transform[:, 3] = (
        ours.dataparser_transform[:, 3] if "applied_scale" in values else (theirs.dataparser_transform[:, 3])
    )
    torch.testing.assert_close(ours.dataparser_transform.float(), theirs.dataparser_transform)


@pytest.mark.parametrize("offset", [0.0, 5e6])
def test_from_the_capture_to_the_field(tmp_path: Path, offset: float):
    """dataparser_transforms.json: y = scale (R x + t), x the capture's own coordinates, also far from their origin and
    where ns-process-data has turned and scaled them."""
    data = write_nerfstudio_scene(tmp_path / "scene")
    turned = [[0, 1, 0, 0.5], [1, 0, 0, -offset], [0, 0, -1, 2.0]]
    capture = {}
    scene = json.loads((data / "transforms.json").read_text())
    for frame in scene["frames"]:
        pose = np.array(frame["transform_matrix"])
        capture[Path(frame["file_path"]).name] = pose[:3, 3] + [offset, 0, 0]
        pose[:3, :3] = np.array(turned)[:, :3] @ pose[:3, :3]
        pose[:3, 3] = 2.0 * (np.array(turned) @ [*capture[Path(frame["file_path"]).name], 1])
        frame["transform_matrix"] = pose.tolist()
    (data / "transforms.json").write_text(json.dumps({**scene, "applied_transform": turned, "applied_scale": 2.0}))
    outputs = parse(data)
    outputs.save_dataparser_transform(tmp_path / "out" / "dataparser_transforms.json")
    saved = json.loads((tmp_path / "out" / "dataparser_transforms.json").read_text())
    for path, pose in zip(outputs.image_filenames, outputs.cameras.camera_to_worlds.numpy(), strict=True):
        x = np.array([*capture[path.name], 1])
        np.testing.assert_allclose(saved["scale"] * np.array(saved["transform"]) @ x, pose[:, 3], atol=2e-6)
    back = outputs.transform_poses_to_original_space(outputs.cameras.camera_to_worlds, "opengl").numpy()[:, :, 3]
    np.testing.assert_allclose(back, [capture[path.name] for path in outputs.image_filenames], rtol=0, atol=2e-5)


def test_instant_ngp_box_as_nerfstudio_reads_it(tmp_path: Path):
    data = write_nerfstudio_scene(tmp_path, aabb_scale=4, fl_x=None, fl_y=None, camera_angle_x=CAMERA_ANGLE_X)
    ours = parse(data, space="box")
    theirs = InstantNGPDataParserConfig(data=data, eval_mode="interval").setup().get_dataparser_outputs(split="train")
    # They shrink the scene by 0.3333 where instant-ngp has 0.33, and put the origin at 0 where it has 0.5.
    torch.testing.assert_close(ours.scene_box.aabb * 0.33, theirs.scene_box.aabb)
    a, b = ours.cameras.camera_to_worlds, theirs.cameras.camera_to_worlds
    torch.testing.assert_close(a[:, :, 3] * 0.3333, b[:, :, 3])
    torch.testing.assert_close(a[:, :, :3], b[:, :, :3])
    torch.testing.assert_close(ours.cameras.fx, theirs.cameras.fx)
    half = parse(data, scene_scale=0.5, space="box")
    torch.testing.assert_close(half.scene_box.aabb, ours.scene_box.aabb / 2)


# --- which views


@pytest.mark.parametrize(
    ("n_available", "num_views", "expected"),
    [
        (6, 1, (3,)),
        (6, 4, (0, 2, 3, 5)),
        (6, 2, (0, 5)),
        (6, 3, (0, 2, 5)),
        (6, 6, (0, 1, 2, 3, 4, 5)),
        (1, 1, (0,)),
        (10, 4, (0, 3, 6, 9)),
    ],
)
def test_views_are_evenly_spaced(n_available: int, num_views: int, expected: tuple[int, ...]):
    assert choose_views(n_available, num_views, None, Path("t.json")) == expected


def test_views_are_distinct_for_every_count():
    for n_available in range(1, 60):
        for n in range(1, n_available + 1):
            views = choose_views(n_available, n, None, Path("t.json"))
            assert len(set(views)) == n
            assert 0 <= min(views) <= max(views) < n_available


def test_num_views_subsets_train_and_nothing_else(blender: Path):
    config = PeakDataParserConfig(data=blender, num_views=3)
    train = config.setup().get_dataparser_outputs("train")
    assert [path.name for path in train.image_filenames] == ["r_0.png", "r_2.png", "r_5.png"]
    everything = parse(blender)
    torch.testing.assert_close(train.cameras.camera_to_worlds, everything.cameras.camera_to_worlds[[0, 2, 5]])
    assert config.chosen_views == (0, 2, 5)
    assert config.num_views == 3
    assert config.view_indices is None
    assert len(config.setup().get_dataparser_outputs("test").image_filenames) == 2


def test_view_indices_count_within_the_train_split(capture: Path):
    outputs = parse(capture, view_indices=(6, 0))  # frames 1 .. 7 train
    assert [path.name for path in outputs.image_filenames] == ["frame_00007.png", "frame_00001.png"]
    whole = parse(capture)  # placed by all poses, whichever views are chosen
    torch.testing.assert_close(outputs.cameras.camera_to_worlds, whole.cameras.camera_to_worlds[[6, 0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_views": 7}, r"train.json: --num-views is 7, but the train split has 6 views; use 1 to 6"),
        ({"num_views": 0}, r"--num-views is 0"),
        ({"num_views": -1}, r"--num-views is -1"),
        ({"num_views": 2, "view_indices": (0,)}, r"both given; keep one"),
        ({"view_indices": (0, 6)}, r"names view 6, but the train split has 6 views; use 0 to 5"),
        ({"view_indices": (-1,)}, r"names view -1"),
        ({"view_indices": (1, 1)}, r"names a view twice"),
        ({"view_indices": ()}, r"is empty"),
        ({"downscale_factor": 0}, r"--downscale-factor is 0; give"),
        ({"downscale_factor": 2}, r"train_2: no such folder, but --downscale-factor 2 .*leave the option out"),
        ({"scene_scale": 0.0}, r"--scene-scale is 0.0; give"),
        ({"scene_scale": math.nan}, r"--scene-scale is nan; give"),
    ],
)
def test_options_out_of_range(blender: Path, options: dict, message: str):
    with pytest.raises(PeakError, match=message) as caught:
        parse(blender, **options)
    assert "\n" not in str(caught.value)


def test_resolve_views_needs_no_image(blender: Path, tmp_path: Path):
    for path in (blender / "train").iterdir():
        path.unlink()
    config = PeakDataParserConfig(data=blender, num_views=2)
    assert config.resolve_views() == config.chosen_views == (0, 5)
    elsewhere = PeakDataParserConfig(data=tmp_path / "absent")
    assert elsewhere.resolve_views(blender) == (0, 1, 2, 3, 4, 5)
    assert elsewhere.data == tmp_path / "absent"


def test_a_saved_config_chooses_the_same_views(blender: Path):
    config = PeakDataParserConfig(data=blender, num_views=3)
    config.resolve_views()
    loaded = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert loaded == config
    again = loaded.setup().get_dataparser_outputs("train")
    assert [path.name for path in again.image_filenames] == ["r_0.png", "r_2.png", "r_5.png"]


def test_the_choice_is_printed_once(blender: Path, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        parse(blender, num_views=3)
    out = capsys.readouterr().out
    assert out.splitlines() == ["peak-data: 3 of 6 training views: 0, 2, 5"]
    assert dataparser._views_line(tuple(range(0, 80, 2)), 100) == (
        "40 of 100 training views: 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, ..., 78"
    )


def test_stand_in_split_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_blender_scene(tmp_path, n_val=0)
    assert [path.parent.name for path in parse(data, "val").image_filenames] == ["test", "test"]
    assert "no transforms_val.json: the val split is the test split" in capsys.readouterr().out


def test_command_line(blender: Path, capsys: pytest.CaptureFixture[str]):
    config = tyro.cli(PeakDataParserConfig, args=["--data", str(blender), "--view-indices", "0", "4"])
    assert config == PeakDataParserConfig(data=blender, view_indices=(0, 4))
    assert tyro.cli(PeakDataParserConfig, args=["--num-views", "3"]).num_views == 3
    with pytest.raises(SystemExit):
        tyro.cli(PeakDataParserConfig, args=["--help"])
    text = capsys.readouterr().out
    assert "evenly spaced" in text
    assert "chosen" not in text


# --- images and cameras


@pytest.mark.parametrize("name", ["transforms_train.json", "transforms_test.json"])
def test_json_path_as_data(blender: Path, name: str):
    assert parse(blender / name).image_filenames == parse(blender).image_filenames


def test_json_path_of_any_name_as_data(capture: Path):
    (capture / "transforms.json").rename(capture / "mine.json")
    outputs = parse(capture / "mine.json")
    assert len(outputs.image_filenames) == 7
    assert outputs.metadata["kind"] == "nerfstudio"


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("background", ["white", "black", "random"])
def test_dataset_yields_the_channels_of_the_file(tmp_path: Path, alpha: bool, background: str):
    outputs = parse(write_blender_scene(tmp_path, alpha=alpha), background=background)
    assert outputs.alpha_color is None
    wanted = {"background": background, "kind": "blender", "has_alpha": alpha, "unbounded": False}
    assert outputs.metadata == {**wanted, "solid_background": not alpha, "plain_background": False}
    image = InputDataset(outputs)[0]["image"]
    assert image.shape == (16, 16, 4 if alpha else 3)
    torch.testing.assert_close(image, torch.from_numpy(np.array(Image.open(outputs.image_filenames[0])) / 255).float())


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("alpha", [True, False])
def test_without_alpha_images_stand_before_the_background(tmp_path: Path, alpha: bool, background: str):
    """By hand: colour a + background (1 - a); what shows where the ball is not is the background itself."""
    data = write_blender_scene(tmp_path, alpha=alpha)
    outputs = parse(data, background=background, use_alpha=False, plain_background=False)
    assert (outputs.metadata["has_alpha"], outputs.metadata["solid_background"]) == (False, True)
    assert not outputs.metadata["unbounded"]
    rgba = torch.from_numpy(np.array(Image.open(outputs.image_filenames[0])) / 255).float()
    wanted = rgba[..., :3]
    if alpha:
        wanted = wanted * rgba[..., 3:] + float(background == "white") * (1 - rgba[..., 3:])
        assert (wanted[0, 0] == float(background == "white")).all()
    for kind, tolerance in (("float32", 1e-6), ("uint8", 1.01)):
        image = InputDataset(outputs).get_data(0, image_type=kind)["image"]
        scale = 255 if kind == "uint8" else 1
        assert image.shape == (16, 16, 3)
        torch.testing.assert_close(image.float(), scale * wanted, rtol=0, atol=tolerance)


def test_without_alpha_the_space_and_the_cameras_are_the_same(tmp_path: Path):
    data = write_nerfstudio_scene(tmp_path, alpha=True)
    with_alpha, without = parse(data), parse(data, use_alpha=False, plain_background=False)
    assert_same_cameras(without.cameras, with_alpha.cameras)
    torch.testing.assert_close(without.scene_box.aabb, with_alpha.scene_box.aabb)
    assert without.metadata == {**with_alpha.metadata, "has_alpha": False, "solid_background": True}


def test_a_photo_has_no_solid_background(capture: Path):
    assert not parse(capture).metadata["solid_background"]
    assert not parse(capture, use_alpha=False).metadata["solid_background"]


def test_without_alpha_there_is_no_random_background(blender: Path):
    with pytest.raises(PeakError, match="--use-alpha False puts the images before one colour; give --background white"):
        parse(blender, background="random", use_alpha=False)


@pytest.mark.parametrize(
    "values",
    [
        {"camera_angle_x": CAMERA_ANGLE_X},
        {"x_fov": math.degrees(CAMERA_ANGLE_X)},
        {"fl_x": FOCAL_16},
        {"camera_angle_x": CAMERA_ANGLE_X, "camera_angle_y": CAMERA_ANGLE_X, "w": 16.0, "h": 16},
    ],
)
def test_focal_length_in_each_notation(blender: Path, values: dict):
    edit_json(blender / "transforms_train.json", **{"camera_angle_x": None, **values})
    cameras = parse(blender).cameras
    torch.testing.assert_close(cameras.fx, torch.full((6, 1), FOCAL_16))
    torch.testing.assert_close(cameras.fy, cameras.fx)
    assert cameras.distortion_params is None


def test_frames_with_their_own_intrinsics(tmp_path: Path):
    data = write_nerfstudio_scene(tmp_path, k1=0.1)
    Image.new("RGB", (32, 24)).save(data / "images" / "frame_00002.png")
    with pytest.raises(PeakError, match=r"00002.png is 32x24 but .*00001.png is 16x16"):
        parse(data)
    for i in range(9):
        edit_frame(data / "transforms.json", i, w=16, h=16)
    edit_frame(data / "transforms.json", 2, w=32, h=24, fl_x=40.0, fl_y=41.0, cx=15.0, k1=0.2, camera_model="PINHOLE")
    cameras = parse(data).cameras
    second = [getattr(cameras, name)[1].item() for name in ("fx", "fy", "cx", "cy", "width", "height")]
    assert second == [40.0, 41.0, 15.0, 8.0, 32, 24]
    torch.testing.assert_close(cameras.distortion_params[:2, 0], torch.tensor([0.1, 0.2]))
    assert cameras.fx[0].item() == pytest.approx(FOCAL_16)
    edit_frame(data / "transforms.json", 2, w=33)
    with pytest.raises(PeakError, match=r"is 32x24 but .*says 33x24"):
        parse(data)


def test_fisheye(tmp_path: Path):
    cameras = parse(write_nerfstudio_scene(tmp_path, camera_model=None, is_fisheye=True)).cameras
    assert (cameras.camera_type == CameraType.FISHEYE.value).all()


def test_orientation_override(tmp_path: Path):
    ours = parse(write_nerfstudio_scene(tmp_path, orientation_override="none"), center_method="none")
    torch.testing.assert_close(ours.dataparser_transform, torch.eye(4, dtype=torch.float64)[:3])


def test_pca_leaves_every_camera_looking_at_the_ball(capture: Path):
    c2w = parse(capture, orientation_method="pca", center_method="none").cameras.camera_to_worlds
    towards_origin = -torch.nn.functional.normalize(c2w[:, :, 3], dim=-1)
    torch.testing.assert_close(-c2w[:, :, 2], towards_origin, atol=1e-4, rtol=0)


def test_poses_that_cannot_be_oriented(tmp_path: Path):
    data = write_nerfstudio_scene(tmp_path, n=2)
    for i, sign in enumerate((1.0, -1.0)):
        pose = np.diag([sign, sign, 1.0, 1.0])
        pose[0, 3] = sign
        edit_frame(data / "transforms.json", i, transform_matrix=pose.tolist())
    with pytest.raises(PeakError, match="pass --orientation-method none"):
        parse(data)
    assert parse(data, orientation_method="none").dataparser_scale == 1.0


@pytest.mark.parametrize("kind", ["blender", "nerfstudio"])
def test_smaller_images_are_read_from_their_folder(blender: Path, capture: Path, kind: str):
    data, folder = (blender, "train") if kind == "blender" else (capture, "images")
    (data / f"{folder}_2").mkdir()
    for path in (data / folder).iterdir():
        Image.open(path).resize((8, 8)).save(data / f"{folder}_2" / path.name)
    full, half = parse(data), parse(data, downscale_factor=2)
    assert {path.parent.name for path in half.image_filenames} == {f"{folder}_2"}
    full.cameras.rescale_output_resolution(0.5)
    assert_same_cameras(half.cameras, full.cameras)


def test_smaller_images_may_be_rounded_up(tmp_path: Path):
    data = write_nerfstudio_scene(tmp_path, size=15)
    (data / "images_2").mkdir()
    for path in (data / "images").iterdir():
        Image.open(path).resize((8, 8)).save(data / "images_2" / path.name)
    cameras = parse(data, downscale_factor=2).cameras
    assert cameras.width.unique().tolist() == [8]
    assert cameras.cx.unique().tolist() == [4.0]


def test_masks(capture: Path):
    (capture / "masks").mkdir()
    for i in range(9):
        Image.new("L", (16, 16), 255).save(capture / "masks" / f"{i}.png")
        edit_frame(capture / "transforms.json", i, mask_path=f"masks/{i}.png")
    outputs = parse(capture)
    assert outputs.mask_filenames == [capture / "masks" / f"{i}.png" for i in range(1, 8)]
    assert InputDataset(outputs)[0]["mask"].all()
    (capture / "masks" / "3.png").unlink()
    with pytest.raises(PeakError, match=r"3.png: mask is missing \(1 of 7"):
        parse(capture)


def test_the_module_stays_light():
    code = (
        "import sys, nerfstudio.data.dataparsers.nerfstudio_dataparser, tyro; before = set(sys.modules); "
        "import peak_nerf.nerf.data.dataparser; print(sorted(set(sys.modules) - before))"
    )
    added = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True)
    light = ("peak_nerf", "nerfstudio.plugins", "PIL.", "pydantic", "annotated_types", "typing_inspection")
    names = [name for name in ast.literal_eval(added) if "zoneinfo" not in name]  # pydantic's
    assert all(name.startswith(light) for name in names), names
