"""The end of a Fourier run: HIO from the field's picture or from what the field started from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from peak_nerf.tasks.phase_retrieval.measurements import Measurements
from peak_nerf.tasks.phase_retrieval.multiscale_hio import FULL_BETA, Vote
from peak_nerf.tasks.phase_retrieval.projections import CLEANING, ROUND, padded, projections_for

RESTART = 25
"""Rounds after which HIO begins anew from the vote: left alone it circles around the solution."""


class Polish:
    """HIO from the best of some pictures, without the held-out magnitudes, which choose among all pictures."""

    def __init__(self, measurements: Measurements, starts: list[Tensor], known: Tensor) -> None:
        self.measurements, self.known = measurements, known
        self.projections = projections_for(measurements, known, FULL_BETA)
        self.vote = Vote(measurements, self.projections.y, known)
        start = min(starts, key=lambda picture: held_out_misfit(measurements, picture, known))
        self.v = padded(start, self.projections.side)
        self.picture, self.misfit = start, held_out_misfit(measurements, start, known)
        self.rounds, self.iterations = 0, 0

    def round(self, fraction: float) -> None:
        self.v = self.projections.run(self.v, "hio", ROUND)
        n = len(self.picture)
        picture = self.projections.clean(self.v)[:n, :n]
        misfit = held_out_misfit(self.measurements, picture, self.known)
        self.iterations += ROUND + CLEANING
        if misfit < self.misfit:
            self.picture, self.misfit = picture, misfit
        self.vote.add(picture, misfit)
        self.rounds += 1
        if self.rounds % RESTART == 0:
            self.v = padded(self.vote.picture(self.picture), self.projections.side)
            self.vote.clear()

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing: a polish is short and starts anew."""


def held_out_misfit(measurements: Measurements, picture: Tensor, known: Tensor) -> float:
    """The misfit over the magnitudes that are not known."""
    with torch.no_grad():
        error = (measurements.operator.apply(picture).abs() - measurements.magnitudes).square()
    counts = measurements.weights * ~known
    return math.sqrt(float((error * counts).sum() / (measurements.magnitudes.square() * counts).sum()))
