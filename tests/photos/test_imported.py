"""Poses of others come in as they are: COLMAP's models and LLFF's poses_bounds.npy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from peak_nerf.cli import main
from peak_nerf.errors import PeakError
from peak_nerf.images.photo import read_photo
from peak_nerf.nerf.data.observations import read_observations
from peak_nerf.photos.folder import Record
from peak_nerf.photos.imported import import_colmap, kind_of, model_folder
from tests.photos.capture import FOCAL, SIZE, arc, distances, write_capture
from tests.photos.posed import Posed


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def source_of(posed: Posed, folder: Path) -> Path:
    """COLMAP's model of the capture and its pictures."""
    shutil.copytree(posed.scene / "images", folder / "images")
    shutil.copytree(posed.scene / "sparse", folder / "sparse")
    return folder


def read_model(folder: Path) -> Any:
    return pycolmap.Reconstruction(folder / "sparse" / "0")


def frames(scene: Path) -> dict[str, np.ndarray]:
    found = json.loads((scene / "transforms.json").read_text())["frames"]
    return {frame["file_path"]: np.array(frame["transform_matrix"]) for frame in found}


def imported(source: Path, out: Path, *options: str) -> dict[str, Any]:
    assert main(["photos", str(source), "--out", str(out), *options]) == 0
    return json.loads((out / "transforms.json").read_text())


def refused(capsys: pytest.CaptureFixture[str], source: Path, out: Path) -> str:
    """The last line of the error; nothing else may be left."""
    with pytest.raises(SystemExit) as caught:
        main(["photos", str(source), "--out", str(out)])
    assert caught.value.code == 2
    assert not out.exists()
    assert not out.with_name(f"{out.name}.partial").exists()
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("peak_nerf: error: ")
    assert "Traceback" not in "".join(lines)
    return lines[-1]


# -------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("suffix", ["bin", "txt"])
@pytest.mark.parametrize("place", ["", "sparse/0", "sparse", "colmap/sparse/0", "0"])
def test_a_model_is_found_where_colmap_puts_it(tmp_path: Path, place: str, suffix: str) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cameras", "images"):
        (folder / f"{name}.{suffix}").touch()
    assert kind_of(tmp_path) == "photos"  # it lacks its points
    (folder / f"points3D.{suffix}").touch()
    assert model_folder(tmp_path) == folder
    assert kind_of(tmp_path) == "colmap"


