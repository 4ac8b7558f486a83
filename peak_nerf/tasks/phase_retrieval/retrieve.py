"""`retrieve`: a picture from measurements alone, by any of the methods."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from peak_nerf.core.fit import FitResult, FitSettings, Progress, fit
from peak_nerf.tasks.image_field import ImageField
from peak_nerf.tasks.phase_retrieval.magnitudes import OPEN, Measurements
from peak_nerf.tasks.phase_retrieval.measured import measurements_of, with_support
from peak_nerf.tasks.phase_retrieval.multiscale_hio import CoarseToFine, Refinement
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator
from peak_nerf.tasks.phase_retrieval.problems import EARLIEST, NetADM, NetGD, Splitting, held_out_mask
from peak_nerf.tasks.phase_retrieval.projections import (
    CLEANING,
    FOURIER_SOLVERS,
    ROUND,
    FourierSolver,
    ProjectionSearch,
    Search,
)
from peak_nerf.tasks.phase_retrieval.scale import range_end
from peak_nerf.tasks.phase_retrieval.settings import FIELD_METHODS, PhaseSettings, check_method, settings_for
from peak_nerf.tasks.phase_retrieval.solver_loop import Point, SearchRun, run_search
from peak_nerf.tasks.phase_retrieval.spectral import AmplitudeFlow, gaussian_start
from peak_nerf.tasks.phase_retrieval.support import kept_support

CLASSICAL_ROUNDS = {"error-reduction": 60, "hio": 120, "raar": 120, "amplitude-flow": 8, "spectral": 1}
"""Without a budget, in rounds of `projections.ROUND` iterations."""
SUPPORT_PART = 0.3
"""Fraction of a budget after which the search for a support begins no other start."""
RANGE_PART = 0.05
"""Fraction of a budget after which the search for a range's end tries no other."""


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What `retrieve` returns."""

    reconstruction: np.ndarray
    """(h, w) float32 in [0, 1], up to what magnitudes cannot tell (`align`)."""
    relative_residual: float
    """|| |A x| - y || / ||y|| of the reconstruction, over the known magnitudes."""
    field: ImageField | None
    """The fitted field; None for a classical method, or when Ctrl-C came before its turn."""
    settings: PhaseSettings | None
    fit: FitResult
    """Of the field; no steps without one."""
    seconds: float
    """Everything, scoring excluded."""
    iterations: int
    """Of the search; `fit.steps` come on top."""
    history: list[Point] = dataclasses.field(default_factory=list)
    partial: bool = False
    """Ended by Ctrl-C, with the best so far."""
    scale: float = 1.0
    """The data's magnitudes over |fft2| of the reconstruction: 1, or what was estimated."""
    support: np.ndarray | None = None
    """(h, w), bool, where the picture may differ from 0, given or found; None for everywhere."""

    @property
    def n_parameters(self) -> int:
        """Numbers that were trained, g's included; 0 without a field."""
        return 0 if self.field is None else sum(p.numel() for p in self.field.parameters())


def retrieve(
    measurements: Measurements | np.ndarray,
    method: str = "peak",
    *,
    settings: PhaseSettings | None = None,
    restarts: int = 3,
    budget_seconds: float | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    **data: Any,
) -> Retrieval:
    """Reconstruct a picture from its magnitudes. There is no argument for the truth.

    Args:
        measurements: the magnitudes, and the operator that they come from; or Fourier magnitudes of any scale as an
            array, as in `retrieve(magnitudes, support=..., data_mask=...)`.
        method: a field (`settings.FIELD_METHODS`) or a classical solver for the problem.
        settings: of a field, instead of `settings_for(method, problem, n)`; of multiscale-hio, for its rounds alone.
        restarts: random starts of a Fourier search, of which the relative residual chooses one.
        budget_seconds: for everything; by default numbers of steps, with which a seed gives the same result every time.
        seed: of the starts, the held-out magnitudes and the field.
        on_progress: called repeatedly; its `psnr_validation` is that of magnitudes, held-out ones where there are any.
        folder: where the state is kept during the run.
        resume: go on from what is there.
        data: what is known of an array, the arguments of `measured.measurements_of`: size, support (an array or
            "auto"), data_mask, quantity, centred, half_plane, saturation, noise, scale.

    Raises: PeakError on a method that the problem does not have, a fit that diverges, a state that does not fit, an
        array that holds no magnitudes; ValueError on a budget or restarts that are not above 0.
    """
    if isinstance(measurements, np.ndarray):
        measurements = measurements_of(measurements, **data)
    elif data:
        raise ValueError(f"{', '.join(data)}: of an array of magnitudes only, `Measurements` have theirs")
    check_method(method, measurements.operator.name)
    if restarts < 1 or (budget_seconds is not None and not budget_seconds > 0):
        raise ValueError(f"restarts and budget_seconds must be above 0, got {restarts}, {budget_seconds}")
    found, left = 0.0, budget_seconds
    if measurements.find_support:
        begin = time.perf_counter()
        limit = None if budget_seconds is None else SUPPORT_PART * budget_seconds
        kept = None if folder is None else folder / "support.pt"
        measurements = with_support(measurements, kept_support(measurements, seed, restarts, limit, kept, resume))
        found = time.perf_counter() - begin
        if limit is not None and budget_seconds is not None:
            left = max(budget_seconds - found, limit)
    run = _Run(measurements, method, restarts, left, seed, on_progress, folder, resume, found, asked=budget_seconds)
    if method == "multiscale-hio":
        return run.multiscale(settings or PhaseSettings())
    if method not in FIELD_METHODS:
        return run.classical()
    return run.field(settings or settings_for(method, measurements.operator.name, measurements.operator.size))


