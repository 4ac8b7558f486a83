"""`peak kernel figure2 | spectrum | encode`: measure kernels, draw them, leave the numbers beside the pictures."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field

from peak_nerf.core.encodings import MAX_POLYNOMIAL_FEATURES
from peak_nerf.errors import PeakError
from peak_nerf.system.choices import check_options
from peak_nerf.system.ranges import Features, Layers
from peak_nerf.system.record import check_folder, progress_bar, versions, write_json

if TYPE_CHECKING:
    from peak_nerf.tasks.kernels.figure2 import Course


@dataclass
class Figure2:
    """Figure 2 of the paper: the NTKs of a vanilla MLP, Fourier features and PEAK beside the optimal kernel of
    sin(4 pi x), with their CKA, and its course through training. Leaves figure2.png, .svg and .json in the folder."""

    out: Path = Path("outputs/kernel")
    """The folder for the results."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    """Runs of each method, seeds 0, 1, ..."""
    steps: Annotated[int, Field(ge=10, le=10**7)] = 600
    """Steps of training, the same for all."""
    samples: Annotated[int, Field(ge=8, le=4096)] = 64
    """Samples of the signal, evenly spaced in [-1, 1], every fourth held out."""
    points: Annotated[int, Field(ge=8, le=4096)] = 128
    """Points on each side of the kernels."""
    tune: bool = False
    """Choose each method's settings anew: the best final CKA of its nine candidates over seeds 100 and 101. Takes
    about ten times as long."""


@dataclass
class Spectrum:
    """Eigenvalues and first eigenfunctions of the NTK of a field that `peak inpaint --save-field` wrote. Leaves
    spectrum.png, .svg and .json in the folder."""

    field: Annotated[Path, tyro.conf.Positional]
    """The field.safetensors."""
    out: Path = Path("outputs/kernel")
    """The folder for the results."""
    points: Annotated[int, Field(ge=4, le=8192)] = 1024
    """About this many points, on a regular grid over the picture; the kernel has points x points entries."""
    chunk_size: Annotated[int, Field(ge=1, le=8192)] = 512
    """Points at a time; fewer need less memory."""


@dataclass
class Encode:
    """Theorem 3.3: the encoding that turns the kernel of an infinitely wide network into another. Prints its
    coefficients and the largest error on [-1, 1], and leaves encode.png, .svg and .json in the folder."""

    target: str
    """The kernel K* wanted, as a formula in c = x^T x', such as "exp(-sqrt(2-2*c))"."""
    base: Literal["relu", "erf"] = "relu"
    """Activation of the network."""
    eps: Annotated[float, Field(gt=0, le=1e6)] = 1e-2
    """Largest error allowed, in the units of K*."""
    kind: Literal["ntk", "nngp"] = "ntk"
    """Which of the network's kernels."""
    n_hidden: Layers = 1
    """Its hidden layers."""
    weight_variance: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Variance of its weights, times the width."""
    bias_variance: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Variance of its biases."""
    in_dim: Features = 1
    """Dimension of x that the encoding is for."""
    max_degree: Annotated[int | None, Field(ge=0, le=MAX_POLYNOMIAL_FEATURES)] = None
    """Give up above this degree. Default: what an encoding of 100,000 features allows."""
    drop_negative: bool = False
    """Where the theorem does not hold, leave negative coefficients out, if the error still stays below eps."""
    out: Path = Path("outputs/kernel")
    """The folder for the results."""


Command = (
    Annotated[Figure2, tyro.conf.subcommand("figure2")]
    | Annotated[Spectrum, tyro.conf.subcommand("spectrum")]
    | Annotated[Encode, tyro.conf.subcommand("encode")]
)


def kernel(command: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Command]]) -> int:
    """The kernels behind PEAK, measured and drawn.

    Args:
        command: what to do.
    """
    runs: dict[type[Any], Any] = {Figure2: run_figure2, Spectrum: run_spectrum, Encode: run_encode}
    start = time.perf_counter()
    runs[type(command)](command)
    print(f"pictures and numbers in {command.out} ({time.perf_counter() - start:.0f} s)")
    return 0


