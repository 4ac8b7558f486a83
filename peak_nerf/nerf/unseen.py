r"""What no training photo shows of a rendered view is filled in from beside it.

Where no camera looked, a field extrapolates: it paints the sky with what was near, or leaves fog. A smooth continuation
of what is known is a better guess, and hides nothing: the picture gets blurred there.

Symbols:
    s          in [0, 1], how far some training photo vouches for a pixel; on a coarse grid of pixels
    c          confidence, clamp((mean of s over `WINDOW` x `WINDOW` - `UNSURE`) / (1 - `UNSURE`))
    u          pull-push interpolation of the rendering, weighted by c

Shown is c rgb + (1 - c) u.

Source: pull-push is of Gortler et al., The Lumigraph, SIGGRAPH 1996, section 3.4.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WINDOW = 5
"""Grid points along a side: a thin line that nothing vouches for, as at outlines, changes little."""
UNSURE = 0.5
"""Mean of s up to which a rendering is not believed at all."""
LOOKED_AT = 16384
"""Pixels of a view, about, for which s is worked out, in even steps."""


def grid_step(height: int, width: int) -> int:
    """Every so many pixels in each direction s is worked out."""
    return max(1, round((height * width / LOOKED_AT) ** 0.5))


def confidence(seen: Float[Tensor, "p q"], height: int, width: int) -> Float[Tensor, "h w 1"]:
    """c of each pixel, from s on the grid."""
    margin = WINDOW // 2
    mean = F.avg_pool2d(F.pad(seen[None, None], (margin,) * 4, mode="replicate"), WINDOW, 1)
    mean = F.interpolate(mean, size=(height, width), mode="bilinear", align_corners=False)
    return ((mean[0, 0, :, :, None] - UNSURE) / (1 - UNSURE)).clamp(0, 1)


def fill(rgb: Float[Tensor, "h w 3"], sure: Float[Tensor, "h w 1"]) -> Float[Tensor, "h w 3"]:
    """The rendering where it is sure, filled in elsewhere; as it is where it is sure of nothing, or of everything."""
    if bool((sure >= 1).all()) or not bool((sure > 0).any()):
        return rgb
    return sure * rgb + (1 - sure) * pull_push(rgb, sure)


def pull_push(values: Float[Tensor, "h w c"], weights: Float[Tensor, "h w 1"]) -> Float[Tensor, "h w c"]:
    """Values where their weight is 1; elsewhere, as far as it is less, those of coarser and coarser copies.

    Args:
        values: of which those with weight 0 do not matter.
        weights: in [0, 1], not all of them 0.
    """
    weight = weights.permute(2, 0, 1)[None]
    total = values.permute(2, 0, 1)[None] * weight
    levels = [(total, weight)]
    while max(weight.shape[-2:]) > 1:  # pull: sums of 2 x 2, of which at most 1 counts
        odd = (0, weight.shape[-1] % 2, 0, weight.shape[-2] % 2)
        total, weight = (4 * F.avg_pool2d(F.pad(x, odd), 2) for x in (total, weight))
        part = 1 / weight.clamp(min=1)
        total, weight = total * part, weight * part
        levels.append((total, weight))
    filled = total / weight.clamp(min=1e-12)
    for total, weight in reversed(levels[:-1]):  # push
        finer = F.interpolate(filled, scale_factor=2, mode="bilinear", align_corners=False)
        filled = total + (1 - weight) * finer[..., : weight.shape[-2], : weight.shape[-1]]
    return filled[0].permute(1, 2, 0)
