"""The folders of a suite's runs: RUNS/SUITE/suite.yaml and one folder per cell.

A cell's folder holds `metrics.json` and what else the task wrote, or `error.txt`, or `absent.txt`; and `cell.json`,
what the task was called with. A cell is worked on in a folder of its own, moved into place when it is finished, so that
a killed process leaves nothing that could be taken for a result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peak_nerf.bench.run import stored
from peak_nerf.bench.suite.data_root import Job
from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically

Status = Literal["finished", "failed", "absent", "missing", "changed", "unreadable"]


@dataclass(frozen=True)
class Result:
    """What is known about a cell's run."""

    status: Status
    """`missing` was never run, or not to its end; `changed` was run with other settings than the suite's now;
    `unreadable` has a damaged record, or one of a version that writes others."""
    metrics: dict[str, Any] | None = None
    problem: str = ""
    """Of a cell that failed, changed or is unreadable, in one line."""
    options: dict[str, Any] | None = None
    """What the task was called with, files by path and content."""
    folder: Path = Path()
    newer: str = ""
    """The version of peak_nerf that ran it, where that is newer than this one."""
    seconds: float = 0.0
    """Wall-clock time in this call, data and scoring included; 0 for a result read from its folder."""


def read_result(
    folder: Path, options: dict[str, Any] | None = None, current: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> Result:
    """The state of a cell's folder.

    Args:
        folder: The cell's.
        options: Those of the suite now; a result of others is `changed`. None takes it as it is.
        current: Turns recorded options, which may have the names of an older version, into today's.
    """
    try:
        metrics = stored.read_metrics(folder / "metrics.json")
        if metrics is not None and not metrics.get("partial"):
            before, newer = stored.read_options(folder / "cell.json"), stored.newer_version(metrics)
            before = None if before is None else current(before)
            if options is None or before == options:
                return Result("finished", metrics, "", before, folder, newer)
            return Result("changed", metrics, _difference(before, options), before, folder, newer)
    except stored.Unreadable as error:
        return Result("unreadable", None, str(error), None, folder, error.newer)
    except ValueError as error:  # an option under two names
        return Result("unreadable", None, f"cell.json: {error}", None, folder)
    notes: tuple[tuple[str, Status], ...] = (("error.txt", "failed"), ("absent.txt", "absent"))
    for name, status in notes:
        if (problem := stored.read_note(folder / name)) is not None:
            return Result(status, None, problem, None, folder)
    return Result("missing", folder=folder)


def start(job: Job) -> None:
    """Make the job's `out`, empty but for what the task is called with."""
    _clear(job.out)
    text = json.dumps({"key": job.cell.key, "options": job.recorded}, indent=1, allow_nan=False)
    write_atomically(job.out / "cell.json", lambda file: file.write(text.encode()))


def finish(job: Job, seconds: float) -> Result:
    """Move a job's finished work into place, if it left metrics; otherwise it has failed.

    Args:
        job: One that the engine calls done.
        seconds: What it took.
    """
    try:
        metrics = stored.read_metrics(job.out / "metrics.json")
    except stored.Unreadable as error:
        return fail(job, f"the task ended with a record that cannot be read: {error}", seconds)
    if metrics is None:
        return fail(job, f"{job.out / 'metrics.json'}: the task ended without writing strict JSON here", seconds)
    if metrics.get("partial"):
        return fail(job, "the task ended before its time; run the cell again", seconds)
    _clear(job.folder)
    os.rename(job.out, job.folder)
    return Result("finished", metrics, "", job.recorded, job.folder, seconds=seconds)


def fail(job: Job, problem: str, seconds: float) -> Result:
    """Leave the problem in the job's folder, instead of whatever was there.

    Args:
        job: One that failed.
        problem: Its last line is the summary.
        seconds: What it took.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / "metrics.json").unlink(missing_ok=True)
    write_atomically(job.out / "error.txt", lambda file: file.write(f"{problem.rstrip()}\n".encode()))
    _clear(job.folder)
    os.rename(job.out, job.folder)
    return Result("failed", None, problem.strip().splitlines()[-1], None, job.folder, seconds=seconds)


def note_absent(job: Job) -> None:
    """Leave a note of the files that a job lacks, unless it has a result from when they were there."""
    if read_result(job.folder).status not in ("finished", "unreadable"):
        _clear(job.folder)
        text = "".join(f"{file}\n" for file in job.absent)
        write_atomically(job.folder / "absent.txt", lambda file: file.write(text.encode()))


def discard(job: Job) -> None:
    """Delete what an interrupted job has done so far."""
    _clear(job.out)


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


def _difference(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    if before is None:
        return "there is no record of its settings"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in names)
