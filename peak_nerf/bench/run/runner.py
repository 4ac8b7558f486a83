"""Running a suite: which cells are left, an engine for their jobs, and what is kept of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from peak_nerf import __version__
from peak_nerf.bench.run import records
from peak_nerf.bench.run.engine import Engine
from peak_nerf.bench.run.records import Result
from peak_nerf.bench.run.worker import Event
from peak_nerf.bench.suite.data_root import DataRoot, Job
from peak_nerf.bench.suite.file import write_suite
from peak_nerf.bench.suite.grid import Cell, Suite
from peak_nerf.bench.suite.registry import TASKS, option_types
from peak_nerf.errors import PeakError
from peak_nerf.system.locks import locked_folder

SUITE_FILE = "suite.yaml"


@dataclass
class Plan:
    """What is there and what is left to do."""

    to_run: list[Job] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    """Of those to run that have a result already: why it does not count, by the cell's id."""
    finished: dict[str, Result] = field(default_factory=dict)
    """Of an earlier call, by the cell's id."""
    absent: list[Job] = field(default_factory=list)

    @property
    def n_cells(self) -> int:
        """Of the selection, absent ones too."""
        return len(self.to_run) + len(self.finished) + len(self.absent)


@runtime_checkable
class Display(Protocol):
    """What shows a suite's progress."""

    def begin(self, cell: Cell) -> None:
        """A cell starts."""

    def update(self, cell: Cell, event: Event) -> None:
        """A cell's fit has progressed, or the engine runs it again."""

    def end(self, cell: Cell, result: Result) -> None:
        """A cell has ended."""

    def tick(self) -> None:
        """Some time has passed."""


def plan(suite: Suite, folder: Path, data_root: DataRoot, selected: Callable[[Cell], bool]) -> Plan:
    """Sort the selected cells into those that are finished, absent, and to be run."""
    todo, types = Plan(), option_types(TASKS[suite.task])
    for cell in filter(selected, suite.cells()):
        cell = replace(cell, options=types.current(cell.options))
        job = data_root.job(cell, TASKS[suite.task], folder / cell.id)
        if job.absent:
            todo.absent.append(job)
            continue
        result = records.read_result(job.folder, job.recorded, types.current)
        if result.status == "finished":
            todo.finished[cell.id] = result
            continue
        todo.to_run.append(job)
        if result.status in ("changed", "unreadable"):
            if result.newer:
                raise PeakError(
                    f"{job.folder}: is a result of peak_nerf {result.newer}, which this {__version__} would replace"
                    f" ({result.problem}); update peak_nerf or give another --out"
                )
            what = "a result of other settings" if result.status == "changed" else "a record that cannot be read"
            todo.changed[cell.id] = f"has {what} ({result.problem})"
    return todo


def run(suite: Suite, todo: Plan, folder: Path, engine: Engine, display: Display) -> dict[str, Result]:
    """Run what is to be run; returns the results by the cells' ids.

    KeyboardInterrupt passes through, after the workers have ended and what they had half done is deleted.
    Raises: PeakError when `folder` cannot be written, or the engine cannot go on.
    """
    write_suite(suite, folder / SUITE_FILE)
    for job in todo.absent:
        records.note_absent(job)
    results: dict[str, Result] = {}
    started: dict[str, tuple[Job, float]] = {}

    def begin(job: Job) -> None:
        records.start(job)
        started[job.cell.id] = (job, time.perf_counter())
        display.begin(job.cell)

    if not todo.to_run:
        return results
    try:
        for job, event in engine.run(todo.to_run, begin, display.tick):
            if event.kind in ("progress", "retry"):
                display.update(job.cell, event)
                continue
            _, start = started.pop(job.cell.id)
            seconds = time.perf_counter() - start
            done = event.kind == "done"
            result = records.finish(job, seconds) if done else records.fail(job, event.problem, seconds)
            results[job.cell.id] = result
            display.end(job.cell, result)
    finally:
        engine.stop()
        for job, _ in started.values():
            records.discard(job)
    return results


def locked(folder: Path) -> AbstractContextManager[None]:
    """Hold a suite's folder. Raises: PeakError when another `peak bench` holds it, or it cannot be written."""
    return locked_folder(folder, "--out", "`peak bench`")
