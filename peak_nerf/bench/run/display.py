"""What `peak bench` shows while it runs: a line per finished cell, below them the cells at work and the time left."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from peak_nerf.bench.run.records import Result
from peak_nerf.bench.run.runner import Plan
from peak_nerf.bench.run.worker import Event
from peak_nerf.bench.suite.grid import Cell, Suite


def clock(seconds: float) -> str:
    """Seconds as 12 s, 3 min 05 s or 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class TimeLeft:
    """An estimate from what cells of the same method took, else from the time budget, else from all cells."""

    def __init__(self, suite: Suite, todo: Plan, n_workers: int) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)
        self.n_workers = n_workers
        for cell in suite.cells():
            if cell.id in todo.finished:
                self.note(cell, (todo.finished[cell.id].metrics or {}).get("seconds"))

    def note(self, cell: Cell, seconds: Any) -> None:
        """What a cell took."""
        if isinstance(seconds, (int, float)):
            self.taken[cell.key["method"]].append(float(seconds))

    def of(self, cell: Cell) -> float | None:
        """What a cell will take; None when there is nothing to go by."""
        own = self.taken[cell.key["method"]]
        if own:
            return sum(own) / len(own)
        budget = cell.options.get("budget_seconds")
        if isinstance(budget, (int, float)) and not isinstance(budget, bool):
            return float(budget)
        every = [seconds for several in self.taken.values() for seconds in several]
        return sum(every) / len(every) if every else None

    def total(self, waiting: list[Cell], running: dict[str, tuple[Cell, float]]) -> float | None:
        """Seconds for the cells that wait and those that run since some seconds."""
        left = 0.0
        for cell, elapsed in [*((cell, 0.0) for cell in waiting), *running.values()]:
            expected = self.of(cell)
            if expected is None:
                return None
            left += max(expected - elapsed, 0.0)
        return left / self.n_workers


class RichDisplay:
    """Progress on the console; where that is no terminal, only the line per cell."""

    def __init__(self, suite: Suite, todo: Plan, n_workers: int, console: Console) -> None:
        self.suite, self.todo, self.console = suite, todo, console
        self.n_done = len(todo.finished) + len(todo.absent)
        self.time_left = TimeLeft(suite, todo, n_workers)
        self.waiting = [job.cell for job in todo.to_run]
        self.running: dict[str, tuple[Cell, float]] = {}
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
        self.total = self.progress.add_task("cells", total=todo.n_cells, completed=self.n_done, note="")
        self.lines: dict[str, TaskID] = {}

    def __enter__(self) -> RichDisplay:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, cell: Cell) -> None:
        """A cell starts."""
        self.waiting.remove(cell)
        self.running[cell.id] = (cell, time.perf_counter())
        self.lines[cell.id] = self.progress.add_task(cell.id, total=None, note="starting")

    def update(self, cell: Cell, event: Event) -> None:
        """A cell's fit has progressed, or the engine runs it again."""
        if event.kind == "retry":
            self.progress.update(self.lines[cell.id], completed=0, note="again")
            self.console.print(Text(f"{cell.id}: {event.problem}", style="yellow"), soft_wrap=True)
            return
        budget = cell.options.get("budget_seconds")
        if event.n_steps:
            done, total = float(event.step), float(event.n_steps)
        else:
            done, total = event.seconds, float(budget) if isinstance(budget, (int, float)) else 0.0
        psnr = "" if event.psnr is None else f"PSNR {event.psnr:.2f} dB on {event.scored}, "
        note = f"{psnr}step {event.step}, {clock(event.seconds)}"
        self.progress.update(self.lines[cell.id], completed=min(done, total), total=total or None, note=note)

    def end(self, cell: Cell, result: Result) -> None:
        """A cell has ended."""
        self.n_done += 1
        self.running.pop(cell.id)
        self.progress.remove_task(self.lines.pop(cell.id))
        if result.metrics is not None:
            self.time_left.note(cell, result.seconds)
        # A Text, since print's own style would colour the bars below as well.
        self.console.print(Text(self._line(cell, result), style="" if result.metrics else "red"), soft_wrap=True)
        self.tick()

    def tick(self) -> None:
        """Some time has passed."""
        now = time.perf_counter()
        running = {name: (cell, now - start) for name, (cell, start) in self.running.items()}
        left = self.time_left.total(self.waiting, running)
        note = "" if left is None else f"about {clock(left)} left"
        self.progress.update(self.total, completed=self.n_done, note=note)

    def _line(self, cell: Cell, result: Result) -> str:
        start = f"[{self.n_done}/{self.todo.n_cells}] {cell.id}: "
        if result.metrics is None:
            return f"{start}failed: {result.problem}"
        value = result.metrics.get(self.suite.metric)
        figure = f"{self.suite.metric} {value:.2f} {self.suite.unit}, " if isinstance(value, (int, float)) else ""
        return f"{start}{figure}{clock(result.seconds)}"
