"""What `peak photos` shows while it works: a line for each finished stage, below them a bar with the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft


class Display:
    """Lines, and one bar at a time."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeLeft())
        self.console = console
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_progress(self, done: int, total: int) -> None:
        """Move the bar of the stage at work."""
        if self._task is not None:
            self.bar.update(self._task, completed=done, total=total)

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """Show a bar for what is done inside, and how long it took."""
        begin = time.perf_counter()
        self._task = self.bar.add_task(what, total=None)
        try:
            with self.bar:
                yield
        finally:
            self.bar.remove_task(self._task)
            self._task = None
        self.say(f"{what}: {time.perf_counter() - begin:.0f} s")
