"""Jobs of the fake task that belong to no suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peak_nerf.bench.suite.data_root import Job
from peak_nerf.bench.suite.grid import Cell
from tests.bench.fake_task import TARGET


def job(folder: Path, recorded: dict[str, Any] | None = None, **options: Any) -> Job:
    """A job into `folder`; options other than `recorded` has them name data."""
    return Job(Cell({"name": folder.name}, options), TARGET, folder, options, {**options, **(recorded or {})})


def begin(job: Job) -> None:
    """As the runner begins a job."""
    job.out.mkdir(exist_ok=True)
