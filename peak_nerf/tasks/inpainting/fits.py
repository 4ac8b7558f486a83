"""Fits of several crops of one picture, side by side in processes, with one seed each and a time to share."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.core.fit import Progress
from peak_nerf.errors import MachineError, PeakError, first_line
from peak_nerf.metrics import psnr
from peak_nerf.system.files import write_atomically
from peak_nerf.system.interrupts import interrupts_blocked
from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.inpaint import Inpainting, inpaint
from peak_nerf.tasks.inpainting.settings import InpaintSettings

HELD_OUT = 50
"""One in so many observed pixels near a hole is held out to score a classical method."""


@dataclass(frozen=True, eq=False)
class Order:
    """One crop to be fitted."""

    values: np.ndarray
    """(h, w, c) in [0, 1]."""
    observed: np.ndarray
    """(h, w) bool."""
    method: str
    settings: InpaintSettings | None
    steps: int | None
    budget_seconds: float | None
    most_seconds: float | None
    seed: int
    combine: bool = False
    """Whether classical estimates have a part in what fills the holes."""

    @property
    def fingerprint(self) -> str:
        """The same for the same crop, settings and seed."""
        digest = hashlib.sha256(f"{self.method} {self.settings} {self.steps} {self.seed} {self.combine}".encode())
        digest.update(np.where(self.observed[..., None], self.values, 0).tobytes())
        digest.update(np.packbits(self.observed).tobytes())
        return digest.hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Fit:
    """What came of an order."""

    picture: np.ndarray
    """(h, w, c) float32, the method's own, known pixels included."""
    fill: np.ndarray
    """(h, w, c) float32, what the holes get: the same, or its mean with classical estimates."""
    psnr_validation: float | None
    """In dB over observed pixels that were held out until the stopping point."""
    steps: int
    best_step: int
    seconds: float
    n_parameters: int
    weights: dict[str, float]
    """Of each estimate in the fill."""
    partial: bool = False


def summary(order: Order, result: Inpainting) -> Fit:
    """What is kept of a result."""
    held_out = [p.psnr_validation for p in result.fit.history if p.step == result.fit.best_step]
    score = held_out[-1] if held_out else None
    if order.method in classical.CLASSICAL:
        score = _classical_score(order)
    fit = result.fit
    return Fit(
        result.field_picture, result.reconstruction, score, fit.steps, fit.best_step, fit.seconds, result.n_parameters,
        result.weights, fit.partial,
    )  # fmt: skip


def carry_out(order: Order, on_progress: Callable[[Progress], None] | None = None) -> Fit:
    """Fit one crop in this process."""
    return summary(order, run_order(order, on_progress))


