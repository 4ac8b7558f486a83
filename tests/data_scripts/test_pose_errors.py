"""Poses of a scene against given ones, from either kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from tests.data_scripts.scripts import load_script
from tests.nerf.scene_factory import ring_pose

script = load_script("pose_errors")
POSES = [ring_pose(0.4 * i, height=1 + 0.1 * i) for i in range(5)]


def write_transforms(folder: Path, poses: list[np.ndarray]) -> Path:
    folder.mkdir()
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(poses)]
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return folder


def similar(poses: list[np.ndarray]) -> list[np.ndarray]:
    """The same cameras in a world that is turned, twice as large and elsewhere."""
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = []
    for pose in poses:
        other = np.eye(4)
        other[:3, :3], other[:3, 3] = turn @ pose[:3, :3], 2 * turn @ pose[:3, 3] + [1, 2, 3]
        moved.append(other)
    return moved


def test_the_same_cameras_in_another_world_have_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, truth = write_transforms(tmp_path / "a", similar(POSES)), write_transforms(tmp_path / "b", POSES)
    script.main(found, truth / "transforms.json")
    assert capsys.readouterr().out == "5 of 5 pictures; medians: 0.000 degrees, 0.000 % of the cameras' extent\n"


def test_llff_poses_are_read_in_order_of_the_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "llff"
    (folder / "images").mkdir(parents=True)
    rows = []
    for i, pose in enumerate(POSES):
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{i}.png")
        right, up, back = pose[:3, :3].T
        matrix = np.stack([-up, right, back, pose[:3, 3], [8, 8, 9]], axis=1)
        rows.append([*matrix.ravel(), 1, 2])
    np.save(folder / "poses_bounds.npy", np.array(rows))
    truth = script.read_truth(folder)
    assert list(truth) == [str(i) for i in range(5)]
    for pose, given in zip(truth.values(), POSES, strict=True):
        np.testing.assert_allclose(pose, given, atol=1e-12)


def test_what_is_no_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(PeakError, match=r"transforms.json: cannot be read .*; name a scene"):
        script.read_truth(tmp_path)
