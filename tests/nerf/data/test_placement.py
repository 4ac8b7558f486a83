"""Map coordinates, millimetres and scenes of any size are placed as the same scene of unit size is."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import dataparser
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.placement import DISTANCE, usual_frame
from tests.nerf.scene_factory import edit_frame, edit_json, ring_pose, write_blender_scene, write_nerfstudio_scene

MOVES: dict[str, tuple[float, tuple[float, float, float]]] = {
    "map coordinates": (1.0, (5e5, 5e6, 120.0)),
    "millimetres": (1e3, (0.0, 0.0, 0.0)),
    "millimetres on a map": (1e3, (5e8, 5e9, 1.2e5)),
    "ten times": (10.0, (0.0, 0.0, 0.0)),
    "a thousandth": (1e-3, (0.0, 0.0, 0.0)),
}
AWAY = {"1000 units away": (250.0, (0.0, 0.0, 0.0))}


@pytest.fixture(autouse=True)
def _silent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataparser, "_said", set())


def parse(data: Path, split: str = "train", **options: Any) -> DataparserOutputs:
    return PeakDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split=split)


def move(data: Path, factor: float, offset: tuple[float, float, float]) -> None:
    """x -> factor x + offset, in all transforms files of a folder."""
    for path in data.glob("transforms*.json"):
        for i, frame in enumerate(json.loads(path.read_text())["frames"]):
            pose = np.array(frame["transform_matrix"])
            pose[:3, 3] = factor * pose[:3, 3] + offset
            edit_frame(path, i, transform_matrix=pose.tolist())


def in_cube(outputs: DataparserOutputs) -> torch.Tensor:
    """Poses (n, 3, 4) where the cube is [-1, 1]^3."""
    poses, (low, high) = outputs.cameras.camera_to_worlds.clone(), outputs.scene_box.aabb
    poses[:, :, 3] = (poses[:, :, 3] - (low + high) / 2) / ((high - low) / 2)
    return poses


def assert_same(moved: DataparserOutputs, unmoved: DataparserOutputs) -> None:
    torch.testing.assert_close(in_cube(moved), in_cube(unmoved), rtol=0, atol=1e-5)
    assert moved.metadata["unbounded"] == unmoved.metadata["unbounded"]


def assert_way_back(outputs: DataparserOutputs, data: Path, name: str) -> None:
    """The cameras' poses in the file, by the transform that nerfstudio saves and its exporter uses."""
    frames = {
        frame["file_path"]: frame["transform_matrix"] for frame in json.loads((data / name).read_text())["frames"]
    }
    names = [path.relative_to(data).as_posix() for path in outputs.image_filenames]
    given = np.array([frames.get(n, frames.get("./" + n.removesuffix(".png"))) for n in names])[:, :3]
    back = outputs.transform_poses_to_original_space(outputs.cameras.camera_to_worlds, camera_convention="opengl")
    extent = np.ptp(given[:, :, 3], axis=0).max()
    np.testing.assert_allclose(back[:, :, 3].numpy(), given[:, :, 3], rtol=0, atol=1e-6 * extent)
    np.testing.assert_allclose(back[:, :, :3].numpy(), given[:, :, :3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"orientation_method": "pca", "center_method": "focus"}])
@pytest.mark.parametrize("moved", MOVES | AWAY)
def test_a_capture_is_the_same_anywhere(tmp_path: Path, moved: str, options: dict) -> None:
    data = write_nerfstudio_scene(tmp_path)
    here = parse(data, **options)
    assert_way_back(here, data, "transforms.json")
    move(data, *(MOVES | AWAY)[moved])
    there = parse(data, **options)
    assert_same(there, here)
    torch.testing.assert_close(there.cameras.camera_to_worlds, here.cameras.camera_to_worlds, rtol=0, atol=1e-5)
    torch.testing.assert_close(there.scene_box.aabb, here.scene_box.aabb, rtol=0, atol=1e-5)
    assert_way_back(there, data, "transforms.json")


@pytest.mark.parametrize("space", ["auto", "box"])
@pytest.mark.parametrize("moved", MOVES | AWAY)
def test_a_file_with_aabb_scale_is_the_same_anywhere(tmp_path: Path, moved: str, space: str) -> None:
    data = write_nerfstudio_scene(tmp_path, aabb_scale=4)
    if moved in AWAY:  # no power of ten, so that the cameras come to stand at exactly the usual distance
        move(data, DISTANCE / 4, (0.0, 0.0, 0.0))
    here = parse(data, space=space)
    move(data, *(MOVES | AWAY)[moved])
    there = parse(data, space=space)
    assert_same(there, here)
    torch.testing.assert_close(there.cameras.camera_to_worlds, here.cameras.camera_to_worlds, rtol=0, atol=1e-5)
    assert_way_back(there, data, "transforms.json")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("moved", MOVES | AWAY)
def test_a_blender_scene_is_the_same_anywhere(tmp_path: Path, capsys, moved: str, split: str) -> None:
    data = write_blender_scene(tmp_path)
    if moved in AWAY:
        move(data, DISTANCE / 4, (0.0, 0.0, 0.0))
    here = parse(data, split)
    assert torch.equal(here.dataparser_transform, torch.eye(4, dtype=torch.float64)[:3])
    assert here.scene_box.aabb.tolist() == [[-1.5] * 3, [1.5] * 3]
    assert "box" not in capsys.readouterr().out
    move(data, *(MOVES | AWAY)[moved])
    there = parse(data, split)
    assert_same(there, here)
    assert there.scene_box.aabb.tolist() == [[-1.5] * 3, [1.5] * 3]
    assert_way_back(there, data, f"transforms_{split}.json")
    assert "bounded scene in a box of +-1.5 around (0, 0, 0): a Blender scene" in capsys.readouterr().out


