"""Ctrl-C while pycolmap is at work: it ends before the interpreter does, or C++ aborts with a stack trace."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from peak_nerf.photos.calls import run
from peak_nerf.photos.folder import RECORD, SceneFolder
from peak_nerf.photos.options import PhotosOptions


def test_ctrl_c_waits_for_the_end_of_the_work() -> None:
    """Thread.join, interrupted once, takes a running thread for ended until Python 3.13."""
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


def test_pillow_is_loaded_before_pycolmap() -> None:
    """Loaded after it, Pillow 13 was seen to corrupt the heap when it writes a PNG."""
    script = (
        "import sys\nfrom peak_nerf.photos.calls import load\nload()\nloaded = list(sys.modules)\n"
        "print(loaded.index('PIL._imaging') < loaded.index('pycolmap._core'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True"


def test_a_terminated_process_prints_no_stack_trace() -> None:
    """pycolmap's logging takes SIGTERM for a failure."""
    script = "import os, signal\nfrom peak_nerf.photos.calls import load\nload()\nos.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stderr, done.returncode) == ("", -signal.SIGTERM)
