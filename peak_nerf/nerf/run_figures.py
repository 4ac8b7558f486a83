"""Pictures of a radiance field's test views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.images.read import write_png

GAP = 4
"""White pixels between pictures."""
ERROR_GAIN = 4.0
"""An error of 1 / this is shown white."""


def write_pictures(out: Path, views: list[tuple[str, Any, Any, Any]]) -> None:
    """reconstruction.png, the middle one of the views; comparison.png, a row for each: truth, rendering, their
    difference (times `ERROR_GAIN`), depth.

    views: name, and truth, rendering and coloured depth as tensors (h, w, 3) in [0, 1].
    """
    rows = []
    for _, truth, rgb, depth in views:
        truth, rgb, depth = (part.detach().cpu().numpy().clip(0, 1) for part in (truth, rgb, depth))
        error = (ERROR_GAIN * np.abs(truth - rgb).mean(axis=2, keepdims=True)).clip(0, 1).repeat(3, axis=2)
        rows.append(_joined([truth, rgb, error, depth], axis=1))
    write_png(out / "reconstruction.png", views[len(views) // 2][2].detach().cpu().numpy().clip(0, 1))
    width = max(row.shape[1] for row in rows)  # views may differ in size
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=1.0) for row in rows]
    write_png(out / "comparison.png", _joined(padded, axis=0))


def _joined(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    """Side by side (axis 1) or one above the other (axis 0), with gaps."""
    gap = list(pictures[0].shape)
    gap[axis] = GAP
    parts = [part for picture in pictures for part in (np.ones(gap, dtype=picture.dtype), picture)][1:]
    return np.concatenate(parts, axis=axis)
