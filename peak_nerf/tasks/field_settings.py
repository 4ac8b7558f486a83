"""The settings and the shape in a field's file, within ranges, and the tensors that such a field has."""

# h, w: sides of the picture   c: its channels   e: features of all encodings   t: rows of the grid's table

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_json

from peak_nerf.core.encodings import MAX_POLYNOMIAL_FEATURES
from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.core.hash_grid import grid_levels
from peak_nerf.images.read import MAX_PIXELS
from peak_nerf.tasks.image_field import ImageFieldSettings, KarSettings

Shapes = dict[str, tuple[int, ...]]

RENAMED = {"activation": "similarity", "divergence": "kl_weight", "blind_divergence": "blind_kl_weight"}
"""Settings of KAR in files of before the renaming; the activation `softmax` is the similarity `dot`."""
OF_THE_FIT = ("pixels_per_step", "steps")
"""What those files held besides."""

Width = Annotated[int, Field(ge=1, le=2**16)]
Depth = Annotated[int, Field(ge=1, le=100)]
AboveZero = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(config=_CONFIG)
class _Grid(HashGridConfig):
    n_levels: Annotated[int, Field(ge=1, le=64)] = 16
    n_features: Annotated[int, Field(ge=1, le=64)] = 2
    log2_table_size: Annotated[int, Field(ge=1, le=30)] = 19
    base_resolution: Annotated[int, Field(ge=1, le=2**24)] = 16
    finest_resolution: Annotated[int, Field(ge=1, le=2**24)] = 1024
    init_scale: NotNegative = 1e-4


@dataclass(config=_CONFIG)
class _Field(FieldConfig):
    hash_grid: _Grid | None = None
    polynomial_degree: Annotated[int, Field(ge=0, le=MAX_POLYNOMIAL_FEATURES)] | None = 1
    polynomial_init: AboveZero = 1e-2
    n_frequencies: Annotated[int, Field(ge=1, le=2**20)] | None = None
    frequency_scale: AboveZero = 10.0
    hidden_dim: Width = 64
    n_hidden: Annotated[int, Field(ge=0, le=100)] = 2
    implementation: Literal["auto", "triton", "numba", "torch"] = "auto"


@dataclass(config=_CONFIG)
class _Kar(KarSettings):
    weight: NotNegative = 3.0
    n_features: Width = 100
    n_hidden: Depth = 2
    temperature: AboveZero = 30.0
    huber_delta: AboveZero = 0.03
    locality: NotNegative = 0.15
    kl_weight: NotNegative = 1e-4
    blind_kl_weight: NotNegative = 10.0
    learning_rate: NotNegative = 1e-3
    reach: Annotated[float, Field(ge=1, le=256)] = 3.0
    window: Annotated[int, Field(ge=1, le=2**16)] = 80
    warmup: Fraction = 0.0


@dataclass(config=_CONFIG)
class _Settings:
    field: _Field
    kar: _Kar | None
    learning_rate: NotNegative = 1e-2


Side = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
_SETTINGS = TypeAdapter(_Settings)
_TREE = TypeAdapter(dict[str, Any])
_SHAPE = TypeAdapter(tuple[Side, Side, Annotated[int, Field(ge=1, le=64)]], config=ConfigDict(strict=True))


def read_settings(text: str) -> ImageFieldSettings:
    """The settings of a file's JSON. Raises: ValueError, in one line, on what is out of range or of another type."""
    try:
        tree = _TREE.validate_json(text)
        kar = tree.get("kar")
        if isinstance(kar, dict):
            tree["kar"] = {RENAMED.get(k, k): "dot" if v == "softmax" else v for k, v in kar.items()}
        tree = {name: value for name, value in tree.items() if name not in OF_THE_FIT}
        stored = _SETTINGS.validate_json(to_json(tree, inf_nan_mode="constants"))  # whose strictness takes 3 for 3.0
    except ValidationError as error:
        raise ValueError(f"settings: {_first_problem(error)}") from None
    field = asdict(stored.field)
    if field["implementation"] == "triton":  # who computed it; tables are the same, and the file is read on a CPU
        field["implementation"] = "auto"
    grid = field.pop("hash_grid")
    config = FieldConfig(**field, hash_grid=None if grid is None else HashGridConfig(**grid))
    return ImageFieldSettings(config, None if stored.kar is None else KarSettings(**asdict(stored.kar)))


