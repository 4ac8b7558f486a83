"""Other programs: of this environment, as steps of a command; and imports tried out in a Python of their own."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peak_nerf.errors import PeakError, exit_on_peak_error

PATIENCE = 10.0
"""Seconds after a Ctrl-C in which a program may notice by itself; a terminal tells it as well as us."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@contextmanager
def exit_as_command() -> Iterator[None]:
    """End the process as a command does: one line and exit code 2 on a `PeakError`, 130 after Ctrl-C."""
    with exit_on_peak_error():
        try:
            yield
        except KeyboardInterrupt:
            print("peak_nerf: interrupted", file=sys.stderr, flush=True)
            raise SystemExit(INTERRUPTED) from None


def run_program(command: Sequence[str], say: Callable[[str], None] | None = None) -> float:
    """Run a program that lies next to this Python, its output passed through; returns the seconds it took.

    `say` is handed the command first; without it the command is printed.

    Ctrl-C leaves it the time to save what it has: `ns-train` writes a checkpoint. A second one kills it.

    Raises: PeakError when it is not installed, and when it fails: one line with the command. KeyboardInterrupt when
        Ctrl-C has ended it, or us.
    """
    program = shutil.which(command[0], path=str(Path(sys.executable).parent))
    if program is None:
        raise PeakError(f"{command[0]}: not found next to {sys.executable}; install with `pip install -e .`")
    (say or _print)("$ " + shlex.join(command))
    start = time.perf_counter()
    process = subprocess.Popen([program, *command[1:]])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        _end(process)
        raise
    if code in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if code != 0:
        raise PeakError(
            f"{command[0]}: ended with exit code {code}, see its output above; the command was: {shlex.join(command)}"
        )
    return time.perf_counter() - start


def _print(line: str) -> None:
    print(line, flush=True)  # before the program's own output, into a pipe as well


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let an interrupted program end by itself; tell it when nobody has; kill it when Ctrl-C comes again."""
    try:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()


def probe(code: str, timeout: float = 60.0) -> dict[str, Any]:
    """The JSON that `code` prints last in a Python of its own, or {"error": why there is none}."""
    try:
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {timeout:.0f} s"}
    if child.returncode < 0:
        return {"error": f"killed by {signal.Signals(-child.returncode).name}"}
    if child.returncode > 0:
        return {"error": last_line(child.stderr) or f"exit code {child.returncode}"}
    try:
        answer = json.loads(last_line(child.stdout))
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"error": "no answer from the import"}


def last_line(text: str) -> str:
    """The last line that is not blank, or nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
