"""Worker processes: order, side by side, death."""

from __future__ import annotations

import os
import signal
from multiprocessing import resource_tracker
from pathlib import Path

from peak_nerf.bench.run.pool import Pool
from tests.bench.jobs import begin, job


def test_a_worker_that_dies_costs_its_job_only(tmp_path: Path) -> None:
    pool = Pool(1)
    ticks: list[int] = []
    ended = {}
    jobs = [job(tmp_path / method, method=method) for method in ("peak", "dies", "siren")]
    for one, event in pool.run(jobs, begin, lambda: ticks.append(1)):
        if event.kind != "progress":
            ended[one.folder.name] = event
    assert [(name, event.kind) for name, event in ended.items()] == [
        ("peak", "done"),
        ("dies", "failed"),
        ("siren", "done"),
    ]
    assert "killed by SIGKILL; out of memory? Try fewer --jobs" in ended["dies"].problem
    assert ticks
    assert pool.workers == []


def test_jobs_that_stop_being_listened_to_are_ended(tmp_path: Path) -> None:
    pool = Pool(2)
    events = pool.run([job(tmp_path / method, method=method) for method in ("sleeps", "peak")], begin, lambda: None)
    next(events)
    processes = [worker.process for worker in pool.workers]
    events.close()  # type: ignore[attr-defined]
    assert pool.workers == []
    assert all(process.exitcode is not None for process in processes)


def test_ctrl_c_reaches_no_worker(tmp_path: Path) -> None:
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # as at the start of a process
    pool = Pool(2)
    events = list(pool.run([job(tmp_path / name, method="masks") for name in "ab"], begin, lambda: None))
    assert [(event.kind, event.problem) for _, event in events if event.kind != "progress"] == [("done", "")] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_cores_are_shared() -> None:
    cores = len(os.sched_getaffinity(0))
    assert Pool(1).threads == cores
    assert Pool(cores).threads == 1
    assert Pool(100 * cores).threads == 1
