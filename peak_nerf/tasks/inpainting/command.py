"""`peak inpaint` and `peak render-image`: read a picture, fit or load a field, leave results in a folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import tyro
from pydantic import Field

from peak_nerf.core.encodings import MAX_POLYNOMIAL_FEATURES
from peak_nerf.core.fit import Progress
from peak_nerf.errors import PeakError
from peak_nerf.images import figures, masks
from peak_nerf.images.read import read_picture, write_png
from peak_nerf.images.resize import parse_size, resize_picture
from peak_nerf.metrics import scores
from peak_nerf.system import record
from peak_nerf.system.choices import check_options
from peak_nerf.system.ranges import Features, Layers, LearningRate, Seconds, Seed, Steps, Weight
from peak_nerf.tasks import field_file
from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.figures import write_history, write_similarity
from peak_nerf.tasks.inpainting.inpaint import Inpainting, inpaint
from peak_nerf.tasks.inpainting.settings import Method, settings_for, with_overrides

# What a run leaves in its folder.
PICTURES = ("input.png", "reconstruction.png", "comparison.png", "residual.png", "psnr.png", "similarity.png")
METRICS, CHECKPOINT, FIELD = "metrics.json", "checkpoint.pt", "field.safetensors"

METHODS: tuple[str, ...] = get_args(Method)
SIMILARITIES = ("cosine", "dot")
"""`softmax`, what `dot` was called before version 0.2, is understood for one version."""


@dataclass
class PictureOptions:
    """What is reconstructed from which of its pixels."""

    image: Annotated[Path, tyro.conf.Positional]
    """The picture: grey or RGB(A), 8 or 16 bit. Transparent and NaN pixels count as missing."""
    mask: str = "random"
    """random, patch, textural, none (only what the picture itself lacks), or a file whose white pixels are observed;
    several joined by +, such as random+patch, for what is missing in any."""
    missing: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Fraction of pixels missing in the random mask."""
    size: str = "256"
    """Longer side in pixels, WIDTHxHEIGHT, or original."""


@dataclass
class FitOptions:
    """The method and how long it is fitted."""

    method: str = field(default="peak", metadata={"choices": METHODS})
    """peak, peak-siren, or a baseline: mlp, fourier, siren, hash; biharmonic, telea, navier-stokes, linear."""
    seed: Seed = 88
    """Of the mask and of the fit."""
    steps: Steps | None = None
    """Steps, instead of the method's own number; a seed then gives the same result every time."""
    budget_seconds: Seconds | None = None
    """Training time, instead of steps."""
    learning_rate: LearningRate | None = None
    """Adam's rate for the field."""


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


OVERRIDES = (*(option.name for group in (KarOptions, NetworkOptions) for option in fields(group)), "learning_rate")


