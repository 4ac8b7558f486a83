"""How close a reconstruction is to the truth: PSNR, SSIM, and LPIPS where its weights are on this machine."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LPIPS_BACKBONE = "alexnet-owt-7be5be79.pth"
"""File that torchvision keeps the weights of LPIPS's AlexNet in; torchmetrics ships the layers on top of it."""

MAX_PSNR = 100.0
"""dB; stands for two equal images, whose PSNR is infinite, so that JSON stays strict."""
SSIM_WINDOW = 11
BAND = 2**16
"""Pixels that are scored at once."""
LPIPS_MIN_SIDE, LPIPS_MAX_PIXELS = 64, 2**22
"""AlexNet's poolings leave nothing of much smaller pictures, and larger ones take gigabytes."""


def psnr(mse: float) -> float:
    """-10 log10(mse) in dB for values in [0, 1], at most `MAX_PSNR`."""
    return MAX_PSNR if mse <= 10 ** (-MAX_PSNR / 10) else float(-10 * np.log10(mse))


def view_scores(rendering: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR in dB, SSIM in [-1, 1] and LPIPS of a rendered view, (h, w, 3) in [0, 1], as nerfstudio has them.

    SSIM is the mean over all pixels, the picture mirrored at its border; that of `scores` leaves the border out. Absent
    scores as in `scores`.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    everywhere = np.ones(truth.shape[:2], dtype=bool)
    result = {"psnr": psnr(float(np.mean((rendering.astype(np.float64) - truth) ** 2)))}
    if min(everywhere.shape) >= SSIM_WINDOW:
        ours, theirs = (_to_tensor(image.astype(np.float32)) for image in (rendering, truth))
        ssim = structural_similarity_index_measure(ours, theirs, data_range=1.0)
        assert not isinstance(ssim, tuple)  # only when its parts are asked for
        result["ssim"] = float(ssim)
    lpips = _lpips(rendering, truth, everywhere)
    return result if lpips is None else {**result, "lpips": lpips}


def scores(
    reconstruction: np.ndarray, truth: np.ndarray, observed: np.ndarray, known: np.ndarray | None = None
) -> dict[str, float]:
    """PSNR in dB over all pixels and over the missing ones, SSIM in [-1, 1], LPIPS; all finite.

    A score that cannot be had is absent: `psnr_missing` when no missing pixel has a truth, `ssim` below 11 pixels a
    side, `lpips` without its weights, below 64 pixels a side or above 4 megapixels.

    Args:
        reconstruction: (h, w, c) in [0, 1], c 1 or 3.
        truth: likewise.
        observed: (h, w) bool, what the reconstruction was made from.
        known: (h, w) bool, where there is a truth; None for everywhere. Elsewhere both pictures are set to 0: PSNR
            leaves these pixels out, SSIM's mean does too, while its windows and LPIPS see the zeros.
    Raises: ValueError on shapes that differ, values that are not finite where known, or nothing known.
    """
    known = np.ones(truth.shape[:2], dtype=bool) if known is None else known
    if truth.ndim != 3 or truth.shape[2] not in (1, 3) or reconstruction.shape != truth.shape:
        raise ValueError(f"both must be (h, w, 1 or 3), got {reconstruction.shape} and {truth.shape}")
    if observed.shape != truth.shape[:2] or known.shape != truth.shape[:2]:
        raise ValueError(f"masks must be {truth.shape[:2]}, got {observed.shape} and {known.shape}")
    if not known.any():
        raise ValueError("there is no truth at any pixel")
    if not (np.isfinite(reconstruction[known]).all() and np.isfinite(truth[known]).all()):
        raise ValueError("values must be finite")
    missing = known & ~observed
    squared, squared_missing = 0.0, 0.0
    for rows in _bands(*known.shape):
        a, b = (_zeroed(image[rows], known[rows]) for image in (reconstruction, truth))
        error = ((a - b) ** 2).mean(axis=2)
        squared += float(error[known[rows]].sum())
        squared_missing += float(error[missing[rows]].sum())
    result = {"psnr": psnr(squared / np.count_nonzero(known))}
    if missing.any():
        result["psnr_missing"] = psnr(squared_missing / np.count_nonzero(missing))
    if min(truth.shape[:2]) >= SSIM_WINDOW:
        ssim = _ssim(reconstruction, truth, known)
        if ssim is not None:
            result["ssim"] = ssim
    lpips = _lpips(reconstruction, truth, known)
    if lpips is not None:
        result["lpips"] = lpips
    return result


def lpips_weights() -> Path | None:
    """Where the weights of LPIPS are, or None when they are not on this machine; nothing is ever downloaded."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONE
    return path if path.is_file() else None


def _bands(h: int, w: int) -> Iterator[slice]:
    """Rows of about `BAND` pixels each: what is made of a picture at once, in float64, is a multiple of its size."""
    n_rows = max(BAND // w, 1)
    return (slice(start, min(start + n_rows, h)) for start in range(0, h, n_rows))


def _ssim(reconstruction: np.ndarray, truth: np.ndarray, known: np.ndarray) -> float | None:
    """Mean of the SSIM map over known pixels away from the border, as torchmetrics takes it."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    border = SSIM_WINDOW // 2
    inside = known[border : known.shape[0] - border, border : known.shape[1] - border]
    if not inside.any():
        return None
    total = 0.0
    for rows in _bands(*inside.shape):
        around = slice(rows.start, rows.stop + 2 * border)
        a, b = (_to_tensor(_zeroed(image[around], known[around])) for image in (reconstruction, truth))
        _, ssim_map = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
        ssim_map = ssim_map[0, :, border:-border, border:-border].numpy()
        total += float(ssim_map[:, inside[rows]].sum())
    return total / (np.count_nonzero(inside) * truth.shape[2])


def _lpips(reconstruction: np.ndarray, truth: np.ndarray, known: np.ndarray) -> float | None:
    if lpips_weights() is None or min(known.shape) < LPIPS_MIN_SIDE or known.size > LPIPS_MAX_PIXELS:
        return None
    both = (_zeroed(image, known) for image in (reconstruction, truth))
    rgb = [_to_tensor(np.repeat(image, 3 // image.shape[2], axis=2)).float() for image in both]
    return float(_lpips_network()(*rgb))


def _zeroed(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float64, 0 where nobody knows the truth."""
    return np.where(known[..., None], image, 0).astype(np.float64)


@functools.lru_cache(maxsize=1)
def _lpips_network() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()


def _to_tensor(image: np.ndarray) -> Any:
    """(1, c, h, w) float64 in [0, 1]."""
    import torch

    return torch.from_numpy(np.clip(image, 0, 1)).permute(2, 0, 1)[None].contiguous()
