"""The engine for a Ray cluster: one job is one Ray task, and its files come back through this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peak_nerf.bench.ray import cluster as ray_cluster
from peak_nerf.bench.ray import survey as ray_survey
from peak_nerf.bench.ray import worker as ray_worker
from peak_nerf.bench.run.worker import Event
from peak_nerf.bench.suite.data_root import Job
from peak_nerf.bench.suite.grid import Resources
from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically

RETRIES = 2
STOP_SECONDS = 5.0
"""How long a job may take to end when asked to."""
AGAIN_SECONDS = 4.0
"""Before a lost job runs again, doubled each time: Ray needs about 20 s to see that a node is dead, and would send it
there once more."""
CAPACITY_SECONDS = 300.0
"""How long the cluster may have no node on which a job fits, as while a lost node is replaced."""


@dataclass(eq=False)
class _Attempts:
    job: Job
    begun: bool = False
    problems: list[str] = field(default_factory=list)
    """One for each attempt that failed."""
    not_before: float = 0.0


class RayEngine:
    """Runs jobs on the cluster at `address`, each on `resources`.

    Args:
        address: HOST:PORT of its head, or auto.
        resources: Of a job.
        jobs: How many at a time; as many as fit on the cluster when None.
        retries: How often a job that failed, or that was lost with its node, is run again.
        ship_data: Whether data go through Ray's object store, instead of being looked for on the nodes by path.
        paths: All data of all jobs.

    Raises: PeakError when there is no cluster, or its nodes are not fit for the suite.
    """

    def __init__(
        self,
        address: str,
        resources: Resources,
        *,
        jobs: int | None = None,
        retries: int = RETRIES,
        ship_data: bool = False,
        paths: Sequence[Path] = (),
    ) -> None:
        self.resources, self.jobs, self.retries = resources, jobs, retries
        self.running: dict[Any, _Attempts] = {}
        self.versions = ray_survey.versions()
        self.ray = ray_cluster.connect(address)
        try:
            nodes = [node for node in self.ray.nodes() if ray_cluster.capacity_of(node, resources)]
            if not nodes:
                raise ray_cluster.nothing_fits(resources)
            self.n_workers = jobs or ray_cluster.capacity(nodes, resources)
            ray_cluster.check_nodes(self.ray, nodes, self.versions, () if ship_data else paths)
            self.fingerprints = {} if ship_data else {str(path): ray_survey.fingerprint(path) for path in paths}
            self.shipped = {str(path): self._ship(path) for path in paths} if ship_data else {}
            self.mailbox = self._open_mailbox()
        except BaseException:
            self.stop()
            raise
        self.collected: Any = None
        self.last_capacity = time.monotonic()

    def _ship(self, path: Path) -> list[tuple[str, Any]]:
        return [(name, self.ray.put(file.read_bytes())) for name, file in ray_survey.files_of(path)]

    def _open_mailbox(self) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=True)
        actor = self.ray.remote(num_cpus=0, max_restarts=-1)(ray_worker.Mailbox)
        return actor.options(scheduling_strategy=here).remote()

    def run(
        self, jobs: Sequence[Job], begin: Callable[[Job], None], tick: Callable[[], None], tick_seconds: float = 0.5
    ) -> Iterator[tuple[Job, Event]]:
        """As `Engine.run`, with a `retry` for each attempt that failed and was not the last."""
        waiting = [_Attempts(job) for job in jobs]
        try:
            while waiting or self.running:
                self._hand_out(waiting, begin)
                ended = self._wait(tick_seconds)
                yield from self._progress()
                fetched = [(self.running.pop(reference), *self._fetch(reference)) for reference in ended]
                for attempts, event, files in sorted(fetched, key=lambda one: one[1].kind == "unfit"):
                    if event.kind == "unfit":
                        raise PeakError(f"node {event.node}: {event.problem}")
                    event = self._conclude(attempts, event, files)
                    if event.kind == "retry":
                        waiting.insert(0, attempts)
                    yield attempts.job, event
                tick()
        finally:
            self.stop()

    def _hand_out(self, waiting: list[_Attempts], begin: Callable[[Job], None]) -> None:
        if not waiting:
            return
        capacity, now = ray_cluster.capacity(self.ray.nodes(), self.resources), time.monotonic()
        if capacity:
            self.last_capacity = now
        elif now - self.last_capacity > CAPACITY_SECONDS:
            raise ray_cluster.nothing_fits(self.resources)
        for attempts in [one for one in waiting if one.not_before <= now][
            : (self.jobs or capacity) - len(self.running)
        ]:
            waiting.remove(attempts)
            if not attempts.begun:
                begin(attempts.job)
                attempts.begun = True
            self.running[self._submit(attempts.job)] = attempts

    def _submit(self, job: Job) -> Any:
        paths = [str(job.options[name]) for name in job.files]
        fingerprints = {path: self.fingerprints[path] for path in paths if path in self.fingerprints}
        shipped = {path: self.shipped[path] for path in paths if path in self.shipped}
        # Ray's own retries would pass unseen.
        remote = self.ray.remote(num_cpus=self.resources.cpus, num_gpus=self.resources.gpus, max_retries=0)
        task = remote(ray_worker.run_cell).options(scheduling_strategy="SPREAD")
        return task.remote(job, self.resources.cpus, self.versions, fingerprints, shipped, self.mailbox)

    def _wait(self, seconds: float) -> list[Any]:
        if not self.running:
            time.sleep(seconds)
            return []
        ended, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=seconds)
        return list(ended)

    def _progress(self) -> list[tuple[Job, Event]]:
        """Events of the jobs at work; nothing when their mailbox is lost."""
        if self.mailbox is None:
            return []
        if self.collected is None:
            self.collected = self.mailbox.collect.remote()
        if not self.ray.wait([self.collected], timeout=0)[0]:
            return []
        collected, self.collected = self.collected, None
        try:
            events = self.ray.get(collected)
        except self.ray.exceptions.RayError:
            self.mailbox = None
            return []
        at_work = {attempts.job.cell.id: attempts.job for attempts in self.running.values()}
        return [(at_work[cell_id], event) for cell_id, event in events if cell_id in at_work]

    def _fetch(self, reference: Any) -> tuple[Event, dict[str, bytes]]:
        try:
            event, files = self.ray.get(reference)
            return event, files
        except self.ray.exceptions.RayError as error:
            return Event("failed", self._loss(error)), {}

    def _conclude(self, attempts: _Attempts, event: Event, files: dict[str, bytes]) -> Event:
        """The event of a job of which an attempt has ended. Raises: PeakError when the disk here is full."""
        last = len(attempts.problems) == self.retries
        if event.kind == "done" or last:
            for name, content in files.items():
                _write(attempts.job.out / name, content)
        if event.kind == "done":
            return event
        if not event.node:
            attempts.not_before = time.monotonic() + AGAIN_SECONDS * 2 ** len(attempts.problems)
        attempts.problems.append(event.problem.strip() or "no message")
        summary = attempts.problems[-1].splitlines()[-1]
        if last:
            return Event("failed", _report(attempts.problems))
        where = f" on {event.node}" if event.node else ""
        attempt = f"attempt {len(attempts.problems)} of {self.retries + 1}{where} failed"
        return Event("retry", f"{attempt} ({summary}); runs again")

    def _loss(self, error: Exception) -> str:
        """Why Ray has no result, in a line; its own text is a page."""
        known = self.ray.exceptions
        reasons = {
            known.OutOfMemoryError: "its node ran out of memory; give more `resources` in the suite, so that fewer"
            " cells share one",
            known.NodeDiedError: "its node died",
            known.WorkerCrashedError: "its worker process or node died",
            known.ObjectLostError: "its node died before the result was fetched",
        }
        for kind, reason in reasons.items():
            if isinstance(error, kind):
                return reason
        return f"Ray: {error}"

    def stop(self) -> None:
        """End the jobs at work and leave the cluster: asked first, so that they delete their folders, then killed."""
        if not self.ray.is_initialized():
            return
        try:
            left = list(self.running)
            for force in (False, True):
                for reference in left:
                    self.ray.cancel(reference, force=force)
                if left:
                    left = self.ray.wait(left, num_returns=len(left), timeout=STOP_SECONDS, fetch_local=False)[1]
        finally:
            self.running.clear()
            self.ray.shutdown()


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def _report(problems: list[str]) -> str:
    """All attempts' problems; the last line sums up."""
    if len(problems) == 1:
        return problems[0]
    parts = [f"attempt {i} of {len(problems)}:\n{problem}" for i, problem in enumerate(problems, 1)]
    return "\n\n".join(parts) + f"\n\n{problems[-1].splitlines()[-1]} (all {len(problems)} attempts failed)"
