"""KAR at ray samples, the point form: what is here should be the average of what is around it.

Symbols:
    f          what KAR compares, by `kar_values`: opacity of one step and colour (n, 4), one of them, or the hash
               grid's features
"""

from __future__ import annotations

import torch
from torch import Tensor

from peak_nerf.core.anchors import LocalAnchors
from peak_nerf.nerf.losses.kar import KarForm, KarStep
from peak_nerf.nerf.render.field import level_mask
from peak_nerf.nerf.render.marcher import PackedSamples


class KarAtPoints(KarForm):
    """Queries are ray samples, of the rays that `kar_query_rays` says; anchors as `kar_sampler` and radius say.

    Source: Li et al., ICML 2025, sections 3.4 and 4.5.
    """

    progress = 1.0

    @property
    def asks_unseen(self) -> bool:
        """Unless all queries are of the batch."""
        return self.config.kar_query_rays != "seen"

    def ask(self, step: KarStep) -> Tensor | None:
        """Queries are drawn from the batch's samples, from those of `step.unseen`, or half from each."""
        self.progress = step.progress
        n = self.config.kar_queries
        n_seen = {"seen": n, "both": n // 2, "unseen": 0}[self.config.kar_query_rays]
        parts = [_random_samples(step.samples, step.directions, n_seen)]
        if step.unseen is not None:
            origins, directions = step.unseen.origins, step.unseen.directions
            jitter = torch.rand(len(origins), device=origins.device)
            found = self.renderer.marcher(origins, directions, jitter).next()
            parts.append(_random_samples(found, directions, n - n_seen))
        x, seen_from = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        if len(x) <= self.config.kar_anchors:
            return None
        return self.kar.mean_norm(self.residual(x, seen_from))

    def residual(self, x: Tensor, directions: Tensor) -> Tensor:
        """f - A f at points seen from `directions`; anchors are looked at from the direction of their query."""
        c = self.config
        if c.kar_sampler == "global":
            f = self._f(x, directions)
            chosen = torch.randperm(len(x), device=x.device)[: c.kar_anchors]
            own = torch.full((len(x),), -1, device=x.device)
            own[chosen] = torch.arange(len(chosen), device=x.device)
            return self.kar.residual(x, f, x[chosen], f[chosen], own)
        anchors = LocalAnchors(c.kar_anchors, radius=c.kar_radius).sample(x.clamp(-1, 1))
        points = torch.cat((x, anchors.x.flatten(0, 1)))
        f = self._f(points, torch.cat((directions, directions.repeat_interleave(c.kar_anchors, 0))))
        return self.kar.residual(x, f[: len(x)], anchors.x, f[len(x) :].reshape(len(x), c.kar_anchors, -1))

    def _f(self, x: Tensor, directions: Tensor) -> Tensor:
        field, values = self.renderer.field, self.config.kar_values
        if values == "features":
            # Coarse levels first: the fine ones come in as the training goes on.
            mask = level_mask(field.grid.n_levels, field.grid.n_features, self.progress)
            return field.grid(x) * mask.to(x)
        density, geometry = field.density(x)
        opacity = -torch.expm1(-density * self.renderer.dt)[:, None]
        if values == "opacity":
            return opacity
        colour = field.colour(geometry, directions)
        return colour if values == "colour" else torch.cat((opacity, colour), -1)


def _random_samples(samples: PackedSamples, directions: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n positions drawn from the samples, and the directions of their rays; nothing when there are no samples."""
    chosen = torch.randint(max(1, len(samples)), (min(n, len(samples)),), device=directions.device)
    return samples.x[chosen], directions[samples.ray[chosen]]
