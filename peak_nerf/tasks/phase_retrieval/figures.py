"""The pictures that a phase retrieval leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from peak_nerf.images.figures import write_comparison, write_figure
from peak_nerf.tasks.phase_retrieval.magnitudes import Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator
from peak_nerf.tasks.phase_retrieval.solver_loop import Point

STAGES = {
    "search": ("tab:orange", "search, best so far"),
    "fit": ("tab:blue", "fit, held-out magnitudes"),
    "refinement": ("tab:green", "refinement, held-out magnitudes"),
}


def magnitudes_picture(measurements: Measurements) -> np.ndarray:
    """log(1 + y) of Fourier magnitudes with frequency 0 in the middle, cut to the picture's size: (h, w, 1) in [0, 1];
    unknown ones black.

    Gaussian magnitudes in their order, as many as fit; the rest of n^2 pixels white.
    """
    operator, (h, w) = measurements.operator, measurements.operator.box
    y = measurements.magnitudes.numpy()
    if isinstance(operator, FourierOperator):
        rows, columns = (np.arange(h) - h // 2)[:, None], (np.arange(w) - w // 2)[None]
        # |X(-k)| = |X(k)|: only the half with columns >= 0 is kept.
        shown = y[np.where(columns < 0, -rows, rows) % operator.frame[0], np.minimum(np.abs(columns), y.shape[1] - 1)]
        shown = np.log1p(shown / np.median(y).clip(1e-12))
        return (shown / max(float(shown.max()), 1e-12))[..., None]
    picture = np.ones(h * w, dtype=np.float32)
    picture[: min(len(y), h * w)] = (y / (3 * np.sqrt(np.mean(y**2))))[: h * w]
    return picture.reshape(h, w, 1).clip(0, 1)


def write_comparison_of(path: Path, measurements: Measurements, picture: np.ndarray, truth: np.ndarray | None) -> None:
    """Magnitudes, reconstruction (aligned where there is a truth) and the truth, side by side."""
    panels = [magnitudes_picture(measurements), picture[..., None]]
    write_comparison(path, panels if truth is None else [*panels, truth[..., None]])


def write_residuals(path: Path, history: Sequence[Point], title: str) -> None:
    """The relative residual over the seconds of all stages, on a logarithmic axis; an iteration of a coarse level takes
    far less time than one at full size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for stage, (colour, label) in STAGES.items():
        points = [p for p in history if p.stage == stage]
        if points:
            residuals = [max(p.relative_residual, 1e-9) for p in points]
            axes.plot([p.seconds for p in points], residuals, color=colour, label=label, marker=".")
    axes.set(xlabel="seconds", ylabel="relative residual || |A x| - y || / ||y||", yscale="log", title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    write_figure(path, figure, dpi=120)
