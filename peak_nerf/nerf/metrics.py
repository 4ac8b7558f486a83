"""Image metrics; LPIPS only when its weights are on this machine, since building it would download them otherwise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

LPIPS_BACKBONE = "alexnet-owt-7be5be79.pth"
"""File that torchvision keeps the weights of LPIPS's AlexNet in; torchmetrics ships the layers on top of it."""


def lpips_weights() -> Path | None:
    """Where the weights are, or None when they are not here."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONE
    return path if path.is_file() else None


class ImageMetrics:
    """PSNR (dB) and SSIM in [-1, 1], and LPIPS where it can be had; a metric that cannot is absent, never NaN."""

    def __init__(self) -> None:
        self._lpips: Any = None

    def __call__(self, rgb: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> dict[str, float]:
        """Metrics of one image in [0, 1]."""
        from torchmetrics.functional.image import structural_similarity_index_measure

        mse = torch.mean((rgb - truth) ** 2)
        # Two equal images have no PSNR: 100 dB stands for it, so that JSON stays strict.
        metrics = {"psnr": float(-10 * torch.log10(mse.clamp(min=1e-10)))}
        rgb, truth = (image.clamp(0, 1).permute(2, 0, 1)[None] for image in (rgb, truth))
        if min(rgb.shape[-2:]) >= 11:  # the window of SSIM
            ssim = structural_similarity_index_measure(rgb, truth, data_range=1.0)
            assert isinstance(ssim, Tensor)  # a tuple only when its parts are asked for
            metrics["ssim"] = float(ssim)
        if self._lpips is None and lpips_weights() is not None:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self._lpips = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(rgb.device)
        if self._lpips is not None:
            metrics["lpips"] = float(self._lpips(rgb, truth))
        return metrics


class MissingMetric(nn.Module):
    """Stands for a metric whose weights are not on this machine; its value is NaN, and the mixin leaves it out."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, *_: Any) -> Tensor:
        """Not a number."""
        return torch.tensor(float("nan"))


@contextlib.contextmanager
def without_lpips_download(model: type) -> Iterator[None]:
    """Within, a model that builds LPIPS gets a `MissingMetric` unless LPIPS's weights are here: it would download them.

    model: the model's class; a module of its bases may have imported LPIPS by name.
    """
    name = "LearnedPerceptualImagePatchSimilarity"
    if lpips_weights() is not None:
        yield
        return
    import torchmetrics.image
    import torchmetrics.image.lpip

    modules: list[Any] = [torchmetrics.image, torchmetrics.image.lpip]
    modules += [sys.modules[base.__module__] for base in model.__mro__ if base.__module__ in sys.modules]
    found = {module: getattr(module, name) for module in modules if hasattr(module, name)}
    try:
        for module in found:
            setattr(module, name, MissingMetric)
        yield
    finally:
        for module, real in found.items():
            setattr(module, name, real)