def test_a_blender_scene_of_unusual_size_holds_what_wide_pictures_show(tmp_path: Path) -> None:
    data = write_blender_scene(tmp_path)
    move(data, 100.0, (0.0, 0.0, 0.0))
    for path in data.glob("transforms*.json"):
        edit_json(path, camera_angle_x=1.4)
    assert float(parse(data).scene_box.aabb[1, 0]) == pytest.approx(4 * math.tan(0.7))


def ring(distance: float) -> torch.Tensor:
    poses = torch.from_numpy(np.stack([ring_pose(0.8 * i) for i in range(8)]))
    poses[:, :3, 3] *= distance / 4
    return poses


@pytest.mark.parametrize(
    ("distance", "smallest", "unit"),
    [
        (DISTANCE, 0.5, 1.0),
        (0.55 * DISTANCE, 0.5, 1.0),
        (1.9 * DISTANCE, 0.5, 1.0),
        (0.3 * DISTANCE, 0.5, 0.3),  # a tenth would be three times too far away
        (0.3 * DISTANCE, 0.1, 1.0),
        (9.0 * DISTANCE, 0.5, 10.0),
        (4.0 * DISTANCE, 0.5, 4.0),
        (2500.0 * DISTANCE, 0.5, 2500.0),
        (1200.0 * DISTANCE, 0.5, 1000.0),
    ],
)
def test_the_unit_of_a_file(distance: float, smallest: float, unit: float) -> None:
    centre, got = usual_frame(ring(distance), 0.3, smallest)
    assert got == pytest.approx(unit)
    assert not centre.any()


def test_the_origin_of_a_file_is_kept_where_the_cameras_look_past_it() -> None:
    poses = ring(DISTANCE)
    poses[:, 0, 3] += 1.4
    assert not usual_frame(poses, 0.3, 0.5)[0].any()
    poses[:, 0, 3] += 0.2
    torch.testing.assert_close(usual_frame(poses, 0.3, 0.5)[0], torch.tensor([1.6, 0, 0], dtype=torch.float64))


def test_cameras_that_look_about_keep_their_frame_however_close_together() -> None:
    poses = ring(0.05)
    poses[:, :3, 2] *= -1
    assert usual_frame(poses, 0.3, 0.5)[1] == 1.0
    assert usual_frame(poses[:1], 0.3, 0.5)[1] == 1.0


# --- instant-ngp's keys


@pytest.mark.parametrize(
    ("scale", "offset"), [(0.2, [0.1, 0.5, 0.9]), (0.05, 0.25), (None, [0.5, 0.6, 0.7]), (1, None)]
)
def test_scale_and_offset_are_instant_ngps(tmp_path: Path, scale: float | None, offset: Any) -> None:
    """p = scale x + offset; the box has side aabb_scale and centre 0.5 there; axes are renamed in it, not turned."""
    data = write_nerfstudio_scene(tmp_path, aabb_scale=2, scale=scale, offset=offset)
    outputs = parse(data, space="box")
    frames = json.loads((data / "transforms.json").read_text())["frames"][1:8]
    x = np.array([frame["transform_matrix"] for frame in frames])[:, :3, 3]
    p = (scale or 0.33) * x + (0.5 if offset is None else offset)
    low, high = outputs.scene_box.aabb
    positions = outputs.cameras.camera_to_worlds[:, :, 3]
    expected = (p - 0.5) / (2 / 2)  # in the box of side 2, as fractions of half its side
    np.testing.assert_allclose((positions - (low + high) / 2) / ((high - low) / 2), expected, atol=1e-6)
    assert_way_back(outputs, data, "transforms.json")


def test_the_defaults_of_instant_ngps_keys_change_nothing(tmp_path: Path) -> None:
    given = parse(write_nerfstudio_scene(tmp_path / "a", aabb_scale=4, scale=0.33, offset=[0.5, 0.5, 0.5]))
    left_out = parse(write_nerfstudio_scene(tmp_path / "b", aabb_scale=4))
    assert torch.equal(given.cameras.camera_to_worlds, left_out.cameras.camera_to_worlds)
    assert torch.equal(given.scene_box.aabb, left_out.scene_box.aabb)


def test_keys_that_are_given_are_believed_whatever_the_cameras(tmp_path: Path) -> None:
    """A tenfold scene with a tenth of the scale is the scene itself."""
    data = write_nerfstudio_scene(tmp_path, aabb_scale=4)
    here = parse(data, space="box")
    move(data, 7.0, (70.0, 0.0, 0.0))
    edit_json(data / "transforms.json", scale=0.33 / 7, offset=[0.5 - 3.3, 0.5, 0.5])
    assert_same(parse(data, space="box"), here)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": 0}, r"transforms.json: scale is 0; give a number between 1e-09 and 1e\+09"),
        ({"offset": [1, 2]}, r"transforms.json: offset is \[1, 2\]; give one number or three"),
        ({"offset": "x"}, r"offset is 'x'; give"),
        ({"offset": [0, 0, math.inf]}, r"offset is \[0, 0, inf\]; give"),
    ],
)
def test_keys_out_of_range(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(PeakError, match=message):
        parse(write_nerfstudio_scene(tmp_path, aabb_scale=4, **values))
