"""What the runner needs of an engine: `run/pool.py` runs jobs on this machine, `ray/engine.py` on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from peak_nerf.bench.run.worker import Event
from peak_nerf.bench.suite.data_root import Job


@runtime_checkable
class Engine(Protocol):
    """Runs jobs side by side; one that fails or dies costs nothing but itself."""

    n_workers: int
    """Jobs at a time, for the estimate of the time left."""

    def run(
        self, jobs: Sequence[Job], begin: Callable[[Job], None], tick: Callable[[], None]
    ) -> Iterator[tuple[Job, Event]]:
        """Run all jobs, in order as there is room; yields the events of each, last of all `done` or `failed`.

        Args:
            jobs: What to run.
            begin: Called with a job when its turn comes; makes its folder `out`.
            tick: Called about twice a second.

        With `done`, the task's files are in the job's `out`. Nothing computes any more when the iterator has ended or
        was closed. Raises: PeakError when the engine cannot go on.
        """
        ...

    def stop(self) -> None:
        """End everything that is at work, if anything is."""
        ...