def run_order(
    order: Order,
    on_progress: Callable[[Progress], None] | None = None,
    truth: np.ndarray | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Inpainting:
    """`inpaint` as the order says."""
    return inpaint(
        np.where(order.observed[..., None], order.values, np.nan),
        order.observed,
        order.method,
        settings=order.settings,
        steps=order.steps,
        budget_seconds=order.budget_seconds,
        most_seconds=order.most_seconds,
        seed=order.seed,
        truth=truth,
        on_progress=on_progress,
        checkpoint=checkpoint,
        resume=resume,
        combine=order.combine,
    )


def _classical_score(order: Order) -> float | None:
    """PSNR on every `HELD_OUT`th observed pixel within reach of a hole, filled in from the others."""
    import cv2

    near = cv2.dilate((~order.observed).astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool) & order.observed
    pixels = np.flatnonzero(near)
    pixels = np.random.default_rng(order.seed).permutation(pixels)[: max(len(pixels) // HELD_OUT, 1)]
    if len(pixels) == 0 or np.count_nonzero(order.observed) <= len(pixels):
        return None
    left = order.observed.copy()
    left.flat[pixels] = False
    filled = classical.fill(order.method, order.values, left)
    error = (filled - order.values).reshape(-1, order.values.shape[2])[pixels]
    return psnr(float(np.square(error, dtype=np.float64).mean()))


# ------------------------------------------------------------------------------------------------------- side by side


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def carry_out_all(
    orders: Sequence[Order],
    on_progress: Callable[[Progress], None] | None = None,
    keep: Path | None = None,
    n_workers: int | None = None,
    resume: bool = True,
) -> Iterator[tuple[int, Fit]]:
    """Fit all crops and yield each with its index as it is done; after Ctrl-C those that are under way, as partial.

    Args:
        orders: the crops.
        on_progress: called now and then with how far all of them are together.
        keep: a folder in which finished fits are kept.
        n_workers: processes, by default one a core; one works in this process.
        resume: take from `keep` what an earlier call has left there.

    Raises: PeakError when a fit does; MachineError when a process is killed.
    """
    weights = np.array([order.observed.size for order in orders], dtype=np.float64)
    tracker = _Tracker(weights / max(weights.sum(), 1), on_progress)
    todo = []
    for i, order in enumerate(orders):
        kept = _load(keep, order) if resume else None
        if kept is None:
            todo.append(i)
        else:
            tracker.update(i, None)
            yield i, kept
    todo.sort(key=lambda i: -weights[i])  # the largest first, so that no core is left waiting for it at the end
    n_workers = min(n_cores() if n_workers is None else n_workers, len(todo))
    # A worker of a suite may have no children.
    alone = n_workers <= 1 or multiprocessing.current_process().daemon
    for i, fit in (_one_by_one if alone else _in_processes)(orders, todo, tracker, n_workers):
        tracker.update(i, None)
        if not fit.partial:
            _save(keep, orders[i], fit)
        yield i, fit


class _Tracker:
    """How far all fits are together."""

    def __init__(self, weights: np.ndarray, on_progress: Callable[[Progress], None] | None) -> None:
        self.weights, self.on_progress = weights, on_progress
        self.fractions = np.zeros(len(weights))
        self.last: Progress | None = None

    def update(self, i: int, progress: Progress | None) -> None:
        """The i-th is so far; None for done."""
        self.fractions[i] = 1 if progress is None else progress.fraction
        self.last = progress or self.last
        if self.on_progress is not None and self.last is not None:
            self.on_progress(replace(self.last, fraction=float(self.fractions @ self.weights)))


def _one_by_one(
    orders: Sequence[Order], todo: list[int], tracker: _Tracker, n_workers: int
) -> Iterator[tuple[int, Fit]]:
    for i in todo:
        try:
            fit = carry_out(orders[i], lambda progress, i=i: tracker.update(i, progress))  # type: ignore[misc]
        except KeyboardInterrupt:  # a classical method, which keeps nothing
            return
        yield i, fit
        if fit.partial:
            return


_shared: dict[str, Any] = {}
"""Of a worker process: where it reports, and whether it is to stop."""


def _begin(threads: int, reports: Any, stop: Any) -> None:
    """Of a worker process: Ctrl-C is the parent's, who passes it on by `stop`."""
    import torch

    torch.set_num_threads(threads)
    _shared.update(reports=reports, stop=stop)


def _work(i: int, order: Order) -> Fit:
    def report(progress: Progress) -> None:
        _shared["reports"].put((i, progress))
        if _shared["stop"].is_set():
            raise KeyboardInterrupt

    return carry_out(order, report)


def _in_processes(
    orders: Sequence[Order], todo: list[int], tracker: _Tracker, n_workers: int
) -> Iterator[tuple[int, Fit]]:
    # Spawned, not forked: torch's and numba's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    reports, stop = context.SimpleQueue(), context.Event()
    threads = max(n_cores() // n_workers, 1)
    with ProcessPoolExecutor(n_workers, context, _begin, (threads, reports, stop)) as pool:
        resource_tracker.ensure_running()  # or the pool would, and that unblocks interrupts
        with interrupts_blocked():  # a worker that is starting has not yet learned to leave Ctrl-C to us
            futures: dict[Future[Fit], int] = {pool.submit(_work, i, orders[i]): i for i in todo}
        left = set(futures)
        try:
            while left:
                try:
                    done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
                    while not reports.empty():
                        tracker.update(*reports.get())
                except KeyboardInterrupt:
                    if stop.is_set():
                        raise
                    stop.set()
                    cancelled = {future for future in left if future.cancel()}
                    left -= cancelled
                    continue
                for future in done:
                    yield futures[future], future.result()
        except BrokenProcessPool:
            raise MachineError(
                "a process that fitted a part of the picture was ended, probably for lack of memory; close other"
                " programs, or give a smaller --size"
            ) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


# ------------------------------------------------------------------------------------------------------------- resume


_NUMBERS = ("psnr_validation", "steps", "best_step", "seconds", "n_parameters", "weights")


def _path(keep: Path, order: Order) -> Path:
    return keep / f"{order.fingerprint}.npz"


def _save(keep: Path | None, order: Order, fit: Fit) -> None:
    if keep is not None:
        numbers = json.dumps({name: getattr(fit, name) for name in _NUMBERS})
        write_atomically(
            _path(keep, order), lambda file: np.savez(file, picture=fit.picture, fill=fit.fill, numbers=numbers)
        )


def _load(keep: Path | None, order: Order) -> Fit | None:
    if keep is None or not (path := _path(keep, order)).exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            return Fit(picture=content["picture"], fill=content["fill"], **json.loads(str(content["numbers"])))
    except Exception as error:  # numpy raises anything on a damaged file
        raise PeakError(f"{path}: cannot be resumed from ({first_line(error)}); delete it to start anew") from error
