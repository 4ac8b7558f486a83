"""A `PeakField` on a pixel grid, regularised by KAR on windows of it: what every task on pictures stands on."""

# h, w: sides of a picture or a window   x: pixel coordinates, longer side from -1 to 1   f: (h, w, c)   g: (h, w, r)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from peak_nerf.core.field import FieldConfig, PeakField
from peak_nerf.core.kar import KernelAlignmentRegularizer, Norm, Similarity
from peak_nerf.core.window import (
    kl_to_prior,
    locality_prior,
    symmetric_offsets,
    window_attention,
    window_residual,
    within_reach,
)

CHUNK = 2**17
"""Pixels that are evaluated at once without gradient: with 64 wide layers they take about 0.1 GiB."""


@dataclass
class KarSettings:
    """The Kernel Alignment Regularizer of an image field."""

    weight: float = 3.0
    """Its weight lambda; 0 for none."""
    n_features: int = 100
    """Features r of g, and the width of its hidden layers."""
    n_hidden: int = 2
    """Hidden layers of g. With a single one g hardly tells an edge from its surroundings."""
    similarity: Similarity = "cosine"
    """How features are compared: cosine with a learned temperature, or the paper's dot product of softmax outputs."""
    temperature: float = 30.0
    """Of the cosine similarity, at the start."""
    norm: Norm = "huber"
    """||f - A f||, its square, or the square of what is small and a multiple of what is large."""
    huber_delta: float = 0.03
    """Where small ends, in units of f."""
    locality: float = 0.15
    """A is first assumed to fall as exp(-locality s^2) over s pixels; 0 for no such prior."""
    kl_weight: float = 1e-4
    """Weight, within KAR, of KL(A || prior): g departs from the prior where it pays."""
    blind_kl_weight: float = 10.0
    """Times as much where no pixel within twice the reach was measured."""
    learning_rate: float = 1e-3
    """Adam's rate for g."""
    reach: float = 3.0
    """Of the anchors, in pixels: all pixels within it, as opposite pairs."""
    window: int = 80
    """Side of the window of pixels that are a step's queries."""
    warmup: float = 0.0
    """Fraction of the run in which the weight rises from 0."""


_OF_REGULARIZER = ("n_features", "n_hidden", "similarity", "temperature", "norm", "huber_delta", "weight", "warmup")


@dataclass
class ImageFieldSettings:
    """A field of a picture, its regulariser, and the learning rate of its fit."""

    field: FieldConfig = field(default_factory=FieldConfig)
    """Encodings and backbone."""
    kar: KarSettings | None = None
    """The regulariser, or None."""
    learning_rate: float = 1e-2
    """Adam's rate for the field."""


class ImageField(PeakField):
    """f: R^2 -> R^c of a picture, and g where there is a KAR. Its initialisation draws from torch's global generator.

    Args:
        settings: field and regulariser.
        shape: (h, w, c) of the picture.
    """

    def __init__(self, settings: ImageFieldSettings, shape: tuple[int, int, int]) -> None:
        kar = None
        # Before the field: the order of the draws is part of what a seed gives.
        if settings.kar is not None:
            kar = KernelAlignmentRegularizer(
                2,
                hidden_dim=settings.kar.n_features,
                **{name: getattr(settings.kar, name) for name in _OF_REGULARIZER},
            )
        super().__init__(2, shape[2], settings.field)
        self.settings, self.size, self.kar = settings, (shape[0], shape[1]), kar

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adam's parameter groups: f, and g where there is one, each with its learning rate."""
        f = [*self.encoding.parameters(), *self.backbone.parameters()]
        groups: list[dict[str, Any]] = [{"params": f, "lr": self.settings.learning_rate}]
        if self.kar is not None and self.settings.kar is not None:
            groups.append({"params": list(self.kar.parameters()), "lr": self.settings.kar.learning_rate})
        return groups

    def window_kar(
        self, x: Float[Tensor, "n 2"], f: Float[Tensor, "h w c"], measured: Bool[Tensor, "h w"] | None = None
    ) -> Float[Tensor, ""]:
        r"""mean_x ||f(x) - A(x, X) f(X)|| + kl_weight mean_x b(x) KL(A(x, .) || P) on a window, without KAR's weight.

        Args:
            x: coordinates of the window's h w pixels, row by row.
            f: their values; where a pixel was measured, its measured value, so that the residual shapes f where nothing
                was measured and g everywhere, and never pulls f away from the measurements.
            measured: where f is a measured value; b is `blind_kl_weight` further than twice the reach from any of them,
                and 1 elsewhere. None for b = 1 everywhere.

        Raises: ValueError for a field without KAR.
        """
        kar, settings = self.kar, self.settings.kar
        if kar is None or settings is None:
            raise ValueError("this field has no Kernel Alignment Regularizer")
        h, w = f.shape[:2]
        g = kar.similarity_features(x).reshape(h, w, -1)
        offsets = symmetric_offsets(settings.reach)
        offsets = offsets[(offsets.abs() < torch.tensor([h, w])).all(dim=1)]
        log_prior = locality_prior(offsets, settings.locality)
        log_attention = window_attention(g, offsets, log_prior)
        residual = window_residual(f, log_attention, offsets)
        weights = None
        if measured is not None:
            # Deep in a hole nothing tells g what is alike: there A keeps to its prior, or filling would be arbitrary.
            # Across a stroke of text g is worth more than the prior.
            weights = torch.where(within_reach(measured, 2 * offsets), 1.0, settings.blind_kl_weight)
        return kar.mean_norm(residual.flatten(0, 1)) + settings.kl_weight * kl_to_prior(
            log_attention, log_prior, weights
        )


def pixel_coordinates(size: tuple[int, int], n_points: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Row and column coordinates, square pixels, the longer side from -1 to 1: linspace(-1, 1) for a square picture.

    There are as many as pixels of the picture of size (h, w), or `n_points` evenly spaced over the same.
    """
    longest = max(size)
    rows, columns = (
        torch.linspace(-1, 1, points) * ((n - 1) / (longest - 1))
        for n, points in zip(size, n_points or size, strict=True)
    )
    return rows, columns


@torch.no_grad()
def render(field: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor) -> np.ndarray:
    """The field on the grid of these coordinates, (h, w, c) float32, clipped to [0, 1], in bounded memory."""
    n_rows = max(CHUNK // len(columns), 1)
    picture = np.empty(0, dtype=np.float32)
    for start in range(0, len(rows), n_rows):
        part = field(torch.cartesian_prod(rows[start : start + n_rows], columns)).clamp(0, 1).numpy()
        if start == 0:
            # All of it at once: parts kept among the temporaries of the next ones leave the heap full of holes.
            picture = np.empty((len(rows), len(columns), part.shape[1]), dtype=np.float32)
        picture[start : start + n_rows] = part.reshape(-1, len(columns), part.shape[1])
    return picture
