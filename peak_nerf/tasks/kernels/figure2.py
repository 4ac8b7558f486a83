r"""How a field's neural tangent kernel comes to resemble the optimal kernel while it learns f*(x) = sin(4 pi x).

The truth is one function, so the optimal kernel is K*(x, x') = f*(x) f*(x') (eq. 6), and the measure is CKA(K_t, K*)
for the empirical NTK K_t of the field's weights at step t.

Source: Li et al., ICML 2025, section 4.1 and Figure 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from peak_nerf.core.anchors import GlobalAnchors
from peak_nerf.core.field import FieldConfig, PeakField
from peak_nerf.core.fit import FitSettings, fit
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.core.kernels.alignment import centered_kernel_alignment
from peak_nerf.core.kernels.ntk import empirical_ntk
from peak_nerf.core.kernels.optimal import optimal_kernel
from peak_nerf.metrics import psnr

FREQUENCY = 4 * math.pi
HELD_OUT_EVERY = 4
N_QUERIES, N_ANCHORS = 128, 64


@dataclass
class AlignmentSettings:
    """One method: a field and how to fit it."""

    field: FieldConfig
    """Encodings and backbone."""
    learning_rate: float
    """Adam's rate for the field."""
    span: float = 1.0
    """The encoding sees u = span x: pi takes [-1, 1] once round the circle of the polynomial's coordinate map."""
    kar_weight: float | None = None
    """Weight of the Kernel Alignment Regularizer; None for a field without."""
    kar_learning_rate: float = 1e-3
    """Adam's rate for g."""


# Chosen by `peak kernel figure2 --tune`: the best of `candidates` by mean final CKA over the tuning seeds.
BEST = {"mlp": 7, "fourier": 8, "peak": 4}
TUNING_SEEDS = (100, 101)
METHODS = tuple(BEST)


def candidates(method: str) -> list[AlignmentSettings]:
    """Nine settings of a method to choose from: three learning rates, three of what shapes its kernel most.

    One backbone, 3 hidden layers of 128. Raises: ValueError on a method that is none of `METHODS`.
    """
    size: dict[str, Any] = {"hash_grid": None, "hidden_dim": 128, "n_hidden": 3}
    rates = (3e-3, 1e-2, 3e-2)
    if method == "mlp":
        config = FieldConfig(**size, polynomial_degree=None)
        return [AlignmentSettings(config, r, span) for r in rates for span in (1.0, math.pi, 4 * math.pi)]
    if method == "fourier":
        scales = (1.0, 2.0, 4.0)
        configs = [FieldConfig(**size, polynomial_degree=None, n_frequencies=64, frequency_scale=s) for s in scales]
        return [AlignmentSettings(config, r) for r in rates for config in configs]
    if method == "peak":
        configs = [FieldConfig(**size, polynomial_degree=n, polynomial_init=1.0) for n in (4, 8, 16)]
        return [AlignmentSettings(config, r, math.pi, kar_weight=3.0) for r in rates for config in configs]
    raise ValueError(f"method must be of {METHODS}, got {method!r}")


