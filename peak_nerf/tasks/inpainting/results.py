"""What a run of `peak inpaint` leaves in its folder: pictures, figures, metrics.json last."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images import figures
from peak_nerf.images.read import write_png
from peak_nerf.images.write import write_original
from peak_nerf.metrics import psnr, scores
from peak_nerf.system import record
from peak_nerf.system.files import delete_written
from peak_nerf.tasks import field_file
from peak_nerf.tasks.inpainting.figures import write_history, write_similarity
from peak_nerf.tasks.inpainting.options import InpaintOptions
from peak_nerf.tasks.inpainting.repair import Repair
from peak_nerf.tasks.inpainting.sources import Source

PICTURES = (
    "input.png", "reconstruction.png", "reconstruction.tif", "reconstruction.tiff", "reconstruction.npy", "field.png",
    "comparison.png", "residual.png", "uncertainty.png", "psnr.png", "similarity.png",
)  # fmt: skip
METRICS, CHECKPOINT, FITS, FIELD = "metrics.json", "checkpoint.pt", ".fits", "field.safetensors"
LARGE = 2**22
"""Pixels of a repaired picture above which SSIM is left out."""
PANEL = 1600
"""Longest side of a panel of comparison.png, in pixels."""
UNCERTAINTY_WHITE = 0.1
"""Standard deviation that is white in uncertainty.png."""


def check_folder(out: Path, options: InpaintOptions) -> None:
    """Find out now, not after the fit, whether results can be written, and that they replace no input.

    Raises: PeakError.
    """
    ours = {(out / name).resolve() for name in (*PICTURES, METRICS, CHECKPOINT, FIELD)}
    for given in (options.image, options.truth, *map(Path, options.mask.split("+")), Path(options.mask)):
        if given is not None and os.path.exists(given) and given.resolve() in ours:
            raise PeakError(f"--out {out}: a result there would replace {given}; choose another folder")
    record.check_folder(out)


def write_results(
    options: InpaintOptions, out: Path, source: Source, repair: Repair, save_field: bool = False
) -> dict[str, Any]:
    """Write everything and return the metrics."""
    # At a soft edge a pixel counts as observed and yet holds some of the scratch, which classical estimates keep.
    written, values = source.finished(np.where(source.fill[..., None], repair.fill, repair.picture))
    metrics = _metrics(options, source, repair, values)
    # What stood here belongs to another run; without metrics.json nobody takes a half-written folder for a result.
    for name in (METRICS, *PICTURES):
        (out / name).unlink(missing_ok=True)
    shown = figures.input_picture(source.values, ~source.fill)
    write_png(out / "input.png", shown)
    write_original(out / "reconstruction", written)
    if written.kind == "npy":
        write_png(out / "reconstruction.png", values)
    if repair.fits and repair.fits[0][1].n_parameters > 0:
        write_png(out / "field.png", repair.picture)
    _write_comparison(out, source, shown, values)
    if (source.has_truth & source.fill).any():
        scored = scored_picture(source, repair, values)
        figures.write_residual(out / "residual.png", scored, source.truth, source.has_truth)
    if repair.spread is not None:
        write_png(out / "uncertainty.png", np.where(source.fill, repair.spread / UNCERTAINTY_WHITE, 0))
    if repair.history:
        write_history(out / "psnr.png", repair.history, f"{options.method} on {Path(str(options.image)).name}")
    field = None if repair.whole is None else repair.whole.field
    if field is not None and field.kar is not None and field.size == source.size:
        write_similarity(out / "similarity.png", field, repair.picture)
    if save_field and field is not None:
        field_file.save_field(out / FIELD, field)
    metrics["peak_memory_gib"] = record.peak_memory_gib()
    record.write_json(out / METRICS, metrics)
    if not repair.partial:
        delete_written(out / CHECKPOINT)
        shutil.rmtree(out / FITS, ignore_errors=True)
    return metrics


def scored_picture(source: Source, repair: Repair, values: np.ndarray) -> np.ndarray:
    """The finished picture in a repair; else what was estimated for all pixels, the observed ones too, as in papers."""
    return values if source.is_repair else repair.fill


def _metrics(options: InpaintOptions, source: Source, repair: Repair, values: np.ndarray) -> dict[str, Any]:
    fit = repair.fit
    result: dict[str, Any] = {
        "task": "inpaint",
        "method": options.method,
        "data": str(options.image),
        "seed": options.seed,
        "settings": record.plain({**dataclasses.asdict(options), "fit": repair.settings}),
        "partial": repair.partial,
        "missing_fraction": source.missing_fraction,
    }
    if (source.has_truth & source.fill).any():
        scored = scored_picture(source, repair, values)
        if source.is_repair and source.fill.size > LARGE:
            result |= _psnr_of_large(source, scored)
        else:
            observed = ~source.fill if source.is_repair else source.observed
            result |= scores(scored, source.truth, observed, source.has_truth)
            if repair.is_combined and not source.is_repair:
                of_field = scores(repair.picture, source.truth, observed, source.has_truth)
                result |= {f"{name}_field": of_field[name] for name in ("psnr", "psnr_missing") if name in of_field}
    if source.is_repair or repair.spread is not None:
        if repair.psnr_validation is not None:
            result["psnr_validation"] = repair.psnr_validation
        result["crops"] = [
            {"rows": [c.top, c.top + c.height], "columns": [c.left, c.left + c.width], "scale": c.scale,
             "steps": f.steps, "seconds": f.seconds, "psnr_validation": f.psnr_validation, "weights": f.weights}
            for c, f in repair.fits
        ]  # fmt: skip
    elif repair.is_combined:
        result["weights"] = repair.fits[0][1].weights
    if repair.spread is not None:
        result["uncertainty"] = float(repair.spread[source.fill].mean())
    return {
        **result,
        "notes": list(source.notes),
        "seconds": fit.seconds,
        "steps": fit.steps,
        "stopping_step": fit.best_step,
        "n_parameters": sum(f.n_parameters for _, f in repair.fits),
        "history": [
            {k: v for k, v in dataclasses.asdict(p).items() if v is not None and k != "n_steps"} for p in fit.history
        ],
        "versions": record.versions("scikit-image"),
    }


def _psnr_of_large(source: Source, values: np.ndarray) -> dict[str, float]:
    """`psnr` and `psnr_missing`, as `scores` has them, without SSIM, which takes minutes there."""
    error = np.square(values - source.truth, dtype=np.float32).mean(axis=2)
    missing = source.fill & source.has_truth
    return {
        "psnr": psnr(float(error[source.has_truth].mean(dtype=np.float64))),
        "psnr_missing": psnr(float(error[missing].mean(dtype=np.float64))),
    }


def _write_comparison(out: Path, source: Source, shown: np.ndarray, values: np.ndarray) -> None:
    """Before, mask, after in a repair; in an experiment the input, the result, and the truth where there is one."""
    if source.is_repair:
        panels = [source.values, shown, values]
    else:
        panels = [shown, values, *([source.truth] if source.has_truth.all() else [])]
    figures.write_comparison(out / "comparison.png", [figures.at_most(panel, PANEL) for panel in panels])
