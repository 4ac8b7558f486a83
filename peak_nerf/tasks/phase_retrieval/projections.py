r"""Projections onto Fourier magnitudes and onto the support, and the classical solvers made of them.

With P_M the nearest picture of the measured magnitudes and P_S that of the support and of [0, 1],

    error reduction   v <- P_S P_M v
    HIO               v <- P_M v where P_M v obeys the constraints, v - beta P_M v elsewhere
    RAAR              v <- beta/2 (R_S R_M + 1) v + (1 - beta) P_M v,   R = 2 P - 1

Sources: Fienup, Appl. Opt. 1982; Luke, Inverse Problems 2005.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from peak_nerf.tasks.phase_retrieval.data_term import expected_measurement
from peak_nerf.tasks.phase_retrieval.magnitudes import Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator

FourierSolver = Literal["error-reduction", "hio", "raar"]
FOURIER_SOLVERS = ("error-reduction", "hio", "raar", "multiscale-hio")
"""The last is a field's run without the field: `multiscale_hio.CoarseToFine`, then `multiscale_hio.Refinement`."""
GAUSSIAN_SOLVERS = ("spectral", "amplitude-flow")
ROUND = 25
"""Iterations of a round."""
CLEANING = 10
"""Steps of error reduction before a HIO or RAAR iterate is scored: the iterates themselves wander."""


class Search:
    """An iteration that a budget drives, stopped, saved and resumed after any round."""

    STATE: ClassVar[tuple[str, ...]] = ("iterations", "picture", "relative_residual")
    """Attributes that are saved: tensors, numbers and lists of them."""
    iterations: int
    picture: Tensor
    """The best so far, (h, w) from 0 to the range's end."""
    relative_residual: float
    """Its relative residual."""

    def round(self, fraction: float) -> None:
        """Go on for about a second at most.

        Args:
            fraction: of the budget that is spent, in [0, 1].
        """
        raise NotImplementedError

    def keep_if_better(self, picture: Tensor, residual: float) -> None:
        """Make this the picture if its relative residual is the lowest so far."""
        if residual < self.relative_residual:
            self.picture, self.relative_residual = picture, residual

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {name: getattr(self, name) for name in self.STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name in self.STATE:
            setattr(self, name, state[name])


class Projections:
    """P_M and P_S, and the three iterations made of them, on padded pictures v (m_1, m_2).

    Args:
        y: magnitudes (m_1, m_2 // 2 + 1) of the unitary transform of v.
        ceiling: (m_1, m_2); P_S clips v to [0, ceiling]: the range's end on the support and 0 around it.
        fit_mask: of y's shape, bool, which magnitudes are fitted; elsewhere P_M changes nothing. None: all.
        beta: of HIO and RAAR.
    """

    def __init__(
        self,
        y: Tensor,
        ceiling: Tensor,
        fit_mask: Tensor | None = None,
        beta: float = 0.9,
    ) -> None:
        self.y, self.ceiling, self.fit_mask, self.beta = y, ceiling, fit_mask, beta
        self.frame = (ceiling.shape[0], ceiling.shape[1])
        self.side = self.frame[0]

    def to_measured(self, v: Tensor) -> Tensor:
        """P_M v."""
        z = torch.fft.rfft2(v, norm="ortho")
        target = expected_measurement(z, self.y, 0.0)
        if self.fit_mask is not None:
            target = torch.where(self.fit_mask, target, z)
        return torch.fft.irfft2(target, s=self.frame, norm="ortho")

    def to_allowed(self, v: Tensor) -> Tensor:
        """P_S v."""
        return torch.minimum(v.clamp_min(0), self.ceiling)

    def step(self, v: Tensor, solver: FourierSolver) -> Tensor:
        """One iteration."""
        p = self.to_measured(v)
        if solver == "error-reduction":
            return self.to_allowed(p)
        if solver == "hio":
            return torch.where((p >= 0) & (p <= self.ceiling), p, v - self.beta * p)
        reflected = 2 * p - v
        return self.beta / 2 * (2 * self.to_allowed(reflected) - reflected + v) + (1 - self.beta) * p

    def run(self, v: Tensor, solver: FourierSolver, n: int) -> Tensor:
        """n iterations."""
        for _ in range(n):
            v = self.step(v, solver)
        return v

    def clean(self, v: Tensor, n: int = CLEANING) -> Tensor:
        """The picture that an iterate stands for: P_S P_M v, after n more steps of error reduction."""
        return self.run(v, "error-reduction", n + 1)


def padded(x: Tensor, side: int | tuple[int, int]) -> Tensor:
    """P x: (h, w) in the corner of zeros, (side, side) or two sides."""
    v = torch.zeros((side, side) if isinstance(side, int) else side)
    v[: x.shape[0], : x.shape[1]] = x
    return v


def projections_for(measurements: Measurements, fit_mask: Tensor | None = None, beta: float = 0.9) -> Projections:
    """The projections of Fourier magnitudes; unknown ones are never fitted. Raises: ValueError on Gaussian ones."""
    operator = measurements.operator
    if not isinstance(operator, FourierOperator):
        raise ValueError("projections are for Fourier magnitudes")
    support = torch.ones(operator.box) if operator.support is None else operator.support.float()
    ceiling = padded(support * measurements.height, operator.frame)
    if measurements.known is not None:
        fit_mask = measurements.known if fit_mask is None else fit_mask & measurements.known
    return Projections(measurements.magnitudes, ceiling, fit_mask, beta)


def random_picture(box: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(h, w), independent and uniform in [0, 1]."""
    return torch.rand(box, generator=generator)


class ProjectionSearch(Search):
    """ER, HIO or RAAR from several random pictures: all take turns for half of the budget, then the best goes on alone.

    Raises: ValueError when there are no restarts, or on Gaussian magnitudes.
    """

    STATE = ("iterates", "residuals", "turn", *Search.STATE)

    def __init__(self, measurements: Measurements, solver: FourierSolver, restarts: int, seed: int) -> None:
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {restarts}")
        self.measurements, self.solver = measurements, solver
        self.projections = projections_for(measurements)
        self.h, self.w = measurements.operator.box
        generator = torch.Generator().manual_seed(seed)
        starts = [random_picture((self.h, self.w), generator) for _ in range(restarts)]
        self.iterates = [padded(start, self.projections.frame) for start in starts]
        self.residuals = [math.inf] * restarts
        self.turn, self.iterations = 0, 0
        self.picture, self.relative_residual = starts[0], math.inf

    def round(self, fraction: float) -> None:
        """`ROUND` iterations of one of the pictures."""
        if fraction >= 0.5:
            self.turn = min(range(len(self.residuals)), key=self.residuals.__getitem__)
        v = self.projections.run(self.iterates[self.turn], self.solver, ROUND)
        self.iterates[self.turn] = v
        self.iterations += ROUND + CLEANING
        picture = self.projections.clean(v)[: self.h, : self.w]
        residual = self.measurements.relative_residual(picture)
        self.residuals[self.turn] = min(residual, self.residuals[self.turn])
        self.keep_if_better(picture, residual)
        self.turn = (self.turn + 1) % len(self.iterates)