def signal(x: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1"]:
    """f*(x) = sin(4 pi x)."""
    return (FREQUENCY * x).sin()


@dataclass
class Course:
    """What one fit went through."""

    method: str
    seed: int
    steps: list[int] = field(default_factory=list)
    """Where the CKA was taken; the first is 0, before training."""
    cka: list[float] = field(default_factory=list)
    """CKA of the NTK and the optimal kernel, at each of the steps."""
    mse: float = math.nan
    """Mean squared error of the fitted field on the kernel's grid."""
    kernel: Float[Tensor, "n n"] = field(default_factory=lambda: torch.empty(0, 0))
    """The final NTK, float64."""


class _Problem:
    """`core.fit.Problem`: evenly spaced samples of f*, every fourth held out for the stopping point."""

    def __init__(
        self, module: PeakField, kar: KernelAlignmentRegularizer | None, settings: AlignmentSettings, n_train: int
    ) -> None:
        self.module, self.kar, self.settings = module, kar, settings
        self.anchors = GlobalAnchors(N_ANCHORS, low=-settings.span, high=settings.span)
        self.x = torch.linspace(-1, 1, n_train)[:, None]
        self.y = signal(self.x)
        self.held_out = torch.arange(n_train) % HELD_OUT_EVERY == HELD_OUT_EVERY // 2

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = [{"params": list(self.module.parameters()), "lr": self.settings.learning_rate}]
        if self.kar is not None:
            groups.append({"params": list(self.kar.parameters()), "lr": self.settings.kar_learning_rate})
        return groups

    def loss(self, progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        part = slice(None) if include_held_out else ~self.held_out
        error = (self.module(self.x[part]) - self.y[part]).square().mean()
        if self.kar is None:
            return error
        queries = self.module.normalise(torch.rand(N_QUERIES, 1, generator=generator) * 2 - 1)
        residual = self.kar.field_loss(self.module.evaluate, self.anchors, queries, generator)
        return error + self.kar.weight_at(progress) * residual

    def validation_psnr(self) -> float:
        return psnr(float((self.module(self.x[self.held_out]) - self.y[self.held_out]).square().mean()))

    def test_psnr(self) -> float | None:
        return None


def build_field(settings: AlignmentSettings) -> tuple[PeakField, KernelAlignmentRegularizer | None]:
    """The field of a method, and its regulariser if it has one. Draws from the global generator."""
    kar = None
    if settings.kar_weight is not None:
        kar = KernelAlignmentRegularizer(1, weight=settings.kar_weight, norm="squared")
    return PeakField(1, 1, settings.field, low=-1 / settings.span, high=1 / settings.span), kar


def grid_and_optimal_kernel(n_grid: int) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n n"]]:
    """The points where kernels are compared, and K* there, float64. Raises: ValueError below 2 points."""
    if n_grid < 2:
        raise ValueError(f"the kernel needs at least 2 points, got {n_grid}")
    grid = torch.linspace(-1, 1, n_grid)[:, None]
    return grid, optimal_kernel(signal(grid.double()).T)


def run_alignment(
    method: str,
    seed: int,
    steps: int = 600,
    n_train: int = 64,
    n_grid: int = 128,
    settings: AlignmentSettings | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Course:
    """Fit one method to f* with one seed and follow the alignment of its NTK with K*.

    Args:
        method: of `METHODS`.
        seed: of weights, queries and anchors; the same seed gives the same course.
        steps: of Adam, by the common fit loop.
        n_train: samples of f*, evenly spaced in [-1, 1], at least 8.
        n_grid: points of the kernels, evenly spaced in [-1, 1].
        settings: instead of the method's best.
        on_progress: called with the fraction done.

    Raises: ValueError on a method or sizes out of range; PeakError when the fit diverges.
    """
    if n_train < 2 * HELD_OUT_EVERY:
        raise ValueError(f"n_train must be at least {2 * HELD_OUT_EVERY}, got {n_train}")
    settings = settings or candidates(method)[BEST[method]]
    grid, target = grid_and_optimal_kernel(n_grid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, kar = build_field(settings)
    course = Course(method, seed)

    def follow(step: int, fraction: float) -> None:
        course.kernel = empirical_ntk(module, grid).double()
        course.steps.append(step)
        course.cka.append(centered_kernel_alignment(course.kernel, target))
        if on_progress is not None:
            on_progress(fraction)

    follow(0, 0.0)
    generator = torch.Generator().manual_seed(seed)
    problem = _Problem(module, kar, settings, n_train)
    everything = torch.nn.ModuleList([module] if kar is None else [module, kar])
    result = fit(everything, problem, FitSettings(steps), generator, lambda p: follow(p.step, p.fraction))
    # The loop ends with the averaged weights: the field that a user gets.
    follow(result.steps, 1.0)
    with torch.no_grad():
        course.mse = float((module(grid) - signal(grid)).square().mean())
    return course


def tune(method: str, steps: int, n_train: int, n_grid: int, on_progress: Callable[[float], None] | None = None) -> int:
    """Which of `candidates` ends with the highest mean CKA over `TUNING_SEEDS`, which are none of the figure's."""
    options = candidates(method)
    means = []
    for i, settings in enumerate(options):
        courses = [run_alignment(method, seed, steps, n_train, n_grid, settings) for seed in TUNING_SEEDS]
        means.append(sum(course.cka[-1] for course in courses) / len(courses))
        if on_progress is not None:
            on_progress((i + 1) / len(options))
    return max(range(len(options)), key=means.__getitem__)
