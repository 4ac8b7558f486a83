"""pycolmap from afar: calls that stop on Ctrl-C, and whose failures are said in one line."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peak_nerf.errors import MachineError, first_line
from peak_nerf.nerf.data.colmap import load

POLL_SECONDS = 0.1
MARGIN = 2**20
"""Bytes that must stay free."""


def run(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of pycolmap in a thread of its own, so that Ctrl-C is heard, and cancels it.

    Raises: PeakError when it fails, as it does on a full disk.
    """
    token, ended = load().CancellationToken(), threading.Event()  # interrupted, Python 3.11's `join` loses its thread
    answer: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            answer.append(function(*args, **options, cancellation_token=token))
        except BaseException as error:  # raised again below, in the thread that called
            failure.append(error)
        finally:
            ended.set()

    threading.Thread(target=work, daemon=True).start()
    try:
        while not ended.wait(POLL_SECONDS):
            pass
    except KeyboardInterrupt:
        token.cancel()
        ended.wait()
        raise
    if failure:
        raise stopped(failure[0]) from failure[0]
    return answer[0]


def stopped(error: BaseException, path: Path | None = None) -> MachineError:
    """What an error of pycolmap's means, in one line; `path` is the file that it is about."""
    reason = first_line(error)
    if path is not None:
        return MachineError(f"{path}: cannot be used ({reason}); free disk space, or delete the file, and add --resume")
    return MachineError(f"structure from motion stopped ({reason}); free disk space or memory and add --resume")


def check_space(path: Path, needed: int) -> None:
    """Raises: MachineError where the disk of `path` has not so many bytes: on a full one, COLMAP ends the process."""
    free = shutil.disk_usage(path.parent).free
    if free < needed + MARGIN:
        room = f"{free / 2**20:.1f} MiB free, up to {(needed + MARGIN) / 2**20:.0f} needed"
        raise MachineError(f"{path}: the disk is nearly full ({room}); free space and add --resume")
