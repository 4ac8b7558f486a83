"""What the forms of KAR in radiance fields share: when they are evaluated, how much they weigh, how they look.

A form says what f is, where the queries x are and what the anchors X are: `kar_samples`, `kar_unobserved`,
`kar_observed`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.nerf.options import KarOptions
from peak_nerf.nerf.render.marcher import PackedSamples
from peak_nerf.nerf.render.renderer import RenderedRays, VolumeRenderer
from peak_nerf.nerf.render.volrend import accumulate, packed_weights


@dataclasses.dataclass
class KarStep:
    """A training step, as KAR sees it."""

    rendered: RenderedRays
    """The batch's rays."""
    directions: Float[Tensor, "r 3"]
    """Their directions."""
    virtual_rays: tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]] | None
    """Origins and directions of rays of views between the training cameras, in normalised space."""
    progress: float
    """Finished fraction of the training."""


class KarForm(ABC):
    """The regulariser `kar` on the renderer's field, with queries and anchors of one kind.

    Args:
        kar: the similarity network g, the norm and the weight.
        renderer: whose field is regularised.
        options: number of queries and anchors.

    Source: Li et al., ICML 2025, sections 3.4 and 4.5.
    """

    needs_virtual_rays = False
    """Whether `compute` uses the step's virtual rays."""

    def __init__(self, kar: KernelAlignmentRegularizer, renderer: VolumeRenderer, options: KarOptions) -> None:
        self.kar, self.renderer, self.options = kar, renderer, options
        self.interval = options.kar_interval
        self.waiting = 0  # steps until it is evaluated again

    @property
    def n_queries(self) -> int:
        """Of an evaluation."""
        assert self.options.kar_queries is not None  # resolved
        return self.options.kar_queries

    def loss(self, step: KarStep) -> Tensor | None:
        """Weighted KAR, or None between its steps and where there is too little to compare.

        Evaluated every `interval` steps, with `interval` times the weight: most of its cost does not depend on the
        number of queries.
        """
        if self.waiting > 0:
            self.waiting -= 1
            return None
        self.waiting = self.interval - 1
        value = self.compute(step)
        return None if value is None else self.interval * self.kar.weight_at(min(1.0, step.progress)) * value

    @abstractmethod
    def compute(self, step: KarStep) -> Tensor | None:
        """Mean norm of f - A f over the form's queries in this step; None where there is too little to compare."""

    @abstractmethod
    def residual(self, x: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
        """f - A f at points seen from `directions`, for the viewer."""

    def ray_queries(self, step: KarStep) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Random ray samples and the directions of their rays: half of them the batch's, half of virtual views.

        Without virtual rays half the number of queries.
        """
        n = self.n_queries
        parts = [_random_samples(step.rendered.samples, step.directions, n // 2)]
        if step.virtual_rays is not None:
            origins, directions = step.virtual_rays
            parts.append(self.renderer.random_samples(origins, directions, n - n // 2))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    @torch.no_grad()
    def render(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Per ray (r,): |f - A f| along it, weighted as colour is."""
        n = len(origins)
        samples = self.renderer.render_samples(origins, directions)
        density, _ = self.renderer.density(samples.x)
        weights, _ = packed_weights(density * samples.dt, samples.ray, n)
        shown = (weights > 0.05).nonzero()[:, 0]
        if not len(shown):
            return origins.new_zeros(n)
        samples = samples.select(shown)
        residual = self.residual(samples.x, directions[samples.ray])
        return accumulate(weights[shown], residual.norm(dim=-1, keepdim=True), samples.ray, n)[:, 0]


def _random_samples(samples: PackedSamples, directions: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n positions drawn from the samples, and the directions of their rays; nothing when there are no samples."""
    chosen = torch.randint(max(1, len(samples)), (min(n, len(samples)),), device=directions.device)
    return samples.x[chosen].detach(), directions[samples.ray[chosen]]
