"""Folders in which one process works at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from peak_nerf.errors import PeakError

LOCK = ".lock"
"""Name of the file that is locked."""


def lock_folder(folder: Path, option: str, who: str) -> TextIO:
    """Make the folder and hold it: until the file that is returned is closed, or this process ends, however it ends.

    Args:
        folder: holds a file `LOCK` from then on, which means nothing by itself.
        option: that chooses another folder, for the error's remedy.
        who: may be at work there already.

    Raises: PeakError when another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise PeakError(f"{folder}: cannot be written ({error.strerror}); give another {option}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise at_work(folder, option, who) from None
    except OSError as error:
        file.close()
        raise PeakError(f"{folder}: cannot be locked ({error.strerror}); give {option} on another disk") from error
    if not _is_there(folder / LOCK, file):  # who held it before has left nothing behind
        file.close()
        return lock_folder(folder, option, who)
    return file


@contextmanager
def locked_folder(folder: Path, option: str, who: str, leaves_lock: bool = True) -> Iterator[None]:
    """Hold a folder as `lock_folder` does, for a while; where nothing came about in it, nothing of it stays.

    Whoever holds it may move it, and goes on holding it, or delete it. The file `LOCK` stays beside what came about
    unless `leaves_lock` is False.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    with lock_folder(folder, option, who):
        try:
            yield
        finally:
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            if names == [LOCK] or (LOCK in names and not leaves_lock):
                (folder / LOCK).unlink()
            for path in made:
                if path.is_dir():
                    if any(path.iterdir()):
                        break
                    path.rmdir()


def at_work(folder: Path, option: str, who: str) -> PeakError:
    """That another process holds the folder, as `lock_folder` says it."""
    return PeakError(f"{folder}: another {who} is at work here; wait for it or give another {option}")


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder at this moment."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_there(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
