"""Programs as steps: their output, their end, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from peak_nerf.errors import PeakError
from peak_nerf.system.programs import run_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")

Fake = Callable[[str], str]


@pytest.fixture
def fake_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a stand-in program next to a pretended Python."""

    def make(body: str) -> str:
        program = tmp_path / "ns-fake"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return "ns-fake"

    return make


def test_a_failing_program_is_one_line_with_its_command(fake_program: Fake, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(PeakError) as raised:
        run_program([fake_program("echo because >&2; exit 7"), "--data", "my photos"])
    assert str(raised.value) == (
        "ns-fake: ended with exit code 7, see its output above; the command was: ns-fake --data 'my photos'"
    )
    assert capfd.readouterr().err == "because\n"


def test_output_passes_through_after_the_command(fake_program: Fake, capfd: pytest.CaptureFixture) -> None:
    assert 0 <= run_program([fake_program('echo "hello $1"'), "there"]) < 10
    assert capfd.readouterr().out == "$ ns-fake there\nhello there\n"
    said: list[str] = []
    run_program([fake_program("exit 0"), "x"], said.append)
    assert said == ["$ ns-fake x"]


def test_a_missing_program_names_the_remedy(fake_program: Fake) -> None:
    fake_program("exit 0")
    with pytest.raises(PeakError, match=r"ns-nowhere: not found .*pip install"):
        run_program(["ns-nowhere"])


@pytest.mark.parametrize("body", ["exit 130", "kill -INT $$; sleep 5"])
def test_a_program_that_ctrl_c_has_ended_is_a_ctrl_c(fake_program: Fake, body: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_program([fake_program(body)])


@pytest.mark.parametrize("told_both", [False, True])
def test_ctrl_c_leaves_the_program_time_to_save(tmp_path: Path, told_both: bool) -> None:
    """As a terminal does it, which tells all, and as `kill -INT` does, which tells us alone."""
    ours = f"""
import sys
from peak_nerf.system import programs
programs.PATIENCE = {30 if told_both else 0.3}
try:
    programs.run_program([sys.executable.rpartition("/")[2], "-c", '''
import pathlib, time
print("of the program")
try:
    pathlib.Path("ready").touch()
    time.sleep(30)
except KeyboardInterrupt:
    time.sleep(0.6)
    pathlib.Path("saved").touch()
    raise SystemExit(130)
'''])
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", ours],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 30
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        if told_both:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    lines = out.splitlines()
    assert lines[0].startswith("$ python")  # into a pipe as well, the command is before what it prints
    assert lines[-2:] == ["of the program", "interrupted"]
    assert (tmp_path / "saved").exists()
