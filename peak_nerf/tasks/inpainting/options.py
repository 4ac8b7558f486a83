"""The options of `peak inpaint`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, get_args

import tyro
from pydantic import Field

from peak_nerf.core.encodings import MAX_POLYNOMIAL_FEATURES
from peak_nerf.images.mask_files import HOLES
from peak_nerf.system.ranges import Features, Layers, LearningRate, Seconds, Seed, Steps, Weight
from peak_nerf.tasks.inpainting.settings import Method

METHODS: tuple[str, ...] = get_args(Method)
SIMILARITIES = ("cosine", "dot")
"""`softmax`, what `dot` was called before version 0.2, is understood for one version."""


@dataclass
class PictureOptions:
    """What is reconstructed from which of its pixels."""

    image: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")] = None
    """The picture: grey, RGB(A) or CMYK, 8 or 16 bit. Transparent and NaN pixels count as missing."""
    mask: str = "random"
    """A file, black where the picture is to be repaired; none (only what the picture itself lacks); or for experiments
    random, patch or textural; several joined by +, such as random+patch, for what is missing in any."""
    mask_hole: str | None = field(default=None, metadata={"choices": HOLES})
    """What of the mask's file is the hole: black or white; painted or transparent where it has transparency. By default
    black, painted, or what was painted over the picture."""
    truth: Path | None = None
    """The undamaged picture, which scores the result and is never fitted. PICTURE itself, with a mask's file, makes an
    experiment of it, scored over the whole picture as in papers."""
    missing: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Fraction of pixels missing in the random mask."""
    size: str | None = None
    """Longer side in pixels, WIDTHxHEIGHT, or original; by default original with a mask's file, else 256."""


@dataclass
class FitOptions:
    """The method and how long it is fitted."""

    method: str = field(default="peak", metadata={"choices": METHODS})
    """peak, peak-siren, or a baseline: mlp, fourier, siren, hash; biharmonic, telea, navier-stokes, linear, patches."""
    combine: bool = True
    """Fill the holes with the mean of the field's estimate, biharmonic's and that of patches, each by its errors on
    held-out pixels (peak and peak-siren); with False by the field alone."""
    seed: Seed = 88
    """Of the mask and of the fit."""
    steps: Steps | None = None
    """Steps, instead of the method's own number; a seed then gives the same result every time."""
    budget_seconds: Seconds | None = None
    """Time for the fit and what it is combined with, instead of steps; by default a repair ends within two minutes."""
    learning_rate: LearningRate | None = None
    """Adam's rate for the field."""
    uncertainty: bool = False
    """Fit three times and also leave uncertainty.png, how far the three differ; the result is their mean."""


@dataclass
class KarOptions:
    """The Kernel Alignment Regularizer of peak and peak-siren; by default the method's own."""

    kar_weight: Weight | None = None
    """Weight lambda of KAR; 0 for none."""
    kar_n_features: Annotated[Features | None, tyro.conf.arg(aliases=["--kar-features"])] = field(
        default=None, metadata={"aliases": ("kar_features",)}
    )
    """Features r of g."""
    kar_similarity: Annotated[str | None, tyro.conf.arg(aliases=["--kar-activation"])] = field(
        default=None,
        metadata={"choices": SIMILARITIES, "aliases": ("kar_activation",), "value_aliases": {"softmax": "dot"}},
    )
    """How features are compared: cosine (unit length, learned temperature) or dot (the paper's: of softmax outputs)."""

    def __post_init__(self) -> None:
        self.kar_similarity = "dot" if self.kar_similarity == "softmax" else self.kar_similarity


@dataclass
class NetworkOptions:
    """Encodings and backbone; by default the method's own."""

    polynomial_degree: Annotated[int | None, Field(ge=0, le=MAX_POLYNOMIAL_FEATURES)] = None
    """Degree of the polynomial encoding."""
    polynomial_cross_terms: bool | None = None
    """All monomials up to that degree, of which there are C(4 + degree, degree), or with False only powers of single
    variables, 1 + 4 degree, as in the authors' code; the same at degree 1."""
    grid_resolution: Annotated[int | None, Field(ge=1, le=2**16)] = None
    """Cells per side of the grid's finest level; most of the parameters are there."""
    hidden_dim: Features | None = None
    """Width of the backbone."""
    n_hidden: Layers | None = None
    """Hidden layers of the backbone."""


@dataclass
class InpaintOptions(NetworkOptions, KarOptions, FitOptions, PictureOptions):
    """All options of a reconstruction."""


@dataclass
class OutputOptions:
    """What is kept and where."""

    out: Path = Path("outputs/inpaint")
    """The folder for the results."""
    save_field: bool = False
    """Also write field.safetensors, which `peak render-image` renders at any size."""
    resume: bool = False
    """Go on from a run that was interrupted in this folder."""
    batch: Path | None = None
    """A folder of pictures, each with its mask beside it: photo.jpg with photo.mask.png, photo_mask.png or
    masks/photo.png. Each is repaired into a folder of its own in --out; --resume skips those that are done."""


OVERRIDES = (*(option.name for group in (KarOptions, NetworkOptions) for option in fields(group)), "learning_rate")
