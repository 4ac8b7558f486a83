"""Where a field starts from, by the measurements alone.

Fourier: `CoarseToFine`, HIO on few frequencies first. Gaussian: `gaussian_start`, spectral on a coarse grid of
pixels, then finer and finer ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from peak_nerf.tasks.phase_retrieval.data_term import expected_measurement
from peak_nerf.tasks.phase_retrieval.measurements import Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator, GaussianOperator
from peak_nerf.tasks.phase_retrieval.projections import CLEANING, ROUND, Projections, padded, projections_for

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
COARSEST, FINEST = 6, 48
"""Grid sides of `gaussian_start`; never finer than half the picture."""


class Vote:
    """The mean phase factor of a search's iterates, and the picture whose transform is y times it.

    Where the phases have not settled, as with noise, the mean is small: the picture has little energy where nothing is
    known, and is nearer to the truth than any of the iterates, though further off the magnitudes.

    Source: Fienup and Wackerman, J. Opt. Soc. Am. A 1986.
    """

    def __init__(self, measurements: Measurements, y: Tensor, known: Tensor) -> None:
        self.measurements, self.y, self.known = measurements, y, known
        self.clear()

    def clear(self) -> None:
        """No votes."""
        self.sum = torch.zeros_like(self.y, dtype=torch.complex64)
        self.total = 0.0

    def add(self, picture: Float[Tensor, "n n"], misfit: float) -> None:
        """A vote, of weight misfit^-2."""
        z = self.measurements.operator.apply(picture)
        weight = max(misfit, 1e-7) ** -2
        self.sum += weight * z / z.abs().clamp_min(1e-12)
        self.total += weight

    def picture(self, best: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
        """In [0, 1]; magnitudes that are not known are those of `best`."""
        n = self.measurements.operator.size
        y = torch.where(self.known, self.y, self.measurements.operator.apply(best).abs())
        side = len(y)
        return torch.fft.irfft2(y * self.sum / self.total, s=(side, side), norm="ortho")[:n, :n].clamp(0, 1)


class CoarseToFine:
    r"""HIO on blurred magnitudes of few low frequencies first, then on more and more of them.

    Magnitudes times g(k) = exp(-log(20) |k|^2 / K^2) are those of the picture blurred. Of these the side x side lowest
    frequencies, K = side / 2, are kept: a small padded picture whose constraint is known exactly, 0 <= v <= ceiling,
    the ceiling being the blurred support. There HIO takes no time, from many random pictures, of which the misfit
    chooses a few for the second half; what they find are the starts of the next level. On all frequencies, without
    blur, a small beta keeps what the levels before have found, where the usual 0.9 wanders off. There they take turns,
    until the misfit chooses one.

    Then its iterates also vote, see `Vote`.

    Source: HIO, Fienup, Appl. Opt. 1982; the levels are ours.
    Args: known as in `Projections`. Raises: ValueError when there are no restarts, or on Gaussian magnitudes.
    """

    def __init__(self, measurements: Measurements, restarts: int, seed: int, known: Tensor | None = None) -> None:
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {restarts}")
        self.measurements = measurements
        self.full = projections_for(measurements, known, FULL_BETA)
        self.known = torch.ones_like(self.full.y, dtype=torch.bool) if known is None else known
        self.n, m = measurements.operator.size, self.full.side
        sides = [2 * round(m * share / 2) for share in LEVELS if self.n * share >= LEAST_SIDE]
        self.levels = [self._coarse(side) for side in sides] + [self.full]
        # Fractions of the run at which a level ends.
        self.ends = [*LEVEL_ENDS[len(LEVELS) - len(sides) :], 1.0]
        generator = torch.Generator().manual_seed(seed)
        first = self.levels[0]
        n, self.kept = restarts * COARSE_STARTS, restarts * KEPT
        self.iterates = [torch.rand(first.side, first.side, generator=generator) * first.ceiling for _ in range(n)]
        self.misfits = [math.inf] * n
        self.level, self.turn, self.iterations = 0, 0, 0
        self.picture, self.misfit = self._spread(self.iterates[0], first), math.inf
        self.vote = Vote(measurements, self.full.y, self.known)

    def round(self, fraction: float) -> None:
        """About as long at every level."""
        while self.level + 1 < len(self.levels) and fraction >= self.ends[self.level]:
            self._refine()
        level = self.levels[self.level]
        if len(self.iterates) > self.kept and fraction >= self.ends[0] / 2:
            self._drop_all_but_the_best(self.kept)
        if len(self.iterates) > 1 and fraction >= ALONE:
            self._drop_all_but_the_best(1)
        n = min(round(ROUND * (self.full.side / level.side) ** 2), 1500)
        v = level.run(self.iterates[self.turn], "hio", n)
        self.iterates[self.turn] = v
        self.iterations += n + CLEANING
        cleaned = level.clean(v)
        self.misfits[self.turn] = _misfit(level, cleaned)
        if level is self.full:
            self._look(cleaned[: self.n, : self.n])
        elif self.misfits[self.turn] <= min(self.misfits) and math.isfinite(self.misfits[self.turn]):
            self.picture = self._spread(cleaned, level)
            self.misfit = _misfit(self.full, padded(self.picture, self.full.side))
        self.turn = (self.turn + 1) % len(self.iterates)

    def candidates(self) -> list[Tensor]:
        """The iterate of least misfit, and the vote, if one has begun."""
        return [self.picture] if self.vote.total == 0 else [self.picture, self.vote.picture(self.picture)]

    def _look(self, picture: Tensor) -> None:
        misfit = self.misfits[self.turn]
        if misfit < self.misfit:
            self.picture, self.misfit = picture, misfit
        if len(self.iterates) == 1:  # several are not of one mind
            self.vote.add(picture, misfit)

    def _drop_all_but_the_best(self, n: int) -> None:
        best = sorted(range(len(self.misfits)), key=self.misfits.__getitem__)[:n]
        self.iterates = [self.iterates[i] for i in best]
        self.misfits, self.turn = [self.misfits[i] for i in best], 0

    def _refine(self) -> None:
        """The iterates of this level on the next."""
        old, new = self.levels[self.level], self.levels[self.level + 1]
        self._drop_all_but_the_best(self.kept)
        self.iterates = [self._refined(v, old, new) for v in self.iterates]
        self.misfits, self.turn = [math.inf] * len(self.iterates), 0
        self.level += 1
        if new is self.full:
            self.misfit = math.inf  # that of a coarse picture is no match for a full one's

    def _refined(self, v: Tensor, old: Projections, new: Projections) -> Tensor:
        spectrum = self._unblurred(old.clean(v), old)
        if new is not self.full:
            spectrum = _low(spectrum, new.side) * _blur(new.side) * (new.side / self.full.side)
        return torch.fft.irfft2(spectrum, s=(new.side, new.side), norm="ortho")

    def _coarse(self, side: int) -> Projections:
        scale = _blur(side) * (side / self.full.side)
        support = torch.fft.rfft2(self.full.ceiling, norm="ortho")
        ceiling = torch.fft.irfft2(_low(support, side) * scale, s=(side, side), norm="ortho")
        ceiling = torch.where(ceiling < LEAST_CEILING, torch.zeros(()), ceiling)
        known = _low(self.known.float(), side) > 0
        known[side // 2] = known[:, side // 2] = True  # their blurred magnitudes are taken for 0
        return Projections(_low(self.full.y, side) * scale, ceiling, known)

    def _unblurred(self, v: Tensor, level: Projections) -> Tensor:
        """The spectrum of a level's picture in the full frame, without blur, cut where that would divide too far."""
        if level is self.full:
            return torch.fft.rfft2(v, norm="ortho")
        blur = _blur(level.side)
        spectrum = torch.fft.rfft2(v, norm="ortho") / blur * (self.full.side / level.side)
        return _high(torch.where(blur > 20**-0.81, spectrum, torch.zeros(())), self.full.side)

    def _spread(self, v: Tensor, level: Projections) -> Tensor:
        """A level's picture as an (n, n) one."""
        spectrum = self._unblurred(v, level)
        return torch.fft.irfft2(spectrum, s=(self.full.side,) * 2, norm="ortho")[: self.n, : self.n].clamp(0, 1)

    _NAMES = ("iterates", "misfits", "level", "turn", "iterations", "picture", "misfit")

    def state(self) -> dict[str, Any]:
        votes = {"votes": self.vote.sum, "total": self.vote.total}
        return {name: getattr(self, name) for name in self._NAMES} | votes

    def restore(self, state: dict[str, Any]) -> None:
        for name in self._NAMES:
            setattr(self, name, state[name])
        self.vote.sum, self.vote.total = state["votes"], state["total"]


