"""Gaussian magnitudes: a spectral start on a coarse grid of pixels, and amplitude flow from it.

Sources: Netrapalli et al., IEEE Trans. Signal Process. 2015 (spectral); Zhang et al., JMLR 2017 (reshaped Wirtinger
flow) and Wang et al., IEEE Trans. Inf. Theory 2018 (amplitude flow), without their truncations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from peak_nerf.tasks.phase_retrieval.data_term import expected_measurement
from peak_nerf.tasks.phase_retrieval.magnitudes import Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator, GaussianOperator
from peak_nerf.tasks.phase_retrieval.projections import ROUND, Search

COARSEST, FINEST = 6, 48
"""Grid sides of `gaussian_start`; never finer than half the picture."""


def gaussian_start(measurements: Measurements) -> Float[Tensor, "n n"]:
    r"""A picture U c from Gaussian magnitudes, U bilinear from k x k to n x n, k growing from `COARSEST`.

    1. Spectral: c is the leading generalised eigenvector of (B^T diag(min(y^2 / mean y^2, 9)) B, B^T B), B = A U. With
       few unknowns against many magnitudes it is reliable, where for all n^2 pixels at once, at m <= n^2, it is not.
       Its scale is that of the magnitudes; its sign makes the picture's mean positive.
    2. For each finer grid: a few times, the expected measurements given the present picture (`data_term`, sigma the
       root mean square of its residual), and least squares in c by conjugate gradients.

    One pass over A; then everything happens in the finest grid's k^2 numbers. Result: within the range.
    Source: the grids are ours. Raises: ValueError on Fourier magnitudes.
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
    return (basis @ c @ basis.T).clamp(0, measurements.height)


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


class AmplitudeFlow(Search):
    """x <- x - mu A^H (A x - y A x / |A x|), kept within the range; mu is steepest descent's for fixed signs.

    Args:
        measurements: magnitudes and operator.
        start: (n, n), such as `gaussian_start`.
    """

    STATE = ("x", *Search.STATE)

    def __init__(self, measurements: Measurements, start: Tensor) -> None:
        self.measurements, self.operator = measurements, measurements.operator
        self.picture, self.relative_residual, self.iterations = (
            start.clamp(0, measurements.height),
            measurements.relative_residual(start.clamp(0, measurements.height)),
            0,
        )
        self.x = self.picture

    def round(self, fraction: float) -> None:
        """`ROUND` steps."""
        operator = self.operator
        for _ in range(ROUND):
            z = operator.apply(self.x)
            gradient = operator.adjoint(z - expected_measurement(z, self.measurements.magnitudes, 0.0))
            along = operator.apply(gradient).abs().square().sum()
            step = float(gradient.square().sum() / along.clamp_min(1e-30))
            self.x = (self.x - step * gradient).clamp(0, self.measurements.height)
        self.iterations += ROUND
        residual = self.measurements.relative_residual(self.x)
        self.keep_if_better(self.x, residual)
