"""Pictures of one scene whose exposure or white balance differs: each has a colour transform of its own.

Symbols:
    c     colour of the field as it is seen, (r, 3) in [0, 1]
    i     index of a training picture
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from peak_nerf.errors import PeakError

logger = logging.getLogger(__name__)

Exposure = Literal["auto", "off", "affine"]
DIFFERS = 0.1
"""Median |log gain| between neighbouring pictures from which on exposures count as different. Measured: 0.02 to 0.05 on
the fox, 0.03 on the fountain, 0.01 on fern; 0.18 and more once these are changed at random by 20 % (one deviation)."""
ENOUGH = 16
"""Pictures; neighbours among fewer show too different things (the fox with 8: 0.12)."""


class ExposureCorrection(nn.Module):
    r"""Colour of the field as picture i shows it, exp(g_i - g) c + b_i - b for each channel; g and b are means over i.

    The means are taken out so that the field keeps the mean exposure: for views that were held out there is nothing to
    correct, and nothing of them is used.

    Source: a gain for each channel is exact for exposure and white balance of pictures encoded by a power law.
    """

    def __init__(self, n_pictures: int) -> None:
        super().__init__()
        self.affine = nn.Parameter(torch.zeros(n_pictures, 6))
        """g and b of each picture."""

    def forward(self, colour: Float[Tensor, "r 3"], picture: Int[Tensor, " r"]) -> Float[Tensor, "r 3"]:
        """The colours of rays of these training pictures."""
        log_gain, offset = nn.functional.embedding(picture, self.affine - self.affine.mean(0)).split(3, -1)
        return colour * log_gain.exp() + offset


def exposure_correction(
    exposure: Exposure, n_pictures: int, metadata: Mapping[str, Any]
) -> tuple[ExposureCorrection | None, bool]:
    """The correction for the pictures that a scene's metadata tell of, and whether it is used.

    `auto` has one in any case: who only renders has not seen the pictures, and must be able to load it.

    Raises: PeakError where the option does not fit the pictures.
    """
    has_alpha = bool(metadata.get("has_alpha"))
    if exposure == "affine" and has_alpha:
        raise PeakError(
            "--pipeline.model.exposure affine: is for photos, these pictures have an alpha channel; use off or auto"
        )
    if exposure == "off" or has_alpha:
        return None, False
    used = exposure == "affine" or bool(metadata.get("exposures_differ"))
    return ExposureCorrection(n_pictures).requires_grad_(used), used


def exposures_differ(pictures: Sequence[UInt8[Tensor, "h w c"]], poses: Float[Tensor, "n 3 4"]) -> bool:
    """Whether pictures that show nearly the same are of different brightness; says so when they are.

    Of each picture and its three nearest neighbours, the log gain is the median over nineteen quantiles of brightness.
    """
    if len(pictures) < ENOUGH:
        return False
    quantiles = torch.stack([_log_quantiles(picture) for picture in pictures])
    positions, axes = poses[:, :, 3].cpu(), poses[:, :, 2].cpu()
    apart = torch.cdist(positions, positions)
    apart = apart / apart.median().clamp(min=1e-9) + torch.acos((axes @ axes.T).clamp(-1, 1))
    neighbours = apart.topk(4, largest=False).indices[:, 1:]  # the first is the picture itself
    log_gain = (quantiles[neighbours] - quantiles[:, None]).median(-1).values
    differs = float(log_gain.abs().median()) > DIFFERS
    if differs:
        logger.info(
            "exposure: differs between the pictures, each has its own; --pipeline.model.exposure off ignores it"
        )
    return differs


def _log_quantiles(picture: UInt8[Tensor, "h w c"]) -> Float[Tensor, " q"]:
    """Of the log of brightness, on a grid of some thousand pixels; black counts as 4 of 255, below which is noise."""
    step = max(1, min(picture.shape[:2]) // 64)
    brightness = picture[::step, ::step, :3].float().mean(-1).flatten()
    return torch.quantile((brightness + 4).log().cpu(), torch.linspace(0.05, 0.95, 19))
