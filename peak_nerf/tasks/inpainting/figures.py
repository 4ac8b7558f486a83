"""The pictures that an inpainting run leaves behind."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from peak_nerf.core.field import PeakField
from peak_nerf.core.fit import Progress
from peak_nerf.images.read import write_png
from peak_nerf.system.files import write_atomically
from peak_nerf.tasks.inpainting.inpaint import pixel_coordinates

# Missing pixels are shown in this colour, which photographs rarely have.
MISSING = np.array([0.85, 0.1, 0.55], dtype=np.float32)
SIMILARITY_REACH = 12


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


def write_residual(path: Path, reconstruction: np.ndarray, truth: np.ndarray, known: np.ndarray) -> None:
    """|reconstruction - truth|, mean over channels, 4 times; black where there is no truth."""
    error = np.abs(reconstruction - truth).mean(axis=2)
    write_png(path, np.where(known, 4 * error, 0))


def write_history(path: Path, history: Sequence[Progress], title: str) -> None:
    """PSNR over seconds: against the truth where there is one, and on held-out pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    seconds = [p.seconds for p in history]
    axes.plot(seconds, [p.psnr_validation for p in history], label="held-out observed pixels", color="tab:gray")
    if any(p.psnr is not None for p in history):
        axes.plot(seconds, [np.nan if p.psnr is None else p.psnr for p in history], label="whole picture")
    axes.set(xlabel="seconds of training", ylabel="PSNR (dB)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def similarity(field: PeakField, size: tuple[int, int], pixel: tuple[int, int], reach: int) -> np.ndarray:
    """A(x, .) of one pixel x over the pixels within `reach`, x itself excluded: (2 reach + 1,) * 2, sums to 1.

    Pixels outside the picture have weight 0. Raises: ValueError for a field without KAR.
    """
    if field.kar is None:
        raise ValueError("this field has no Kernel Alignment Regularizer")
    rows, columns = pixel_coordinates(size)
    steps = np.arange(-reach, reach + 1)
    row, column = np.meshgrid(pixel[0] + steps, pixel[1] + steps, indexing="ij")
    inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    anchor = inside & ((row != pixel[0]) | (column != pixel[1]))
    x = torch.stack([rows[row[anchor]], columns[column[anchor]]], dim=1)
    query = torch.stack([rows[pixel[0]], columns[pixel[1]]])[None]
    weights = np.zeros(inside.shape, dtype=np.float32)
    weights[anchor] = field.kar.attention(query, x)[0].numpy()
    return weights


def write_similarity(path: Path, field: PeakField, values: np.ndarray, n_pixels: int = 4) -> None:
    """For the pixels of steepest contrast in each quarter: the picture around it, and its learned A(x, .)."""
    from matplotlib.figure import Figure

    size = (values.shape[0], values.shape[1])
    reach = min(SIMILARITY_REACH, (min(size) - 1) // 2)
    grey = values.mean(axis=2)
    slope = np.hypot(*np.gradient(grey))
    figure = Figure(figsize=(2.6 * n_pixels, 5.4), layout="constrained")
    axes = figure.subplots(2, n_pixels, squeeze=False)
    for i in range(n_pixels):
        top, left = (i // 2) * (size[0] // 2), (i % 2) * (size[1] // 2)
        part = slope[top : top + size[0] // 2, left : left + size[1] // 2]
        row, column = divmod(int(part.argmax()), part.shape[1])
        centre = (min(max(row + top, reach), size[0] - 1 - reach), min(max(column + left, reach), size[1] - 1 - reach))
        patch = values[centre[0] - reach : centre[0] + reach + 1, centre[1] - reach : centre[1] + reach + 1]
        weights = similarity(field, size, centre, reach)
        axes[0, i].imshow(as_rgb(patch))
        axes[0, i].set_title(f"row {centre[0]}, column {centre[1]}", fontsize=9)
        axes[1, i].imshow(as_rgb(patch).mean(axis=2), cmap="gray", vmin=0, vmax=1)
        axes[1, i].imshow(weights, cmap="magma", alpha=0.8)
        for panel in axes[:, i]:
            panel.plot(reach, reach, "+", color="cyan", markersize=8)
            panel.set_axis_off()
    figure.suptitle("learned similarity A(x, .) = softmax(g(x)$^T$g(.)) around four pixels x (+); bright: alike")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
