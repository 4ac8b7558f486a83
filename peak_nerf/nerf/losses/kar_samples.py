"""KAR at ray samples, the point form: the field at a point should be the average of the field around it.

Symbols:
    f          opacity of one step and colour, with shape (n, 4)
"""

from __future__ import annotations

import torch
from torch import Tensor

from peak_nerf.core.anchors import LocalAnchors
from peak_nerf.nerf.losses.kar import KarForm, KarStep


class KarAtSamples(KarForm):
    """Queries are ray samples, half of the batch's rays and half of rays of virtual views; anchors lie around each.

    Source: Li et al., ICML 2025, sections 3.4 and 4.5.
    """

    needs_virtual_rays = True

    def compute(self, step: KarStep) -> Tensor | None:
        """Mean norm; without virtual rays over half the number of queries."""
        x, seen_from = self.ray_queries(step)
        if len(x) <= self.options.kar_anchors:
            return None
        return self.kar.mean_norm(self.residual(x, seen_from))

    def residual(self, x: Tensor, directions: Tensor) -> Tensor:
        """f - A f at points seen from `directions`; anchors are looked at from the direction of their query."""
        k = self.options.kar_anchors
        anchors = LocalAnchors(k, radius=self.options.kar_radius).sample(x.clamp(-1, 1))
        points = torch.cat((x, anchors.flatten(0, 1)))
        f = self._f(points, torch.cat((directions, directions.repeat_interleave(k, 0))))
        return self.kar.residual(x, f[: len(x)], anchors, f[len(x) :].reshape(len(x), k, -1))

    def _f(self, x: Tensor, directions: Tensor) -> Tensor:
        density, geometry = self.renderer.field.density(x)
        opacity = -torch.expm1(-density * self.renderer.steps.dt)[:, None]
        return torch.cat((opacity, self.renderer.field.colour(geometry, directions)), -1)
