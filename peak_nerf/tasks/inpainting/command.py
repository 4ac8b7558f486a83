"""`peak inpaint` and `peak render-image`: read a picture, fit or load a field, leave results in a folder."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import tyro

from peak_nerf.core.fit import Progress
from peak_nerf.errors import PeakError
from peak_nerf.images import masks
from peak_nerf.images.read import read_picture, write_png
from peak_nerf.images.resize import parse_size, resize_picture
from peak_nerf.system.record import (
    check_folder,
    peak_memory_gib,
    plain,
    progress_bar,
    reset_peak_memory,
    versions,
    write_json,
)
from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.inpaint import inpaint
from peak_nerf.tasks.inpainting.settings import Method, settings_for, with_overrides

# What a run leaves in its folder.
PICTURES = ("input.png", "reconstruction.png", "comparison.png", "residual.png", "psnr.png", "similarity.png")
METRICS, CHECKPOINT, FIELD = "metrics.json", "checkpoint.pt", "field.safetensors"

OVERRIDES = (
    *("kar_weight", "kar_features", "kar_activation", "polynomial_degree", "polynomial_cross_terms"),
    *("grid_resolution", "hidden_dim", "n_hidden", "learning_rate"),
)
METHODS: tuple[str, ...] = get_args(Method)
ACTIVATIONS = ("cosine", "softmax")


@dataclass
class InpaintOptions:
    """Reconstruct a picture from part of its pixels."""

    image: Annotated[Path, tyro.conf.Positional]
    """The picture: grey or RGB(A), 8 or 16 bit. Transparent and NaN pixels count as missing."""
    mask: str = "random"
    """random, patch, textural, none (only what the picture itself lacks), or a file whose white pixels are observed;
    several joined by +, such as random+patch, for what is missing in any."""
    method: str = field(default="peak", metadata={"choices": METHODS})
    """peak, peak-siren, or a baseline: mlp, fourier, siren, hash; biharmonic, telea, navier-stokes, linear."""
    missing: float = 0.5
    """Fraction of pixels missing in the random mask."""
    seed: int = 88
    """Of the mask and of the fit."""
    size: str = "256"
    """Longer side in pixels, WIDTHxHEIGHT, or original."""
    budget_seconds: float | None = None
    """Training time, instead of steps."""
    steps: int | None = None
    """Steps, instead of the method's own number; a seed then gives the same result every time."""
    kar_weight: float | None = None
    """Weight lambda of KAR; 0 for none. Default: the method's own."""
    kar_features: int | None = None
    """Features r of g."""
    kar_activation: str | None = field(default=None, metadata={"choices": ACTIVATIONS})
    """What follows g: cosine (unit length, learned temperature) or softmax (the paper's)."""
    polynomial_degree: int | None = None
    """Degree of the polynomial encoding."""
    polynomial_cross_terms: bool | None = None
    """All monomials up to that degree, of which there are C(4 + degree, degree), or with False only powers of single
    variables, 1 + 4 degree, as in the authors' code; the same at degree 1."""
    grid_resolution: int | None = None
    """Cells per side of the grid's finest level; most of the parameters are there."""
    hidden_dim: int | None = None
    """Width of the backbone."""
    n_hidden: int | None = None
    """Hidden layers of the backbone."""
    learning_rate: float | None = None
    """Adam's rate for the field."""


