"""Magnitudes y = |A x| with the operator A that they come from, which of them are known, and their scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from peak_nerf.tasks.phase_retrieval.operators import Operator

MIN_SIDE, MAX_SIDE = 16, 4096
"""Of a picture."""
MAX_SEED = 2**63 - 1
OPEN = 1e6
"""Where the range [0, OPEN] ends as long as the scale is unknown: above anything that magnitudes of energy 0.3 a pixel
can stand for."""
DID_NOT_WORK = 0.3
"""A relative residual above which a picture does not explain the magnitudes."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """All that a solver is handed."""

    operator: Operator
    magnitudes: Tensor
    """y of the operator's shape, float32, at least 0; 0 where it is unknown."""
    known: Tensor | None = None
    """Of y's shape, bool: which magnitudes were measured; None for all."""
    scale_known: bool = True
    """Whether y is |A x| of a picture in [0, 1]; else of one in [0, c], with c unknown."""
    unit: float = 1.0
    """What a magnitude of 1 is in units of the data."""
    sigma: float = 0.0
    """Standard deviation of y where it is known beforehand, as with counts; else 0."""
    find_support: bool = False
    """Whether the operator's picture is but a guess, and the object's support is to be found."""
    notes: tuple[str, ...] = ()
    """What was made of measured data, for the user: converted, left out, recognised."""

    @property
    def weights(self) -> Tensor:
        """How often each magnitude counts, broadcastable to y; 0 where it is unknown."""
        return self.operator.weights if self.known is None else self.operator.weights * self.known

    @property
    def height(self) -> float:
        """Where the picture's range ends: 1, or `OPEN` when nobody knows."""
        return 1.0 if self.scale_known else OPEN

    @property
    def energy_of_data(self) -> float:
        """`energy` in units of the data; infinite, or 0, where a float cannot hold it."""
        return self.energy * self.unit * self.unit

    @property
    def energy(self) -> float:
        """Sum of weights y^2."""
        return float((self.magnitudes.square() * self.weights).sum())

    def relative_residual(self, picture: Tensor, mask: Tensor | None = None) -> float:
        """|| |A x| - y || / ||y||, at least 0; pictures that fit equally well may differ by an ambiguity, or more.

        Args:
            picture: x, (h, w).
            mask: of y's shape, bool: the magnitudes that take part; None for all that are known.
        """
        with torch.no_grad():
            error = (self.operator.apply(picture).abs() - self.magnitudes).square()
        counts = self.weights if mask is None else self.weights * mask
        return math.sqrt(float((error * counts).sum() / (self.magnitudes.square() * counts).sum()))

    def in_units_of(self, c: float) -> Measurements:
        """The same measurements of the picture over c, whose range is [0, 1] by that."""
        return replace(self, magnitudes=self.magnitudes / c, scale_known=True, unit=self.unit * c, sigma=self.sigma / c)


def full_plane(half: Shaped[Tensor, "m half"], frame: tuple[int, int]) -> Shaped[Tensor, "m m_2"]:
    """All frequencies of a frame from the half with k_2 >= 0: |X(-k)| = |X(k)|."""
    rows, columns = torch.arange(frame[0])[:, None], torch.arange(frame[1])
    # Of k and -k the one in the half; of two in its first or middle column, the one with k_1 <= m / 2.
    mirrored = (-columns) % frame[1]
    turn = (columns > mirrored) | ((columns == mirrored) & (rows > frame[0] // 2))
    return half[torch.where(turn, (-rows) % frame[0], rows), torch.where(turn, mirrored, columns)]


def mirrored(y: np.ndarray) -> np.ndarray:
    """y(-k), for a whole plane with zero frequency in the corner."""
    return np.roll(y[::-1, ::-1], 1, axis=(0, 1))
