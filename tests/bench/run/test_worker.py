"""A worker, run in this process: what it says of a job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from peak_nerf.bench.run import worker
from peak_nerf.bench.run.worker import Job, Update
from tests.bench.fake_task import TARGET


class Pipe:
    """Hands out jobs and keeps what is said."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs, self.said = list(jobs), list[Update]()

    def recv(self) -> Job:
        if not self.jobs:
            raise EOFError
        return self.jobs.pop(0)

    def send(self, update: Update) -> None:
        self.said.append(update)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: dict[str, Any]) -> list[Update]:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # its threads are left alone here
    pipe = Pipe(*(Job(TARGET, one, str(tmp_path)) for one in options))
    worker.work(pipe, 1)  # type: ignore[arg-type]
    return pipe.said


def test_it_tells_progress_and_the_end_of_each_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(tmp_path, monkeypatch, {"method": "peak", "seed": 3}, {"method": "siren"})
    assert [update.kind for update in said] == ["progress", "done", "progress", "done"]
    assert (said[0].step, said[0].n_steps, said[0].psnr) == (1, 2, 12.5)
    assert said[2].psnr is None  # not finite
    assert json.loads((tmp_path / "metrics.json").read_text())["psnr"] == 15.0


def test_failures_are_said_and_the_worker_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(tmp_path, monkeypatch, {"method": "fails"}, {"method": "raises"}, {"nonsense": 1}, {"method": "peak"})
    ends = [update for update in said if update.kind != "progress"]
    assert [update.kind for update in ends] == ["failed", "failed", "failed", "done"]
    assert ends[0].problem == "pixels are made of cheese; use milk"
    assert ends[1].problem.splitlines()[-1] == "RuntimeError: a bug"
    assert "no option 'nonsense'" in ends[2].problem
