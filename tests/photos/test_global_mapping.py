"""The global mapper in its own process: its models, its errors, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from peak_nerf.errors import MachineError
from peak_nerf.photos import global_mapping
from peak_nerf.photos.convert import pose_of
from tests.photos.capture import aligned
from tests.photos.posed import Posed


def test_poses_are_found_in_another_process(posed: Posed, tmp_path: Path) -> None:
    work = posed.workspace(tmp_path / "scene")
    (model,) = work.map_globally(tmp_path / "out")
    images = [model.image(i) for i in model.reg_image_ids()]
    assert len(images) == 6
    angles, distances = aligned(
        np.stack([pose_of(image) for image in images]), posed.true_poses([image.name for image in images])
    )
    assert angles.max() < 0.5
    assert distances.max() < 0.01
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_it_at_once(posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = posed.workspace(tmp_path / "scene")
    begun: list[subprocess.Popen[str]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], **options: object) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(600)"], **options)  # type: ignore[call-overload]
            begun.append(self)

    monkeypatch.setattr(global_mapping.subprocess, "Popen", Noted)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        work.map_globally(tmp_path / "out")
    timer.join()
    assert begun[0].returncode == -signal.SIGKILL


def test_it_ends_with_whoever_started_it(posed: Posed, tmp_path: Path) -> None:
    work = posed.workspace(tmp_path / "scene")
    command = [sys.executable, "-m", "peak_nerf.photos.global_mapping", work.path, work.images, tmp_path / "out"]
    (tmp_path / "out").mkdir()
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()  # as the system does when its owner is killed
        assert process.wait() == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_its_failure_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "database.db").write_bytes(b"x" * 1000)
    with pytest.raises(MachineError) as caught:
        global_mapping.map_globally(tmp_path / "database.db", tmp_path, tmp_path)
    assert str(caught.value).startswith("structure from motion stopped (")
    assert "\n" not in str(caught.value)
