"""KAR on ray samples, the point form: where it asks, what it compares, and how its residual looks along a ray.

Symbols:
    f          what KAR compares: (opacity of one step, colour), with shape (n, 4)
"""

from __future__ import annotations

import torch
from torch import Tensor

from peak_nerf.core.anchors import LocalAnchors
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.nerf.model_config import PeakModelConfig
from peak_nerf.nerf.renderer import VolumeRenderer
from peak_nerf.nerf.rendering import accumulate, packed_weights
from peak_nerf.nerf.sampler import PackedSamples


class KarOnRays:
    """The regulariser `kar` on samples of the renderer's field; sampler, anchors and radius as in the model's config.

    Source: Li et al., ICML 2025, sections 3.4 and 4.5.
    """

    def __init__(self, kar: KernelAlignmentRegularizer, renderer: VolumeRenderer, config: PeakModelConfig) -> None:
        self.kar, self.renderer, self.config = kar, renderer, config
        self.waiting = 0  # steps until it asks again

    def loss(
        self,
        samples: PackedSamples,
        density: Tensor,
        directions: Tensor,
        unseen: tuple[Tensor, Tensor] | None,
        progress: float,
    ) -> Tensor | None:
        """Weighted KAR, or None between its steps and where there are too few samples to compare.

        Every `kar_interval` steps, and as many times heavier: most of its cost does not depend on how much it asks.
        Half of the queries are drawn from the batch's samples, half from `unseen`, (origins, directions) of rays of
        views between the training cameras; `density` (n,) is that of the samples, `progress` the finished share of the
        training.
        """
        if self.waiting > 0:
            self.waiting -= 1
            return None
        self.waiting = self.config.kar_interval - 1
        n = self.config.kar_queries // 2
        parts = [_random_samples(samples, directions, n)]
        if unseen is not None:
            origins, unseen_directions = unseen
            jitter = torch.rand(len(origins), device=origins.device)
            found = self.renderer.marcher(origins, unseen_directions, jitter).next()
            parts.append(_random_samples(found, unseen_directions, self.config.kar_queries - n))
        x, seen_from = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        if len(x) <= self.config.kar_anchors:
            return None
        norms = torch.linalg.vector_norm(self.residual(x, seen_from), dim=-1)
        return self.config.kar_interval * self.kar.weight_at(min(1.0, progress)) * norms.mean()

    def residual(self, x: Tensor, directions: Tensor) -> Tensor:
        """f - A f at points seen from `directions`; anchors are looked at from the direction of their query."""
        c = self.config
        if c.kar_sampler == "global":
            f = self._radiance(x, directions)
            chosen = torch.randperm(len(x), device=x.device)[: c.kar_anchors]
            own = torch.full((len(x),), -1, device=x.device)
            own[chosen] = torch.arange(len(chosen), device=x.device)
            return self.kar.residual(x, f, x[chosen], f[chosen], own)
        anchors = LocalAnchors(c.kar_anchors, radius=c.kar_radius).sample(x.clamp(-1, 1))
        points = torch.cat((x, anchors.x.flatten(0, 1)))
        f = self._radiance(points, torch.cat((directions, directions.repeat_interleave(c.kar_anchors, 0))))
        return self.kar.residual(x, f[: len(x)], anchors.x, f[len(x) :].reshape(len(x), c.kar_anchors, -1))

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

    def _radiance(self, x: Tensor, directions: Tensor) -> Tensor:
        """f(x)."""
        density, geometry = self.renderer.field.density(x)
        opacity = -torch.expm1(-density * self.renderer.dt)
        return torch.cat((opacity[:, None], self.renderer.field.colour(geometry, directions)), -1)


def _random_samples(samples: PackedSamples, directions: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n positions drawn from the samples, and the directions of their rays; nothing when there are no samples."""
    chosen = torch.randint(max(1, len(samples)), (min(n, len(samples)),), device=directions.device)
    return samples.x[chosen], directions[samples.ray[chosen]]
