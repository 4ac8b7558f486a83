"""One cell on a node of a cluster: its data come in by path or as bytes, its files go back as bytes."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from peak_nerf.bench.ray import survey as ray_survey
from peak_nerf.bench.run.worker import Job, Update, run_job

PROGRESS_SECONDS = 0.5
"""Between two words about a fit."""


class Order(NamedTuple):
    """A cell, as the driver sends it."""

    job: Job
    threads: int
    versions: dict[str, str]
    """Of the driver."""
    fingerprints: dict[str, str]
    """Of the driver's data by path, for a node that uses its own."""
    shipped: dict[str, list[tuple[str, Any]]]
    """Data by path, where the node need not have them: names and references into Ray's object store."""


class Answer(NamedTuple):
    """How a cell ended, as the driver gets it."""

    update: Update
    files: dict[str, bytes]
    """What the task left in its folder."""
    node: str
    """Empty when the cell was lost on its way."""
    unfit: str = ""
    """Why this node must not run cells of this suite at all."""


class Mailbox:
    """Where cells leave word of their progress and the driver picks it up; an actor beside the driver."""

    def __init__(self) -> None:
        self.said: list[tuple[int, Update]] = []

    def say(self, index: int, update: Update) -> None:
        """Leave word."""
        self.said.append((index, update))

    def collect(self) -> list[tuple[int, Update]]:
        """All that was said since the last call."""
        said, self.said = self.said, []
        return said


def run_cell(order: Order, index: int, mailbox: Any, fetch: Callable[[Any], bytes] | None = None) -> Answer:
    """Run a cell in a folder of its own that is deleted with it. `fetch` is `ray.get`."""
    node = socket.gethostname()
    unfit = _unfit(order)
    if unfit:
        return Answer(Update("failed", unfit), {}, node, unfit)
    with tempfile.TemporaryDirectory(prefix="peak_cell_") as folder:
        out = Path(folder) / "out"
        out.mkdir()
        options = {**order.job.options, **_received(order, Path(folder) / "data", fetch)}
        update = run_job(order.job._replace(options=options, out=str(out)), _throttled(index, mailbox), order.threads)
        files = {path.relative_to(out).as_posix(): path.read_bytes() for _, path in ray_survey.files_of(out)}
        return Answer(update, files, node)


def _unfit(order: Order) -> str:
    """Also for nodes that joined after the survey, and for data that changed since."""
    difference = ray_survey.difference(ray_survey.versions(), order.versions)
    if difference:
        return f"{difference}; install the same on both"
    for path, wanted in order.fingerprints.items():
        found = ray_survey.fingerprint(Path(path))
        if found != wanted:
            problem = "is another one than here" if found else "is not there"
            return f"{path} {problem}; put it there, or give --ship-data"
    return ""


def _received(order: Order, folder: Path, fetch: Callable[[Any], bytes] | None) -> dict[str, str]:
    """Write the shipped data out; returns the options that name them."""
    if not order.shipped:
        return {}
    if fetch is None:
        import ray

        fetch = ray.get
    options = {}
    for i, name in enumerate(order.job.files):
        path = Path(order.job.options[name])
        for file_name, reference in order.shipped[str(path)]:
            file = folder / str(i) / file_name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(fetch(reference))
        options[name] = str(folder / str(i) / path.name)
    return options


def _throttled(index: int, mailbox: Any) -> Callable[[Update], None]:
    last = -PROGRESS_SECONDS

    def say(update: Update) -> None:
        nonlocal last
        now = time.monotonic()
        if mailbox is not None and now - last >= PROGRESS_SECONDS:
            last = now
            mailbox.say.remote(index, update)  # nobody waits for it: progress may be lost

    return say
