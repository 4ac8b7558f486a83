"""What lies behind the scene box of an unbounded scene: a small field over contracted space.

Symbols:
    x     position, normalised so that the scene box is [-1, 1]^3
    s     fraction of the way from the box to infinity in disparity, t = t_0 + s / (1 - s)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.core.field import FieldConfig
from peak_nerf.nerf.render.field import PeakRadianceField
from peak_nerf.nerf.render.marcher import box_intersection


def contract(x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """All of space into [-1, 1]^3: x / 2 in the box, (2 - 1 / |x|) x / |x| / 2 beyond, |.| the largest coordinate.

    Source: Barron et al., CVPR 2022, equation (10), with the maximum norm as nerfacto has it.
    """
    size = x.abs().amax(-1, keepdim=True).clamp(min=1)
    return (2 - 1 / size) * (x / size) / 2


class BackgroundField(nn.Module):
    r"""Colour of rays that leave the box: sum_k w_k c(x_k), the samples evenly spaced in s, the last one opaque.

    Inside the box an occupancy grid finds what is worth sampling; out here a few samples per ray are enough, since
    what is far away hardly moves between views.

    Args:
        config: of the field's encoding and density network.
        n_samples: samples of a ray, at least 1.
    """

    def __init__(
        self, config: FieldConfig, n_samples: int, bfloat16: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        if n_samples < 1:
            raise ValueError(f"a background needs at least 1 sample, got {n_samples}")
        self.n_samples = n_samples
        self.field = PeakRadianceField(
            config,
            colour_hidden_dim=32,
            colour_n_hidden=1,
            sh_levels=2,
            density_bias=0.0,
            bfloat16=bfloat16,
            device=device,
        )

    def forward(
        self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"], near: float = 0.0
    ) -> Float[Tensor, "r 3"]:
        """Colour in [0, 1] of rays behind the box, or from `near` on for those that miss it."""
        n, k = len(origins), self.n_samples
        if n == 0:
            return origins.new_zeros(0, 3)
        enter, leave = box_intersection(origins, directions, near)
        start = torch.where(leave > enter, leave, torch.full_like(leave, near))
        jitter = torch.rand(n, 1, device=origins.device) if self.training else 0.5
        s = (torch.arange(k, device=origins.device) + jitter) / k
        t = start[:, None] + s / (1 - s).clamp(min=1e-4)
        x = contract(origins[:, None] + t[:, :, None] * directions[:, None]).reshape(-1, 3)
        density, geometry = self.field.density(x)
        ray = torch.arange(n, device=origins.device).repeat_interleave(k)
        colour = self.field.colour(geometry, directions, ray).reshape(n, k, 3)
        # Depths are counted in s, of which the whole way has 4: thin at first, and any colour within reach.
        tau = density.reshape(n, k) * (4 / k)
        before = tau.cumsum(1) - tau
        weights = torch.exp(-before) * torch.cat((-torch.expm1(-tau[:, :-1]), torch.ones_like(tau[:, -1:])), 1)
        return (weights[:, :, None] * colour).sum(1)