def run_figure2(options: Figure2) -> dict[str, Any]:
    """Figure 2 and its numbers. Raises: PeakError on options out of range, before anything is written."""
    check_options(options)
    check_folder(options.out)
    import numpy as np

    from peak_nerf.system.waiting import sleep_when_busy
    from peak_nerf.tasks.kernels import figure2 as task
    from peak_nerf.tasks.kernels import figures as pictures

    sleep_when_busy()
    chosen, courses = _fit_all(options)
    kernels = {method: runs[0].kernel.numpy() for method, runs in courses.items()}
    kernels = {**kernels, "optimal": task.grid_and_optimal_kernel(options.points)[1].numpy()}
    kernels = {name: kernels[name] for name in ("mlp", "fourier", "optimal", "peak")}
    methods: dict[str, dict[str, Any]] = {}
    for method, runs in courses.items():
        final = [run.cka[-1] for run in runs]
        settings = task.candidates(method)[chosen[method]]
        methods[method] = {
            "cka_mean": statistics.mean(final),
            "cka_sd": statistics.stdev(final) if len(final) > 1 else 0.0,
            "cka": final,
            "cka_before_training": [run.cka[0] for run in runs],
            "mse": [run.mse for run in runs],
            "course": [{"seed": run.seed, "steps": run.steps, "cka": run.cka} for run in runs],
            "settings": dataclasses.asdict(settings),
        }
    numbers = {
        "task": "kernel figure2",
        "signal": "sin(4 pi x) on [-1, 1]",
        "seeds": options.seeds,
        "steps": options.steps,
        "samples": options.samples,
        "points": options.points,
        "tuned": options.tune,
        "methods": methods,
        "versions": versions(),
    }
    captions = {m: f"CKA {v['cka_mean']:.3f} ± {v['cka_sd']:.3f}" for m, v in methods.items()} | {"optimal": "CKA 1"}
    # Runs of one method may stop early at different steps: all are shown at common fractions of the run.
    shown = {}
    for method, runs in courses.items():
        steps = np.arange(0, options.steps + 1, max(options.steps // 60, 1))
        shown[method] = (steps.tolist(), np.stack([np.interp(steps, run.steps, run.cka) for run in runs]))
    pictures.save_figure(pictures.figure2(kernels, captions, shown), options.out / "figure2.png")
    write_json(options.out / "figure2.json", numbers)
    for method in task.METHODS:
        error = statistics.mean(methods[method]["mse"])
        print(f"{method:<8} {captions[method]}, mean squared error of the fit {error:.1e}")
    return numbers


def _fit_all(options: Figure2) -> tuple[dict[str, int], dict[str, list[Course]]]:
    """Which candidate of each method was taken, and a course for each seed."""
    from rich.console import Console

    from peak_nerf.tasks.kernels import figure2 as task

    sizes = (options.steps, options.samples, options.points)
    chosen = dict(task.BEST)
    courses: dict[str, list[Course]] = {method: [] for method in task.METHODS}
    runs = [("tune", method, 0) for method in task.METHODS] if options.tune else []
    runs += [("fit", method, seed) for method in task.METHODS for seed in range(options.seeds)]
    with progress_bar(Console(stderr=True)) as show:
        for i, (what, method, seed) in enumerate(runs):
            text = f"{method}: tuning" if what == "tune" else f"{method}: seed {seed}"

            def on_progress(fraction: float, i: int = i, text: str = text) -> None:
                show((i + fraction) / len(runs), text)

            if what == "tune":
                chosen[method] = task.tune(method, *sizes, on_progress)
            else:
                settings = task.candidates(method)[chosen[method]]
                courses[method].append(task.run_alignment(method, seed, *sizes, settings, on_progress))
    return chosen, courses


def run_spectrum(options: Spectrum) -> dict[str, Any]:
    """The spectrum of a saved field. Raises: PeakError on options out of range or a file that is no field."""
    check_options(options)
    import torch
    from rich.console import Console

    from peak_nerf.core.kernels.alignment import centered_kernel_alignment, spectrum
    from peak_nerf.core.kernels.ntk import empirical_ntk
    from peak_nerf.system.waiting import sleep_when_busy
    from peak_nerf.tasks.field_file import load_field
    from peak_nerf.tasks.image_field import pixel_coordinates
    from peak_nerf.tasks.kernels import figures as pictures

    sleep_when_busy()
    module, (height, width) = load_field(options.field)
    check_folder(options.out)
    step = max(math.sqrt(height * width / options.points), 1.0)
    size = (max(round(height / step), 2), max(round(width / step), 2))
    rows, columns = (
        axis[torch.linspace(0, len(axis) - 1, n).round().long()]
        for axis, n in zip(pixel_coordinates((height, width)), size, strict=True)
    )
    # Small eigenvalues drown in float32.
    module = module.double()
    x = torch.cartesian_prod(rows, columns).double()
    with progress_bar(Console(stderr=True)) as show:
        k = empirical_ntk(module, x, chunk_size=options.chunk_size, on_progress=lambda f: show(f, "kernel"))
    with torch.no_grad():
        f = module(x)
    found = spectrum(k)
    centred = f - f.mean(dim=0)
    fraction = found.share_of(f) if float(f.abs().max()) > 0 else torch.zeros(len(x))
    count = min(pictures.N_EIGENFUNCTIONS, len(x))
    functions = [found.vectors[:, i].reshape(size).numpy() for i in range(count)]
    numbers: dict[str, Any] = {
        "task": "kernel spectrum",
        "field": str(options.field),
        "grid": list(size),
        "n_parameters": sum(p.numel() for p in module.parameters()),
        "trace": float(found.values.sum()),
        "effective_rank": found.effective_rank,
        "eigenvalues": found.values.tolist(),
        "fraction_of_f": fraction.tolist(),
        "share_of_f": fraction.tolist(),  # its name of before, for one version
        "versions": versions(),
    }
    if float(centred.norm()) > 1e-9 * float(f.norm()):
        numbers["cka_with_own_values"] = centered_kernel_alignment(k, f @ f.T)
    if module.polynomial is not None:
        numbers["polynomial_coefficients"] = module.polynomial.coefficients.tolist()
    figure = pictures.spectrum(
        found.values.numpy(), fraction.numpy(), functions, f"NTK of {options.field.name}", found.effective_rank
    )
    pictures.save_figure(figure, options.out / "spectrum.png")
    write_json(options.out / "spectrum.json", numbers)
    aligned = (
        f", CKA with its own values {numbers['cka_with_own_values']:.3f}" if "cka_with_own_values" in numbers else ""
    )
    print(f"{options.field}: {len(x)} points, effective rank {found.effective_rank:.1f}{aligned}")
    return numbers


def run_encode(options: Encode) -> dict[str, Any]:
    """gamma_eps and its numbers. Raises: PeakError where there is none; nothing is written then."""
    check_options(options)
    import torch

    from peak_nerf.core.kernels.aligned_encoding import aligned_encoding
    from peak_nerf.core.kernels.infinite_width import InfiniteNetwork
    from peak_nerf.core.kernels.series import evaluate_series
    from peak_nerf.tasks.kernels import figures as pictures
    from peak_nerf.tasks.kernels.formula import parse_kernel

    target = parse_kernel(options.target)
    try:
        base = InfiniteNetwork(
            options.base, options.n_hidden, options.weight_variance, options.bias_variance, options.kind
        )
        result = aligned_encoding(
            base,
            target,
            options.eps,
            options.in_dim,
            max_degree=options.max_degree,
            drop_negative=options.drop_negative,
        )
    except ValueError as error:  # of the options' ranges
        raise PeakError(f"peak kernel encode: {error}") from error
    check_folder(options.out)
    a = result.encoding.coefficients.detach().double()
    c = torch.linspace(-1, 1, 401, dtype=torch.float64)
    attained = base(evaluate_series(a, c).clamp(-a.sum(), a.sum()), a.sum())
    numbers = {
        "task": "kernel encode",
        "target": options.target,
        "base": dataclasses.asdict(base),
        "eps": options.eps,
        "sup_error": result.sup_error,
        "degree": result.encoding.degree,
        "n_features": result.encoding.out_dim,
        "squared_norm": result.squared_norm,
        "dropped": result.dropped,
        "coefficients": a.tolist(),
        "versions": versions(),
    }
    scaled = base(c * a.sum(), a.sum())
    figure = pictures.encoding(*(t.numpy() for t in (c, target(c), attained, scaled, a)))
    pictures.save_figure(figure, options.out / "encode.png")
    write_json(options.out / "encode.json", numbers)
    print(
        f"degree {result.encoding.degree}, {result.encoding.out_dim} features for in_dim {options.in_dim}, |gamma|^2 ="
        f" {result.squared_norm:.4g}: sup error {result.sup_error:.3g}, below {options.eps:g}"
    )
    print("a_k: " + " ".join(f"{value:.4g}" for value in a[:12].tolist()) + (" ..." if len(a) > 12 else ""))
    return numbers
