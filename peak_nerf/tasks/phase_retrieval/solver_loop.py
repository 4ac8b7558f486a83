"""Drives a search: rounds until a budget, a number of rounds or a solution, kept on disk, ended by Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from peak_nerf.errors import PeakError, first_line
from peak_nerf.system.files import write_atomically
from peak_nerf.tasks.phase_retrieval.projections import Search

CHECKPOINT_SECONDS = 15.0
SOLVED = 1e-6
"""A relative residual that is nothing but rounding."""


@dataclass
class Point:
    """The relative residual at some moment of a solver."""

    stage: Literal["search", "fit", "refinement"]
    iteration: int
    seconds: float
    """Since the solver's start."""
    relative_residual: float
    """|| |A x| - y || / ||y||; in the stage `fit`, of the held-out magnitudes."""


@dataclass
class SearchRun:
    """How a search went; the search itself holds the picture."""

    seconds: float = 0.0
    rounds: int = 0
    finished: bool = False
    partial: bool = False
    """Ended by Ctrl-C."""
    history: list[Point] = field(default_factory=list)


def run_search(
    search: Search,
    budget_seconds: float | None,
    rounds: int | None,
    on_progress: Callable[[Point, float], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    fingerprint: str = "",
    stage: Literal["search", "refinement"] = "search",
    start_seconds: float = 0.0,
) -> SearchRun:
    """Run to the end of the budget or of the rounds, whichever is given, or to a relative residual of `SOLVED`.

    Args:
        search: goes on from its present state.
        budget_seconds: of the whole run; None for rounds instead.
        rounds: None for a budget instead.
        on_progress: called after each round with the best so far and the fraction of the run.
        checkpoint: where its state is written, now and then, at the end and on Ctrl-C.
        resume: go on from there.
        fingerprint: what the search is of; a checkpoint of another one is refused.
        stage: of the points in the history.
        start_seconds: added to the points' seconds.

    Raises: ValueError unless exactly one of budget and rounds is given; PeakError on a checkpoint that does not fit.
    """
    if (budget_seconds is None) == (rounds is None):
        raise ValueError("give either budget_seconds or rounds")
    run = SearchRun()
    if resume and checkpoint is not None and checkpoint.exists():
        run = _load(checkpoint, search, fingerprint)
    begin = time.perf_counter() - run.seconds
    saved = time.perf_counter()
    try:
        while not run.finished:
            fraction = run.seconds / budget_seconds if budget_seconds is not None else run.rounds / (rounds or 1)
            if fraction >= 1 or search.relative_residual < SOLVED:
                run.finished = True
                break
            search.round(fraction)
            run.rounds += 1
            run.seconds = time.perf_counter() - begin
            point = Point(stage, search.iterations, start_seconds + run.seconds, search.relative_residual)
            run.history.append(point)
            if on_progress is not None:
                on_progress(point, min(fraction, 1.0))
            if checkpoint is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                _save(checkpoint, search, run, fingerprint)
                saved = time.perf_counter()
    except KeyboardInterrupt:
        run.partial = True
    if checkpoint is not None:
        _save(checkpoint, search, run, fingerprint)
    return run


def _save(path: Path, search: Search, run: SearchRun, fingerprint: str) -> None:
    state: dict[str, Any] = {"fingerprint": fingerprint, "search": search.state(), "run": asdict(run)}
    write_atomically(path, lambda file: torch.save(state, file))


def _load(path: Path, search: Search, fingerprint: str) -> SearchRun:
    try:
        state = torch.load(path, weights_only=True)
        of = state.get("fingerprint", "version 0.1")
        if of != fingerprint:
            raise PeakError(
                f"{path}: is of another run ({of}); resume with the same options, or start anew without --resume"
            )
        search.restore(state["search"])
        history = [Point(**point) for point in state["run"]["history"]]
        run = SearchRun(**{**state["run"], "partial": False, "history": history})
    except PeakError:
        raise
    except Exception as error:  # torch.load raises anything on a damaged file
        raise PeakError(f"{path}: cannot be resumed from ({first_line(error)}); delete it to start anew") from error
    return run
