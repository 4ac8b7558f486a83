"""Whether a training has come to anything: a field that is empty, or as opaque as fog, is said, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peak_nerf.nerf.data.pixel_rays import rays_of_picture

VIEWS, PIXELS = 8, 400
"""Of the training that are looked at, evenly apart, and pixels of each."""
EMPTY, FULL = 0.05, 0.95
"""Accumulation of every pixel below, or above, which a field shows nothing."""
TRANSPARENT = 0.05
"""Fraction of pixels that are transparent in pictures which a full field contradicts."""
LEARNED = 0.8
"""Squared error over the variance of the pictures, from which on they might as well be of one colour."""
FEW_STEPS = 300


@dataclass(frozen=True)
class Seen:
    """Pixels of training views, n in all."""

    accumulation: Tensor
    """(n,)"""
    alpha: Tensor | None
    """(n,) of the pictures, where they have it."""
    error: float
    """Mean squared error of the colours, over their variance; NaN for pictures of one colour."""


def line_of(seen: Seen, steps: int) -> str | None:
    """What is wrong with a field that shows this after so many steps, and why; None where nothing is."""
    shown = seen.alpha is None or bool((seen.alpha > 0.5).any())
    if bool((seen.accumulation < EMPTY).all()):
        if not shown:
            return "the field is empty, as the training pictures are: their alpha channel hides all of them"
        what = "the field is empty: every training view shows nothing"
    elif bool((seen.accumulation > FULL).all()):
        hidden = seen.alpha is not None and float((seen.alpha < 0.5).float().mean()) > TRANSPARENT
        if not hidden and not seen.error > LEARNED:
            return None
        what = "the field is fog: it hides everything before every training view"
    else:
        return None
    if steps < FEW_STEPS:
        return f"{what} after {steps} steps; train longer"
    return (
        f"{what}; the poses or the lens do not belong to the pictures, or the scene is not in its box: look at "
        f"space.png, mind that poses are camera-to-world with OpenGL axes, and try peak-data --space or --scene-scale"
    )


@torch.no_grad()
def look(model: Any, dataset: Any) -> Seen:
    """Pixels of the training views as the model shows them, and as they are."""
    training = model.training
    model.eval()
    n = len(dataset)
    accumulation, alpha, truth, rgb = [], [], [], []
    for i in sorted({round(k * (n - 1) / max(1, min(VIEWS, n) - 1)) for k in range(min(VIEWS, n))}):
        camera = dataset.cameras[i : i + 1].to(model.device)
        stride = max(1, math.ceil(math.sqrt(int(camera.width[0]) * int(camera.height[0]) / PIXELS)))
        outputs = model.get_outputs_for_camera_ray_bundle(rays_of_picture(camera, stride))
        picture = dataset.get_data(i)["image"][::stride, ::stride].float().flatten(0, 1)
        accumulation.append(outputs["accumulation"].reshape(-1).cpu())
        # The photos' own residuals would hide what the field makes of them.
        rgb.append(outputs.get("rgb_field", outputs["rgb"]).reshape(-1, 3).cpu())
        truth.append(model.over_background(picture.to(model.device)).cpu())
        if picture.shape[1] == 4:
            alpha.append(picture[:, 3])
    model.train(training)
    pictures = torch.cat(truth)
    variance = float((pictures - pictures.mean(0)).square().mean())
    error = float((torch.cat(rgb) - pictures).square().mean()) / variance if variance > 0 else math.nan
    return Seen(torch.cat(accumulation), torch.cat(alpha) if alpha else None, error)
