"""The demo of photos: what its pictures tell and keep to themselves, how it measures, and the command that it runs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from scipy.spatial.transform import Rotation

from peak_nerf.errors import PeakError
from peak_nerf.photos.train import TrainingSummary
from tests.data_scripts.scripts import load_script

pytest.importorskip("embreex")  # without it the ray caster takes minutes

demo = load_script("demo_photos")
light, photos, shapes, textures = (
    sys.modules[f"demo_scene.{name}"] for name in ("light", "photos", "shapes", "textures")
)

SUMMARY = TrainingSummary(
    "peak", 24.567, 0.8, None, 3, 500, 160.0, 20.0, 40.0, "training/flythrough.gif", "training/side_by_side.png",
    "runs/photos/peak/run",
)  # fmt: skip


CAP = np.array([-0.2, 0.4, 0.5])
"""Where the middle of a red ball is."""


@pytest.fixture(scope="module", autouse=True)
def small_scene() -> Iterator[None]:
    """A red ball on a plate, instead of the village, whose ambient light takes long to compute."""
    plate = shapes.Part(shapes.box((0, 0, -0.3), (2, 2, 0.1)), textures.checker("ffffff", "303030", 0.3))
    ball = shapes.Part(shapes.ball(CAP, 0.25), textures.plain("d02020"))
    scene = light.Scene([plate, ball])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "scene_of", lambda seed: scene)
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, small_scene: None) -> Any:
    made = demo.Settings(out=tmp_path_factory.mktemp("demo"), photos=3, size=24, supersample=1, workers=1)
    assert demo.take_photos(made)
    return made


def test_photos_are_jpegs_of_a_phone_without_poses(settings: Any) -> None:
    folder = settings.out / "photos"
    assert sorted(path.name for path in folder.rglob("*")) == ["IMG_0001.jpg", "IMG_0002.jpg", "IMG_0003.jpg"]
    with Image.open(folder / "IMG_0002.jpg") as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (24, 18))
        assert np.asarray(picture).std() > 20
        tags = picture.getexif()
    assert (tags[ExifTags.Base.Make], tags[ExifTags.Base.Model]) == ("peak_nerf", "demo camera")
    details = tags.get_ifd(ExifTags.IFD.Exif)
    focal = 18 / math.tan(0.5 * 1.25 * 0.6911112070083618)  # mm, for 36 mm of film
    assert details[ExifTags.Base.FocalLengthIn35mmFilm] == round(focal) == 39
    assert float(details[ExifTags.Base.FocalLength]) == pytest.approx(focal / 7, abs=0.01)
    assert sorted(path.name for path in settings.out.iterdir()) == ["photos", "truth.json"]


def test_the_lens_is_hardly_off_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lenses = []

    def fake(scene: Any, pose: Any, lens: Any, supersample: int) -> Any:
        lenses.append(lens)
        return np.zeros((lens["h"], lens["w"], 3), np.uint8)

    monkeypatch.setattr(demo, "photo", fake)
    demo.take_photos(demo.Settings(out=tmp_path, photos=3, size=400, supersample=1, workers=1))
    assert [(lens["w"], lens["h"]) for lens in lenses] == [(400, 300)] * 3
    assert lenses[0]["cx"] == pytest.approx(200.8)
    assert lenses[0]["cy"] == pytest.approx(149.55)
    assert lenses[0]["k1"] == -0.08


def test_photos_are_taken_once_for_their_settings(settings: Any) -> None:
    photo = settings.out / "photos" / "IMG_0001.jpg"
    before = photo.stat().st_mtime_ns
    assert not demo.take_photos(replace(settings, train_seconds=3.0))
    assert photo.stat().st_mtime_ns == before
    assert demo.take_photos(replace(settings, size=20))
    with Image.open(photo) as picture:
        assert picture.size == (20, 15)
    (settings.out / "truth.json").write_text("{")
    assert demo.take_photos(settings)


def test_the_truth_is_where_the_photos_were_taken(settings: Any) -> None:
    """The red ball is where the true pose and the lens put it, in each photo."""
    poses = json.loads((settings.out / "truth.json").read_text())["poses"]
    lens = demo.intrinsics(120, 90, demo.OFF_CENTRE)
    for pose in map(np.array, poses.values()):
        picture = photos.photo(demo.scene_of(0), pose, lens, 1) / 255
        x, y, z = pose[:3, :3].T @ (CAP - pose[:3, 3])
        column, row = photos.distort(np.array([x / -z]), np.array([-y / -z]))
        rows, columns = np.nonzero(
            (picture[..., 0] > 1.6 * picture[..., 1]) & (picture[..., 0] > 1.6 * picture[..., 2])
        )
        assert len(rows) > 40
        assert columns.mean() + 0.5 == pytest.approx(lens["cx"] + lens["fl_x"] * column[0], abs=0.7)
        assert rows.mean() + 0.5 == pytest.approx(lens["cy"] + lens["fl_y"] * row[0], abs=1.5)


def test_the_walk_is_one_that_can_be_registered() -> None:
    poses = np.stack(demo.walk_poses(24))
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (24, 3, 3)), atol=1e-12
    )
    back = poses[:, :3, 3] / np.linalg.norm(poses[:, :3, 3], axis=1, keepdims=True)
    apart = np.degrees(np.arccos((back * np.roll(back, 1, axis=0)).sum(1)))
    assert apart.max() < 20
    assert apart.min() > 8
    off = np.degrees(np.arccos((back * poses[:, :3, 2]).sum(1)))  # of the scene's middle from the picture's
    assert 0.5 < off.max() < 2.2
    assert 1 < np.degrees(np.abs(np.arcsin(poses[:, 2, 0]))).max() < 3  # how far from level
    np.testing.assert_array_equal(np.stack(demo.walk_poses(24)), poses)
    np.testing.assert_allclose(demo._turn(2, 0.3), Rotation.from_euler("z", 0.3).as_matrix(), atol=1e-12)


def test_pose_errors_by_hand() -> None:
    """A similarity costs nothing; one camera of five that is off and turned is beside the median, three are not."""
    truth = {f"{i}": pose for i, pose in enumerate(demo.walk_poses(5))}
    turn = Rotation.from_euler("xyz", [0.4, 1.0, -2.0]).as_matrix()

    def moved(pose: np.ndarray) -> np.ndarray:
        found = np.eye(4)
        found[:3, :3], found[:3, 3] = turn @ pose[:3, :3], 0.3 * turn @ pose[:3, 3] + [1, -2, 5]
        return found

    found = {name: moved(pose) for name, pose in truth.items()}
    exact = demo.pose_errors(found, truth)
    assert exact.n_found == 5
    assert exact.rotation_degrees == pytest.approx(0, abs=1e-4)
    assert exact.position_percent == pytest.approx(0, abs=1e-9)
    for name in ("0", "1", "2"):
        found[name][:3, :3] = found[name][:3, :3] @ Rotation.from_euler("x", 2, degrees=True).as_matrix()
    assert demo.pose_errors(found, truth).rotation_degrees == pytest.approx(2, abs=1e-6)
    missing = {name: found[name] for name in ("0", "1", "2")} | {"other": np.eye(4)}
    assert demo.pose_errors(missing, truth).n_found == 3
    with pytest.raises(PeakError, match="2 of 5 photos have a pose"):
        demo.pose_errors({name: found[name] for name in ("0", "1")}, truth)


def test_position_error_is_relative_to_the_cameras_extent() -> None:
    """Corners of a square of side 3 and two between, pushed apart by 0.1 across it: no similarity undoes that."""
    places = np.array([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]], float)
    truth, found = {}, {}
    for i, place in enumerate(places):
        truth[f"{i}"], found[f"{i}"] = np.eye(4), np.eye(4)
        truth[f"{i}"][:3, 3], found[f"{i}"][:3, 3] = place, place + np.array([0, 0, 0.1 * (-1) ** i])
    # The best scale is slightly below 1: sum x.y / sum x.x = 18 / (18 + 4 * 0.01).
    scale = 18 / 18.04
    expected = math.hypot((1 - scale) * 1.5 * math.sqrt(2), 0.1 * scale)
    assert demo.pose_errors(found, truth).position_percent == pytest.approx(100 * expected / (3 * math.sqrt(2)))


def test_poses_are_read_by_the_photos_names(tmp_path: Path) -> None:
    files = {"images/IMG_0001.png": np.eye(4), "images/sub_IMG_0002.jpg": 2 * np.eye(4)}
    frames = [{"file_path": file, "transform_matrix": pose.tolist()} for file, pose in files.items()]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    poses = demo.read_poses(tmp_path, ["IMG_0001.jpg", "IMG_0002.jpg", "IMG_0003.jpg"])
    assert {name: pose[0, 0] for name, pose in poses.items()} == {"IMG_0001.jpg": 1, "IMG_0002.jpg": 2}
    (tmp_path / "transforms.json").write_text("[]")
    with pytest.raises(PeakError, match=r"transforms\.json: cannot be read"):
        demo.read_poses(tmp_path, [])


def test_the_demo_runs_the_command_and_measures_what_it_leaves(
    settings: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    commands: list[list[str]] = []

    def fake(command: list[str]) -> float:
        commands.append(command)
        assert not settings.scene.exists()
        settings.scene.mkdir()
        truth = json.loads((settings.out / "truth.json").read_text())["poses"]
        frames = [{"file_path": f"images/{name}", "transform_matrix": pose} for name, pose in truth.items()]
        (settings.scene / "transforms.json").write_text(json.dumps({"frames": frames}))
        return 260.0

    monkeypatch.setattr(demo, "run_program", fake)
    monkeypatch.setattr(demo, "read_summary", lambda scene: SUMMARY)
    (settings.scene).mkdir()  # of a former run
    demo.run_demo(settings)
    out = settings.out
    assert commands == [
        ["peak", "photos", f"{out}/photos", "--out", f"{out}/scene", "--train", "--train-seconds", "150"]
    ]
    record = json.loads((out / "metrics.json").read_text())
    assert {name: record[name] for name in ("photos", "n_found", "psnr", "ssim")} == {
        "photos": 3, "n_found": 3, "psnr": 24.567, "ssim": 0.8,
    }  # fmt: skip
    assert record["position_percent"] < 1e-9
    rendering = record["seconds"].pop("rendering")
    assert 0 <= rendering < 60
    assert record["seconds"] == {"poses": 40.0, "training": 160.0, "evaluation": 20.0, "pictures": 40.0}
    said = capsys.readouterr().out
    for part in ("3 of 3", "24.57", "0.8000", f"{out}/scene/index.html", f"{out}/scene/training/flythrough.gif"):
        assert part in said


@pytest.mark.parametrize("change", [{"photos": 2}, {"size": 0}, {"train_seconds": 0.0}, {"workers": 0}])
def test_numbers_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PeakError, match="--"):
        demo.run_demo(demo.Settings(**change))
