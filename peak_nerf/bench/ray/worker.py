"""One job on a node of a cluster: its data come in by path or as bytes, its files go back as bytes."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from peak_nerf.bench.ray import survey as ray_survey
from peak_nerf.bench.run.worker import Event, run_job
from peak_nerf.bench.suite.data_root import Job

PROGRESS_SECONDS = 0.5
"""Between two progress events of a fit."""


class Mailbox:
    """Where jobs leave their progress events and the driver picks them up; an actor beside the driver."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []

    def put(self, cell_id: str, event: Event) -> None:
        """Leave an event."""
        self.events.append((cell_id, event))

    def collect(self) -> list[tuple[str, Event]]:
        """All events since the last call."""
        events, self.events = self.events, []
        return events


def run_cell(
    job: Job,
    threads: int,
    versions: dict[str, str],
    fingerprints: dict[str, str],
    shipped: dict[str, list[tuple[str, Any]]],
    mailbox: Any,
) -> tuple[Event, dict[str, bytes]]:
    """Run a job in a folder of its own that is deleted with it; returns how it ended and the files that it left.

    Args:
        job: As the driver has it.
        threads: Of the fit.
        versions: Of the driver.
        fingerprints: Of the driver's data by path, for a node that uses its own.
        shipped: Data by path, where the node need not have them: names and references into Ray's object store.
        mailbox: A handle of the `Mailbox`.
    """
    node = socket.gethostname()
    unfit = _unfit(versions, fingerprints)
    if unfit:
        return Event("unfit", unfit, node=node), {}
    with tempfile.TemporaryDirectory(prefix="peak_cell_") as folder:
        options = {**job.options, **_received(job, shipped, Path(folder) / "data")}
        here = replace(job, options=options, folder=Path(folder) / "result")
        here.out.mkdir()
        event = run_job(here, _throttled(job.cell.id, mailbox), threads)
        files = {path.relative_to(here.out).as_posix(): path.read_bytes() for _, path in ray_survey.files_of(here.out)}
        return event._replace(node=node), files


def _unfit(versions: dict[str, str], fingerprints: dict[str, str]) -> str:
    """Also for nodes that joined after the survey, and for data that changed since."""
    difference = ray_survey.difference(ray_survey.versions(), versions)
    if difference:
        return f"{difference}; install the same on both"
    for path, wanted in fingerprints.items():
        found = ray_survey.fingerprint(Path(path))
        if found != wanted:
            problem = "is another one than here" if found else "is not there"
            return f"{path} {problem}; put it there, or give --ship-data"
    return ""


def _received(job: Job, shipped: dict[str, list[tuple[str, Any]]], folder: Path) -> dict[str, str]:
    """Write the shipped data out; returns the options that name them."""
    if not shipped:
        return {}
    import ray

    options = {}
    for i, name in enumerate(job.files):
        path = Path(job.options[name])
        for file_name, reference in shipped[str(path)]:
            file = folder / str(i) / file_name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(ray.get(reference))
        options[name] = str(folder / str(i) / path.name)
    return options


def _throttled(cell_id: str, mailbox: Any) -> Callable[[Event], None]:
    last = -PROGRESS_SECONDS

    def send(event: Event) -> None:
        nonlocal last
        now = time.monotonic()
        if mailbox is not None and now - last >= PROGRESS_SECONDS:
            last = now
            mailbox.put.remote(cell_id, event)  # nobody waits for it: progress may be lost

    return send
