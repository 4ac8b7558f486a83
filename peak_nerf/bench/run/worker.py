"""A worker process: runs one job after the other and reports events. Imports nothing heavy before its task."""

from __future__ import annotations

import math
import os
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

from peak_nerf.bench.suite.data_root import Job


class Event(NamedTuple):
    """What happens to a job: progress of its fit, or its end."""

    kind: Literal["progress", "done", "failed", "retry", "unfit"]
    """`retry` when the engine runs a failed job again; `unfit` when a node must not run this suite at all."""
    problem: str = ""
    """Of a failed cell; the last line is the summary."""
    step: int = 0
    n_steps: int | None = None
    seconds: float = 0.0
    psnr: float | None = None
    """In dB, on held-out measurements where there are any, else of a test view."""
    scored: str = "held-out measurements"
    """What the PSNR is of."""
    node: str = ""
    """Of a cluster; empty when the job was lost on its way, and on this machine."""


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


def run_job(job: Job, send: Callable[[Event], object], threads: int) -> Event:
    """Run one job, sending its progress; returns how it ended, whatever the task raised."""
    from peak_nerf.errors import PeakError

    def on_progress(progress: Any) -> None:
        event = Event("progress", "", progress.step, progress.n_steps, progress.seconds)
        for psnr, scored in ((progress.psnr_validation, event.scored), (progress.psnr, "a test view")):
            if event.psnr is None and psnr is not None and math.isfinite(psnr):
                event = event._replace(psnr=float(psnr), scored=scored)
        send(event)

    try:
        from peak_nerf.bench.suite.registry import OptionTypes, load_task

        run, options = load_task(job.target)
        if "torch" in sys.modules:  # loaded by the task, if it needs it
            sys.modules["torch"].set_num_threads(threads)
            from peak_nerf.system.waiting import sleep_when_busy

            sleep_when_busy()
        run(options(**OptionTypes(options).convert_all(job.options)), job.out, on_progress)
    except PeakError as error:
        return Event("failed", str(error))
    except (Exception, SystemExit):
        return Event("failed", traceback.format_exc())
    return Event("done")


def _end_with_parent() -> None:
    """End when the parent is gone, so that a killed `peak bench` leaves nobody computing."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