def read_shape(text: str) -> tuple[int, int, int]:
    """(h, w, c) of a file's JSON. Raises: ValueError, in one line, on what is no picture's."""
    try:
        h, w, c = _SHAPE.validate_json(text)
    except ValidationError as error:
        raise ValueError(f"shape: {_first_problem(error)}") from None
    if h * w > MAX_PIXELS or max(h, w) < 2:
        raise ValueError(f"shape: {w} x {h} pixels; a picture has from 2 pixels to {MAX_PIXELS // 10**6} megapixels")
    return h, w, c


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where, message = ".".join(map(str, problem["loc"])), problem["msg"]
    return f"{where + ': ' if where else ''}{message[:1].lower()}{message[1:]}"


def expected_shapes(settings: ImageFieldSettings, n_channels: int) -> Shapes:
    """The shape of every tensor in the `state_dict` of `ImageField(settings, (h, w, n_channels))`, none of it built.

    Raises: ValueError on a polynomial encoding of too many features.
    """
    field, kar = settings.field, settings.kar
    shapes: Shapes = {"low": (2,), "high": (2,)}
    encodings, n_features = [], 0
    if (grid := field.hash_grid) is not None:
        _, rows, _ = grid_levels(
            2, grid.n_levels, grid.log2_table_size, grid.base_resolution, grid.finest_resolution, hash_all=False
        )
        encodings.append({"layout": (8,), "table": (sum(rows), grid.n_features)})
        n_features += grid.n_levels * grid.n_features
    if (degree := field.polynomial_degree) is not None:
        variables = 4 if field.coordinate_map == "unit_sphere" else 2
        n = math.comb(variables + degree, degree) if field.polynomial_cross_terms else 1 + variables * degree
        if n > MAX_POLYNOMIAL_FEATURES:
            raise ValueError(
                f"settings: polynomial_degree {degree} makes {n:,} features, more than {MAX_POLYNOMIAL_FEATURES:,}"
            )
        encodings.append({"raw_coefficients": (degree + 1,)})
        n_features += n
    if field.n_frequencies is not None:
        encodings.append({"frequencies": (field.n_frequencies, 2)})
        n_features += 2 * field.n_frequencies
    for i, tensors in enumerate(encodings):
        shapes |= {f"encoding.encodings.{i}.{name}": shape for name, shape in tensors.items()}
    bias = field.bias or field.backbone == "siren"
    shapes |= _network("backbone", n_features or 2, n_channels, field.hidden_dim, field.n_hidden, bias)
    if kar is not None:
        shapes |= _network("kar.siren", 2, kar.n_features, kar.n_features, kar.n_hidden, True)
        if kar.similarity == "cosine":
            shapes["kar.log_temperature"] = ()
    return shapes


def needed_bytes(settings: ImageFieldSettings, shape: tuple[int, int, int], n_points: int) -> dict[str, int]:
    """About what a fit of the field to (h, w, c) holds in memory at once, by what it is for.

    Args: n_points: of the picture, that a step evaluates besides KAR's window.
    Raises: ValueError on a polynomial encoding of too many features.
    """
    field, kar = settings.field, settings.kar
    tensors = expected_shapes(settings, shape[2])
    sizes = {name: math.prod(size) for name, size in tensors.items()}
    grid = sum(size for name, size in sizes.items() if name.endswith(".table"))
    n_inputs = next(size[1] for name, size in tensors.items() if name.startswith("backbone."))
    n_window = 0 if kar is None else min(kar.window, shape[0]) * min(kar.window, shape[1])
    needed = {
        # With a gradient and two moments each.
        "grid (grid-resolution)": 16 * grid,
        "networks (hidden-dim, n-hidden, polynomial-degree)": 16 * (sum(sizes.values()) - grid),
        "points of a step (hidden-dim, n-hidden, polynomial-degree)": 8
        * (n_points + n_window)
        * (n_inputs + field.hidden_dim * field.n_hidden),
    }
    if kar is not None:
        needed["KAR (kar-n-features)"] = 8 * n_window * kar.n_features * (kar.n_hidden + 1)
    return needed


def _network(prefix: str, in_dim: int, out_dim: int, hidden_dim: int, n_hidden: int, bias: bool) -> Shapes:
    widths = [in_dim, *[hidden_dim] * n_hidden]
    layers = {f"{prefix}.hidden.{i}": (widths[i + 1], widths[i]) for i in range(n_hidden)}
    shapes: Shapes = {}
    for name, (n_out, n_in) in {**layers, f"{prefix}.output": (out_dim, widths[-1])}.items():
        shapes[f"{name}.weight"] = (n_out, n_in)
        if bias:
            shapes[f"{name}.bias"] = (n_out,)
    return shapes
