"""Sparse points and who saw them: against projections worked out in the file's own coordinates."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.cameras import project
from peak_nerf.nerf.data import dataparser
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.observations import Observations, read_observations, write_observations
from tests.nerf.scene_factory import CAMERA_ANGLE_X, edit_frame, edit_json, write_blender_scene, write_nerfstudio_scene

N_POINTS = 120


@pytest.fixture(autouse=True)
def _silent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataparser, "_said", set())


def parse(data: Path, split: str = "train", **options: Any) -> DataparserOutputs:
    return PeakDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split=split)


def ball_points() -> np.ndarray:
    """On the unit ball at the origin."""
    xyz = np.random.default_rng(0).normal(size=(N_POINTS, 3))
    return xyz / np.linalg.norm(xyz, axis=1, keepdims=True)


def observe(path: Path, size: int = 16) -> Observations:
    """What the cameras of a transforms file see of the ball; pixels have an error of 0.5 to the right."""
    frames = json.loads(path.read_text())["frames"]
    xyz, rows = ball_points(), []
    focal = 0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X)
    for image, frame in enumerate(frames):
        pose = np.array(frame["transform_matrix"])
        local = (xyz - pose[:3, 3]) @ pose[:3, :3]
        faces = ((pose[:3, 3] - xyz) * xyz).sum(1) > 0
        u, v = (size / 2 + sign * focal * local[:, axis] / -local[:, 2] for axis, sign in ((0, 1), (1, -1)))
        rows += [(point, image, u[point] + 0.5, v[point], -local[point, 2]) for point in np.flatnonzero(faces)]
    rows.sort(key=lambda row: row[0])
    point, image, u, v, depth = (np.array(column) for column in zip(*rows, strict=True))
    return Observations(
        image_names=np.array([frame["file_path"] for frame in frames]),
        points=xyz,
        colors=(np.arange(3 * N_POINTS) % 251).astype(np.uint8).reshape(-1, 3),
        errors=np.linspace(0, 1, N_POINTS, dtype=np.float32),
        image_index=image.astype(np.int32),
        point_index=point.astype(np.int32),
        pixels=np.stack([u, v], axis=1).astype(np.float32),
        pixel_errors=np.full(len(rows), 0.5, np.float32),
        depths=depth.astype(np.float32),
    )


@pytest.fixture
def observed(tmp_path: Path) -> Path:
    """A capture of 9 views, of which 7 are trained on, with observations.npz."""
    data = write_nerfstudio_scene(tmp_path / "capture")
    write_observations(data / "observations.npz", observe(data / "transforms.json"))
    return data


def write_ply(path: Path, xyz: np.ndarray, byte_order: str = "<", text: bool = False, colours: str = "u1") -> None:
    from plyfile import PlyData, PlyElement

    names = ("red", "green", "blue")
    rows = np.zeros(len(xyz), dtype=[*((key, "f8") for key in "xyz"), *((key, colours) for key in names)])
    for axis, key in enumerate("xyz"):
        rows[key] = xyz[:, axis]
    for channel, key in enumerate(names):
        rows[key] = (3 * np.arange(len(xyz)) + channel) % 251
    PlyData([PlyElement.describe(rows, "vertex")], text=text, byte_order=byte_order).write(str(path))


# --- observations.npz


@pytest.mark.parametrize("options", [{}, {"view_indices": (5, 0, 3)}])
def test_sightings_are_where_the_cameras_project_the_points(observed: Path, options: dict) -> None:
    outputs = parse(observed, **options)
    points, seen = outputs.metadata["points"], outputs.metadata["sightings"]
    assert [points.xyz.dtype, points.rgb.dtype, points.error.dtype] == [torch.float32, torch.uint8, torch.float32]
    dtypes = [seen.image.dtype, seen.point.dtype, seen.xy.dtype, seen.depth.dtype, seen.error.dtype]
    assert dtypes == [torch.int64, torch.int64, torch.float32, torch.float32, torch.float32]
    assert len(seen.image) >= 80
    u, v, depth = project(outputs.cameras, seen.image, points.xyz[seen.point])
    torch.testing.assert_close(seen.xy, torch.stack([u + 0.5, v], dim=1), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.depth, depth, rtol=0, atol=1e-5)
    assert (seen.error == 0.5).all()
    assert torch.equal(outputs.metadata["camera_positions"], outputs.cameras.camera_to_worlds[:, :, 3])
    # Whose index is whose: colours and errors tell which points these are.
    original = torch.from_numpy(ball_points())
    placed = outputs.dataparser_scale * (
        original @ outputs.dataparser_transform[:, :3].T + outputs.dataparser_transform[:, 3]
    )
    which = (points.error * (N_POINTS - 1)).round().long()
    torch.testing.assert_close(points.xyz, placed[which].float(), rtol=0, atol=1e-6)
    assert torch.equal(points.rgb, (torch.arange(3 * N_POINTS) % 251).reshape(-1, 3)[which].to(torch.uint8))


def test_only_what_two_views_in_use_saw_is_there(observed: Path) -> None:
    outputs = parse(observed, view_indices=(5, 0, 3))
    seen, points = outputs.metadata["sightings"], outputs.metadata["points"]
    assert [path.name for path in outputs.image_filenames] == [f"frame_0000{i}.png" for i in (6, 1, 4)]
    all_seen = read_observations(observed / "observations.npz")
    by = {f: set(all_seen.point_index[all_seen.image_index == f].tolist()) for f in (6, 1, 4)}
    expected = {point for point in range(N_POINTS) if sum(point in by[f] for f in by) >= 2}
    which = (points.error * (N_POINTS - 1)).round().long().tolist()
    assert set(which) == expected
    for image, frame in enumerate((6, 1, 4)):
        assert {which[p] for p in seen.point[seen.image == image]} == by[frame] & expected


def test_points_of_held_out_views_alone_are_dropped(observed: Path) -> None:
    """Point 0, seen by the held-out views 0 and 8 and one other; point 1 by two others."""
    seen = read_observations(observed / "observations.npz")
    kept = seen.point_index > 1
    image, point = np.array([0, 3, 8, 4, 5]), np.array([0, 0, 0, 1, 1])
    frames = json.loads((observed / "transforms.json").read_text())["frames"]
    poses = np.array([frames[i]["transform_matrix"] for i in image])
    depths = ((poses[:, :3, 3] - seen.points[point]) * poses[:, :3, 2]).sum(1)
    write_observations(
        observed / "observations.npz",
        replace(
            seen,
            image_index=np.concatenate([image.astype(np.int32), seen.image_index[kept]]),
            point_index=np.concatenate([point.astype(np.int32), seen.point_index[kept]]),
            pixels=np.concatenate([np.zeros((5, 2), np.float32), seen.pixels[kept]]),
            pixel_errors=np.concatenate([np.zeros(5, np.float32), seen.pixel_errors[kept]]),
            depths=np.concatenate([depths.astype(np.float32), seen.depths[kept]]),
        ),
    )
    which = (parse(observed).metadata["points"].error * (N_POINTS - 1)).round().long().tolist()
    assert 0 not in which
    assert 1 in which


def test_evaluation_sees_no_points_but_the_same_space(observed: Path) -> None:
    train, test = parse(observed, num_views=3), parse(observed, "test", num_views=3)
    assert "points" not in test.metadata
    assert "sightings" not in test.metadata
    assert torch.equal(train.scene_box.aabb, test.scene_box.aabb)


def test_pixels_are_those_of_the_images_as_read(observed: Path) -> None:
    edit_json(observed / "transforms.json", w=None, h=None)  # then the file's numbers are of the images times 2
    whole = parse(observed)
    full = whole.metadata["sightings"]
    (observed / "images_2").mkdir()
    for path in (observed / "images").iterdir():
        Image.open(path).resize((8, 8)).save(observed / "images_2" / path.name)
    smaller = parse(observed, downscale_factor=2)
    assert torch.equal(smaller.scene_box.aabb, whole.scene_box.aabb)
    half = smaller.metadata["sightings"]
    torch.testing.assert_close(half.xy, full.xy / 2)
    torch.testing.assert_close(half.error, full.error / 2)
    torch.testing.assert_close(half.depth, full.depth)


def test_frames_without_sightings_and_sightings_without_a_frame(observed: Path) -> None:
    """Frame 2 is not in the observations, and frame 5 is no longer in the file, so that frame 8 is trained on."""
    seen = read_observations(observed / "observations.npz")
    names = seen.image_names.copy()
    names[2] = "images/other.png"
    write_observations(observed / "observations.npz", replace(seen, image_names=names))
    frames = json.loads((observed / "transforms.json").read_text())["frames"]
    edit_json(observed / "transforms.json", frames=frames[:5] + frames[6:])
    outputs = parse(observed)
    images = [path.name for path in outputs.image_filenames]
    got = {images[i] for i in outputs.metadata["sightings"].image.unique()}
    assert got == {f"frame_0000{i}.png" for i in (1, 3, 4, 6, 7, 8)}
    u, v, _ = project(
        outputs.cameras,
        outputs.metadata["sightings"].image,
        outputs.metadata["points"].xyz[outputs.metadata["sightings"].point],
    )
    torch.testing.assert_close(outputs.metadata["sightings"].xy, torch.stack([u + 0.5, v], dim=1), rtol=0, atol=1e-4)


def test_a_blender_scene_may_have_observations(tmp_path: Path) -> None:
    data = write_blender_scene(tmp_path)
    write_observations(data / "observations.npz", observe(data / "transforms_train.json"))
    train, test = parse(data), parse(data, "test")
    seen = train.metadata["sightings"]
    u, v, _ = project(train.cameras, seen.image, train.metadata["points"].xyz[seen.point])
    torch.testing.assert_close(seen.xy, torch.stack([u + 0.5, v], dim=1), rtol=0, atol=1e-4)
    assert train.scene_box.aabb.tolist() == test.scene_box.aabb.tolist() == [[-1.5] * 3, [1.5] * 3]
    assert "points" not in test.metadata


def test_the_dataset_hands_points_on(observed: Path) -> None:
    dataset = InputDataset(parse(observed))
    assert len(dataset.metadata["points"].xyz) == len(dataset.metadata["points"].rgb) > 50


def test_observations_go_before_the_point_cloud(observed: Path) -> None:
    edit_json(observed / "transforms.json", ply_file_path="absent.ply")
    assert "sightings" in parse(observed).metadata


def _scaled(data: Path) -> None:
    for i in range(9):
        pose = np.array(json.loads((data / "transforms.json").read_text())["frames"][i]["transform_matrix"])
        pose[:3, 3] *= 1.05
        edit_frame(data / "transforms.json", i, transform_matrix=pose.tolist())


def _renamed(data: Path) -> None:
    seen = read_observations(data / "observations.npz")
    write_observations(data / "observations.npz", replace(seen, image_names=np.char.add("old/", seen.image_names)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_scaled, r"observations.npz: is not of the cameras of .*transforms.json; run `peak photos` again, or remove "
                  r"it \(its depths are not those of the poses\)"),
        (_renamed, r"observations.npz: is not of the cameras .*\(no image has the same name\)"),
        (lambda data: (data / "observations.npz").write_bytes(b"PK"), r"observations.npz: cannot be read"),
    ],
)  # fmt: skip
def test_observations_of_something_else(observed: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(observed)
    with pytest.raises(PeakError, match=message):
        parse(observed)


# --- ply_file_path


@pytest.mark.parametrize("form", [{}, {"byte_order": ">"}, {"text": True}])
def test_a_point_cloud_goes_where_the_cameras_go(tmp_path: Path, form: dict) -> None:
    data = write_nerfstudio_scene(tmp_path, ply_file_path="sparse_pc.ply")
    write_ply(data / "sparse_pc.ply", ball_points(), **form)
    outputs = parse(data)
    points = outputs.metadata["points"]
    assert "sightings" not in outputs.metadata
    placed = (
        torch.from_numpy(ball_points()) @ outputs.dataparser_transform[:, :3].T + outputs.dataparser_transform[:, 3]
    )
    torch.testing.assert_close(points.xyz, (outputs.dataparser_scale * placed).float(), rtol=0, atol=1e-6)
    assert torch.equal(points.rgb, (torch.arange(3 * N_POINTS) % 251).reshape(-1, 3).to(torch.uint8))
    assert points.error.isnan().all()


def test_the_transform_of_the_points_is_not_that_of_the_capture(tmp_path: Path) -> None:
    """applied_transform leads to the file's coordinates, in which the points already are."""
    data = write_nerfstudio_scene(
        tmp_path, ply_file_path="sparse_pc.ply", applied_transform=[[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 0]]
    )
    write_ply(data / "sparse_pc.ply", np.zeros((1, 3)))
    outputs = parse(data)
    u, v, _ = project(outputs.cameras, 0, outputs.metadata["points"].xyz)
    torch.testing.assert_close(torch.cat([u, v]), torch.tensor([8.0, 8.0]), rtol=0, atol=1e-4)


