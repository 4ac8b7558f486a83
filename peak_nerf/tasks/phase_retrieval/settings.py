"""The methods of phase retrieval and their settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.errors import PeakError
from peak_nerf.system.choices import did_you_mean
from peak_nerf.tasks.image_field import ImageFieldSettings, KarSettings
from peak_nerf.tasks.phase_retrieval.operators import Problem
from peak_nerf.tasks.phase_retrieval.projections import FOURIER_SOLVERS, GAUSSIAN_SOLVERS

FIELD_METHODS = ("peak", "mlp", "fourier", "siren", "hash")


@dataclass
class PhaseSettings(ImageFieldSettings):
    """A field and how it is fitted to magnitudes."""

    kar_fall: float = 0.03
    """KAR's weight falls geometrically to this fraction: the better the magnitudes are explained, the less it says."""
    prefit: float = 0.15
    """Fraction of the run in which the field is fitted to the start."""
    steps: int = 400
    """Steps on theta when there is no budget."""
    search_rounds: int = 500
    """Rounds of the search when there is no budget (Fourier)."""
    refinement_rounds: int = 40
    """Rounds of the refinement when there is no budget (Fourier)."""
    search: float = 0.6
    """Fraction of the budget for the search of a start (Fourier)."""
    refinement: float = 0.25
    """Fraction of the budget in which z goes on without the field, from the field's picture or the start, whichever
    explains the held-out magnitudes better (Fourier). Without noise that is mostly the start: what helps there is to
    begin anew from its picture. With noise it is the field's."""
    sigma_start: float = 0.2
    """How far off A x is believed to be at first; see `data_term`."""
    sigma_end: float = 0.002
    """And at the end; Net-ADM's is no smaller than half of what the start is off the held-out magnitudes, in the root
    of the mean square: these are noise then. Nor does KAR's weight fall below that over sigma_start."""
    rho: float = 1.0
    """Penalty of Net-ADM."""
    epsilon: float = 1e-3
    """Smoothing of Net-ADM's magnitudes, in units of the transform without 1/m."""
    inner_steps: int = 5
    """Steps on theta between two updates of z and u."""


def solvers(problem: Problem) -> tuple[str, ...]:
    """Names of all methods for a problem."""
    return FIELD_METHODS + (FOURIER_SOLVERS if problem == "fourier" else GAUSSIAN_SOLVERS)


def check_method(method: str, problem: Problem) -> None:
    """Raises: PeakError on a name that is no method, or not one for this problem."""
    if method not in solvers(problem):
        hint = did_you_mean(method, solvers(problem))
        raise PeakError(f"--method {method}: no such method for {problem} magnitudes; {hint}")


def settings_for(method: str, problem: Problem, size: int) -> PhaseSettings:
    """Our settings of a field method for a picture of side `size`.

    Raises: PeakError on a name that is no field method.
    """
    grid = HashGridConfig(
        n_levels=8,
        n_features=2,
        log2_table_size=22,
        base_resolution=min(16, max(size // 4, 2)),
        finest_resolution=max(size - 1, 16),
        init_scale=1e-2,
    )
    kar = KarSettings(weight=3.0 if problem == "gaussian" else 1.0, reach=2.9, window=64)
    gaussian = problem == "gaussian"
    # Without KAR a grid may not have as many vertices as there are pixels when magnitudes are no more than these.
    coarse = replace(grid, finest_resolution=max(size // 2, 16)) if gaussian else grid
    # Of 256 x 256 pixels a wide network sees too few steps in a minute.
    width = 128 if gaussian else 64
    presets: dict[str, Callable[[], PhaseSettings]] = {
        "peak": lambda: PhaseSettings(FieldConfig(hash_grid=grid), kar),
        "hash": lambda: PhaseSettings(FieldConfig(hash_grid=coarse, polynomial_degree=None)),
        "fourier": lambda: PhaseSettings(
            FieldConfig(
                hash_grid=None,
                polynomial_degree=None,
                n_frequencies=128,
                frequency_scale=3.0 if gaussian else 10.0,
                hidden_dim=width,
                n_hidden=3,
            ),
            learning_rate=5e-3,
        ),
        "siren": lambda: PhaseSettings(
            FieldConfig(hash_grid=None, polynomial_degree=None, backbone="siren", hidden_dim=width, n_hidden=3),
            learning_rate=3e-4 if gaussian else 1e-3,
        ),
        "mlp": lambda: PhaseSettings(
            FieldConfig(hash_grid=None, polynomial_degree=None, hidden_dim=width, n_hidden=4), learning_rate=3e-3
        ),
    }
    if method not in presets:
        raise PeakError(f"method {method!r}: not one of {', '.join(FIELD_METHODS)}; choose one of these")
    settings = presets[method]()
    if problem == "gaussian":
        return settings
    # The start is close already: no great steps, no great doubt.
    return replace(settings, sigma_start=0.02, learning_rate=settings.learning_rate / 3, steps=200)


def with_kar_weight(settings: PhaseSettings, weight: float | None) -> PhaseSettings:
    """The settings with another weight of KAR; None changes nothing, 0 is the same field without it.

    Args:
        settings: of a method.
        weight: at least 0.

    Raises: PeakError for a method that has no KAR.
    """
    if weight is None:
        return settings
    if settings.kar is None:
        raise PeakError("--kar-weight: this method has no KAR; use method 'peak'")
    return replace(settings, kar=replace(settings.kar, weight=weight))
