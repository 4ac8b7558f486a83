"""Multiscale HIO on Fourier magnitudes: coarse to fine from random pictures, and the refinement that ends a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from peak_nerf.tasks.phase_retrieval.magnitudes import Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator
from peak_nerf.tasks.phase_retrieval.projections import CLEANING, ROUND, Projections, Search, padded, projections_for

LEVELS = (0.13, 0.27, 0.53)
"""Of `CoarseToFine`: sides of the coarse spectra, of the full one's."""
LEVEL_ENDS = (0.2, 0.3, 0.45)
"""Fractions of the run at which these levels end."""
ALONE = 0.65
"""Fraction of the run from which the best goes on alone."""
LEAST_SIDE = 24
"""Pixels that a picture has at least on a coarse level."""
LEAST_CEILING = 0.02
"""Below, the blurred support counts as 0: ringing of the cut spectrum."""
COARSE_STARTS, KEPT = 8, 2
"""Random pictures on the coarsest level per restart, and how many of them go on to the finer ones: most end up half the
picture, half its twin, and with some pictures it is on all frequencies only that these show."""
FULL_BETA = 0.3
RESTART = 25
"""Rounds after which HIO begins anew from the averaged phases: left alone it circles around the solution."""


class PhaseAverage:
    """The mean phase factor of a search's iterates, and the picture whose transform is y times it.

    Where the phases have not settled, as with noise, the mean is small: the picture has little energy at frequencies
    whose phase is open, and is nearer to the truth than any of the iterates, though further off the magnitudes.

    Source: Fienup and Wackerman, J. Opt. Soc. Am. A 1986.
    """

    def __init__(self, measurements: Measurements, y: Tensor, fit_mask: Tensor) -> None:
        self.measurements, self.y, self.fit_mask = measurements, y, fit_mask
        self.clear()

    def clear(self) -> None:
        """Forget all iterates."""
        self.sum = torch.zeros_like(self.y, dtype=torch.complex64)
        self.total = 0.0

    def add(self, picture: Float[Tensor, "h w"], residual: float) -> None:
        """Count an iterate in, with the weight residual^-2."""
        z = self.measurements.operator.apply(picture)
        weight = max(residual, 1e-7) ** -2
        self.sum += weight * z / z.abs().clamp_min(1e-12)
        self.total += weight

    def picture(self, best: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """The averaged phases' picture, within the range; magnitudes that are not fitted are those of `best`."""
        operator = self.measurements.operator
        assert isinstance(operator, FourierOperator)
        y = torch.where(self.fit_mask, self.y, operator.apply(best).abs())
        picture = operator.adjoint(y * self.sum / self.total).clamp(0, self.measurements.height)
        return picture if operator.support is None else picture * operator.support


class CoarseToFine(Search):
    r"""HIO on blurred magnitudes of few low frequencies first, then on more and more of them.

    Magnitudes times g(k) = exp(-log(20) |k|^2 / K^2) are those of the picture blurred. Of these the side x side lowest
    frequencies, K = side / 2, are kept: a small padded picture whose constraint is known exactly, 0 <= v <= ceiling,
    the ceiling being the blurred support. There HIO takes no time, from many random pictures; those of the
    lowest relative residual go on to the second half and to the next level. On all frequencies, without blur, a small
    beta keeps what the levels before have found, where the usual 0.9 wanders off. There they take turns, until the
    relative residual chooses one.

    Then the phases of its iterates are averaged, see `PhaseAverage`.

    Source: HIO, Fienup, Appl. Opt. 1982; the levels are ours.
    Args:
        measurements: Fourier magnitudes.
        restarts: at least 1; `COARSE_STARTS` random pictures each.
        seed: of these pictures.
        fit_mask: as in `Projections`.

    Raises: ValueError when there are no restarts, or on Gaussian magnitudes.
    """

    STATE = ("iterates", "residuals", "level", "turn", *Search.STATE)

    def __init__(self, measurements: Measurements, restarts: int, seed: int, fit_mask: Tensor | None = None) -> None:
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {restarts}")
        self.measurements = measurements
        self.full = projections_for(measurements, fit_mask, FULL_BETA)
        everything = torch.ones_like(self.full.y, dtype=torch.bool)
        self.fit_mask = everything if self.full.fit_mask is None else self.full.fit_mask
        self.h, self.w = measurements.operator.box
        fractions = [fraction for fraction in LEVELS if min(self.h, self.w) * fraction >= LEAST_SIDE]
        frames = [(2 * round(m * f / 2), 2 * round(n * f / 2)) for f in fractions for m, n in [self.full.frame]]
        self.levels = [self._coarse(frame) for frame in frames] + [self.full]
        # Fractions of the run at which a level ends.
        self.ends = [*LEVEL_ENDS[len(LEVELS) - len(frames) :], 1.0]
        generator = torch.Generator().manual_seed(seed)
        first = self.levels[0]
        n, self.kept = restarts * COARSE_STARTS, restarts * KEPT
        ceiling = first.ceiling / measurements.height
        self.iterates = [torch.rand(first.frame, generator=generator) * ceiling for _ in range(n)]
        self.residuals = [math.inf] * n
        self.level, self.turn, self.iterations = 0, 0, 0
        self.picture, self.relative_residual = self._as_picture(self.iterates[0], first), math.inf
        self.phase_average = PhaseAverage(measurements, self.full.y, self.fit_mask)

    def round(self, fraction: float) -> None:
        """One iterate's turn, about as long at every level."""
        while self.level + 1 < len(self.levels) and fraction >= self.ends[self.level]:
            self._refine()
        level = self.levels[self.level]
        if len(self.iterates) > self.kept and fraction >= self.ends[0] / 2:
            self._drop_all_but_the_best(self.kept)
        if len(self.iterates) > 1 and fraction >= ALONE:
            self._drop_all_but_the_best(1)
        finer = [m / k for m, k in zip(self.full.frame, level.frame, strict=True)]
        n = min(round(ROUND * finer[0] * finer[1]), 1500)
        v = level.run(self.iterates[self.turn], "hio", n)
        self.iterates[self.turn] = v
        self.iterations += n + CLEANING
        cleaned = level.clean(v)
        self.residuals[self.turn] = _relative_residual(level, cleaned)
        if level is self.full:
            self._consider(cleaned[: self.h, : self.w])
        elif self.residuals[self.turn] <= min(self.residuals) and math.isfinite(self.residuals[self.turn]):
            self.picture = self._as_picture(cleaned, level)
            self.relative_residual = _relative_residual(self.full, padded(self.picture, self.full.frame))
        self.turn = (self.turn + 1) % len(self.iterates)

    def candidates(self) -> list[Tensor]:
        """The iterate of the lowest relative residual, and the averaged phases' picture, once there is one."""
        return (
            [self.picture]
            if self.phase_average.total == 0
            else [self.picture, self.phase_average.picture(self.picture)]
        )

    def _consider(self, picture: Tensor) -> None:
        residual = self.residuals[self.turn]
        self.keep_if_better(picture, residual)
        if len(self.iterates) == 1:  # the phases of several do not agree
            self.phase_average.add(picture, residual)

    def _drop_all_but_the_best(self, n: int) -> None:
        best = sorted(range(len(self.residuals)), key=self.residuals.__getitem__)[:n]
        self.iterates = [self.iterates[i] for i in best]
        self.residuals, self.turn = [self.residuals[i] for i in best], 0

    def _refine(self) -> None:
        """The iterates of this level on the next."""
        old, new = self.levels[self.level], self.levels[self.level + 1]
        self._drop_all_but_the_best(self.kept)
        self.iterates = [self._refined(v, old, new) for v in self.iterates]
        self.residuals, self.turn = [math.inf] * len(self.iterates), 0
        self.level += 1
        if new is self.full:
            self.relative_residual = math.inf  # that of a coarse picture is no match for a full one's

    def _refined(self, v: Tensor, old: Projections, new: Projections) -> Tensor:
        spectrum = self._unblurred(old.clean(v), old)
        if new is not self.full:
            spectrum = _low(spectrum, new.frame) * _blur(new.frame) * _scale(new.frame, self.full.frame)
        return torch.fft.irfft2(spectrum, s=new.frame, norm="ortho")

    def _coarse(self, frame: tuple[int, int]) -> Projections:
        scale = _blur(frame) * _scale(frame, self.full.frame)
        height = self.measurements.height
        support = torch.fft.rfft2(self.full.ceiling / height, norm="ortho")
        ceiling = torch.fft.irfft2(_low(support, frame) * scale, s=frame, norm="ortho")
        ceiling = torch.where(ceiling < LEAST_CEILING, torch.zeros(()), ceiling) * height
        fit_mask = _low(self.fit_mask.float(), frame) > 0
        fit_mask[frame[0] // 2] = fit_mask[:, frame[1] // 2] = True  # their blurred magnitudes are taken for 0
        return Projections(_low(self.full.y, frame) * scale, ceiling, fit_mask)

    def _unblurred(self, v: Tensor, level: Projections) -> Tensor:
        """The spectrum of a level's picture in the full frame, without blur, cut where that would divide too far."""
        if level is self.full:
            return torch.fft.rfft2(v, norm="ortho")
        blur = _blur(level.frame)
        spectrum = torch.fft.rfft2(v, norm="ortho") / blur * _scale(self.full.frame, level.frame)
        return _high(torch.where(blur > 20**-0.81, spectrum, torch.zeros(())), self.full.frame)

    def _as_picture(self, v: Tensor, level: Projections) -> Tensor:
        """A level's picture as an (h, w) one."""
        picture = torch.fft.irfft2(self._unblurred(v, level), s=self.full.frame, norm="ortho")
        return self.full.to_allowed(picture)[: self.h, : self.w]

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, the averaged phases included."""
        return super().state() | {"phase_sum": self.phase_average.sum, "phase_total": self.phase_average.total}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().restore(state)
        self.phase_average.sum, self.phase_average.total = state["phase_sum"], state["phase_total"]


def _relative_residual(level: Projections, v: Tensor) -> float:
    """|| |FFT v| - y || / ||y|| over the fitted magnitudes of a level."""
    weights = FourierOperator(1, level.frame).weights
    counts = weights if level.fit_mask is None else weights * level.fit_mask
    error = (torch.fft.rfft2(v, norm="ortho").abs() - level.y).square()
    return math.sqrt(float((error * counts).sum() / (level.y.square() * counts).sum()))


def _scale(frame: tuple[int, int], other: tuple[int, int]) -> float:
    """What takes coefficients of the unitary transform of one frame to those of another."""
    return math.sqrt(math.prod(frame)) / math.sqrt(math.prod(other))


def _blur(frame: tuple[int, int]) -> Float[Tensor, "m half"]:
    """g on the lowest frequencies of a frame: 1 in the middle, 1/20 at |k| = K, where a frame's side is 2 K."""
    rows, columns = torch.fft.fftfreq(frame[0])[:, None] * 2, torch.fft.rfftfreq(frame[1]) * 2
    return torch.exp(-math.log(20) * (rows.square() + columns.square()))


def _low(spectrum: Tensor, frame: tuple[int, int]) -> Tensor:
    """The lowest frequencies of a half spectrum as one of a frame of even sides; those at side / 2 are 0."""
    k, n = frame[0] // 2, frame[1] // 2
    low = torch.zeros(frame[0], n + 1, dtype=spectrum.dtype)
    low[:k, :n] = spectrum[:k, :n]
    low[1 - k :, :n] = spectrum[1 - k :, :n]
    return low


def _high(low: Tensor, frame: tuple[int, int]) -> Tensor:
    """The other way round: frequencies that a smaller spectrum does not have are 0."""
    k, n = len(low) // 2, low.shape[1] - 1
    spectrum = torch.zeros(frame[0], frame[1] // 2 + 1, dtype=low.dtype)
    spectrum[:k, :n] = low[:k, :n]
    spectrum[1 - k :, :n] = low[1 - k :, :n]
    return spectrum


class Refinement(Search):
    """The end of a Fourier run: HIO from the best of some pictures, on the fitted magnitudes; the held-out ones choose.

    Args:
        measurements: Fourier magnitudes.
        starts: pictures (h, w): the field's, and what the field started from.
        fit_mask: as in `Projections`; the other magnitudes score all pictures.
    """

    STATE = ()  # it is short and starts anew

    def __init__(self, measurements: Measurements, starts: list[Tensor], fit_mask: Tensor) -> None:
        self.measurements, self.held_out = measurements, ~fit_mask
        self.projections = projections_for(measurements, fit_mask, FULL_BETA)
        fitted = fit_mask if self.projections.fit_mask is None else self.projections.fit_mask
        self.phase_average = PhaseAverage(measurements, self.projections.y, fitted)
        start = min(starts, key=lambda picture: measurements.relative_residual(picture, self.held_out))
        self.v = padded(start, self.projections.frame)
        self.picture = start
        self.relative_residual = measurements.relative_residual(start, self.held_out)
        self.rounds, self.iterations = 0, 0

    def round(self, fraction: float) -> None:
        """`ROUND` iterations of HIO; every `RESTART` rounds from the averaged phases."""
        self.v = self.projections.run(self.v, "hio", ROUND)
        h, w = self.picture.shape
        picture = self.projections.clean(self.v)[:h, :w]
        residual = self.measurements.relative_residual(picture, self.held_out)
        self.iterations += ROUND + CLEANING
        self.keep_if_better(picture, residual)
        self.phase_average.add(picture, residual)
        self.rounds += 1
        if self.rounds % RESTART == 0:
            self.v = padded(self.phase_average.picture(self.picture), self.projections.frame)
            self.phase_average.clear()
