"""`peak photos` as a user runs it: what it leaves, how it stops and goes on, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from peak_nerf.cli import main
from peak_nerf.errors import MachineError
from peak_nerf.photos import calls, command
from peak_nerf.photos.colmap import Workspace
from peak_nerf.photos.folder import Record
from peak_nerf.photos.mapping import Mapped
from peak_nerf.photos.model import Photo
from peak_nerf.photos.train import TrainingSummary
from tests.photos.capture import Plane, arc, write_capture
from tests.photos.posed import Posed

SUMMARY = TrainingSummary(
    method="peak",
    psnr=27.31,
    ssim=0.91,
    lpips=None,
    n_test=2,
    steps=321,
    seconds=12.0,
    seconds_evaluation=3.0,
    seconds_pictures=4.0,
    gif="training/flythrough.gif",
    comparison="training/comparison.jpg",
    run="runs/photos/peak/run",
)


def photos(source: Path, out: Path, *options: str) -> int:
    return main(["photos", str(source), "--out", str(out), *options])


def failed(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """Runs the command, which must end with exit code 2 and one line of error, without a traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        photos(*args)  # type: ignore[arg-type]
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.count("peak_nerf: error: ") == 1
    return said.strip().splitlines()[-1].removeprefix("peak_nerf: error: ")


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# ----------------------------------------------------------------------------------------------------- what it leaves


def test_a_scene_is_whole(posed: Posed) -> None:
    found = below(posed.scene)
    wanted = {"transforms.json", "sparse_pc.ply", "observations.npz", "index.html", "photos.json"}
    wanted |= {f"sparse/0/{name}.bin" for name in ("cameras", "images", "points3D")}
    wanted |= {f"images/IMG_00{i}.jpg" for i in range(6)}
    assert wanted <= found
    assert len(json.loads((posed.scene / "transforms.json").read_text())["frames"]) == 6
    record = Record.model_validate_json((posed.scene / "photos.json").read_text())
    assert record.finished
    assert record.how is not None
    assert record.how[:2] == [
        "15 pairs of pictures compared: every picture with every other",
        "incremental mapping: 6 of 6 pictures have a pose",
    ]
    page = (posed.scene / "index.html").read_text()
    assert "IMG_003.jpg" in page
    assert "ns-train peak --data" in page


def test_pictures_without_a_pose_say_why() -> None:
    made = [Photo(name, f"images/{name}") for name in ("a.jpg", "b.jpg", "c.jpg")]
    made.append(Photo("d.jpg", state="left out", reason="broken"))
    model = SimpleNamespace(reg_image_ids=lambda: [1], image=lambda i: SimpleNamespace(name="b.jpg"))
    command._note_states(made, Mapped(model, others=[["x.jpg"], ["c.jpg"]]))
    assert [(photo.state, photo.reason) for photo in made] == [
        ("left out", "no overlap with the others"),
        ("used", ""),
        ("left out", "shows another scene, or a side that no photo connects (no. 3)"),
        ("left out", "broken"),
    ]


# ------------------------------------------------------------------------------------------------- how it goes on


def test_an_interrupted_run_goes_on_to_the_same_poses(
    posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object) -> NoReturn:
        raise KeyboardInterrupt

    def full(*args: object, **options: object) -> NoReturn:
        raise MachineError("index.html: cannot be written (No space left on device); free space")

    out, partial = tmp_path / "scene", tmp_path / "scene.partial"
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "match", interrupt)
        assert photos(posed.pictures, out) == 130
    said = capsys.readouterr().err
    assert "Interrupted. Finished stages are kept: go on with the same command and --resume." in said
    assert not out.exists()
    assert "was left by an interrupted run; add --resume" in failed(capsys, posed.pictures, out)

    with monkeypatch.context() as patch:
        patch.setattr(command, "prepare_pictures", None)  # is not needed again
        patch.setattr(command, "write_page", full)
        message = failed(capsys, posed.pictures, out, "--resume")
    assert message.endswith("cannot be written (No space left on device); free space, then add --resume")
    assert {"sparse/0/points3D.bin", "images/IMG_000.jpg", "photos.json"} <= below(partial)

    with monkeypatch.context() as patch:
        patch.setattr(command, "Workspace", None)  # nor are features, matches and poses
        assert photos(posed.pictures, out, "--resume") == 0
    assert not partial.exists()
    for name in ("transforms.json", "sparse_pc.ply", "sparse/0/images.bin", "sparse/0/points3D.bin"):
        assert (out / name).read_bytes() == (posed.scene / name).read_bytes(), name
    assert "6 of 6 pictures have a pose" in capsys.readouterr().err


def test_resume_holds_to_the_options_of_the_run(posed: Posed, capsys: pytest.CaptureFixture[str]) -> None:
    message = failed(capsys, posed.pictures, posed.scene, "--resume", "--max-size", "800")
    assert "was begun with --max-size 1600, not 800" in message


def test_a_finished_scene_that_has_no_name_yet_gets_it(posed: Posed, tmp_path: Path) -> None:
    posed.copied(tmp_path / "scene.partial")
    assert photos(posed.pictures, tmp_path / "scene", "--resume") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]
    assert not list((tmp_path / "scene").glob("database*"))


