"""Files that are either whole or not there."""

from __future__ import annotations

import glob
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from peak_nerf.errors import MachineError, PeakError


def check_file(path: Path, remedy: str) -> None:
    """Find out what is wrong with a file's path before a reader does. A pipe passes.

    Args:
        path: as the user gave it.
        remedy: what to give instead, the message's end.

    Raises: PeakError when it is a folder, a device, a link to nothing, not there, or closed to us.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise PeakError(f"{path}: is a folder; {remedy}")
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise PeakError(f"{path}: is a device, not a file; {remedy}")
        if not os.access(path, os.R_OK):
            raise PeakError(f"{path}: cannot be read (Permission denied); change its permissions, or {remedy}")
    except (FileNotFoundError, NotADirectoryError):
        problem = f"is a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else "no such file"
        raise PeakError(f"{path}: {problem}; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PeakError(f"{path}: cannot be read ({reason}); {remedy}") from None


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file next to `path` and put it there in one move, so that a crash leaves the old one.

    Raises: MachineError naming the file when the folder or the disk does not take it.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's own 0600 would hide the file from the user's group
        os.replace(temporary, path)
        temporary = None
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        raise MachineError(f"{path}: cannot be written ({error}); free space or choose another folder") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def delete_written(path: Path) -> None:
    """Delete a file that `write_atomically` wrote, if it is there, and what killed processes have left of it."""
    for file in (path, *path.parent.glob(f"{glob.escape(_prefix(path))}*")):
        file.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    """How the name begins of a file that is being written; a long name has room."""
    return f".{path.name[:40]}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
