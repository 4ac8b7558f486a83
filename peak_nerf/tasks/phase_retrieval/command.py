"""`peak phase`: simulate magnitudes of a picture, or read measured ones, retrieve, leave results in a folder."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from pydantic import Field

from peak_nerf.core.fit import Progress
from peak_nerf.errors import PeakError
from peak_nerf.images.read import read_picture, write_png
from peak_nerf.images.resize import parse_size, resize_picture
from peak_nerf.metrics import psnr, scores
from peak_nerf.system import record
from peak_nerf.system.choices import check_options, flag
from peak_nerf.system.files import delete_written
from peak_nerf.system.locks import locked_folder
from peak_nerf.system.ranges import Seconds, Weight
from peak_nerf.tasks import field_file
from peak_nerf.tasks.phase_retrieval import problems
from peak_nerf.tasks.phase_retrieval.align import align
from peak_nerf.tasks.phase_retrieval.figures import write_comparison_of, write_residuals
from peak_nerf.tasks.phase_retrieval.magnitudes import MAX_SIDE, MIN_SIDE, Measurements
from peak_nerf.tasks.phase_retrieval.measured import DataOptions, read_measurements, with_support
from peak_nerf.tasks.phase_retrieval.measurements import ratio_of, simulate, warnings_for, write_measurements
from peak_nerf.tasks.phase_retrieval.retrieve import Retrieval, retrieve
from peak_nerf.tasks.phase_retrieval.said import described, did_not_work, of_data
from peak_nerf.tasks.phase_retrieval.settings import FIELD_METHODS, check_method, settings_for, with_kar_weight

DEFAULT_RATIO = {"fourier": 1.9, "gaussian": 1.0}
DEFAULT_SIZE = {"fourier": 256, "gaussian": 64}


@dataclass
class MeasurementOptions:
    """Whose magnitudes, of which operator."""

    image: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PATH]")] = None
    """The picture whose magnitudes are simulated, and against which the result is scored; square, colours become grey.
    None with --measurements."""
    measurements: Path | None = None
    """A file of magnitudes instead of a picture: .npy, .npz, .mat, .h5, .cxi, .nxs, .tif or .png; docs/phase.md says
    what it may hold."""
    problem: str = "fourier"
    """fourier or gaussian; fourier@1.8 is short for --problem fourier --ratio 1.8."""
    ratio: Annotated[float | None, Field(gt=0, le=1000)] = None
    """Fourier: side of the zero-padded picture over its side (default 1.9). Gaussian: magnitudes over pixels (1.0)."""
    size: Annotated[int | None, Field(ge=MIN_SIDE, le=MAX_SIDE)] = None
    """Side in pixels to which the picture is resized; by default 256 (fourier) or 64 (gaussian)."""
    noise_snr: Annotated[float | None, Field(ge=-100, le=300)] = None
    """Signal-to-noise ratio of the simulated magnitudes in dB; by default no noise."""
    matrix: str = field(default="real", metadata={"choices": ("real", "complex")})
    """real or complex (gaussian)."""


@dataclass
class SolverOptions:
    """The method and how long it runs."""

    method: str = "peak"
    """peak, or a baseline: mlp, fourier, siren, hash; error-reduction, hio, raar, multiscale-hio (fourier); spectral,
    amplitude-flow (gaussian)."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Of matrix, noise and solver."""
    restarts: Annotated[int, Field(ge=1, le=1000)] = 3
    """Random starts of a Fourier search, of which the relative residual chooses."""
    budget_seconds: Seconds | None = None
    """Time for everything, instead of numbers of steps."""
    kar_weight: Weight | None = None
    """Weight lambda of KAR; 0 for none. Default: the method's own."""


@dataclass
class PhaseOptions(SolverOptions, DataOptions, MeasurementOptions):
    """All options of a phase retrieval."""


@dataclass
class OutputOptions:
    """What is kept and where."""

    out: Path = Path("outputs/phase")
    """The folder for the results."""
    save_field: bool = False
    """Also write field.safetensors, which `peak render-image` renders at any size."""
    save_measurements: bool = False
    """Also write measurements.npz, which --measurements reads."""
    resume: bool = False
    """Go on from a run that was interrupted in this folder."""


