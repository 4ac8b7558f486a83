"""Worker processes that run jobs side by side; one that dies costs its job and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from peak_nerf.bench.run.worker import Event, work
from peak_nerf.bench.suite.data_root import Job
from peak_nerf.system.interrupts import interrupts_blocked

STOP_SECONDS = 5.0
"""How long a worker may take to end when asked to."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None


class Pool:
    """The local engine: `n_workers` processes that share this machine's cores.

    Spawned, not forked: torch's and numba's threads do not survive a fork.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(cores // n_workers, 1)
        self.workers: list[_Worker] = []

    def run(
        self, jobs: Sequence[Job], begin: Callable[[Job], None], tick: Callable[[], None], tick_seconds: float = 0.5
    ) -> Iterator[tuple[Job, Event]]:
        """As `Engine.run`, with a tick every `tick_seconds` at least."""
        queue = list(reversed(jobs))
        try:
            while queue or any(worker.job is not None for worker in self.workers):
                self._hand_out(queue, begin)
                ready = wait([worker.pipe for worker in self.workers], timeout=tick_seconds)
                for worker in [worker for worker in self.workers if worker.pipe in ready]:
                    job, event = worker.job, self._receive(worker)
                    if event.kind != "progress":
                        worker.job = None
                    if job is not None:
                        yield job, event
                tick()
        finally:
            self.stop()

    def _hand_out(self, queue: list[Job], begin: Callable[[Job], None]) -> None:
        while queue:
            idle = next((worker for worker in self.workers if worker.job is None), None)
            if idle is None:
                if len(self.workers) == self.n_workers:
                    return
                idle = self._spawn()
            idle.job = queue.pop()
            try:
                begin(idle.job)
                idle.pipe.send(idle.job)
            except OSError:  # died while idle, which _receive finds
                return

    def _spawn(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, self.threads), daemon=True)
        resource_tracker.ensure_running()  # or process.start() would, and that unblocks interrupts
        with interrupts_blocked():
            process.start()
        theirs.close()  # so that the worker's death reads as the end of the connection
        worker = _Worker(process, ours)
        self.workers.append(worker)
        return worker

    def _receive(self, worker: _Worker) -> Event:
        try:
            event: Event = worker.pipe.recv()
            return event
        except (EOFError, OSError):
            worker.process.join(STOP_SECONDS)
            self.workers.remove(worker)
            code = worker.process.exitcode or 0
            cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = "; out of memory? Try fewer --jobs" if code == -signal.SIGKILL else ""
            return Event("failed", f"the worker process was {cause}{hint}" if code < 0 else f"the worker {cause}")

    def stop(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self.workers.clear()
