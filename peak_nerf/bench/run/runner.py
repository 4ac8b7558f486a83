"""Running a suite: which cells are left, worker processes for them, and what is kept of each."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from peak_nerf.bench.run import records
from peak_nerf.bench.run.engine import Engine
from peak_nerf.bench.run.worker import Job, Update
from peak_nerf.bench.suite.data_root import DataRoot, Inputs
from peak_nerf.bench.suite.file import write_suite
from peak_nerf.bench.suite.grid import Cell, Suite
from peak_nerf.bench.suite.registry import TASKS
from peak_nerf.errors import PeakError

SUITE_FILE = "suite.yaml"


@dataclass(frozen=True)
class Work:
    """A cell to run."""

    cell: Cell
    inputs: Inputs
    folder: Path
    reason: str = ""
    """Why a cell that has a result is run again."""


@dataclass
class Plan:
    """What is there and what is left to do."""

    to_run: list[Work] = field(default_factory=list)
    finished: list[tuple[Cell, dict[str, Any]]] = field(default_factory=list)
    """From an earlier call, with their metrics."""
    absent: list[tuple[Cell, list[Path]]] = field(default_factory=list)

    @property
    def n_cells(self) -> int:
        """Of the selection, absent ones too."""
        return len(self.to_run) + len(self.finished) + len(self.absent)


@dataclass(frozen=True)
class Outcome:
    """How a cell ended in this call."""

    cell: Cell
    status: Literal["finished", "failed"]
    seconds: float
    """On the clock, data and scoring included."""
    metrics: dict[str, Any] | None = None
    problem: str = ""


class Display(Protocol):
    """Who wants to know how it goes."""

    def begin(self, cell: Cell) -> None:
        """A cell starts."""

    def update(self, cell: Cell, update: Update) -> None:
        """A fit reports."""

    def retry(self, cell: Cell, problem: str) -> None:
        """A cell was lost, and the engine runs it again."""

    def end(self, outcome: Outcome) -> None:
        """A cell has ended."""

    def tick(self) -> None:
        """Some time has passed."""


def plan(suite: Suite, folder: Path, data_root: DataRoot, selected: Callable[[Cell], bool]) -> Plan:
    """Sort the selected cells into those that are finished, absent, and to be run."""
    answer = Plan()
    for cell in filter(selected, suite.cells()):
        inputs = data_root.inputs(cell)
        if inputs.absent:
            answer.absent.append((cell, inputs.absent))
            continue
        record = records.read_record(folder / cell.id, inputs.record)
        if record.status == "finished" and record.metrics is not None:
            answer.finished.append((cell, record.metrics))
        else:
            reason = record.problem if record.status == "changed" else ""
            answer.to_run.append(Work(cell, inputs, folder / cell.id, reason))
    return answer


def run(suite: Suite, todo: Plan, folder: Path, engine: Engine[Work], display: Display) -> list[Outcome]:
    """Run what is to be run; returns how each cell ended.

    KeyboardInterrupt passes through, after the workers have ended and what they had half done is deleted.
    Raises: PeakError when `folder` cannot be written, or the engine cannot go on.
    """
    write_suite(suite, folder / SUITE_FILE)
    for cell, absent in todo.absent:
        records.note_absent(folder / cell.id, absent)
    outcomes: list[Outcome] = []
    started: dict[str, float] = {}
    target = TASKS[suite.task]

    def begin(work: Work) -> Job:
        out = records.start(work.folder, work.cell, work.inputs.record)
        started[work.cell.id] = time.perf_counter()
        display.begin(work.cell)
        return Job(target, work.inputs.options, str(out), work.inputs.files)

    if not todo.to_run:
        return outcomes
    try:
        for work, update in engine.run(todo.to_run, begin, display.tick):
            if update.kind == "progress":
                display.update(work.cell, update)
                continue
            if update.kind == "retry":
                display.retry(work.cell, update.problem)
                continue
            seconds = time.perf_counter() - started.pop(work.cell.id)
            outcome = _conclude(work, update, seconds)
            outcomes.append(outcome)
            display.end(outcome)
    finally:
        engine.stop()
        for cell_id in started:
            records.discard(folder / cell_id)
    return outcomes


def _conclude(work: Work, update: Update, seconds: float) -> Outcome:
    problem = update.problem
    if update.kind == "done":
        try:
            return Outcome(work.cell, "finished", seconds, records.finish(work.folder))
        except PeakError as error:
            problem = str(error)
    records.fail(work.folder, problem)
    return Outcome(work.cell, "failed", seconds, problem=problem.strip().splitlines()[-1])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a suite's folder. Raises: PeakError when another `peak bench` holds it, or it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise PeakError(f"{folder}: cannot be written ({error.strerror}); give another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PeakError(
                f"{folder}: another `peak bench` is at work here; wait for it or give another --out"
            ) from None
        yield
