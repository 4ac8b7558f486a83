r"""KAR on whole rays: what a view between the cameras shows is an average of what the cameras near it recorded.

The kernel regression of the paper's section 3.4 with the measure that the data define: anchors are observed values y_i.

Symbols:
    f          colour of a ray of an unseen view
    x          where that ray meets the scene, by its expected depth
    y          colours that training cameras recorded where x is in their images: the values of the anchors
    X          where those cameras' rays meet the scene
"""

from __future__ import annotations

import torch
from torch import Tensor

from peak_nerf.nerf.losses.kar import KarStep, UnseenRays
from peak_nerf.nerf.losses.kar_samples import KarAtPoints
from peak_nerf.nerf.render.volrend import accumulate, packed_weights

REACH = 0.02
"""A camera whose ray ends farther than this from x (the box has side 2) looks at something else."""


class KarOnRays(KarAtPoints):
    """||f - sum_j A_j y_j|| over rays of unseen views, A = softmax(g(x)^T g(X)) over the near cameras that see x.

    Rays that hit nothing, or what no near camera sees, count 0. x, X and y have no gradient: the loss moves the colour
    and density of the unseen ray, and g. In the viewer the residual is that of the point form.
    Source: Li et al., ICML 2025, section 3.4; queries and anchors are ours.
    """

    @property
    def asks_unseen(self) -> bool:
        """Its queries are those rays."""
        return True

    def ask(self, step: KarStep) -> Tensor | None:
        """Mean norm over the rays of `step.unseen`; None where there are no surfaces yet."""
        unseen, renderer = step.unseen, self.renderer
        if unseen is None or renderer.dt > renderer.final_dt:
            return None
        n = len(unseen.origins)
        samples = renderer.training_samples(unseen.origins, unseen.directions)
        foreground, accumulation, density = renderer.composite(samples, unseen.directions)
        with torch.no_grad():
            hit = (accumulation[:, 0] > 0.5).nonzero()[:, 0]
            if not len(hit):
                return None
            weights, _ = packed_weights(density * samples.dt, samples.ray, n)
            t = accumulate(weights, samples.t[:, None], samples.ray, n)[hit] / accumulation[hit]
            x = unseen.origins[hit] + t * unseen.directions[hit]
            anchors, y, seen = self._anchors(x, unseen, hit)
        background = torch.rand(len(hit), 3, device=x.device)
        f = foreground[hit] + (1 - accumulation[hit]) * background
        y = y[..., :3] if y.shape[-1] == 3 else y[..., :3] * y[..., 3:] + (1 - y[..., 3:]) * background[:, None]
        told = seen.any(dim=1)
        g_query, g_anchor = self.kar.similarity_features(x), self.kar.similarity_features(anchors)
        logits = torch.einsum("nkr,nr->nk", g_anchor, g_query).masked_fill(~seen, -torch.inf)[told]
        residual = f[told] - (logits.softmax(dim=1)[:, :, None] * y[told]).sum(dim=1)
        return self.kar.mean_norm(residual) * (len(residual) / n)

    def _anchors(self, x: Tensor, unseen: UnseenRays, hit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X (n, k, 3), y (n, k, channels), and (n, k) whether that camera sees x; for x on the unseen rays `hit`."""
        cameras = unseen.cameras[hit]
        n, k = cameras.shape
        towards = x.repeat_interleave(k, 0)
        origins, y, inside = unseen.look_at(towards, cameras.flatten())
        distance = torch.linalg.vector_norm(towards - origins, dim=-1, keepdim=True)
        directions = (towards - origins) / distance.clamp_min(1e-6)
        met = self.renderer.render(origins, directions)["depth"]
        seen = inside & ((met - distance).abs()[:, 0] < REACH)
        return (origins + met * directions).reshape(n, k, 3), y.reshape(n, k, -1), seen.reshape(n, k)