@dataclasses.dataclass(eq=False)
class _Run:
    measurements: Measurements
    method: str
    restarts: int
    budget: float | None
    seed: int
    on_progress: Callable[[Progress], None] | None
    folder: Path | None
    resume: bool
    found: float = 0.0
    """Seconds that a support took to be found."""
    asked: float | None = None
    """The budget with these; the same in a run that goes on, whatever the support takes then."""
    history: list[Point] = dataclasses.field(default_factory=list)
    ranged: bool = False
    """Whether the scale was unknown and is estimated by now."""

    def __post_init__(self) -> None:
        measurements = self.measurements
        counts = float(measurements.weights.expand(measurements.magnitudes.shape).sum())
        self.mean_square = measurements.energy / counts
        self.fingerprint = (
            f"{self.method}, {measurements.operator.name}, side {measurements.operator.size}, {counts:.0f} magnitudes"
            f" of energy {measurements.energy_of_data:.6g}, {self.restarts} restarts, seed {self.seed}"
        )
        if measurements.operator.support is not None:
            self.fingerprint += f", a support of {int(measurements.operator.support.sum())} pixels"

    def classical(self) -> Retrieval:
        begin = time.perf_counter()
        search: Search
        if self.method in FOURIER_SOLVERS:
            search = ProjectionSearch(self.measurements, cast(FourierSolver, self.method), self.restarts, self.seed)
        else:
            search = AmplitudeFlow(self.measurements, gaussian_start(self.measurements))
        spent = time.perf_counter() - begin
        if self.method == "spectral":
            return self._result(search.picture, FitResult(0, 0.0), spent, 0)
        run = self._search(search, 1.0, CLASSICAL_ROUNDS[self.method])
        return self._result(search.picture, FitResult(0, 0.0), spent + run.seconds, search.iterations, run.partial)

    def multiscale(self, settings: PhaseSettings) -> Retrieval:
        """What a field's run is without the field: its search, longer by the time of the fit, and its refinement."""
        fit_mask = held_out_mask(self.measurements, torch.Generator().manual_seed(self.seed))
        search = CoarseToFine(self.measurements, self.restarts, self.seed, fit_mask)
        run = self._search(search, 1 - settings.refinement, settings.search_rounds)
        if run.partial:
            return self._result(search.picture, FitResult(0, 0.0), run.seconds, search.iterations, True)
        pictures = self._in_range(search.candidates(), fit_mask)
        picture, refined = self._refine(pictures, fit_mask, settings, run.seconds)
        seconds, iterations = run.seconds + refined.seconds, refined.rounds * (ROUND + CLEANING)
        return self._result(picture, FitResult(0, 0.0), seconds, search.iterations + iterations, refined.partial)

    def field(self, settings: PhaseSettings) -> Retrieval:
        generator = torch.Generator().manual_seed(self.seed)
        fit_mask = held_out_mask(self.measurements, generator)
        fourier = isinstance(self.measurements.operator, FourierOperator)
        if fourier:
            search = CoarseToFine(self.measurements, self.restarts, self.seed, fit_mask)
            run = self._search(search, settings.search, settings.search_rounds)
            seconds, iterations = run.seconds, search.iterations
            if run.partial:
                return self._result(search.picture, FitResult(0, 0.0, partial=True), seconds, iterations, True)
            pictures = self._in_range(search.candidates(), fit_mask)
            start = min(pictures, key=lambda p: self.measurements.relative_residual(p, ~fit_mask))
        else:
            begin = time.perf_counter()
            start, iterations = gaussian_start(self.measurements), 0
            if not self.measurements.scale_known:
                (start,) = self._in_range([start], fit_mask)
            seconds = time.perf_counter() - begin
        module = self._module(settings, start)
        problem = (NetADM if fourier else NetGD)(module, settings, self.measurements, start, fit_mask)
        refinement = settings.refinement if fourier else 0.0
        first = settings.search if fourier else 0.0
        left = (
            None if self.budget is None else max((self.budget - seconds) - self.budget * refinement, self.budget * 0.05)
        )
        fitted = fit(
            module,
            problem,
            FitSettings(settings.steps if left is None else None, self.asked, earliest=EARLIEST),
            generator,
            lambda progress: self._fit_progress(progress, seconds, first, 1 - first - refinement),
            None if self.folder is None else self.folder / "checkpoint.pt",
            self.resume,
            self.fingerprint,
            0.0 if self.asked is None or left is None else self.asked - left,
        )
        self.history += [self._fit_point(progress, seconds) for progress in fitted.history]
        seconds += fitted.seconds
        with torch.no_grad():
            picture = problem.picture().clamp(0, 1 if fourier or not self.ranged else OPEN)
        if fourier and not fitted.partial:
            picture, refined = self._refine([picture, start], fit_mask, settings, seconds)
            seconds += refined.seconds
            iterations += refined.rounds * (ROUND + CLEANING)
            fitted.partial = refined.partial
        return self._result(picture, fitted, seconds, iterations, fitted.partial, module.field, settings)

    def _in_range(self, pictures: list[Tensor], fit_mask: Tensor) -> list[Tensor]:
        """The pictures of a search, or where the scale is unknown the one that explains the held-out magnitudes best,
        brought to the range [0, 1] together with the measurements."""
        measurements = self.measurements
        if measurements.scale_known:
            return pictures
        best = min(pictures, key=lambda p: measurements.relative_residual(p, ~fit_mask))
        if isinstance(measurements.operator, FourierOperator):
            seconds = None if self.budget is None else RANGE_PART * self.budget
            c, best = range_end(measurements, best, fit_mask, seconds)
        else:
            c = max(float(best.max()), 1e-6)
            best = best / c
        self.mean_square /= c**2
        self.measurements, self.ranged = measurements.in_units_of(c), True
        return [best]

    def _module(self, settings: PhaseSettings, start: Tensor) -> Splitting:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Splitting(ImageField(settings, (*start.shape, 1)), start)

    def _refine(
        self, pictures: list[Tensor], fit_mask: Tensor, settings: PhaseSettings, seconds: float
    ) -> tuple[Tensor, SearchRun]:
        """HIO from the best of the pictures: the field's, or the start, which too short a fit may have spoilt. Of all
        that come up, what the held-out magnitudes choose."""
        search = Refinement(self.measurements, pictures, fit_mask)
        run = self._search(search, settings.refinement, settings.refinement_rounds, seconds)
        # Where nothing explains the held-out magnitudes, black explains them best.
        return search.picture if bool(search.picture.any()) else pictures[0], run

    def _search(self, search: Search, part: float, rounds: int, seconds: float = 0.0) -> SearchRun:
        """Run for a part of the budget, or for the rounds when there is none; a refinement is the run's last part."""
        last = isinstance(search, Refinement)
        budget = None if self.budget is None else max(self.budget * part, 0.1 if last else 0.0)

        def on_progress(point: Point, fraction: float) -> None:
            if self.on_progress is not None:
                decibel = -10 * math.log10(max(point.relative_residual**2 * self.mean_square, 1e-10))
                done = (1 - part if last else 0.0) + part * fraction
                self.on_progress(Progress(point.iteration, None, point.seconds, done, decibel))

        run = run_search(
            search,
            budget,
            rounds if budget is None else None,
            on_progress,
            None if self.folder is None or last else self.folder / "search.pt",
            self.resume,
            self.fingerprint,
            "refinement" if last else "search",
            seconds,
        )
        self.history += run.history
        return run

    def _fit_point(self, progress: Progress, seconds: float) -> Point:
        residual = math.sqrt(10 ** (-progress.psnr_validation / 10) / self.mean_square)
        return Point("fit", progress.step, seconds + progress.seconds, residual)

    def _fit_progress(self, progress: Progress, seconds: float, first: float, part: float) -> None:
        if self.on_progress is not None:
            fraction = first + part * progress.fraction
            self.on_progress(
                Progress(progress.step, None, seconds + progress.seconds, fraction, progress.psnr_validation)
            )

    def _result(
        self,
        picture: Tensor,
        fitted: FitResult,
        seconds: float,
        iterations: int,
        partial: bool = False,
        field: ImageField | None = None,
        settings: PhaseSettings | None = None,
    ) -> Retrieval:
        picture, measurements = picture.detach(), self.measurements
        if self.ranged or not measurements.scale_known:  # its largest value is the range's end
            c = max(float(picture.max()), 1e-6)
            picture, measurements = picture / c, measurements.in_units_of(c)
        picture = picture.clamp(0, 1)
        residual = measurements.relative_residual(picture)
        values = picture.numpy().astype(np.float32)
        support = measurements.operator.support
        return Retrieval(
            values,
            residual,
            field,
            settings,
            fitted,
            seconds + self.found,
            iterations,
            self.history,
            partial,
            measurements.unit,
            None if support is None else support.numpy(),
        )