def test_other_kinds(tmp_path: Path) -> None:
    assert kind_of(tmp_path) == "photos"
    (tmp_path / "a.mp4").touch()
    assert kind_of(tmp_path / "a.mp4") == "video"
    (tmp_path / "poses_bounds.npy").touch()
    assert kind_of(tmp_path) == "llff"
    (tmp_path / "transforms_train.json").touch()
    with pytest.raises(PeakError, match=r"has poses already \(transforms_train\.json\): ns-train peak --data "):
        kind_of(tmp_path)
    with pytest.raises(PeakError, match="nowhere: no such folder or video"):
        kind_of(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------------------- COLMAP


@pytest.mark.parametrize("text", [False, True])
def test_a_model_comes_back_as_it_was(posed: Posed, tmp_path: Path, text: bool) -> None:
    source = source_of(posed, tmp_path / "source")
    if text:
        model = read_model(source)
        shutil.rmtree(source / "sparse")
        (source / "sparse").mkdir()
        model.write_text(source / "sparse")
    found = imported(source, tmp_path / "scene")
    before = json.loads((posed.scene / "transforms.json").read_text())
    assert found.keys() == before.keys()
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"):
        assert found[key] == pytest.approx(before[key], abs=1e-9)
    again = frames(tmp_path / "scene")
    assert list(again) == list(frames(posed.scene))
    for name, pose in frames(posed.scene).items():
        np.testing.assert_allclose(again[name], pose, atol=1e-6)
    old, new = (read_observations(scene / "observations.npz") for scene in (posed.scene, tmp_path / "scene"))
    np.testing.assert_allclose(new.points, old.points, atol=1e-9)
    np.testing.assert_allclose(new.pixels, old.pixels, atol=1e-4)
    np.testing.assert_array_equal(new.point_index, old.point_index)


def test_pixels_and_lenses_are_those_of_smaller_copies(posed: Posed, tmp_path: Path) -> None:
    found = imported(source_of(posed, tmp_path / "source"), tmp_path / "scene", "--max-size", "200")
    before = json.loads((posed.scene / "transforms.json").read_text())
    assert (found["w"], found["h"]) == (200, 150)
    for key in ("fl_x", "fl_y", "cx", "cy"):
        assert found[key] == pytest.approx(before[key] / 2)
    assert found["k1"] == pytest.approx(before["k1"])
    assert {read_photo(path).size for path in (tmp_path / "scene" / "images").iterdir()} == {(200, 150)}
    old, new = (read_observations(scene / "observations.npz") for scene in (posed.scene, tmp_path / "scene"))
    np.testing.assert_allclose(new.pixels, old.pixels / 2, atol=1e-4)
    np.testing.assert_allclose(new.pixel_errors, old.pixel_errors / 2, atol=1e-4)
    np.testing.assert_allclose(frames(tmp_path / "scene")[old.image_names[0]], frames(posed.scene)[old.image_names[0]])
    small, large = read_model(tmp_path / "scene"), read_model(posed.scene)
    assert next(iter(small.cameras.values())).width == 200
    errors = [np.array([point.error for _, point in sorted(model.points3D.items())]) for model in (small, large)]
    np.testing.assert_allclose(errors[0], errors[1] / 2, atol=1e-4)


def test_pictures_that_are_missing_or_not_in_the_model_are_named(posed: Posed, tmp_path: Path) -> None:
    source = source_of(posed, tmp_path / "source")
    (source / "images" / "IMG_002.jpg").rename(source / "images" / "later.jpg")
    assert main(["photos", str(source / "sparse" / "0"), "--out", str(tmp_path / "scene")]) == 0
    record = Record.model_validate_json((tmp_path / "scene" / "photos.json").read_text())
    assert record.photos is not None
    assert record.how == [
        f"poses of the COLMAP model {source / 'sparse' / '0'}: 5 pictures; 1 whose pictures are not there"
    ]
    assert [(photo.name, photo.reason) for photo in record.photos if photo.state == "left out"] == [
        ("later.jpg", "not in the model")
    ]
    names = [f"images/IMG_00{i}.jpg" for i in (0, 1, 3, 4, 5)]
    assert list(frames(tmp_path / "scene")) == names
    model = read_model(tmp_path / "scene")
    assert sorted(model.image(i).name for i in model.reg_image_ids()) == [name[len("images/") :] for name in names]
    observed = read_observations(tmp_path / "scene" / "observations.npz")
    assert observed.image_names.tolist() == names
    assert observed.image_index.max() == 4
    for name, pose in frames(tmp_path / "scene").items():
        np.testing.assert_allclose(pose, frames(posed.scene)[name], atol=1e-6)


def test_images_without_a_pose_are_left_out(posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(posed, tmp_path / "source")
    model = read_model(source)
    image = model.find_image_with_name("IMG_004.jpg")
    model.deregister_frame(image.frame_id)
    with monkeypatch.context() as patch:
        patch.setattr(pycolmap, "Reconstruction", lambda path: model)
        found = import_colmap(source, tmp_path / "scene", 200, silent)
    states = {photo.name: (photo.state, photo.reason) for photo in found.photos}
    assert states.pop("IMG_004.jpg") == ("left out", "no pose in the model")
    assert set(states.values()) == {("used", "")}
    (tmp_path / "sparse").mkdir()
    found.model.write_binary(tmp_path / "sparse")
    assert pycolmap.Reconstruction(tmp_path / "sparse").num_reg_images() == 5


def test_names_become_those_of_the_copies(posed: Posed, tmp_path: Path) -> None:
    source = source_of(posed, tmp_path / "source")
    model = read_model(source)
    (source / "images" / "left").mkdir()
    for image in model.images.values():
        shutil.move(source / "images" / image.name, source / "images" / "left" / f"é {image.name}")
        image.name = f"left/é {image.name}"
    model.write_binary(source / "sparse" / "0")
    imported(source, tmp_path / "scene")
    assert list(frames(tmp_path / "scene")) == [f"images/left__e_IMG_00{i}.jpg" for i in range(6)]
    written = read_model(tmp_path / "scene")
    assert {image.name for image in written.images.values()} == {f"left__e_IMG_00{i}.jpg" for i in range(6)}


def test_a_picture_of_another_size_is_refused(posed: Posed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = source_of(posed, tmp_path / "source")
    Image.new("RGB", (300, 300)).save(source / "images" / "IMG_003.jpg")
    message = refused(capsys, source, tmp_path / "scene")
    assert "IMG_003.jpg: is 300 x 300 but the model's camera 400 x 300; give the pictures that" in message


@pytest.mark.parametrize("cut", [1, 20, 70, 10_000_000])
@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin", "frames.bin", "rigs.bin"])
def test_a_damaged_model_is_refused(
    posed: Posed, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, cut: int
) -> None:
    source = source_of(posed, tmp_path / "source")
    path = source / "sparse" / "0" / file
    path.write_bytes(path.read_bytes()[:-cut])  # the last of them is empty
    assert f"{path}: is cut short; copy it again" in refused(capsys, source, tmp_path / "scene")


def test_a_model_that_contradicts_itself_is_refused(
    posed: Posed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_of(posed, tmp_path / "source")
    path = source / "sparse" / "0" / "cameras.bin"
    content = bytearray(path.read_bytes())
    content[8] += 1  # the camera has another number than in images.bin
    path.write_bytes(content)
    assert "sparse/0: not a COLMAP model that can be read (" in refused(capsys, source, tmp_path / "scene")
    content[8] -= 1
    path.write_bytes(content)
    (path.parent / "images.bin").write_bytes(bytes(8))  # of frames.bin's images there is none
    assert "sparse/0: not a COLMAP model that can be read (" in refused(capsys, source, tmp_path / "scene")


def test_a_model_without_pictures_is_refused(posed: Posed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = source_of(posed, tmp_path / "source")
    shutil.rmtree(source / "images")
    message = refused(capsys, source, tmp_path / "scene")
    assert "none of the model's 6 pictures is there (IMG_00" in message
    assert f"put them into {source / 'images'}" in message


@pytest.mark.parametrize(("names", "problem"), [(["FOV"], "camera model FOV"), (["OPENCV_FISHEYE", None], "ordinary")])
def test_lenses_that_a_scene_cannot_hold_are_refused(
    posed: Posed, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str | None], problem: str
) -> None:
    source = source_of(posed, tmp_path / "source")
    model = read_model(source)
    if len(names) > 1:
        model.add_camera_with_trivial_rig(pycolmap.Camera.create_from_model_name(7, str(names[0]), 380.0, 400, 300))
    else:
        (camera,) = model.cameras.values()
        camera.model = getattr(pycolmap.CameraModelId, str(names[0]))
        camera.params = [380.0, 380, 200, 150, 0.1]
    model.write_binary(source / "sparse" / "0")
    message = refused(capsys, source, tmp_path / "scene")
    assert problem in message
    assert f"{source / 'sparse' / '0'}: " in message


def test_masks_are_not_for_posed_sources(posed: Posed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = source_of(posed, tmp_path / "source")
    with pytest.raises(SystemExit):
        main(["photos", str(source), "--out", str(tmp_path / "scene"), "--masks", str(tmp_path)])
    assert "are for photos without poses" in capsys.readouterr().err
    assert not (tmp_path / "scene.partial").exists()


# --------------------------------------------------------------------------------------------------------------- LLFF


def llff_capture(folder: Path, n: int = 4) -> tuple[Path, np.ndarray]:
    """Pictures and poses_bounds.npy as LLFF writes it; the true poses."""
    poses = np.stack(arc(n, 1.0))
    write_capture(folder / "images", list(poses))
    right, up, back, position = np.moveaxis(poses[:, :3], 2, 0)
    size = np.tile([2.0 * SIZE[1], 2.0 * SIZE[0], 2 * FOCAL], (n, 1))  # of pictures twice as large
    matrix = np.stack([-up, right, back, position, size], axis=2)
    rows = np.concatenate([matrix.reshape(n, 15), np.tile([1.0, 9.0], (n, 1))], axis=1)
    np.save(folder / "poses_bounds.npy", rows)
    return folder, poses


def test_llff_poses_stay_as_given_and_points_lie_on_the_planes(tmp_path: Path) -> None:
    source, poses = llff_capture(tmp_path / "source")
    found = imported(source, tmp_path / "scene")
    assert (found["w"], found["h"], found["fl_x"], found["fl_y"]) == (400, 300, FOCAL, FOCAL)
    assert (found["cx"], found["cy"], found["k1"]) == (200, 150, 0)
    turn = np.array(found["applied_transform"])[:, :3]
    for frame, pose in zip(found["frames"], poses, strict=True):
        np.testing.assert_allclose(turn.T @ np.array(frame["transform_matrix"])[:3], pose[:3], atol=1e-9)
    points = read_observations(tmp_path / "scene" / "observations.npz").points @ turn
    assert len(points) > 500
    off = distances(points)
    assert np.median(off) < 0.01  # of cameras 4 away; measured: 0.003
    assert np.mean(off < 0.05) > 0.9
    record = Record.model_validate_json((tmp_path / "scene" / "photos.json").read_text())
    assert record.kind == "llff"
    assert record.how == [
        f"poses of {source / 'poses_bounds.npy'}",
        "points triangulated from them: every picture with every other",
    ]
    assert not list((tmp_path / "scene").glob("database*"))


def test_llff_without_its_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = llff_capture(tmp_path / "source", 3)
    (source / "images" / "IMG_001.jpg").unlink()
    assert "has 3 rows but" in refused(capsys, source, tmp_path / "scene")
    shutil.rmtree(source / "images")
    assert "has no pictures beside it" in refused(capsys, source, tmp_path / "scene")
    (source / "poses_bounds.npy").write_bytes(b"nothing")
    assert "poses_bounds.npy: cannot be read" in refused(capsys, source, tmp_path / "scene")
