"""What an inpainting run draws beside its pictures: PSNR over time, and the similarity that it learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from peak_nerf.core.fit import Progress
from peak_nerf.images.figures import as_rgb, write_figure
from peak_nerf.tasks.image_field import ImageField, pixel_coordinates

SIMILARITY_REACH = 12


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
    write_figure(path, figure, dpi=120)


def similarity(field: ImageField, size: tuple[int, int], pixel: tuple[int, int], reach: int) -> np.ndarray:
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


def write_similarity(path: Path, field: ImageField, values: np.ndarray, n_pixels: int = 4) -> None:
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
    write_figure(path, figure, dpi=110)
