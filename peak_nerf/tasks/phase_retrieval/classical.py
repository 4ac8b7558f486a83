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
FOURIER_SOLVERS = ("error-reduction", "hio", "raar")
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

    known: (m, m // 2 + 1) bool, where magnitudes are used; elsewhere P_M leaves the transform as it is. None: all.
    """

    def __init__(self, measurements: Measurements, known: Tensor | None = None, beta: float = 0.9) -> None:
        if not isinstance(measurements.operator, FourierOperator):
            raise ValueError("projections are for Fourier magnitudes")
        self.operator, self.y, self.known, self.beta = measurements.operator, measurements.magnitudes, known, beta
        self.n = measurements.operator.size

    def pad(self, x: Tensor) -> Tensor:
        """P x."""
        v = torch.zeros(self.operator.padded, self.operator.padded)
        v[: self.n, : self.n] = x
        return v

    def to_measured(self, v: Tensor) -> Tensor:
        """P_M v."""
        z = torch.fft.rfft2(v, norm="ortho")
        target = expected_measurement(z, self.y, 0.0)
        return self.operator.adjoint_padded(target if self.known is None else torch.where(self.known, target, z))

    def crop(self, v: Tensor) -> Tensor:
        """The n x n pixels of P_S v."""
        return v[: self.n, : self.n].clamp(0, 1)

    def step(self, v: Tensor, solver: FourierSolver) -> Tensor:
        """One iteration."""
        p = self.to_measured(v)
        if solver == "error-reduction":
            return self.pad(self.crop(p))
        if solver == "hio":
            inside = p[: self.n, : self.n]
            v = v - self.beta * p
            v[: self.n, : self.n] = torch.where((inside >= 0) & (inside <= 1), inside, v[: self.n, : self.n])
            return v
        reflected = 2 * p - v
        return self.beta / 2 * (2 * self.pad(self.crop(reflected)) - reflected + v) + (1 - self.beta) * p

    def run(self, v: Tensor, solver: FourierSolver, n: int) -> Tensor:
        """n iterations."""
        for _ in range(n):
            v = self.step(v, solver)
        return v

    def clean(self, v: Tensor, n: int = CLEANING) -> Tensor:
        """The picture that an iterate stands for: P_M v cropped, after n steps of error reduction."""
        return self.crop(self.run(self.pad(self.crop(self.to_measured(v))), "error-reduction", n))


def random_picture(n: int, generator: torch.Generator) -> Tensor:
    """(n, n), independent and uniform in [0, 1]."""
    return torch.rand(n, n, generator=generator)


class ProjectionSearch:
    """ER, HIO or RAAR from several random pictures: all take turns for half of the budget, then the best goes on alone.

    Raises: ValueError when there are no restarts.
    """

    def __init__(self, measurements: Measurements, solver: FourierSolver, restarts: int, seed: int) -> None:
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {restarts}")
        self.measurements, self.solver = measurements, solver
        self.projections = Projections(measurements)
        generator = torch.Generator().manual_seed(seed)
        n = self.projections.n
        self.iterates = [self.projections.pad(random_picture(n, generator)) for _ in range(restarts)]
        self.misfits = [math.inf] * restarts
        self.turn, self.iterations = 0, 0
        self.picture, self.misfit = self.projections.crop(self.iterates[0]), math.inf

    def round(self, fraction: float) -> None:
        if fraction >= 0.5:
            self.turn = min(range(len(self.misfits)), key=self.misfits.__getitem__)
        v = self.projections.run(self.iterates[self.turn], self.solver, ROUND)
        self.iterates[self.turn] = v
        self.iterations += ROUND + CLEANING
        picture = self.projections.clean(v)
        misfit = self.measurements.misfit(picture)
        self.misfits[self.turn] = min(misfit, self.misfits[self.turn])
        if misfit < self.misfit:
            self.picture, self.misfit = picture, misfit
        self.turn = (self.turn + 1) % len(self.iterates)

    def state(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("iterates", "misfits", "turn", "iterations", "picture", "misfit")
        }

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
