"""Worker processes: order, side by side, death."""

from __future__ import annotations

import os
import signal
from multiprocessing import resource_tracker
from pathlib import Path

from peak_nerf.bench.run.pool import Pool
from peak_nerf.bench.run.worker import Job
from tests.bench.fake_task import TARGET


def begin_in(tmp_path: Path) -> object:
    def begin(method: str) -> Job:
        out = tmp_path / method
        out.mkdir(exist_ok=True)
        return Job(TARGET, {"method": method}, str(out))

    return begin


def test_a_worker_that_dies_costs_its_task_only(tmp_path: Path) -> None:
    pool: Pool[str] = Pool(1)
    ticks: list[int] = []
    ended = {}
    for task, update in pool.run(["peak", "dies", "siren"], begin_in(tmp_path), lambda: ticks.append(1)):  # type: ignore[arg-type]
        if update.kind != "progress":
            ended[task] = update
    assert [(task, update.kind) for task, update in ended.items()] == [
        ("peak", "done"),
        ("dies", "failed"),
        ("siren", "done"),
    ]
    assert "killed by SIGKILL; out of memory? Try fewer --jobs" in ended["dies"].problem
    assert ticks
    assert pool.workers == []


def test_tasks_that_stop_being_listened_to_are_ended(tmp_path: Path) -> None:
    pool: Pool[str] = Pool(2)
    updates = pool.run(["sleeps", "peak"], begin_in(tmp_path), lambda: None)  # type: ignore[arg-type]
    next(updates)
    processes = [worker.process for worker in pool.workers]
    updates.close()  # type: ignore[attr-defined]
    assert pool.workers == []
    assert all(process.exitcode is not None for process in processes)


def test_ctrl_c_reaches_no_worker(tmp_path: Path) -> None:
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # as at the start of a process
    pool: Pool[str] = Pool(2)
    updates = list(pool.run(["masks", "masks"], begin_in(tmp_path), lambda: None))  # type: ignore[arg-type]
    assert [(update.kind, update.problem) for _, update in updates if update.kind != "progress"] == [("done", "")] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_cores_are_shared() -> None:
    cores = len(os.sched_getaffinity(0))
    assert Pool(1).threads == cores
    assert Pool(cores).threads == 1
    assert Pool(100 * cores).threads == 1
