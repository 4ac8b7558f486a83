"""What the runner asks of whatever runs its cells: `pool.py` on this machine, `ray_engine.py` on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from peak_nerf.bench.run.worker import Job, Update

T = TypeVar("T")


class Engine(Protocol[T]):
    """Runs cells side by side; one that fails or dies costs nothing but itself."""

    n_workers: int
    """Cells at a time, for the estimate of the time left."""

    def run(
        self, tasks: Sequence[T], begin: Callable[[T], Job], tick: Callable[[], None]
    ) -> Iterator[tuple[T, Update]]:
        """Run all tasks, in order as there is room; yields what is said of each, last of all `done` or `failed`.

        `begin` makes a task's job when its turn comes. With `done`, the cell's files are in the job's `out`. Raises:
        PeakError when it cannot go on; nothing computes any more when the iterator has ended or was closed.
        """
        ...

    def stop(self) -> None:
        """End everything that is at work, if anything is."""
        ...
