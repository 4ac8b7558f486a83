"""A worker process: runs one cell after the other and tells what happens. Imports nothing heavy before its task."""

from __future__ import annotations

import math
import os
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple


class Job(NamedTuple):
    """What a worker is asked to run."""

    target: str
    """`module:function` of the task."""
    options: dict[str, Any]
    out: str
    files: tuple[str, ...] = ()
    """Options that name files or folders of data, for engines that bring these along."""


class Update(NamedTuple):
    """What a worker says: how a fit stands, or how a cell ended."""

    kind: str
    """`progress`, `done` or `failed`; `retry` when the engine itself tries the cell again."""
    problem: str = ""
    """Of a failed cell; the last line is the summary."""
    step: int = 0
    n_steps: int | None = None
    seconds: float = 0.0
    psnr: float | None = None
    """On held-out observed pixels, in dB."""


def work(jobs: Connection, threads: int) -> None:
    """Run jobs until the connection closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    while True:
        try:
            job = jobs.recv()
        except EOFError:
            return
        jobs.send(run_job(job, jobs.send, threads))


def run_job(job: Job, say: Callable[[Update], object], threads: int) -> Update:
    """Run one cell, telling its progress; returns how it ended, whatever the task raised."""
    from peak_nerf.errors import PeakError

    def on_progress(progress: Any) -> None:
        psnr = progress.psnr_validation
        psnr = float(psnr) if psnr is not None and math.isfinite(psnr) else None
        say(Update("progress", "", progress.step, progress.n_steps, progress.seconds, psnr))

    try:
        from peak_nerf.bench.suite.registry import OptionTypes, load_task

        run, options = load_task(job.target)
        if "torch" in sys.modules:  # loaded by the task, if it needs it
            sys.modules["torch"].set_num_threads(threads)
        run(options(**OptionTypes(options).convert_all(job.options)), Path(job.out), on_progress)
    except PeakError as error:
        return Update("failed", str(error))
    except (Exception, SystemExit):
        return Update("failed", traceback.format_exc())
    return Update("done")


def _end_with_parent() -> None:
    """End when the parent is gone, so that a killed `peak bench` leaves nobody computing."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
