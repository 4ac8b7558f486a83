"""The folders of a suite's runs: RUNS/SUITE/suite.yaml and one folder per cell.

A cell's folder holds `metrics.json` and what else the task wrote, or `error.txt`, or `absent.txt`; and `cell.json`,
what the task was called with. A cell is worked on in a folder of its own, moved into place when it is finished, so that
a killed process leaves nothing that could be taken for a result.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peak_nerf.bench.suite.grid import Cell
from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically

Status = Literal["finished", "failed", "absent", "missing", "changed"]


@dataclass(frozen=True)
class Record:
    """What is known about a cell."""

    status: Status
    """`missing` was never run, or not to its end; `changed` was run with other settings than the suite's now."""
    metrics: dict[str, Any] | None = None
    problem: str = ""
    """Of a cell that failed or changed, in one line."""
    options: dict[str, Any] | None = None
    """What the task was called with, files by place and content."""
    folder: Path = Path()


def work_folder(folder: Path) -> Path:
    """Where a cell is worked on, beside its final place."""
    return folder.with_name(f".{folder.name}.partial")


def read_record(folder: Path, options: dict[str, Any] | None = None) -> Record:
    """The state of a cell's folder; with `options`, whether it was run with these."""
    metrics = _read_json(folder / "metrics.json")
    if metrics is not None and not metrics.get("partial"):
        before = (_read_json(folder / "cell.json") or {}).get("options")
        if options is None or before == options:
            return Record("finished", metrics, "", before, folder)
        return Record("changed", metrics, _difference(before, options), before, folder)
    notes: tuple[tuple[str, Status], ...] = (("error.txt", "failed"), ("absent.txt", "absent"))
    for name, status in notes:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return Record(status, None, lines[-1] if lines else "no message", None, folder)
    return Record("missing", folder=folder)


def start(folder: Path, cell: Cell, options: dict[str, Any]) -> Path:
    """An empty work folder that knows what the cell is called with."""
    work = work_folder(folder)
    _clear(work)
    text = json.dumps({"key": cell.key, "options": options}, indent=1, allow_nan=False)
    write_atomically(work / "cell.json", lambda file: file.write(text.encode()))
    return work


def finish(folder: Path) -> dict[str, Any]:
    """Move a cell's finished work into place; returns its metrics. Raises: PeakError when there are none."""
    work = work_folder(folder)
    metrics = _read_json(work / "metrics.json")
    if metrics is None:
        raise PeakError(f"{work / 'metrics.json'}: the task ended without writing strict JSON here")
    if metrics.get("partial"):
        raise PeakError("the task ended before its time; run the cell again")
    _clear(folder)
    os.rename(work, folder)
    return metrics


def fail(folder: Path, problem: str) -> None:
    """Leave the problem in the cell's folder, instead of whatever was there; its last line is the summary."""
    work = work_folder(folder)
    work.mkdir(parents=True, exist_ok=True)
    (work / "metrics.json").unlink(missing_ok=True)
    write_atomically(work / "error.txt", lambda file: file.write(f"{problem.rstrip()}\n".encode()))
    _clear(folder)
    os.rename(work, folder)


def note_absent(folder: Path, absent: list[Path]) -> None:
    """Leave a note of the files that a cell lacks, unless it is finished from when they were there."""
    if read_record(folder).status != "finished":
        _clear(folder)
        text = "".join(f"{file}\n" for file in absent)
        write_atomically(folder / "absent.txt", lambda file: file.write(text.encode()))


def discard(folder: Path) -> None:
    """Delete what an interrupted cell has done so far."""
    _clear(work_folder(folder))


def _clear(folder: Path) -> None:
    """Delete a folder; its metrics.json first, for without that it is no result."""
    try:
        (folder / "metrics.json").unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise PeakError(
            f"{folder}: cannot be replaced ({error}); check its permissions or give another --out"
        ) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _difference(before: Any, now: dict[str, Any]) -> str:
    if not isinstance(before, dict):
        return "there is no record of its settings"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in names)