def test_a_finished_scene_is_trained_by_its_whole_path(
    posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = posed.copied(tmp_path / "scene")
    (scene / "training").mkdir()
    for name in (SUMMARY.gif, SUMMARY.comparison):
        shutil.copyfile(scene / "images" / "IMG_000.jpg", scene / name)
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []

    def train(folder: Path, *, seconds: float | None, seed: int, say: Callable[[str], None], resume: bool) -> Any:
        asked.append((folder, seconds, seed, resume))
        return SUMMARY

    monkeypatch.setattr(command, "train_scene", train)
    assert photos(posed.pictures, Path("scene"), "--resume") == 0
    assert "scene is finished; add --train to train on it" in capsys.readouterr().err
    assert asked == []
    assert photos(posed.pictures, Path("scene"), "--resume", "--train", "--train-seconds", "30") == 0
    assert asked == [(tmp_path / "scene", 30, command.SEED, True)]
    assert "27.31 dB on 2 held-out photos; scene/training/flythrough.gif" in capsys.readouterr().err
    page = (scene / "index.html").read_text()
    assert "27.31" in page
    assert "data:image/gif;base64," in page
    assert "--resume --train" not in page


# ------------------------------------------------------------------------------------------------- what it refuses


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that have nothing in common."""
    folder = tmp_path_factory.mktemp("three")
    for i, pose in enumerate(arc(3, 0.4)):
        write_capture(folder, [pose], (Plane((-3, 3, 3), (6, 0, 0), (0, 0, -3), 30 + i),), name=f"P{i}")
    return folder


def test_pictures_without_overlap_leave_nothing(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("peak_nerf.photos.mapping.DENSE", command.Search(max_features=500, upsampled=False))
    message = failed(capsys, three, tmp_path / "scene")
    assert message.startswith(f"{three}: none of the 3 pictures shows what another one shows; take pictures that")
    assert below(tmp_path) == set()


@pytest.mark.parametrize(
    ("source", "options", "problem"),
    [
        ("nowhere", (), "nowhere: no such folder or video"),
        ("empty", (), "empty: is empty; name a folder of JPEG"),
        ("one", (), "one: holds one picture; take at least 3"),
        ("one/P0_000.jpg", (), "P0_000.jpg: is one picture; name the folder that holds all of them"),
        ("scene", (), "scene: has poses already (transforms.json): ns-train peak --data"),
        ("three", ("--masks", "nowhere"), "--masks nowhere: no such folder"),
        ("three", ("--max-size", "-5"), "--max-size: must be from 64 to 65536, got -5"),
        ("three", ("--video-frames", "0"), "--video-frames: must be from 3 to 100000, got 0"),
        ("three", ("--train-seconds", "-1"), "--train-seconds: must be above 0"),
    ],
)
def test_refusals_leave_nothing(
    three: Path,
    posed: Posed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    options: tuple[str, ...],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    shutil.copy(three / "P0_000.jpg", tmp_path / "one")
    (tmp_path / "three").symlink_to(three)
    (tmp_path / "scene").symlink_to(posed.scene)
    before = below(tmp_path)
    assert problem in failed(capsys, Path(source), tmp_path / "out", *options)
    assert below(tmp_path) == before


def test_an_out_that_is_taken_stays_as_it_is(
    three: Path, posed: Posed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a")
    assert "file: is a file; name another folder with --out" in failed(capsys, three, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("a")
    assert "full: exists already; name another folder" in failed(capsys, three, tmp_path / "full")
    before = (posed.scene / "transforms.json").stat().st_mtime_ns
    assert "exists already; add --resume" in failed(capsys, posed.pictures, posed.scene)
    assert (posed.scene / "transforms.json").stat().st_mtime_ns == before
    assert below(tmp_path) == {"file", "full", "full/a"}


def test_without_pycolmap_nothing_is_begun(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert "pip install 'pycolmap>=4.2'" in failed(capsys, three, tmp_path / "scene")
    assert below(tmp_path) == set()


# ---------------------------------------------------------------------------------------------------------- full disks


def test_a_nearly_full_disk_keeps_what_is_done(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calls.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))
    message = failed(capsys, three, tmp_path / "scene")
    assert "database.db: the disk is nearly full (3.0 MiB free, up to " in message
    assert message.endswith("free space and add --resume")
    assert Record.model_validate_json((tmp_path / "scene.partial" / "photos.json").read_text()).photos is not None


@pytest.mark.parametrize("cut", ["cameras", "images", "points3D"])
def test_a_model_that_the_disk_did_not_take_whole_is_noticed(
    posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    """COLMAP writes half a file without a word."""
    model = calls.load().Reconstruction(posed.scene / "sparse" / "0")

    def write_binary(folder: Path) -> None:
        model.write_binary(folder)
        path = folder / f"{cut}.bin"
        path.write_bytes(path.read_bytes()[:-8])

    half = SimpleNamespace(write_binary=write_binary, image=model.image, reg_image_ids=model.reg_image_ids)
    monkeypatch.setattr(command, "_find_poses", lambda *args: Mapped(half))
    message = failed(capsys, posed.pictures, tmp_path / "scene")
    assert message.endswith(f"sparse/0/{cut}.bin: cannot be written whole; free space and add --resume")
    record = Record.model_validate_json((tmp_path / "scene.partial" / "photos.json").read_text())
    assert record.how is None  # poses are found again


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 600 KiB, where that is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if os.name != "posix" or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_in_one_line(posed: Posed, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = failed(capsys, posed.pictures, small_disk / "scene")
    assert "cannot be written ([Errno 28]" in message
    assert message.endswith("add --resume")
    assert (small_disk / "scene.partial" / "photos.json").is_file()


def test_errors_of_other_files_are_said_in_one_line(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **options: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Workspace, "find_features", full)
    message = failed(capsys, three, tmp_path / "scene")
    problem = "cannot be written ([Errno 28] No space left on device)"
    assert message == f"{tmp_path / 'scene.partial'}: {problem}; free space and add --resume"
