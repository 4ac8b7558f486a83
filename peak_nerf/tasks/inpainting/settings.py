"""What an inpainting fit is made of, and our choices for each method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.errors import PeakError
from peak_nerf.system.choices import flag
from peak_nerf.tasks.image_field import ImageFieldSettings, KarSettings
from peak_nerf.tasks.inpainting import classical

Method = Literal[
    "peak", "peak-siren", "mlp", "fourier", "siren", "hash", "biharmonic", "telea", "navier-stokes", "linear", "patches"
]


@dataclass
class InpaintSettings(ImageFieldSettings):
    """A field and how to fit it to a picture; KAR's windows lie around missing pixels."""

    pixels_per_step: int = 2**17
    """Observed pixels a step, drawn at random; all of them where there are no more."""
    reach: int | None = None
    """Observed pixels further than this from any missing one teach KAR alone, and are not fitted; None for none."""
    steps: int = 900
    """Steps when no budget is given."""
    guided: float = 0.3
    """Fraction of the fit in which missing pixels are drawn to a guide, where there is one, less and less."""


def settings_for(method: str, size: tuple[int, int]) -> InpaintSettings:
    """Our settings of a field method for a picture of (h, w). Raises: PeakError on a name that is no field method."""
    # One vertex per pixel: what a missing pixel's finest vertex holds, KAR alone decides.
    finest = max(max(size) - 1, 32)
    grid = HashGridConfig(
        n_levels=8, n_features=2, log2_table_size=22, base_resolution=16, finest_resolution=finest, init_scale=1e-2
    )
    presets: dict[str, Callable[[], InpaintSettings]] = {
        # With a vertex per pixel one hidden layer is enough.
        "peak": lambda: InpaintSettings(FieldConfig(hash_grid=grid, n_hidden=1), KarSettings(), pixels_per_step=2**14),
        "peak-siren": lambda: InpaintSettings(
            FieldConfig(
                hash_grid=None,
                backbone="siren",
                hidden_dim=128,
                n_hidden=3,
                coordinate_map="raw",
                polynomial_init=1.0,
            ),
            KarSettings(weight=0.1, window=40),
            learning_rate=1e-3,
            pixels_per_step=2**13,
            steps=1500,
        ),
        # Finer is better where little is missing, coarser where half of the pixels are; this is the best compromise.
        "hash": lambda: InpaintSettings(FieldConfig(hash_grid=grid, polynomial_degree=None), learning_rate=3e-3),
        # Networks without a grid are slow, and many steps on a part of the pixels serve them better than few on all.
        "fourier": lambda: InpaintSettings(
            FieldConfig(
                hash_grid=None,
                polynomial_degree=None,
                n_frequencies=128,
                frequency_scale=5.0,
                hidden_dim=128,
                n_hidden=3,
            ),
            learning_rate=5e-3,
            pixels_per_step=2**12,
            steps=3000,
        ),
        "siren": lambda: InpaintSettings(
            FieldConfig(hash_grid=None, polynomial_degree=None, backbone="siren", hidden_dim=128, n_hidden=3),
            learning_rate=1e-3,
            pixels_per_step=2**13,
            steps=1800,
        ),
        "mlp": lambda: InpaintSettings(
            FieldConfig(hash_grid=None, polynomial_degree=None, hidden_dim=128, n_hidden=4),
            learning_rate=3e-3,
            pixels_per_step=2**11,
            steps=7000,
        ),
    }
    if method not in presets:
        raise PeakError(
            f"method {method!r}: not one of {', '.join([*presets, *classical.CLASSICAL])}; choose one of these"
        )
    settings = presets[method]()
    n_pixels = size[0] * size[1]
    # A large picture has more to learn, but its coarse levels no more than a small one: 2.3 times the steps at 4 MP.
    settings.steps = round(settings.steps * max(n_pixels / 2**16, 1.0) ** 0.2)
    if settings.kar is not None and n_pixels > 2**17:
        # The windows bring most of the pixels: g costs more there than f, and is evaluated nowhere else.
        settings.pixels_per_step, settings.kar.window = 2**14, 144
    return settings


def with_overrides(settings: InpaintSettings, **changes: Any) -> InpaintSettings:
    """The settings with the options that are not None put in: kar_weight, kar_n_features, kar_similarity,
    polynomial_degree, polynomial_cross_terms, grid_resolution, hidden_dim, n_hidden, learning_rate.

    Raises: PeakError on a change that the method has no place for.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    for name in [n for n in given if n.startswith("kar_")]:
        if settings.kar is None:
            raise PeakError(f"{flag(name)}: this method has no KAR; use method 'peak' or 'peak-siren'")
        settings = replace(settings, kar=replace(settings.kar, **{name.removeprefix("kar_"): given.pop(name)}))
    for name in ("polynomial_degree", "polynomial_cross_terms"):
        if name in given and settings.field.polynomial_degree is None:
            raise PeakError(f"{flag(name)}: this method has no polynomial encoding; use method 'peak' or 'peak-siren'")
    if "grid_resolution" in given:
        grid, finest = settings.field.hash_grid, given.pop("grid_resolution")
        if grid is None:
            raise PeakError("grid-resolution: this method has no grid; use method 'peak' or 'hash'")
        grid = replace(grid, finest_resolution=finest, base_resolution=min(grid.base_resolution, finest))
        settings = replace(settings, field=replace(settings.field, hash_grid=grid))
    if "learning_rate" in given:
        settings = replace(settings, learning_rate=given.pop("learning_rate"))
    return replace(settings, field=replace(settings.field, **given))
