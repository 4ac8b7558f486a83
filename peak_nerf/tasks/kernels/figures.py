"""The figures of `peak kernel`: PNG for screens, SVG for print, in colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peak_nerf.images.figures import write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, each with a dash of its own for grey prints.
STYLES: dict[str, dict[str, Any]] = {
    "mlp": {"color": "#d55e00", "linestyle": ":"},
    "fourier": {"color": "#0072b2", "linestyle": "--"},
    "peak": {"color": "#009e73", "linestyle": "-"},
}
TITLES = {"mlp": "vanilla MLP", "fourier": "Fourier features", "optimal": "optimal $K^*$", "peak": "PEAK"}
# Orange to purple through white, told apart by all; its ends print as dark as each other.
DIVERGING = "PuOr"
N_EIGENFUNCTIONS = 4


def save_figure(figure: Figure, path: Path) -> None:
    """Write `path` as PNG and beside it the SVG, each whole or not at all."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "peak_nerf", "svg.fonttype": "none"}):
        write_figure(path.with_suffix(".png"), figure, dpi=150)
        write_figure(path.with_suffix(".svg"), figure, metadata={"Date": None})


def figure2(
    kernels: Mapping[str, np.ndarray],
    captions: Mapping[str, str],
    courses: Mapping[str, tuple[Sequence[int], np.ndarray]],
) -> Figure:
    """Four kernels on [-1, 1]^2, each scaled to its largest entry, and the CKA over steps (mean, and least to most).

    kernels: by name, (n, n); captions: a line under each; courses: by method, steps and (n_seeds, n_steps) CKA.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 4, height_ratios=(1.15, 1))
    image, panels = None, []
    for column, (name, kernel) in enumerate(kernels.items()):
        axes = figure.add_subplot(grid[0, column])
        scaled = kernel / np.abs(kernel).max()
        image = axes.imshow(scaled, cmap=DIVERGING, vmin=-1, vmax=1, extent=(-1, 1, 1, -1), interpolation="nearest")
        axes.set_title(f"({'abcd'[column]}) {TITLES[name]}")
        axes.set_xlabel(f"$x'$\n{captions[name]}")
        axes.set_ylabel("$x$" if column == 0 else "")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        panels.append(axes)
    if image is not None:
        figure.colorbar(image, ax=panels, label="K / max |K|", shrink=0.8)
    axes = figure.add_subplot(grid[1, :])
    for name, (steps, cka) in courses.items():
        mean = cka.mean(axis=0)
        axes.plot(steps, mean, label=f"{TITLES[name]} (mean of {len(cka)} seeds)", linewidth=2, **STYLES[name])
        axes.fill_between(steps, cka.min(axis=0), cka.max(axis=0), color=STYLES[name]["color"], alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel="CKA of the NTK with $K^*$", ylim=(0, 1.02), title="(e) alignment through training")
    axes.set_xlim(0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    return figure


def spectrum(
    values: np.ndarray, fraction: np.ndarray, eigenfunctions: Sequence[np.ndarray], title: str, effective_rank: float
) -> Figure:
    """Eigenvalues over the largest, the fraction of |f|^2 in the first ones, and eigenfunctions over the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, max(len(eigenfunctions), 2), height_ratios=(1.2, 1))
    half = grid.ncols // 2
    rank = np.arange(1, len(values) + 1)
    left = figure.add_subplot(grid[0, :half])
    left.loglog(rank, np.maximum(values / values[0], 1e-16), color="#0072b2", linewidth=2)
    left.axvline(effective_rank, color="#d55e00", linestyle="--", label=f"effective rank {effective_rank:.1f}")
    left.set(xlabel="i", ylabel="eigenvalue i / eigenvalue 1", title=title)
    left.legend()
    right = figure.add_subplot(grid[0, half:])
    right.semilogx(rank, fraction, color="#009e73", linewidth=2)
    right.set(xlabel="i", ylabel="fraction of |f|²", ylim=(0, 1.02), title="held by the first i eigenfunctions")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    for column, eigenfunction in enumerate(eigenfunctions):
        axes = figure.add_subplot(grid[1, column])
        top = np.abs(eigenfunction).max()
        axes.imshow(eigenfunction, cmap=DIVERGING, vmin=-top, vmax=top)
        axes.set_title(f"eigenfunction {column + 1}")
        axes.set_axis_off()
    return figure


def encoding(
    c: np.ndarray, wanted: np.ndarray, attained: np.ndarray, base: np.ndarray, coefficients: np.ndarray
) -> Figure:
    """K* and what the encoding attains over c, the error, and the coefficients a_k."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(c, base, color="#999999", linestyle=":", linewidth=2, label="base K, at the same norm")
    left.plot(c, wanted, color="#0072b2", linewidth=3, label="target K*")
    left.plot(c, attained, color="#d55e00", linestyle="--", linewidth=1.5, label="base behind the encoding")
    left.set(xlabel="c", ylabel="kernel")
    left.legend()
    middle.plot(c, attained - wanted, color="#d55e00")
    middle.set(xlabel="c", ylabel="error", title=f"sup error {np.abs(attained - wanted).max():.2e}")
    right.semilogy(np.arange(len(coefficients)), np.maximum(coefficients, 1e-12), "o", color="#0072b2", markersize=4)
    right.set(xlabel="degree k", ylabel="$a_k$", title=f"degree {len(coefficients) - 1}")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    return figure
