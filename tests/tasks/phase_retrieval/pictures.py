"""A small picture that phase retrieval can be tried on: smooth shading, a box, a disc."""

from __future__ import annotations

import numpy as np
import torch

from peak_nerf.metrics import psnr
from peak_nerf.tasks.phase_retrieval.align import align


def scene(n: int) -> np.ndarray:
    """(n, n) float32 in [0.1, 0.9], without symmetry."""
    rows, columns = np.mgrid[:n, :n] / n
    picture = 0.25 + 0.3 * rows + 0.1 * columns
    picture[(rows > 0.2) & (rows < 0.5) & (columns > 0.15) & (columns < 0.45)] = 0.9
    picture[(rows - 0.65) ** 2 + (columns - 0.7) ** 2 < 0.03] = 0.1
    return picture.astype(np.float32)


def aligned_psnr(picture: torch.Tensor, truth: np.ndarray) -> float:
    """In dB, of the picture as `align` moves it onto the truth."""
    return psnr(float(((align(picture.numpy(), truth).picture - truth) ** 2).mean()))
