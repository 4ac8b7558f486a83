"""What every task's command shares: its folder, its metrics.json, its progress bar."""

from __future__ import annotations

import dataclasses
import json
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peak_nerf import __version__
from peak_nerf.core.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console


def check_folder(out: Path) -> None:
    """Find out now, not after the fit, whether results can be written. Raises: PeakError."""
    probe = out / ".probe"
    write_atomically(probe, lambda file: file.write(b""))
    probe.unlink()


def write_metrics(out: Path, metrics: dict[str, Any]) -> None:
    """metrics.json, strict. Raises: ValueError on NaN; PeakError when it cannot be written."""
    text = json.dumps(metrics, indent=1, allow_nan=False)
    write_atomically(out / "metrics.json", lambda file: file.write(text.encode()))


def versions(*packages: str) -> dict[str, str]:
    """Of Python, peak_nerf and these packages."""
    return {
        "python": platform.python_version(),
        "peak_nerf": __version__,
        **{name: version(name) for name in packages},
    }


def peak_memory_gib() -> float:
    """Largest resident size of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


@contextmanager
def progress_bar(console: Console, method: str) -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left; yields what sets its fraction and text."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{method}: starting", total=1.0)

        def show(fraction: float, text: str) -> None:
            bar.update(task, completed=fraction, description=f"{method}: {text}")

        yield show
