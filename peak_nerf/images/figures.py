"""Pictures that several tasks leave behind: inputs with their holes, panels side by side, residuals, plots."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peak_nerf.images.read import write_png
from peak_nerf.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Missing pixels are shown in this colour, which photographs rarely have.
MISSING = np.array([0.85, 0.1, 0.55], dtype=np.float32)


def as_rgb(values: np.ndarray) -> np.ndarray:
    """(h, w, 1 or 3) to (h, w, 3)."""
    return np.broadcast_to(values, (*values.shape[:2], 3))


def input_picture(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The picture with its missing pixels marked, (h, w, 3)."""
    return np.where(observed[..., None], as_rgb(values), MISSING)


def write_comparison(path: Path, panels: Sequence[np.ndarray]) -> None:
    """Panels of one size side by side with a white gap: observed, reconstruction, and the truth where there is one."""
    gap = np.ones((panels[0].shape[0], max(panels[0].shape[1] // 64, 2), 3), dtype=np.float32)
    row = [part for panel in panels for part in (as_rgb(panel), gap)][:-1]
    write_png(path, np.concatenate(row, axis=1))


def write_residual(path: Path, reconstruction: np.ndarray, truth: np.ndarray, has_truth: np.ndarray) -> None:
    """|reconstruction - truth|, mean over channels, 4 times; black where there is no truth."""
    error = np.abs(reconstruction - truth).mean(axis=2)
    write_png(path, np.where(has_truth, 4 * error, 0))


def write_figure(path: Path, figure: Figure, **options: Any) -> None:
    """Write a figure as its path's suffix says, whole or not at all; the options are those of `savefig`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], **options)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