def run_phase_retrieval(
    options: PhaseOptions,
    out: Path,
    on_progress: Callable[[Progress], None] | None = None,
    save_field: bool = False,
    save_measurements: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Do what the options say and leave everything in `out`, metrics.json last; returns the metrics.

    Raises: PeakError on bad input, before anything is written.
    """
    record.reset_peak_memory()
    _check(options)
    truth = None
    if options.measurements is not None:
        known = {f.name: getattr(options, f.name) for f in dataclasses.fields(DataOptions)}
        measurements = read_measurements(options.measurements, DataOptions(**known))
    else:
        problem, ratio = _problem(options)
        check_method(options.method, problem)
        truth = _truth(options, problem)
        measurements = simulate(
            truth, problem, ratio, options.seed, options.noise_snr, complex_matrix=options.matrix == "complex"
        )
    problem, size = measurements.operator.name, measurements.operator.size
    check_method(options.method, problem)
    settings = None
    if options.method in FIELD_METHODS:
        settings = with_kar_weight(settings_for(options.method, problem, size), options.kar_weight)
    elif options.kar_weight is not None:
        raise PeakError(f"--kar-weight: {options.method} has no KAR; leave the option out or choose method 'peak'")
    elif save_field:
        raise PeakError(f"--save-field: {options.method} fits no field; leave the option out or choose method 'peak'")
    record.check_folder(out)
    if options.measurements is not None:
        print(described(options.measurements, measurements), flush=True)
    warnings = warnings_for(measurements)
    for warning in warnings:
        print(f"peak_nerf: warning: {warning}", file=sys.stderr, flush=True)

    result = retrieve(
        measurements,
        options.method,
        settings=settings,
        restarts=options.restarts,
        budget_seconds=options.budget_seconds,
        seed=options.seed,
        on_progress=on_progress,
        folder=out,
        resume=resume,
    )
    if measurements.find_support and result.support is not None:
        measurements = with_support(measurements, result.support)
    if save_measurements:
        write_measurements(out / "measurements.npz", measurements)
    return _write(options, out, measurements, truth, result, warnings, save_field)


def _check(options: PhaseOptions) -> None:
    if (options.image is None) == (options.measurements is None):
        raise PeakError("peak phase: give either a picture or --measurements FILE.npz")
    check_options(options)
    if options.image is not None:
        of_data = (f.name for f in dataclasses.fields(DataOptions) if getattr(options, f.name) != f.default)
        name = next(of_data, None)
        if name is not None:
            raise PeakError(f"{flag(name)}: belongs to measured data; give --measurements FILE, or leave it out")
    if options.measurements is not None:
        given = next((name for name in ("ratio", "size", "noise_snr") if getattr(options, name) is not None), None)
        if given is not None:
            hint = ", and --object-size what it does not" if given == "size" else ""
            raise PeakError(f"{flag(given)}: belongs to a simulation; with --measurements the file says it{hint}")


def _problem(options: PhaseOptions) -> tuple[Any, float]:
    """Problem and ratio that the options name."""
    problem, at, text = options.problem.partition("@")
    if problem not in DEFAULT_RATIO:
        raise PeakError(f"--problem {options.problem}: is neither fourier nor gaussian")
    if not at:
        return problem, DEFAULT_RATIO[problem] if options.ratio is None else options.ratio
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0 < ratio < math.inf or options.ratio is not None:
        raise PeakError(
            f"--problem {options.problem}: give the ratio once, above 0, such as fourier@1.8 or --ratio 1.8"
        )
    check_options(dataclasses.replace(options, ratio=ratio))
    return problem, ratio


def _truth(options: PhaseOptions, problem: str) -> np.ndarray:
    """The picture, grey and square, (n, n)."""
    assert options.image is not None  # _check
    picture = read_picture(options.image)
    height, width = picture.size
    if height != width:
        raise PeakError(
            f"{options.image}: is {width} x {height} pixels; phase retrieval takes square pictures, crop it first"
        )
    if not picture.observed.all():
        raise PeakError(f"{options.image}: has transparent or NaN pixels; fill them first")
    side = DEFAULT_SIZE[problem] if options.size is None else options.size
    picture = resize_picture(picture, parse_size(str(side), picture.size))
    values = picture.values.mean(axis=2)
    if float(values.max()) == 0:
        raise PeakError(f"{options.image}: is black, all its magnitudes are 0; choose another picture")
    return values


def _write(
    options: PhaseOptions,
    out: Path,
    measurements: Measurements,
    truth: np.ndarray | None,
    result: Retrieval,
    warnings: list[str],
    save_field: bool,
) -> dict[str, Any]:
    reconstruction, shown = result.reconstruction, result.reconstruction
    scored: dict[str, Any] = {}
    if truth is not None:
        aligned = align(reconstruction, truth)
        shown = aligned.picture.clip(0, 1).astype(np.float32)
        everything = np.ones(truth.shape, dtype=bool)
        scored = scores(shown[..., None], truth[..., None], everything)
        scored = {
            "psnr": psnr(float(((reconstruction - truth) ** 2).mean())),
            "psnr_aligned": scored.pop("psnr"),
            "alignment": {"sign": aligned.sign, "turned": aligned.turned, "shift": list(aligned.shift)},
            **scored,
        }
    metrics: dict[str, Any] = {
        "task": "phase",
        "method": options.method,
        "data": str(options.image if options.image is not None else options.measurements),
        "problem": measurements.operator.name,
        "ratio": ratio_of(measurements),
        "size": reconstruction.shape[0] if reconstruction.shape[0] == reconstruction.shape[1] else [*shown.shape],
        "n_measurements": math.prod(measurements.operator.shape)
        if measurements.known is None
        else int(measurements.known.sum()),
        "seed": options.seed,
        "settings": record.plain({**dataclasses.asdict(options), "fit": result.settings}),
        "partial": result.partial,
        "warnings": warnings,
        **scored,
        **(of_data(measurements, result) if options.measurements is not None else {}),
        "relative_residual": result.relative_residual,
        "measurement_misfit": result.relative_residual,  # its name of before, for one version
        "seconds": result.seconds,
        "search_iterations": result.iterations,
        "steps": result.fit.steps,
        "stopping_step": result.fit.best_step,
        "n_parameters": result.n_parameters,
        "peak_memory_gib": record.peak_memory_gib(),
        "history": [{**dataclasses.asdict(p), "misfit": p.relative_residual} for p in result.history],
        "versions": record.versions(),
    }
    # Without metrics.json nobody takes a half-written folder for a result.
    (out / "metrics.json").unlink(missing_ok=True)
    write_png(out / "reconstruction.png", shown)
    if result.support is not None:
        write_png(out / "support.png", result.support.astype(np.float32))
    write_comparison_of(out / "comparison.png", measurements, shown, truth)
    if result.history:
        name = (options.image or options.measurements or Path()).name
        write_residuals(out / "relative_residual.png", result.history, f"{options.method} on {name}")
    (out / "field.safetensors").unlink(missing_ok=True)  # of an earlier run
    record.write_json(out / "metrics.json", metrics)
    # Last, since it takes a while: Ctrl-C in it costs the field alone, and --resume makes up for it.
    if save_field and result.field is not None and result.settings is not None:
        if not result.partial:  # the refinement comes after the field's fit
            picture = torch.from_numpy(reconstruction)
            metrics["field_psnr"] = problems.distil(result.field, picture, result.settings.learning_rate)
        field_file.save_field(out / "field.safetensors", result.field)
        record.write_json(out / "metrics.json", metrics)
    if not result.partial:
        for name in ("checkpoint.pt", "search.pt", "support.pt"):
            delete_written(out / name)
    return metrics


def phase_command(
    measurements: tyro.conf.OmitArgPrefixes[Annotated[MeasurementOptions, tyro.conf.arg(name="measurement")]],
    data: tyro.conf.OmitArgPrefixes[Annotated[DataOptions, tyro.conf.arg(name="measured data")]],
    solver: tyro.conf.OmitArgPrefixes[SolverOptions],
    output: tyro.conf.OmitArgPrefixes[OutputOptions],
) -> int:
    """Retrieve a picture from Fourier or Gaussian magnitudes, with a field or a classical solver.

    Leaves metrics.json, reconstruction.png, comparison.png and relative_residual.png in the folder. Magnitudes cannot
    tell a picture from its negative, from itself turned by 180 degrees, or shifted: the pictures are shown aligned with
    the truth where there is one, and metrics.json has psnr as it came out and psnr_aligned.
    """
    from rich.console import Console

    options = PhaseOptions(**vars(measurements), **vars(data), **vars(solver))
    console = Console()
    with locked_folder(output.out, "--out", "`peak phase`", leaves_lock=False), record.progress_bar(console) as show:

        def on_progress(p: Progress) -> None:
            show(p.fraction, f"{options.method}: magnitudes {p.psnr_validation:.2f} dB")

        metrics = run_phase_retrieval(options, on_progress=on_progress, **vars(output))
    aligned = f"PSNR {metrics['psnr_aligned']:.2f} dB aligned, " if "psnr_aligned" in metrics else ""
    line = (
        f"{options.method}: {aligned}relative residual {metrics['relative_residual']:.2g}, {metrics['seconds']:.1f} s,"
        f" {metrics['peak_memory_gib']:.2f} GiB"
    )
    code = record.say_end(console, line, output.out, metrics["partial"])
    if code == 0 and not metrics.get("worked", True):
        line = did_not_work(metrics["relative_residual"], options.method, data)
        print(f"peak_nerf: {line}", file=sys.stderr, flush=True)
        return 1
    return code
