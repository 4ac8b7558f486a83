"""Ctrl-C while pycolmap is at work: it ends before the interpreter does, or C++ aborts with a stack trace."""

import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peak_nerf.errors import PeakError
from peak_nerf.photos import colmap
from peak_nerf.photos.colmap import run
from peak_nerf.photos.folder import RECORD, SceneFolder
from peak_nerf.photos.options import PhotosOptions


def test_ctrl_c_waits_for_the_end_of_the_work() -> None:
    """Thread.join, interrupted once, takes a running thread for ended until Python 3.13."""
    pytest.importorskip("pycolmap")
    ended = threading.Event()

    def slow(cancellation_token: Any) -> None:
        time.sleep(0.2)  # until it is waited for
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.5)  # what is under way when it is cancelled
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        run(slow)
    assert ended.is_set()


def test_killed_before_the_record_was_whole_begins_anew(tmp_path: Path) -> None:
    """Left by kill -9: a folder with a part of photos.json under its temporary name."""
    (tmp_path / "scene.partial").mkdir()
    (tmp_path / "scene.partial" / f".{RECORD}.abc").write_text("{")
    options = PhotosOptions(source=tmp_path, out=tmp_path / "scene")
    assert SceneFolder(options).record.photos is None
    folder = SceneFolder(PhotosOptions(source=tmp_path, out=tmp_path / "scene", resume=True))
    folder.begin()
    folder.finish()
    assert [path.name for path in (tmp_path / "scene").iterdir()] == [RECORD]


def test_an_all_but_full_disk_is_said_before_colmap_aborts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COLMAP writes features from threads of its own, where an error of SQLite ends the process."""
    monkeypatch.setattr(colmap.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 << 20))
    with pytest.raises(PeakError, match=r"all but full \(5 MB free\); free 32 MB and add --resume"):
        colmap._require_room(tmp_path)
