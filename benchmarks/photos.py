"""Where the time of `peak-lite` goes on photos: `python -m benchmarks.photos --help`.

A training is profiled while there is still fog and after, and a frame of a held-out view; the time that functions spend
themselves is added up by what they are for. On one thread: a profile does not see what others do. Ray rates and seconds
mean something on this machine only, fractions elsewhere too.
"""

from __future__ import annotations

import copy
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import SEED, print_and_keep, start_trainer, train_step
from peak_nerf.errors import PeakError, exit_on_peak_error

PARTS = {
    "hash grid": ("core/hash_grid", "core/encodings"),
    "networks": ("core/relu_mlp", "core/backbones"),
    "choosing samples": ("render/marcher", "render/contraction"),
    "occupancy grid": ("render/occupancy",),
    "Adam": ("_fused_adam_", "optim/"),
}
"""What functions are for, by a part of the file's or of the built-in's name; all others are "the rest"."""


@dataclass
class Settings:
    """What to measure."""

    data: Path
    """A scene of photos, as `ns-train peak --data` takes it."""
    downscale_factor: int | None = None
    """Pictures that are so many times smaller, as the data parser's option."""
    early_steps: int = 40
    """Steps profiled at the beginning, after two that compile."""
    warmup_steps: int = 400
    """Steps until fog has cleared."""
    late_steps: int = 60
    """Steps profiled then."""
    out: Path | None = None
    """Also write the figures to this JSON file."""


def part_of(file: str, function: str) -> str:
    """What a function is for, by `PARTS`."""
    for part, names in PARTS.items():
        if any(name in file or name in function for name in names):
            return part
    return "the rest"


def fractions(profile: cProfile.Profile) -> dict[str, float]:
    """Of the profiled time, by what it was spent on; 1 in all."""
    spent = dict.fromkeys([*PARTS, "the rest"], 0.0)
    statistics: Any = pstats.Stats(profile)
    for (file, _, function), (_, _, own, _, _) in statistics.stats.items():
        spent[part_of(file, function)] += own
    total = sum(spent.values())
    return {part: seconds / total for part, seconds in spent.items()}


def profiled(work: Callable[[], None]) -> tuple[float, dict[str, float]]:
    """Seconds that `work` takes on one thread, and their `fractions`."""
    profile, threads = cProfile.Profile(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.perf_counter()
        profile.runcall(work)
        return time.perf_counter() - start, fractions(profile)
    finally:
        torch.set_num_threads(threads)


def steps_figures(trainer: Any, first: int, n: int) -> dict[str, Any]:
    """Of n steps from the first: time, rays, samples, candidates, and the share of rays that reach the sky."""
    model = trainer.pipeline.model
    renderer = model.renderer
    counts = {"rays": 0, "samples": 0, "candidates": 0, "sky": 0}
    training_rays, sky = renderer.training_rays, renderer.sky

    def counted_rays(*rays: torch.Tensor) -> Any:
        rendered = training_rays(*rays)
        counts["rays"] += len(rendered.t_enter)
        counts["samples"] += len(rendered.samples)
        counts["candidates"] += rendered.samples.n_candidates
        return rendered

    def counted_sky(directions: torch.Tensor) -> torch.Tensor:
        counts["sky"] += len(directions)
        return sky(directions)

    def steps() -> None:
        for step in range(first, first + n):
            train_step(trainer, step)

    renderer.training_rays, renderer.sky = counted_rays, counted_sky
    seconds, spent = profiled(steps)
    renderer.training_rays, renderer.sky = training_rays, sky
    per_ray = {f"{name}_per_ray": counts[name] / counts["rays"] for name in ("samples", "candidates", "sky")}
    return {
        "ms_per_step": 1e3 * seconds / n, "rays_per_s": counts["rays"] / seconds, **per_ray,
        "step_lengths": renderer.coarseness, "occupied": float(model.occupancy.fraction), "fractions": spent,
    }  # fmt: skip


def frame_figures(trainer: Any) -> dict[str, Any]:
    """Of the first held-out view."""
    pipeline = trainer.pipeline
    pipeline.eval()
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    pipeline.model.get_outputs_for_camera(camera)
    seconds, spent = profiled(lambda: pipeline.model.get_outputs_for_camera(camera))
    return {"width": int(camera.width), "height": int(camera.height), "seconds": seconds, "fractions": spent}


def main(settings: Settings) -> None:
    """Measure and print."""
    from peak_nerf.nerf.methods import peak_lite_method

    if not settings.data.exists():
        raise PeakError(f"{settings.data}: no such folder; give a scene of photos, for example of `peak photos`")
    config: Any = copy.deepcopy(peak_lite_method.config)
    config.data = config.pipeline.datamanager.data = settings.data.resolve()
    config.pipeline.datamanager.dataparser.downscale_factor = settings.downscale_factor
    figures: dict[str, Any] = {"threads": 1, "data": str(settings.data), "seed": SEED}
    with tempfile.TemporaryDirectory() as folder:
        trainer = start_trainer(config, Path(folder))
        for step in range(2):
            train_step(trainer, step)
        figures["early"] = steps_figures(trainer, 2, settings.early_steps)
        for step in range(2 + settings.early_steps, settings.warmup_steps):
            train_step(trainer, step)
        figures["late"] = steps_figures(trainer, settings.warmup_steps, settings.late_steps)
        figures["frame"] = frame_figures(trainer)
    print_and_keep(figures, settings.out)


if __name__ == "__main__":
    import tyro

    with exit_on_peak_error():
        main(tyro.cli(Settings, prog="python -m benchmarks.photos", description=__doc__))
    sys.exit(0)
