"""The workspace: what is not computed twice, whose cameras and masks they are, and how it stops."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.photos import calls, colmap
from peak_nerf.photos.calls import check_space, load, run
from peak_nerf.photos.colmap import Search, Workspace
from peak_nerf.photos.model import Photo
from tests.photos.capture import arc, picture, texture
from tests.photos.posed import Posed

SMALL = Search(max_features=500, upsampled=False)


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def photo(folder: Path, name: str, rgb: np.ndarray, exif: bytes = b"", **values: Any) -> Photo:
    """With its copy in folder/images; its digest is its name, unless given."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(folder / "images" / f"{name}.jpg", quality=95, **({"exif": exif} if exif else {}))
    h, w = rgb.shape[:2]
    return Photo(name, **{"file": f"images/{name}.jpg", "size": (w, h), "camera": "one", "digest": name, **values})


def small_capture(folder: Path, n: int = 3) -> list[Photo]:
    return [photo(folder, f"p{i}", picture(pose, size=(240, 180))) for i, pose in enumerate(arc(n, 0.8))]


def keypoints(work: Workspace) -> dict[str, np.ndarray]:
    with work.open() as database:
        return {name: np.asarray(database.read_keypoints(i)) for name, i in work.ids.items()}


class Counted:
    """In place of `run`: notes the calls, and is interrupted before the one of that number."""

    def __init__(self, patch: pytest.MonkeyPatch, interrupted_at: int | None = None) -> None:
        self.n_calls = 0
        self.interrupted_at = interrupted_at
        patch.setattr(colmap, "run", self)

    def __call__(self, function: Any, *args: Any, **options: Any) -> Any:
        if self.n_calls == self.interrupted_at:
            raise KeyboardInterrupt
        self.n_calls += 1
        return run(function, *args, **options)


# ----------------------------------------------------------------------------------------------------------- resume