def _misfit(level: Projections, v: Tensor) -> float:
    """|| |FFT v| - y || / ||y|| over the known magnitudes of a level."""
    weights = FourierOperator(1, level.side).weights
    counts = weights if level.known is None else weights * level.known
    error = (torch.fft.rfft2(v, norm="ortho").abs() - level.y).square()
    return math.sqrt(float((error * counts).sum() / (level.y.square() * counts).sum()))


def _blur(side: int) -> Float[Tensor, "side half"]:
    """g on the lowest side x side frequencies: 1 in the middle, 1/20 at |k| = side / 2."""
    rows, columns = torch.fft.fftfreq(side)[:, None] * 2, torch.fft.rfftfreq(side) * 2
    return torch.exp(-math.log(20) * (rows.square() + columns.square()))


def _low(spectrum: Tensor, side: int) -> Tensor:
    """The lowest frequencies of a half spectrum (m, m // 2 + 1) as one of an even side; those at side / 2 are 0."""
    half = side // 2
    low = torch.zeros(side, half + 1, dtype=spectrum.dtype)
    low[:half, :half] = spectrum[:half, :half]
    low[1 - half :, :half] = spectrum[1 - half :, :half]
    return low


def _high(low: Tensor, side: int) -> Tensor:
    """The other way round: frequencies that a smaller spectrum does not have are 0."""
    half = len(low) // 2
    spectrum = torch.zeros(side, side // 2 + 1, dtype=low.dtype)
    spectrum[:half, :half] = low[:half, :half]
    spectrum[1 - half :, :half] = low[1 - half :, :half]
    return spectrum


def gaussian_start(measurements: Measurements) -> Float[Tensor, "n n"]:
    r"""A picture U c from Gaussian magnitudes, U bilinear from k x k to n x n, k growing from `COARSEST`.

    1. Spectral: c is the leading generalised eigenvector of (B^T diag(min(y^2 / mean y^2, 9)) B, B^T B), B = A U. With
       few unknowns against many magnitudes it is reliable, where for all n^2 pixels at once, at m <= n^2, it is not.
       Its scale is that of the magnitudes; its sign makes the picture's mean positive.
    2. For each finer grid: a few times, the expected measurements given the present picture (`data_term`, sigma its own
       misfit), and least squares in c by conjugate gradients.

    One pass over A; then everything happens in the finest grid's k^2 numbers. Result: in [0, 1].
    Sources: spectral, Netrapalli et al., IEEE Trans. Signal Process. 2015; the grids are ours.
    """
    operator, y = measurements.operator, measurements.magnitudes
    if isinstance(operator, FourierOperator):
        raise ValueError("this start is for Gaussian magnitudes")
    finest = max(min(operator.size // 2, FINEST), 2)
    basis = _bilinear(finest, operator.size)
    b = _through(operator, basis)  # (m, finest^2)
    sides = [k for k in (6, 8, 12, 16, 20, 24, 28, 32, 40, 48) if COARSEST <= k < finest] + [finest]
    c: Tensor | None = None
    for k in sides:
        up = _bilinear(k, finest) if k < finest else torch.eye(finest)
        if c is None:
            c = _spectral(_compose(b, up), y).reshape(k, k)
        else:
            c = torch.linalg.pinv(up) @ c @ torch.linalg.pinv(up).T
        c = _refined(b, up, c, y)
        c = up @ c @ up.T
    assert c is not None  # there is at least one side
    return (basis @ c @ basis.T).clamp(0, 1)


def _bilinear(k: int, n: int) -> Float[Tensor, "n k"]:
    """Interpolation of k numbers to n."""
    return F.interpolate(torch.eye(k)[:, None], size=n, mode="linear", align_corners=False)[:, 0].T.contiguous()


def _through(operator: GaussianOperator, basis: Float[Tensor, "n k"]) -> Tensor:
    """G (basis kron basis), (m, k^2), a block of rows at a time."""
    n, k = basis.shape
    kind = torch.complex64 if operator.complex_valued else torch.float32
    out = torch.empty(operator.n_rows, k * k, dtype=kind)
    typed = basis.to(kind)
    for start, rows in operator.blocks():
        half = rows.reshape(-1, n) @ typed
        both = half.reshape(len(rows), n, k).transpose(1, 2) @ typed
        out[start : start + len(rows)] = both.transpose(1, 2).reshape(len(rows), k * k)
    return out


def _compose(b: Tensor, up: Float[Tensor, "fine k"]) -> Tensor:
    """b (up kron up)."""
    fine, k = up.shape
    typed = up.to(b.dtype)
    return torch.einsum("mab,ac,bd->mcd", b.reshape(len(b), fine, fine), typed, typed).reshape(len(b), k * k)


def _spectral(b: Tensor, y: Tensor) -> Tensor:
    weights = (y.square() / y.square().mean()).clamp_max(9)
    weighted, gram = ((b.mH * weights.to(b.dtype)) @ b).real, (b.mH @ b).real
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram))
    lower = torch.linalg.cholesky(gram)
    whitened = torch.linalg.solve_triangular(lower, weighted, upper=False)
    whitened = torch.linalg.solve_triangular(lower, whitened.T, upper=False)
    leading = torch.linalg.eigh((whitened + whitened.T) / 2).eigenvectors[:, -1:]
    c = torch.linalg.solve_triangular(lower.T, leading, upper=True)[:, 0]
    c = c if c.sum() >= 0 else -c
    return c * (y.norm() / (b @ c.to(b.dtype)).abs().square().sum().sqrt())


def _refined(b: Tensor, up: Float[Tensor, "fine k"], c: Float[Tensor, "k k"], y: Tensor) -> Float[Tensor, "k k"]:
    def forward(c: Tensor) -> Tensor:
        return b @ (up @ c @ up.T).reshape(-1).to(b.dtype)

    def backward(v: Tensor) -> Tensor:
        return up.T @ (b.mH @ v).real.reshape(len(up), len(up)) @ up

    for _ in range(6):
        z = forward(c)
        sigma = float((z.abs() - y).square().mean().sqrt())
        residual = backward(expected_measurement(z, y, sigma) - z)
        direction, size = residual, residual.square().sum()
        for _ in range(8):
            along = backward(forward(direction))
            step = size / (direction * along).sum().clamp_min(1e-30)
            c, residual = c + step * direction, residual - step * along
            size, before = residual.square().sum(), size
            direction = residual + size / before.clamp_min(1e-30) * direction
    return c
