r"""Classical solvers as searches that can be stopped, saved and resumed after any round.

Fourier: with P_M the nearest picture of the measured magnitudes and P_S that of the support and of [0, 1],

    error reduction   v <- P_S P_M v
    HIO               v <- P_M v where P_M v obeys the constraints, v - beta P_M v elsewhere
    RAAR              v <- beta/2 (R_S R_M + 1) v + (1 - beta) P_M v,   R = 2 P - 1

Gaussian: amplitude flow, x <- x - mu A^H (A x - y A x / |A x|), from the start of `starts.gaussian_start`.

Sources: Fienup, Appl. Opt. 1982; Luke, Inverse Problems 2005; Zhang et al., JMLR 2017 (reshaped Wirtinger flow) and
Wang et al., IEEE Trans. Inf. Theory 2018 (amplitude flow), without their truncations.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from peak_nerf.tasks.phase_retrieval.data_term import expected_measurement
from peak_nerf.tasks.phase_retrieval.measurements import Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator, Operator

FourierSolver = Literal["error-reduction", "hio", "raar"]
FOURIER_SOLVERS = ("error-reduction", "hio", "raar", "multiscale-hio")
"""The last is a field's run without the field: `starts.CoarseToFine`, then `polish.Polish`."""
GAUSSIAN_SOLVERS = ("spectral", "amplitude-flow")
ROUND = 25
"""Iterations of a round."""
CLEANING = 10
"""Steps of error reduction before a HIO or RAAR iterate is looked at: the iterates themselves wander."""


class Search(Protocol):
    """An iteration that a budget drives."""

    iterations: int
    picture: Tensor
    """The best so far, (n, n) in [0, 1]."""
    misfit: float
    """Its misfit."""

    def round(self, fraction: float) -> None:
        """Go on; `fraction` of the budget is spent, in [0, 1]. May last about a second."""

    def state(self) -> dict[str, Any]:
        """All that `restore` needs: tensors, numbers and lists of them."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class Projections:
    """P_M and P_S, and the three iterations made of them, on padded pictures v (m, m).

    Args:
        y: magnitudes (m, m // 2 + 1) of the unitary transform of v.
        ceiling: (m, m); P_S clips v to [0, ceiling]: 1 on the picture and 0 around it.
        known: of y's shape, bool, where magnitudes are used; elsewhere P_M changes nothing. None: everywhere.
        beta: of HIO and RAAR.
    """

    def __init__(self, y: Tensor, ceiling: Tensor, known: Tensor | None = None, beta: float = 0.9) -> None:
        self.y, self.ceiling, self.known, self.beta = y, ceiling, known, beta
        self.side = len(ceiling)

    def to_measured(self, v: Tensor) -> Tensor:
        """P_M v."""
        z = torch.fft.rfft2(v, norm="ortho")
        target = expected_measurement(z, self.y, 0.0)
        if self.known is not None:
            target = torch.where(self.known, target, z)
        return torch.fft.irfft2(target, s=(self.side, self.side), norm="ortho")

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


def padded(x: Tensor, side: int) -> Tensor:
    """P x: (n, n) in the corner of (side, side) zeros."""
    v = torch.zeros(side, side)
    v[: len(x), : len(x)] = x
    return v


def projections_for(measurements: Measurements, known: Tensor | None = None, beta: float = 0.9) -> Projections:
    """The projections of Fourier magnitudes. Raises: ValueError on Gaussian ones."""
    operator = measurements.operator
    if not isinstance(operator, FourierOperator):
        raise ValueError("projections are for Fourier magnitudes")
    ceiling = padded(torch.ones(operator.size, operator.size), operator.padded)
    return Projections(measurements.magnitudes, ceiling, known, beta)


def random_picture(n: int, generator: torch.Generator) -> Tensor:
    """(n, n), independent and uniform in [0, 1]."""
    return torch.rand(n, n, generator=generator)


class ProjectionSearch:
    """ER, HIO or RAAR from several random pictures: all take turns for half of the budget, then the best goes on alone.

    Raises: ValueError when there are no restarts, or on Gaussian magnitudes.
    """

    def __init__(self, measurements: Measurements, solver: FourierSolver, restarts: int, seed: int) -> None:
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {restarts}")
        self.measurements, self.solver = measurements, solver
        self.projections = projections_for(measurements)
        self.n = measurements.operator.size
        generator = torch.Generator().manual_seed(seed)
        starts = [random_picture(self.n, generator) for _ in range(restarts)]
        self.iterates = [padded(start, self.projections.side) for start in starts]
        self.misfits = [math.inf] * restarts
        self.turn, self.iterations = 0, 0
        self.picture, self.misfit = starts[0], math.inf

    def round(self, fraction: float) -> None:
        if fraction >= 0.5:
            self.turn = min(range(len(self.misfits)), key=self.misfits.__getitem__)
        v = self.projections.run(self.iterates[self.turn], self.solver, ROUND)
        self.iterates[self.turn] = v
        self.iterations += ROUND + CLEANING
        picture = self.projections.clean(v)[: self.n, : self.n]
        misfit = self.measurements.misfit(picture)
        self.misfits[self.turn] = min(misfit, self.misfits[self.turn])
        if misfit < self.misfit:
            self.picture, self.misfit = picture, misfit
        self.turn = (self.turn + 1) % len(self.iterates)

    def state(self) -> dict[str, Any]:
        names = ("iterates", "misfits", "turn", "iterations", "picture", "misfit")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class AmplitudeFlow:
    """Gradient descent on the amplitude loss, kept within [0, 1]; the step is steepest descent's for fixed signs."""

    def __init__(self, measurements: Measurements, start: Tensor) -> None:
        self.measurements, self.operator = measurements, measurements.operator
        self.picture, self.misfit, self.iterations = start.clamp(0, 1), measurements.misfit(start.clamp(0, 1)), 0
        self.x = self.picture

    def round(self, fraction: float) -> None:
        operator: Operator = self.operator
        for _ in range(ROUND):
            z = operator.apply(self.x)
            gradient = operator.adjoint(z - expected_measurement(z, self.measurements.magnitudes, 0.0))
            along = operator.apply(gradient).abs().square().sum()
            step = float(gradient.square().sum() / along.clamp_min(1e-30))
            self.x = (self.x - step * gradient).clamp(0, 1)
        self.iterations += ROUND
        misfit = self.measurements.misfit(self.x)
        if misfit < self.misfit:
            self.picture, self.misfit = self.x, misfit

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("x", "iterations", "picture", "misfit")}

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
