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
from peak_nerf.core.fit import FitSettings, Progress, fit
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.core.kernels.alignment import centered_kernel_alignment
from peak_nerf.core.kernels.ntk import empirical_ntk
from peak_nerf.core.kernels.optimal import optimal_kernel

FREQUENCY = 4 * math.pi
HELD_OUT_EVERY = 4


@dataclass
class AlignmentSettings:
    """One method: a field and how to fit it."""

    field: FieldConfig
    """Encodings and backbone."""
    learning_rate: float
    """Adam's rate for the field."""
    kar_weight: float | None = None
    """Weight of the Kernel Alignment Regularizer; None for a field without."""
    kar_learning_rate: float = 1e-3
    """Adam's rate for g."""


def method_settings() -> dict[str, AlignmentSettings]:
    """The three fields of Figure 2, of one backbone, each with its own best settings."""
    size = {"hash_grid": None, "hidden_dim": 128, "n_hidden": 3}
    return {
        "mlp": AlignmentSettings(FieldConfig(**size, polynomial_degree=None), 3e-3),
        "fourier": AlignmentSettings(
            FieldConfig(**size, polynomial_degree=None, n_frequencies=64, frequency_scale=2.0), 3e-3
        ),
        "peak": AlignmentSettings(FieldConfig(**size, polynomial_degree=16, polynomial_init=1.0), 3e-3, 0.1),
    }


def signal(x: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1"]:
    """f*(x) = sin(4 pi x)."""
    return (FREQUENCY * x).sin()


@dataclass
class Course:
    """What one fit went through."""

    method: str
    seed: int
    steps: list[int] = field(default_factory=list)
    cka: list[float] = field(default_factory=list)
    """CKA of the NTK and the optimal kernel, at each of the steps; the first is before training."""
    mse: float = math.nan
    """Of the fitted field on the kernel's grid, against f*."""
    kernel: Tensor = field(default_factory=lambda: torch.empty(0))
    """The final NTK, (n, n) float64."""


class _Problem:
    """`core.fit.Problem`: N evenly spaced samples of f*, every fourth held out; records the CKA at each check."""

    def __init__(self, module: PeakField, settings: AlignmentSettings, n_train: int, n_grid: int) -> None:
        self.module, self.settings = module, settings
        self.x = torch.linspace(-1, 1, n_train)[:, None]
        self.y = signal(self.x)
        held_out = torch.arange(n_train) % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
        self.train, self.held_out = ~held_out, held_out
        self.grid = torch.linspace(-1, 1, n_grid)[:, None]
        self.truth = signal(self.grid.double())
        self.target = optimal_kernel(self.truth.T)

    def parameter_groups(self) -> list[dict[str, Any]]:
        g = [] if self.module.kar is None else list(self.module.kar.parameters())
        own = {id(p) for p in g}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.module.parameters() if id(p) not in own], "lr": self.settings.learning_rate}
        ]
        return groups + ([{"params": g, "lr": self.settings.kar_learning_rate}] if g else [])

    def loss(self, progress: float, everything: bool, generator: torch.Generator) -> Tensor:
        part = slice(None) if everything else self.train
        error = (self.module(self.x[part]) - self.y[part]).square().mean()
        if self.module.kar is None:
            return error
        queries = torch.rand(128, 1, generator=generator) * 2 - 1
        return error + self.module.kar_loss(queries, progress, generator)

    def validate(self) -> float:
        error = (self.module(self.x[self.held_out]) - self.y[self.held_out]).square().mean()
        return -10 * math.log10(float(error) + 1e-12)

    def score(self) -> float | None:
        return None

    def kernel(self) -> Tensor:
        """The NTK on the grid, at the present weights."""
        return empirical_ntk(self.module, self.grid).double()

    def cka(self) -> float:
        return centered_kernel_alignment(self.kernel(), self.target)