def test_what_was_found_is_not_computed_again(posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = posed.workspace(tmp_path / "scene")
    counted, progress = Counted(monkeypatch), []
    work.find_features(lambda done, total: progress.append((done, total)))
    pairs = [(a, b) for a in work.names for b in work.names if a < b]
    work.match(pairs, lambda done, total: progress.append((done, total)))
    assert counted.n_calls == 0
    assert progress == [(6, 6), (15, 15)]
    assert len(work.verified_pairs()) == 15


def test_interrupted_features_and_matches_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, pairs = small_capture(tmp_path / "a"), [(1, 2), (1, 3), (2, 3)]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    whole = Workspace(tmp_path / "a", photos, SMALL)
    whole.find_features(silent)
    whole.match(pairs, silent)

    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(colmap, "PAIRS_AT_ONCE", 1)
    Counted(monkeypatch, interrupted_at=2)
    with pytest.raises(KeyboardInterrupt):
        Workspace(tmp_path / "b", photos, SMALL).find_features(silent)
    counted, progress = Counted(monkeypatch), []
    work = Workspace(tmp_path / "b", photos, SMALL)
    work.find_features(lambda done, total: progress.append((done, total)))
    assert (counted.n_calls, progress) == (1, [(2, 3), (3, 3)])
    Counted(monkeypatch, interrupted_at=1)
    with pytest.raises(KeyboardInterrupt):
        work.match(pairs, silent)
    counted, progress = Counted(monkeypatch), []
    work = Workspace(tmp_path / "b", photos, SMALL)
    work.match(pairs, lambda done, total: progress.append((done, total)))
    assert (counted.n_calls, progress) == (2, [(1, 3), (2, 3), (3, 3)])

    for name, points in keypoints(whole).items():
        np.testing.assert_array_equal(keypoints(work)[name], points)
    for pair, geometry in whole.verified_pairs().items():
        np.testing.assert_array_equal(work.verified_pairs()[pair].inlier_matches, geometry.inlier_matches)
    assert not list((tmp_path / "b").glob("*.pairs"))


def test_a_database_that_was_half_begun_is_begun_again(tmp_path: Path) -> None:
    photos = small_capture(tmp_path)
    Workspace(tmp_path, photos[1:], SMALL)
    work = Workspace(tmp_path, photos, SMALL)
    with work.open() as database:
        assert {image.name: image.image_id for image in database.read_all_images()} == work.ids
        assert (database.num_cameras(), database.num_rigs(), database.num_frames()) == (1, 1, 3)


# --------------------------------------------------------------------------------------------------- images, cameras


def test_ids_follow_the_digests_and_only_used_photos_have_one(tmp_path: Path) -> None:
    grey = np.full((60, 80, 3), 128, np.uint8)
    photos = [
        photo(tmp_path, "a", grey, digest="33"),
        photo(tmp_path, "b", grey, digest="11"),
        photo(tmp_path, "c", grey, digest="22", state="left out"),
        photo(tmp_path, "d", grey, digest="22"),
    ]
    work = Workspace(tmp_path, photos, SMALL)
    assert work.ids == {"b.jpg": 1, "d.jpg": 2, "a.jpg": 3}
    assert work.names == {1: "b.jpg", 2: "d.jpg", 3: "a.jpg"}
    with work.open() as database:
        assert {image.name: image.image_id for image in database.read_all_images()} == work.ids


def test_pictures_of_one_camera_share_a_lens_and_exif_says_its_focal_length(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28  # mm, as if the film were 36 x 24, whose diagonal is 43.27
    grey, bytes_ = np.full((300, 400, 3), 128, np.uint8), exif.tobytes()
    photos = [
        photo(tmp_path, "a", grey, camera="phone", exif=bytes_),
        photo(tmp_path, "b", grey, camera="unknown"),
        photo(tmp_path, "c", grey, camera="phone", exif=bytes_),
    ]
    with Workspace(tmp_path, photos, SMALL).open() as database:
        by_name = {image.name: database.read_camera(image.camera_id) for image in database.read_all_images()}
    assert by_name["a.jpg"].camera_id == by_name["c.jpg"].camera_id != by_name["b.jpg"].camera_id
    assert by_name["a.jpg"].mean_focal_length() == pytest.approx(28 / 43.27 * 500, rel=1e-3)
    assert by_name["a.jpg"].has_prior_focal_length
    assert by_name["b.jpg"].mean_focal_length() == pytest.approx(1.2 * 400)
    assert not by_name["b.jpg"].has_prior_focal_length
    assert by_name["b.jpg"].model_name == "SIMPLE_RADIAL"


def test_masked_parts_have_no_keypoints(tmp_path: Path) -> None:
    rgb = texture(5)[:180, :240]
    mask = np.zeros((180, 240), np.uint8)
    mask[:, 120:] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "other_name.png")
    Image.fromarray(np.full_like(mask, 255)).save(tmp_path / "masks" / "b.png")
    photos = [photo(tmp_path, "a", rgb, mask="masks/other_name.png"), photo(tmp_path, "b", rgb, mask="masks/b.png")]
    work = Workspace(tmp_path, photos, SMALL)
    work.find_features(silent)
    found = keypoints(work)
    assert found["a.jpg"][:, 0].min() >= 120
    assert len(found["a.jpg"]) > 50
    assert found["b.jpg"][:, 0].min() < 60


@pytest.mark.parametrize(("size", "octave"), [((240, 180), -1), ((1200, 64), 0)])
def test_small_pictures_are_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], octave: int
) -> None:
    seen = []
    monkeypatch.setattr(colmap, "run", lambda *args, extraction_options, **_: seen.append(extraction_options.sift))
    Workspace(tmp_path, [photo(tmp_path, "a", np.zeros((*size[::-1], 3), np.uint8))], Search()).find_features(silent)
    assert [(sift.first_octave, sift.max_num_features, sift.peak_threshold) for sift in seen] == [
        (octave, 8192, pytest.approx(0.0067))
    ]


def test_search_options_reach_the_matcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(colmap, "run", lambda *args, **options: seen.append(options))
    search = Search(max_ratio=0.7, guided=True, ignore_static=True)
    Workspace(tmp_path, small_capture(tmp_path, 2), search).match([(1, 2)], silent)
    (options,) = seen
    assert options["matching_options"].sift.max_ratio == 0.7
    assert options["matching_options"].guided_matching
    assert options["verification_options"].filter_stationary_matches
    assert options["verification_options"].ransac.random_seed == colmap.SEED


