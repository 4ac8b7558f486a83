"""Where a field starts from, by the measurements alone.

Fourier: `GuidedSearch`, HIO runs that vote on every phase. Gaussian: `gaussian_start`, spectral on a coarse grid of
pixels, then finer and finer ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from peak_nerf.tasks.phase_retrieval.classical import Projections, random_picture
from peak_nerf.tasks.phase_retrieval.data_term import expected_measurement
from peak_nerf.tasks.phase_retrieval.measurements import Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator, GaussianOperator

COARSEST, FINEST = 6, 48
"""Grid sides of `gaussian_start`; never finer than half the picture."""


class GuidedSearch:
    r"""HIO from random pictures, then generations of HIO runs whose phases are averaged.

    A HIO run that has stagnated is right but for stripes, whose frequencies have wrong phases, and other runs are wrong
    at other frequencies. The vote of runs i with misfits e_i is the mean phase factor p = sum w_i exp(i phi_i),
    w_i ~ 1 / e_i^2: its size tells how far they agree, and y p is the transform of a better picture, with little energy
    where they do not. A generation holds the vote itself, the best run so far, and blurred, noisy copies of the best,
    each after `LENGTH` iterations of HIO; a run that is the twin image, turned by 180 degrees, is turned back first.

    Sources: voting, Fienup and Wackerman, J. Opt. Soc. Am. A 1986; guiding, Chen et al., Phys. Rev. B 2007.
    Args: as `Projections`; restarts: random pictures, at least 1, and runs of a generation, then at least 3.
    """

    LENGTH = 300
    BLUR, BLUR_FALL = 0.02, 0.85
    """Of the copies: standard deviation in sides of the picture, and its factor per generation."""
    NOISE = 0.3

    def __init__(self, measurements: Measurements, restarts: int, seed: int, known: Tensor | None = None) -> None:
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {restarts}")
        self.measurements = measurements
        self.projections = Projections(measurements, known)
        self.known = torch.ones_like(measurements.magnitudes, dtype=torch.bool) if known is None else known
        self.generator = torch.Generator().manual_seed(seed)
        self.size = max(restarts, 3)
        n = self.projections.n
        self.waiting = [random_picture(n, self.generator) for _ in range(restarts)]
        self.done: list[Tensor] = []
        self.misfits: list[float] = []
        self.best, self.best_misfit = self.waiting[0], math.inf
        self.picture, self.misfit = self.best, math.inf
        self.generation, self.iterations = 0, 0

    def round(self, fraction: float) -> None:
        """One HIO run; after the last of a generation, the vote and the next generation."""
        v = self.projections.run(self.projections.pad(self.waiting.pop(0)), "hio", self.LENGTH)
        picture = self.projections.clean(v, 20)
        self.iterations += self.LENGTH + 20
        self.done.append(picture)
        self.misfits.append(self._misfit(picture))
        if self.misfits[-1] < self.best_misfit:
            self.best, self.best_misfit = picture, self.misfits[-1]
            if self.generation == 0:
                self.picture, self.misfit = picture, self.misfits[-1]
        if not self.waiting:
            self._vote()
            self._breed()

    def _misfit(self, picture: Tensor) -> float:
        """Of the known magnitudes only."""
        error = (self.projections.operator.apply(picture).abs() - self.projections.y).square()
        counts = self.measurements.weights * self.known
        return math.sqrt(float((error * counts).sum() / (self.projections.y.square() * counts).sum()))

    def _vote(self) -> None:
        total = torch.zeros_like(self.projections.y, dtype=torch.complex64)
        if self.generation == 0:  # random starts: most are no kin of the best
            runs = [(self.best, self.best_misfit)]
        else:
            runs = [*zip(self.done, self.misfits, strict=True), (self.best, self.best_misfit)]
        weights = [1 / max(misfit, 1e-7) ** 2 for _, misfit in runs]
        for (picture, _), weight in zip(runs, weights, strict=True):
            z = self.projections.operator.apply(turned_like(picture, self.best))
            total += weight / sum(weights) * z / z.abs().clamp_min(1e-12)
        y = torch.where(self.known, self.projections.y, self.projections.operator.apply(self.best).abs())
        self.picture = self.projections.crop(self.projections.operator.adjoint_padded(y * total))
        self.misfit = self._misfit(self.picture)

    def _breed(self) -> None:
        sigma = max(self.BLUR * self.projections.n * self.BLUR_FALL**self.generation, 0.5)
        self.waiting = [self.picture, self.best]
        while len(self.waiting) < self.size:
            noise = self.NOISE * (random_picture(self.projections.n, self.generator) - 0.5)
            self.waiting.append(blurred(self.best, sigma) + noise)
        self.done, self.misfits = [], []
        self.generation += 1

    @property
    def solved(self) -> bool:
        """Whether the magnitudes are explained to rounding."""
        return self.best_misfit < 1e-5

    _NAMES = ("waiting", "done", "misfits", "best", "best_misfit", "picture", "misfit", "generation", "iterations")

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._NAMES} | {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state.pop("generator"))
        for name, value in state.items():
            setattr(self, name, value)


def turned_like(picture: Float[Tensor, "n n"], reference: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The picture, or the picture turned by 180 degrees, whichever is nearer to the reference."""
    turned = picture.flip(0, 1)
    return turned if (turned - reference).square().sum() < (picture - reference).square().sum() else picture


def blurred(picture: Float[Tensor, "n n"], sigma: float) -> Float[Tensor, "n n"]:
    """Convolved with a Gaussian of `sigma` pixels, the border repeated."""
    reach = max(math.ceil(3 * sigma), 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(picture[None, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[0, 0]


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