def test_a_choice_of_views_does_without_a_point_cloud(tmp_path: Path, capsys) -> None:
    data = write_nerfstudio_scene(tmp_path, ply_file_path="sparse_pc.ply")
    write_ply(data / "sparse_pc.ply", ball_points())
    outputs = parse(data, num_views=3)
    assert "points" not in outputs.metadata
    assert "sparse_pc.ply does not say which views saw its points" in capsys.readouterr().out
    without = parse(write_nerfstudio_scene(tmp_path / "without"), num_views=3)
    assert torch.equal(outputs.scene_box.aabb, without.scene_box.aabb)


def _bytes(data: Path, change: Callable[[bytes], bytes]) -> None:
    (data / "sparse_pc.ply").write_bytes(change((data / "sparse_pc.ply").read_bytes()))


NOT_FINITE = np.full((3, 3), np.nan)
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda d: (d / "sparse_pc.ply").unlink(),
        r"sparse_pc.ply: no such file, but .*transforms.json names it in ply_file_path; restore it, or remove the name",
    ),
    "truncated": (lambda d: _bytes(d, lambda b: b[:-5]), r"sparse_pc.ply: cannot be read \(.*\); write it again, or"),
    "empty": (lambda d: _bytes(d, lambda b: b""), r"sparse_pc.ply: cannot be read"),
    "a trillion points": (
        lambda d: _bytes(d, lambda b: re.sub(rb"vertex \d+", b"vertex 1000000000000", b)),
        r"sparse_pc.ply: cannot be read \(its header asks for 1e\+12 elements, and it has \d+ bytes\); write it again",
    ),
    "no header": (lambda d: _bytes(d, lambda b: b"\x00\xff" * 50), r"sparse_pc.ply: cannot be read"),
    "no vertices": (lambda d: _bytes(d, lambda b: b.replace(b"element vertex", b"element points")), r"cannot be read"),
    "no z": (lambda d: _bytes(d, lambda b: b.replace(b"double z", b"double w")), r"its vertices have no z; write"),
    "no colours": (lambda d: _bytes(d, lambda b: b.replace(b"uchar red", b"uchar ink")), r"its vertices have no red"),
    "colours in [0, 1]": (
        lambda d: write_ply(d / "sparse_pc.ply", ball_points(), colours="f4"),
        r"its colours are float32, not uchar; write",
    ),
    "NaN": (lambda d: write_ply(d / "sparse_pc.ply", NOT_FINITE), r"has positions that are not finite; write"),
    "no name": (lambda d: edit_json(d / "transforms.json", ply_file_path=3), r"ply_file_path is 3; give the name"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_point_cloud(tmp_path: Path, fault: str) -> None:
    data = write_nerfstudio_scene(tmp_path, ply_file_path="sparse_pc.ply")
    write_ply(data / "sparse_pc.ply", ball_points())
    spoil, message = FAULTS[fault]
    spoil(data)
    with pytest.raises(PeakError, match=message) as raised:
        parse(data)
    assert "\n" not in str(raised.value)


def test_an_empty_point_cloud_is_none(tmp_path: Path) -> None:
    data = write_nerfstudio_scene(tmp_path, ply_file_path="sparse_pc.ply")
    write_ply(data / "sparse_pc.ply", np.zeros((0, 3)))
    without = parse(write_nerfstudio_scene(tmp_path / "without"))
    outputs = parse(data)
    assert len(outputs.metadata["points"].xyz) == 0
    assert torch.equal(outputs.scene_box.aabb, without.scene_box.aabb)
