"""Worker processes that run cells side by side; one that dies costs its cell and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

from peak_nerf.bench.run.worker import Job, Update, work

T = TypeVar("T")
STOP_SECONDS = 5.0
"""How long a worker may take to end when asked to."""


@dataclass(eq=False)
class _Worker(Generic[T]):
    process: SpawnProcess
    jobs: Connection
    task: T | None = None


class Pool(Generic[T]):
    """The local engine: `n_workers` processes that share this machine's cores.

    Spawned, not forked: torch's and numba's threads do not survive a fork.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(cores // n_workers, 1)
        self.workers: list[_Worker[T]] = []

    def run(
        self, tasks: Sequence[T], begin: Callable[[T], Job], tick: Callable[[], None], tick_seconds: float = 0.5
    ) -> Iterator[tuple[T, Update]]:
        """Run all tasks in order; yields what the workers say, as they say it. `begin` makes a task's job."""
        queue = list(reversed(tasks))
        try:
            while queue or any(worker.task is not None for worker in self.workers):
                self._hand_out(queue, begin)
                ready = wait([worker.jobs for worker in self.workers], timeout=tick_seconds)
                for worker in [worker for worker in self.workers if worker.jobs in ready]:
                    task, update = worker.task, self._receive(worker)
                    if update.kind != "progress":
                        worker.task = None
                    if task is not None:
                        yield task, update
                tick()
        finally:
            self.stop()

    def _hand_out(self, queue: list[T], begin: Callable[[T], Job]) -> None:
        while queue:
            idle = next((worker for worker in self.workers if worker.task is None), None)
            if idle is None:
                if len(self.workers) == self.n_workers:
                    return
                idle = self._spawn()
            idle.task = queue.pop()
            try:
                idle.jobs.send(begin(idle.task))
            except OSError:  # died while idle; what it says is found in _receive
                return

    def _spawn(self) -> _Worker[T]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, self.threads), daemon=True)
        resource_tracker.ensure_running()  # or process.start() would, and that unblocks interrupts
        with _interrupts_blocked():
            process.start()
        theirs.close()  # so that the worker's death reads as the end of the connection
        worker: _Worker[T] = _Worker(process, ours)
        self.workers.append(worker)
        return worker

    def _receive(self, worker: _Worker[T]) -> Update:
        try:
            update: Update = worker.jobs.recv()
            return update
        except (EOFError, OSError):
            worker.process.join(STOP_SECONDS)
            self.workers.remove(worker)
            code = worker.process.exitcode or 0
            cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = "; out of memory? Try fewer --jobs" if code == -signal.SIGKILL else ""
            return Update("failed", f"the worker process was {cause}{hint}" if code < 0 else f"the worker {cause}")

    def stop(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.jobs.close()
        self.workers.clear()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process started inside never sees Ctrl-C, which reaches the whole group: its parent decides. Ours waits until
    the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
