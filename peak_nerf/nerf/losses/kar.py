"""What the forms of KAR in radiance fields share: when they ask, how much it weighs, how it looks in the viewer.

A form says what f is, where the queries x are and what the anchors X are: `kar_points`, `kar_free_space`, `kar_rays`,
`kar_planes`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.nerf.options import PeakModelConfig
from peak_nerf.nerf.render.marcher import PackedSamples
from peak_nerf.nerf.render.renderer import VolumeRenderer
from peak_nerf.nerf.render.volrend import accumulate, packed_weights


@dataclasses.dataclass
class UnseenRays:
    """Rays of views between the training cameras, in normalised space."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    cameras: Int[Tensor, "n k"]
    """Training cameras near each of the views, nearest first."""
    look_at: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Of positions (n, 3) and training cameras (n,): where those stand (n, 3), what they recorded where the positions
    are in their images (n, 3 or 4), and whether those are in them (n,)."""


@dataclasses.dataclass
class KarStep:
    """A step of the training, as KAR sees it."""

    samples: PackedSamples
    """Samples of the batch's rays."""
    density: Float[Tensor, " n"]
    """Density at them, differentiable."""
    directions: Float[Tensor, "r 3"]
    """Directions of the batch's rays."""
    unseen: UnseenRays | None
    progress: float
    """Finished share of the training."""


class KarForm(ABC):
    """The regulariser `kar` on the renderer's field, asked in one way; options as in the model's config.

    Source: Li et al., ICML 2025, sections 3.4 and 4.5.
    """

    def __init__(self, kar: KernelAlignmentRegularizer, renderer: VolumeRenderer, config: PeakModelConfig) -> None:
        self.kar, self.renderer, self.config = kar, renderer, config
        self.interval = config.kar_interval
        self.waiting = 0  # steps until it asks again

    def loss(self, step: KarStep) -> Tensor | None:
        """Weighted KAR, or None between its steps and where there is too little to compare.

        Every `interval` steps, and as many times heavier: most of its cost does not depend on how much it asks.
        """
        if self.waiting > 0:
            self.waiting -= 1
            return None
        self.waiting = self.interval - 1
        asked = self.ask(step)
        return None if asked is None else self.interval * self.kar.weight_at(min(1.0, step.progress)) * asked

    @property
    def asks_unseen(self) -> bool:
        """Whether it wants rays of unseen views."""
        return False

    @abstractmethod
    def ask(self, step: KarStep) -> Tensor | None:
        """Mean norm of f - A f over the form's queries in this step; None where there is too little to compare."""

    @abstractmethod
    def residual(self, x: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
        """f - A f at points seen from `directions`, for the viewer."""

    @torch.no_grad()
    def render(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Per ray (r,): |f - A f| along it, weighted as colour is."""
        n = len(origins)
        samples = self.renderer.marcher(origins, directions).next()
        density, _ = self.renderer.field.density(samples.x)
        weights, _ = packed_weights(density * self.renderer.dt, samples.ray, n)
        shown = (weights > 0.05).nonzero()[:, 0]
        if not len(shown):
            return origins.new_zeros(n)
        samples = samples.select(shown)
        residual = self.residual(samples.x, directions[samples.ray])
        return accumulate(weights[shown], residual.norm(dim=-1, keepdim=True), samples.ray, n)[:, 0]
