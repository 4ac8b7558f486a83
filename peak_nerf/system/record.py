"""What every task's command shares: its folder, its JSON, its peak memory, its progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peak_nerf import __version__
from peak_nerf.system.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console

PROC_STATUS = Path("/proc/self/status")


def check_folder(out: Path) -> None:
    """Find out now, not after the fit, whether results can be written. Raises: PeakError."""
    probe = out / ".probe"
    write_atomically(probe, lambda file: file.write(b""))
    probe.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Strict JSON, whole or not at all. Raises: ValueError on NaN; PeakError when it cannot be written."""
    text = json.dumps(content, indent=1, allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode()))


def versions(*packages: str) -> dict[str, str]:
    """Of Python, peak_nerf, torch, numpy and these packages."""
    return {
        "python": platform.python_version(),
        "peak_nerf": __version__,
        **{name: version(name) for name in ("torch", "numpy", *packages)},
    }


def memory_total() -> int | None:
    """Bytes of memory, of the machine or of its container when that has less; None where neither says."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total


def peak_memory_gib() -> float:
    """Largest resident size of this process since `reset_peak_memory`, in GiB; where Linux's /proc is not, ever."""
    if PROC_STATUS.exists():
        lines = dict(line.split(":", 1) for line in PROC_STATUS.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def reset_peak_memory() -> None:
    """So that a worker of `peak bench` reports the memory of each cell, not of the largest so far."""
    # Not every container allows it; the figure is then that of the whole process.
    with contextlib.suppress(OSError):
        (PROC_STATUS.parent / "clear_refs").write_text("5")


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def say_end(console: Console, line: str, out: Path, partial: bool) -> int:
    """Print a task's line of results, and how to go on with a partial one; returns the exit code."""
    console.print(f"{line}; pictures and metrics.json in {out}", soft_wrap=True)
    if partial:
        console.print(
            f"Interrupted: this result is partial. Go on with the same command and --resume (in {out}).", soft_wrap=True
        )
    return 130 if partial else 0


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left, gone when done; yields what sets its fraction and text."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda fraction, text: bar.update(task, completed=fraction, description=text)
