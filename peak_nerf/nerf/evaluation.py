"""What is said and shown of a rendered view beside the picture that was taken there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nerfstudio.utils import colormaps
from torch import Tensor

from peak_nerf.metrics import psnr, view_scores


def evaluated(outputs: dict[str, Tensor], truth: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scores of a rendered view, and pictures of it: truth beside rendering, accumulation, depth.

    PSNR in dB and SSIM, LPIPS when its weights are on this machine; with photo residuals also `psnr_field`, of what the
    field renders alone.

    Args:
        outputs: of the view, (h, w, c) each.
        truth: (h, w, 3) in [0, 1].
    """
    rgb = outputs["rgb"]
    images = {
        "img": torch.cat((truth, rgb), 1),
        "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
        "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
    }
    scores = view_scores(*(picture.cpu().numpy() for picture in (rgb, truth)))
    if "rgb_field" in outputs:
        scores["psnr_field"] = psnr(float(F.mse_loss(outputs["rgb_field"].clamp(0, 1), truth)))
    return scores, images


def without_background(outputs: dict[str, Tensor], name: str, background: float) -> Tensor:
    """(h, w, 4), an output's colour without what is behind it, and accumulation as alpha.

    background: grey value, where the outputs do not say what is behind.
    """
    accumulation = outputs["accumulation"]
    foreground = outputs[name] - (1 - accumulation) * outputs.get("background", background)
    return torch.cat((foreground / accumulation.clamp(min=1e-6), accumulation), -1).clamp(0, 1)
