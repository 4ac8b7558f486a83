"""`peak inpaint` and `peak render-image`: read a picture, fit or load a field, leave results in a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from peak_nerf.core.fit import Progress
from peak_nerf.errors import PeakError
from peak_nerf.images.read import MAX_PIXELS, write_png
from peak_nerf.images.resize import parse_size
from peak_nerf.system import record
from peak_nerf.system.choices import check_options
from peak_nerf.system.locks import locked_folder
from peak_nerf.tasks import field_file
from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.batch import run_batch
from peak_nerf.tasks.inpainting.crops import Crop, plan_crops, whole_picture
from peak_nerf.tasks.inpainting.options import (
    OVERRIDES,
    FitOptions,
    InpaintOptions,
    KarOptions,
    NetworkOptions,
    OutputOptions,
    PictureOptions,
)
from peak_nerf.tasks.inpainting.repair import N_ENSEMBLE, REPAIR_SECONDS, Length, fit_crops
from peak_nerf.tasks.inpainting.results import CHECKPOINT, FITS, check_folder, write_results
from peak_nerf.tasks.inpainting.settings import InpaintSettings, settings_for, with_overrides
from peak_nerf.tasks.inpainting.sources import Source, read_source

CLASSICAL_CROPS = (2**22, (256, 1024))
"""Pixels of a crop, and sides of tiles, for classical methods, which are quick."""


def run_inpainting(
    options: InpaintOptions,
    out: Path,
    on_progress: Callable[[Progress], None] | None = None,
    save_field: bool = False,
    resume: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Do what the options say and leave everything in `out`, metrics.json last; returns the metrics.

    With a mask's file, or the picture's own holes, holes alone are filled, from fits of their surroundings; with a mask
    of experiments one field is fitted to all that is observed, and scored.

    Args:
        options: of the picture, the method and its fit.
        out: the folder.
        on_progress: called now and then.
        save_field: also write field.safetensors, of one field of the whole picture.
        resume: go on from what an interrupted run has left in `out`.
        say: called with each line about picture and mask, before the fit.

    Raises: PeakError on bad input, before anything is written.
    """
    record.reset_peak_memory()
    check_options(options)
    if options.steps is not None and options.budget_seconds is not None:
        raise PeakError("--steps and --budget-seconds: give one of them, not both")
    is_classical = options.method in classical.CLASSICAL
    if is_classical and save_field:
        raise PeakError(f"--save-field: {options.method} fits no field; leave the option out or choose method 'peak'")
    if is_classical and options.uncertainty:
        raise PeakError(f"--uncertainty: {options.method} gives the same every time; choose method 'peak'")
    source = read_source(options, options.seed)
    options = dataclasses.replace(options, size=source.size_option)
    crops = _crops(source, is_classical, save_field)

    def settings_for_size(size: tuple[int, int]) -> InpaintSettings | None:
        changes = {name: getattr(options, name) for name in OVERRIDES}
        return None if is_classical else with_overrides(settings_for(options.method, size), **changes)

    settings_for_size(crops[0].fitted_size)  # refuses what does not go together
    check_folder(out, options)
    for note in source.notes if say is not None else ():
        say(note)  # type: ignore[misc]
    n_fits = N_ENSEMBLE if options.uncertainty else 1
    # Scored where somebody knows; the fit is handed the observed pixels alone.
    knows = source.has_truth & source.fill
    result = fit_crops(
        source.values,
        source.observed,
        crops,
        options.method,
        settings_for_size,
        Length(options.steps, options.budget_seconds, REPAIR_SECONDS if source.is_repair else None),
        tuple(options.seed + i for i in range(n_fits)),
        fill=source.fill if source.is_repair and not save_field else None,
        combine=options.combine,
        truth=np.where(source.has_truth[..., None], source.truth, np.nan) if knows.any() else None,
        on_progress=on_progress,
        checkpoint=out / CHECKPOINT,
        keep=out / FITS,
        resume=resume,
    )
    return write_results(options, out, source, result, save_field)


def _crops(source: Source, is_classical: bool, save_field: bool) -> list[Crop]:
    """What is fitted."""
    whole = whole_picture(source.size)
    if source.is_repair and not save_field:
        return plan_crops(source.fill, source.observed, *(CLASSICAL_CROPS if is_classical else ()))
    if whole.area > MAX_PIXELS:
        raise PeakError(
            f"--save-field: one field takes at most {MAX_PIXELS // 10**6} megapixels, and the picture has"
            f" {whole.area / 10**6:.0f}; give a smaller --size"
        )
    return [whole]


def inpaint_command(
    picture: tyro.conf.OmitArgPrefixes[PictureOptions],
    fit: tyro.conf.OmitArgPrefixes[FitOptions],
    kar: tyro.conf.OmitArgPrefixes[Annotated[KarOptions, tyro.conf.arg(name="KAR")]],
    network: tyro.conf.OmitArgPrefixes[NetworkOptions],
    output: tyro.conf.OmitArgPrefixes[OutputOptions],
) -> int:
    """Repair the holes of a picture, with an implicit neural representation or a classical tool.

    With --mask FILE only the holes change: reconstruction.png has every other pixel as it was, at the picture's size
    and depth, with its alpha, colour profile and EXIF; TIFF gives reconstruction.tif, JPEG a PNG. comparison.png shows
    before, mask, after; field.png what was fitted. With a random, patch or textural mask it is an experiment: one field
    is fitted to all observed pixels; the result is scored, and the field's own picture too (psnr_field). Leaves
    metrics.json too. Ctrl-C ends a fit early: what it has is written and marked partial.
    """
    from rich.console import Console

    options = InpaintOptions(**vars(picture), **vars(fit), **vars(kar), **vars(network))
    console = Console()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    def run(options: InpaintOptions, out: Path) -> dict[str, Any]:
        with locked_folder(out, "--out", "`peak inpaint`", leaves_lock=False), record.progress_bar(console) as set_bar:

            def show(p: Progress) -> None:
                set_bar(p.fraction, f"{options.method}: held-out pixels {p.psnr_validation:.2f} dB")

            return run_inpainting(options, out, show, output.save_field, output.resume, say)

    if output.batch is not None:
        return run_batch(output.batch, options, output.out, run, output.resume, say)
    metrics = run(options, output.out)
    return record.say_end(console, f"{options.method}: {summary_line(metrics)}", output.out, metrics["partial"])


def summary_line(metrics: dict[str, Any]) -> str:
    """What a run's line says of it: PSNR where there is a truth, else that on held-out pixels."""
    parts = [f"PSNR {metrics['psnr']:.2f} dB"] if "psnr" in metrics else []
    if "psnr_missing" in metrics:
        parts.append(f"{metrics['psnr_missing']:.2f} dB over the missing pixels")
    elif "psnr_validation" in metrics:
        parts.append(f"{metrics['psnr_validation']:.2f} dB on held-out pixels around the holes")
    crops = metrics.get("crops", [])
    without = sum(set(crop["weights"]) == {"biharmonic"} for crop in crops)
    if without and metrics["method"] != "biharmonic":
        parts.append(f"{without} of {len(crops)} crops by biharmonic alone for want of time (--budget-seconds)")
    if "uncertainty" in metrics:
        parts.append(f"three fits differ by {255 * metrics['uncertainty']:.1f} of 255 levels in the holes")
    return ", ".join([*parts, f"{metrics['seconds']:.1f} s", f"{metrics['peak_memory_gib']:.2f} GiB"])


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