# ---------------------------------------------------------------------------------------------------------- turntable


def on_a_turntable(folder: Path, n: int = 3) -> list[Photo]:
    """Pictures of the corner before a background that stands still."""
    background, photos = texture(9)[:300, :400], []
    for i, pose in enumerate(arc(n, 0.8)):
        rgb = background.copy()
        rgb[60:240, 100:300] = picture(pose)[60:240, 100:300]
        photos.append(photo(folder, f"t{i}", rgb))
    return photos


def test_a_background_that_stands_still_is_noticed_and_left_out(tmp_path: Path) -> None:
    pairs = [(1, 2), (1, 3), (2, 3)]
    work = Workspace(tmp_path, on_a_turntable(tmp_path), Search(max_features=2000, upsampled=False))
    work.find_features(silent)
    work.match(pairs, silent)
    assert work.static_pairs() == 1
    moving = work.without_static(silent)
    assert moving.static_pairs() == 0
    assert moving.search.ignore_static
    places = keypoints(moving)
    for (a, b), geometry in moving.verified_pairs().items():
        matches = np.asarray(geometry.inlier_matches)
        moved = places[moving.names[a]][matches[:, 0], :2] - places[moving.names[b]][matches[:, 1], :2]
        assert (np.linalg.norm(moved, axis=1) > 1).all()
    assert moving.verified_pairs()
    assert work.static_pairs() == 1  # the first database is as it was


def test_a_camera_that_moves_sees_nothing_static(posed: Posed, tmp_path: Path) -> None:
    assert posed.workspace(tmp_path / "scene").static_pairs() == 0


# ------------------------------------------------------------------------------------------------------------- calls


def test_ctrl_c_cancels_and_waits_for_the_end() -> None:
    load()  # takes its time once
    ends: list[bool] = []

    def long(cancellation_token: Any) -> None:
        for _ in range(500):
            if cancellation_token.is_cancelled:
                break
            time.sleep(0.01)
        time.sleep(0.1)
        ends.append(cancellation_token.is_cancelled)

    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(long)
    timer.join()
    assert ends == [True]


def test_calls_return_and_fail_as_the_function_does() -> None:
    assert run(lambda a, *, b, cancellation_token: (a, b), 1, b=2) == (1, 2)

    def full(cancellation_token: Any) -> None:
        raise RuntimeError("disk I/O error\nand more")

    with pytest.raises(PeakError) as caught:
        run(full)
    assert str(caught.value) == (
        "structure from motion stopped (disk I/O error); free disk space or memory and add --resume"
    )


def test_without_pycolmap_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(PeakError, match=r"needs pycolmap .*pip install 'pycolmap>=4\.2'"):
        load()
    monkeypatch.setitem(sys.modules, "pycolmap", SimpleNamespace(__version__="3.11.1"))  # type: ignore[arg-type]
    with pytest.raises(PeakError, match=r"a newer pycolmap than 3\.11\.1; pip install 'pycolmap>=4\.2'"):
        load()


@pytest.mark.parametrize("what", ["folder", "garbage"])
def test_a_database_that_cannot_be_used_is_named(tmp_path: Path, what: str) -> None:
    photos, path = small_capture(tmp_path, 1), tmp_path / "database.db"
    if what == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"garbage" * 1000)
    with pytest.raises(PeakError) as caught:
        Workspace(tmp_path, photos, SMALL)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be used (")
    assert message.endswith("; free disk space, or delete the file, and add --resume")
    assert "\n" not in message


def test_a_disk_that_is_nearly_full_is_refused_before_colmap_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = small_capture(tmp_path, 2)
    work = Workspace(tmp_path, photos, SMALL)
    free = calls.MARGIN + 10_000
    monkeypatch.setattr(calls.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    check_space(work.path, 10_000)
    with pytest.raises(PeakError, match=r"database\.db: the disk is nearly full \(1\.0 MiB free, up to 1 needed\)"):
        check_space(work.path, 10_001)
    monkeypatch.setattr(colmap, "run", None)  # is not reached
    for stage in (lambda: work.find_features(silent), lambda: work.match([(1, 2)] * 40, silent)):
        with pytest.raises(PeakError, match="free space and add --resume"):
            stage()