def run_inpainting(
    options: InpaintOptions,
    out: Path,
    on_progress: Callable[[Progress], None] | None = None,
    save_field: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Do what the options ask and leave everything in `out`, metrics.json last; returns the metrics.

    Raises: PeakError on bad input, before anything is written.
    """
    reset_peak_memory()
    _check(options)
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

    # A known pixel is one with a truth to score against; the fit is handed the observed ones alone.
    known = picture.observed
    truth = np.where(known[..., None], picture.values, np.nan) if (known & ~observed).any() else None
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
    return _write(options, out, picture.values, observed, known, result, save_field)


def _check(options: InpaintOptions) -> None:
    if options.steps is not None and options.budget_seconds is not None:
        raise PeakError("--steps and --budget-seconds: give one of them, not both")
    if not 0 <= options.seed <= masks.MAX_SEED:
        raise PeakError(f"--seed: must be from 0 to {masks.MAX_SEED}, got {options.seed}")
    least_of = {"polynomial_degree": 0} | dict.fromkeys(
        ("steps", "kar_features", "grid_resolution", "hidden_dim", "n_hidden"), 1
    )
    for name, least in least_of.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise PeakError(f"--{name.replace('_', '-')}: must be at least {least}, got {value}")
    for name in ("budget_seconds", "learning_rate"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise PeakError(f"--{name.replace('_', '-')}: must be above 0 and finite, got {value}")
    if options.kar_weight is not None and not 0 <= options.kar_weight < float("inf"):
        raise PeakError(f"--kar-weight: must be finite and not negative, got {options.kar_weight}")
    if not 0 < options.missing < 1:
        raise PeakError(f"--missing: must be between 0 and 1, got {options.missing}")
    for name, choices in (("method", METHODS), ("kar_activation", ACTIVATIONS)):
        value = getattr(options, name)
        if value is not None and value not in choices:
            near = difflib.get_close_matches(value, choices, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise PeakError(f"--{name.replace('_', '-')} {value}: not known{meant}; give one of {', '.join(choices)}")


def _check_folder(out: Path, options: InpaintOptions) -> None:
    """Find out now, not after the fit, whether results can be written, and that they replace no input."""
    ours = {(out / name).resolve() for name in (*PICTURES, METRICS, CHECKPOINT, FIELD)}
    for given in (options.image, *map(Path, options.mask.split("+"))):
        if given.resolve() in ours and given.exists():
            raise PeakError(f"--out {out}: a result there would replace {given}; choose another folder")
    check_folder(out)


def _write(
    options: InpaintOptions,
    out: Path,
    values: np.ndarray,
    observed: np.ndarray,
    known: np.ndarray,
    result: Any,
    save_field: bool,
) -> dict[str, Any]:
    from peak_nerf.metrics import scores
    from peak_nerf.tasks.inpainting import figures as inpaint_pictures

    reconstruction = result.reconstruction
    metrics: dict[str, Any] = {
        "task": "inpaint",
        "method": options.method,
        "data": str(options.image),
        "seed": options.seed,
        "settings": plain({**dataclasses.asdict(options), "fit": None if result.settings is None else result.settings}),
        "partial": result.fit.partial,
        "missing_fraction": float(1 - observed.mean()),
        **scores(reconstruction, values, observed, known),
        "seconds": result.fit.seconds,
        "steps": result.fit.steps,
        "stopping_step": result.fit.best_step,
        "n_parameters": result.n_parameters,
        "history": [
            {k: v for k, v in dataclasses.asdict(p).items() if v is not None and k != "n_steps"}
            for p in result.fit.history
        ],
        "versions": versions("scikit-image"),
    }
    # What stood here belongs to another run; without metrics.json nobody takes a half-written folder for a result.
    for name in (METRICS, *PICTURES):
        (out / name).unlink(missing_ok=True)
    write_png(out / "input.png", inpaint_pictures.input_picture(values, observed))
    write_png(out / "reconstruction.png", reconstruction)
    panels = [inpaint_pictures.input_picture(values, observed), reconstruction]
    inpaint_pictures.write_comparison(out / "comparison.png", panels + ([values] if known.all() else []))
    inpaint_pictures.write_residual(out / "residual.png", reconstruction, values, known)
    if result.fit.history:
        inpaint_pictures.write_history(
            out / "psnr.png", result.fit.history, f"{options.method} on {options.image.name}"
        )
    if result.field is not None and result.field.kar is not None:
        inpaint_pictures.write_similarity(out / "similarity.png", result.field, reconstruction)
    if save_field:
        from peak_nerf.tasks.field_file import save_field as write_field

        write_field(out / FIELD, result)
    metrics["peak_memory_gib"] = peak_memory_gib()
    write_json(out / METRICS, metrics)
    if not result.fit.partial:
        (out / CHECKPOINT).unlink(missing_ok=True)
    return metrics


def inpaint_command(
    options: tyro.conf.OmitArgPrefixes[InpaintOptions],
    out: Path = Path("outputs/inpaint"),
    save_field: bool = False,
    resume: bool = False,
) -> int:
    """Reconstruct a picture from part of its pixels, with an implicit neural representation or a classical tool.

    Leaves metrics.json, reconstruction.png, comparison.png, residual.png, psnr.png (PSNR over time) and, with KAR,
    similarity.png in the folder. Ctrl-C ends a fit early: what it has is written and marked partial.

    Args:
        options: the picture, what is missing, and the method.
        out: the folder for the results.
        save_field: also write field.safetensors, which `peak render-image` renders at any size.
        resume: go on from a run that was interrupted in this folder.
    """
    from rich.console import Console

    console = Console()
    with progress_bar(console) as set_bar:

        def show(p: Progress) -> None:
            set_bar(p.fraction, f"{options.method}: held-out pixels {p.psnr_validation:.2f} dB")

        metrics = run_inpainting(options, out, show, save_field, resume)
    missing = f", {metrics['psnr_missing']:.2f} dB over the missing pixels" if "psnr_missing" in metrics else ""
    console.print(
        f"{options.method}: PSNR {metrics['psnr']:.2f} dB{missing}, {metrics['seconds']:.1f} s,"
        f" {metrics['peak_memory_gib']:.2f} GiB; pictures and metrics.json in {out}",
        soft_wrap=True,
    )
    if metrics["partial"]:
        console.print(
            f"Interrupted: this result is partial. Go on with the same command and --resume (in {out}).", soft_wrap=True
        )
        return 130
    return 0


def render_image(field: tyro.conf.Positional[Path], size: str = "original", out: Path = Path("render.png")) -> int:
    """Render a field that `peak inpaint --save-field` wrote, at any resolution.

    Args:
        field: the field.safetensors.
        size: WIDTHxHEIGHT, one number for the longer side, or original.
        out: the PNG to write.
    """
    from peak_nerf.tasks.field_file import load_field, render_field

    if out.suffix.lower() != ".png":
        raise PeakError(f"--out {out}: the picture is a PNG; give a name that ends in .png")
    module, fitted = load_field(field)
    height, width = parse_size(size, fitted)
    write_png(out, render_field(module, fitted, (height, width)))
    print(f"{out}: {width} x {height} pixels")
    return 0