def run_inpainting(
    options: InpaintOptions,
    out: Path,
    on_progress: Callable[[Progress], None] | None = None,
    save_field: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Do what the options say and leave everything in `out`, metrics.json last; returns the metrics.

    Raises: PeakError on bad input, before anything is written.
    """
    record.reset_peak_memory()
    check_options(options)
    if options.steps is not None and options.budget_seconds is not None:
        raise PeakError("--steps and --budget-seconds: give one of them, not both")
    picture = read_picture(options.image)
    picture = resize_picture(picture, parse_size(options.size, picture.size))
    if options.mask == "none":
        observed = picture.observed
        masks.check_mask(observed, str(options.image))
    else:
        observed = picture.observed & masks.make_mask(options.mask, picture.size, options.missing, options.seed)
        masks.check_mask(observed, f"{options.image} with --mask {options.mask}")
    if float(np.ptp(picture.values[observed], axis=0).max()) == 0:
        raise PeakError(
            f"{options.image}: all observed pixels have the same value, so there is nothing to fit; choose another"
            " picture or mask"
        )
    settings = None
    if options.method not in classical.CLASSICAL:
        changes = {name: getattr(options, name) for name in OVERRIDES}
        settings = with_overrides(settings_for(options.method, picture.size), **changes)
    elif save_field:
        raise PeakError(f"--save-field: {options.method} fits no field; leave the option out or choose method 'peak'")
    _check_folder(out, options)

    # Scored where the file says something; the fit is handed the observed pixels alone.
    has_truth = picture.observed
    truth = np.where(has_truth[..., None], picture.values, np.nan) if (has_truth & ~observed).any() else None
    result = inpaint(
        np.where(observed[..., None], picture.values, np.nan),
        observed,
        options.method,
        settings=settings,
        steps=options.steps,
        budget_seconds=options.budget_seconds,
        seed=options.seed,
        truth=truth,
        on_progress=on_progress,
        checkpoint=out / CHECKPOINT,
        resume=resume,
    )
    return _write(options, out, picture.values, observed, has_truth, result, save_field)


def _check_folder(out: Path, options: InpaintOptions) -> None:
    """Find out now, not after the fit, whether results can be written, and that they replace no input."""
    ours = {(out / name).resolve() for name in (*PICTURES, METRICS, CHECKPOINT, FIELD)}
    for given in (options.image, *map(Path, options.mask.split("+"))):
        if os.path.exists(given) and given.resolve() in ours:
            raise PeakError(f"--out {out}: a result there would replace {given}; choose another folder")
    record.check_folder(out)


def _write(
    options: InpaintOptions,
    out: Path,
    values: np.ndarray,
    observed: np.ndarray,
    has_truth: np.ndarray,
    result: Inpainting,
    save_field: bool,
) -> dict[str, Any]:
    reconstruction = result.reconstruction
    metrics: dict[str, Any] = {
        "task": "inpaint",
        "method": options.method,
        "data": str(options.image),
        "seed": options.seed,
        "settings": record.plain({**dataclasses.asdict(options), "fit": result.settings}),
        "partial": result.fit.partial,
        "missing_fraction": float(1 - observed.mean()),
        **scores(reconstruction, values, observed, has_truth),
        "seconds": result.fit.seconds,
        "steps": result.fit.steps,
        "stopping_step": result.fit.best_step,
        "n_parameters": result.n_parameters,
        "history": [
            {k: v for k, v in dataclasses.asdict(p).items() if v is not None and k != "n_steps"}
            for p in result.fit.history
        ],
        "versions": record.versions("scikit-image"),
    }
    # What stood here belongs to another run; without metrics.json nobody takes a half-written folder for a result.
    for name in (METRICS, *PICTURES):
        (out / name).unlink(missing_ok=True)
    shown = figures.input_picture(values, observed)
    write_png(out / "input.png", shown)
    write_png(out / "reconstruction.png", reconstruction)
    figures.write_comparison(out / "comparison.png", [shown, reconstruction, *([values] if has_truth.all() else [])])
    figures.write_residual(out / "residual.png", reconstruction, values, has_truth)
    if result.fit.history:
        write_history(out / "psnr.png", result.fit.history, f"{options.method} on {options.image.name}")
    if result.field is not None and result.field.kar is not None:
        write_similarity(out / "similarity.png", result.field, reconstruction)
    if save_field and result.field is not None:
        field_file.save_field(out / FIELD, result.field)
    metrics["peak_memory_gib"] = record.peak_memory_gib()
    record.write_json(out / METRICS, metrics)
    if not result.fit.partial:
        (out / CHECKPOINT).unlink(missing_ok=True)
    return metrics


def inpaint_command(
    picture: tyro.conf.OmitArgPrefixes[PictureOptions],
    fit: tyro.conf.OmitArgPrefixes[FitOptions],
    kar: tyro.conf.OmitArgPrefixes[Annotated[KarOptions, tyro.conf.arg(name="KAR")]],
    network: tyro.conf.OmitArgPrefixes[NetworkOptions],
    output: tyro.conf.OmitArgPrefixes[OutputOptions],
) -> int:
    """Reconstruct a picture from part of its pixels, with an implicit neural representation or a classical tool.

    Leaves metrics.json, reconstruction.png, comparison.png, residual.png, psnr.png (PSNR over time) and, with KAR,
    similarity.png in the folder. Ctrl-C ends a fit early: what it has is written and marked partial.
    """
    from rich.console import Console

    options = InpaintOptions(**vars(picture), **vars(fit), **vars(kar), **vars(network))
    console = Console()
    with record.progress_bar(console) as set_bar:

        def show(p: Progress) -> None:
            set_bar(p.fraction, f"{options.method}: held-out pixels {p.psnr_validation:.2f} dB")

        metrics = run_inpainting(options, on_progress=show, **vars(output))
    missing = f", {metrics['psnr_missing']:.2f} dB over the missing pixels" if "psnr_missing" in metrics else ""
    line = (
        f"{options.method}: PSNR {metrics['psnr']:.2f} dB{missing}, {metrics['seconds']:.1f} s,"
        f" {metrics['peak_memory_gib']:.2f} GiB"
    )
    return record.say_end(console, line, output.out, metrics["partial"])


def render_image(field: tyro.conf.Positional[Path], size: str = "original", out: Path = Path("render.png")) -> int:
    """Render a field that `peak inpaint --save-field` wrote, at any resolution.

    Args:
        field: the field.safetensors.
        size: WIDTHxHEIGHT, one number for the longer side, or original.
        out: the PNG to write.
    """
    if out.suffix.lower() != ".png":
        raise PeakError(f"--out {out}: the picture is a PNG; give a name that ends in .png")
    image_field, fitted = field_file.load_field(field)
    if image_field.out_dim not in (1, 3):
        raise PeakError(f"{field}: has {image_field.out_dim} channels; a PNG takes a field of 1 or 3")
    height, width = parse_size(size, fitted)
    picture = field_file.render_field(image_field, fitted, (height, width))
    if np.isnan(picture).any():
        raise PeakError(f"{field}: its weights are too large, it renders to NaN; fit the picture again")
    write_png(out, picture)
    print(f"{out}: {width} x {height} pixels")
    return 0
