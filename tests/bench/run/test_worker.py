"""A worker, run in this process: the events of its jobs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from peak_nerf.bench.run import worker
from peak_nerf.bench.run.worker import Event
from peak_nerf.bench.suite.data_root import Job
from tests.bench.jobs import begin, job


class Pipe:
    """Hands out jobs and keeps the events."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs, self.sent = list(jobs), list[Event]()

    def recv(self) -> Job:
        if not self.jobs:
            raise EOFError
        return self.jobs.pop(0)

    def send(self, event: Event) -> None:
        self.sent.append(event)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: dict[str, Any]) -> list[Event]:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # its threads are left alone here
    pipe = Pipe(*(job(tmp_path / "cell", **one) for one in options))
    begin(pipe.jobs[0])
    worker.work(pipe, 1)  # type: ignore[arg-type]
    return pipe.sent


def test_it_tells_progress_and_the_end_of_each_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = run(tmp_path, monkeypatch, {"method": "peak", "seed": 3}, {"method": "no-metrics"}, {"method": "siren"})
    assert [event.kind for event in sent] == ["progress", "done"] * 3
    assert (sent[0].step, sent[0].n_steps, sent[0].psnr, sent[0].scored) == (1, 2, 12.5, "held-out measurements")
    assert (sent[2].psnr, sent[2].scored) == (9.5, "a test view")  # nothing is held out, as in a radiance field
    assert sent[4].psnr is None  # not finite
    assert json.loads((tmp_path / ".cell.partial" / "metrics.json").read_text())["psnr"] == 15.0


def test_threads_of_a_task_with_torch_are_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[object] = []
    monkeypatch.setattr("torch.set_num_threads", settled.append)
    monkeypatch.setattr("peak_nerf.system.waiting.sleep_when_busy", lambda: settled.append("waiting"))
    one = job(tmp_path / "cell", method="peak")
    begin(one)
    assert worker.run_job(one, lambda _: None, 3).kind == "done"
    assert settled == [3, "waiting"]  # whether there is anything to settle depends on the number


def test_failures_are_events_and_the_worker_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = run(tmp_path, monkeypatch, {"method": "fails"}, {"method": "raises"}, {"nonsense": 1}, {"method": "peak"})
    ends = [event for event in sent if event.kind != "progress"]
    assert [event.kind for event in ends] == ["failed", "failed", "failed", "done"]
    assert ends[0].problem == "pixels are made of cheese; use milk"
    assert ends[1].problem.splitlines()[-1] == "RuntimeError: a bug"
    assert "no option 'nonsense'" in ends[2].problem
