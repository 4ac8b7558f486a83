"""Speed of `peak-lite` on this machine, as ratios measured within one run: `python -m benchmarks.speed --help`.

It is a benchmark, not a test: nothing passes or fails. Baselines are nerfstudio's own code on the same machine in the
same minutes: its torch HashEncoding, and its nerfacto with default settings on the CPU (LPIPS replaced by a stub,
since building it would download weights).
"""

from __future__ import annotations

import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peak_nerf.errors import PeakError, exit_on_peak_error
from peak_nerf.system.record import write_json

SEED = 42


@dataclass
class Settings:
    """What to measure."""

    data: Path = Path("outputs/demo/scene")
    """A Blender scene; in a checkout, the default one is rendered when it is not there yet."""
    num_views: int = 25
    """Training views, evenly spaced."""
    train_seconds: float = 120.0
    """Training time of peak-lite."""
    nerfacto_seconds: float = 60.0
    """Training time of nerfacto; 0 leaves it out."""
    out: Path | None = None
    """Also write the figures to this JSON file."""


def median_seconds(work: Callable[[], Any], repeats: int = 9) -> float:
    """Median time of `work`, after one call that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def hash_grid_ratio(n_points: int = 65_536, log2_table_size: int = 19) -> dict[str, float]:
    """Forward + backward of 16 levels x 2 features: ours against nerfstudio's torch HashEncoding."""
    from nerfstudio.field_components.encodings import HashEncoding

    from peak_nerf.core.hash_grid import HashGridEncoding

    torch.manual_seed(SEED)
    sizes = {"log2_table_size": log2_table_size, "base_resolution": 16, "finest_resolution": 1024}
    theirs = HashEncoding(
        num_levels=16, min_res=16, max_res=1024, log2_hashmap_size=log2_table_size, implementation="torch"
    )
    x, slope = torch.rand(n_points, 3), torch.rand(n_points, 32)

    def step(encoding: torch.nn.Module) -> None:
        encoding.zero_grad()
        encoding(x).backward(slope)

    # Theirs first: ours has the allocator keep freed memory, which would help theirs too.
    other = median_seconds(lambda: step(theirs), repeats=5)
    ours = HashGridEncoding(3, n_levels=16, n_features=2, **sizes, implementation="auto")  # type: ignore[arg-type]
    mine = median_seconds(lambda: step(ours), repeats=15)
    return {"hash_grid_ms": 1e3 * mine, "nerfstudio_hash_grid_ms": 1e3 * other, "hash_grid_ratio": other / mine}


def relu_mlp_ratio(n_rows: int = 32_768) -> dict[str, float]:
    """Forward + backward of the radiance field's two networks: ours against the same layers in torch, in turn."""
    from itertools import pairwise

    from torch import nn

    from peak_nerf.core.backbones import ReluMLP

    torch.manual_seed(SEED)
    figures: dict[str, float] = {}
    for name, widths in (("density", (36, 64, 16)), ("colour", (31, 64, 64, 3))):
        mine = ReluMLP(widths[0], widths[-1], widths[1], len(widths) - 2, bias=False)
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b, bias=False), nn.ReLU(inplace=True))]
        x, slope = torch.randn(n_rows, widths[0], requires_grad=True), torch.randn(n_rows, widths[-1])

        def step(network: nn.Module, x: torch.Tensor = x, slope: torch.Tensor = slope) -> None:
            network.zero_grad()
            x.grad = None
            network(x).backward(slope)

        torchs = nn.Sequential(*layers[:-1])
        pairs = [[median_seconds(lambda n=n: step(n), 1) for n in (mine, torchs)] for _ in range(15)]  # type: ignore[misc]
        ours, other = (statistics.median(times) for times in zip(*pairs, strict=True))
        figures |= {f"{name}_network_ms": 1e3 * ours, f"{name}_network_ratio": other / ours}
    return figures


def start_trainer(config: Any, folder: Path) -> Any:
    """nerfstudio's trainer for `config`, set up as ns-train does it, without viewer and event files."""
    from nerfstudio.scripts.train import _set_random_seed

    config.output_dir, config.experiment_name, config.timestamp = folder, "speed", config.method_name
    config.vis = "none"  # event files would outlive the folder, and nerfstudio writes to all it ever opened
    config.machine.device_type = "cpu"
    _set_random_seed(SEED)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def train_step(trainer: Any, step: int) -> None:
    """One training step with its callbacks, as nerfstudio's training loop does it."""
    from nerfstudio.engine.callbacks import TrainingCallbackLocation as Location

    trainer.pipeline.train()
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=Location.BEFORE_TRAIN_ITERATION)
    trainer.train_iteration(step)
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=Location.AFTER_TRAIN_ITERATION)


def train_for(trainer: Any, seconds: float) -> tuple[float, float]:
    """Rays per second over all of a training of about `seconds`, and over its second half."""
    marks: list[tuple[float, int]] = [(0.0, 0)]
    rays, step, start = 0, 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        train_step(trainer, step)
        rays += trainer.pipeline.datamanager.get_train_rays_per_batch()
        step += 1
        marks.append((time.perf_counter() - start, rays))
    elapsed = marks[-1][0]
    half_time, half_rays = next(mark for mark in marks if mark[0] >= elapsed / 2)
    late = (rays - half_rays) / (elapsed - half_time) if elapsed > half_time else rays / elapsed
    return rays / elapsed, late


def peak_lite_figures(settings: Settings, folder: Path) -> dict[str, float]:
    """Throughput, cost of KAR per step, time of a frame and peak memory."""
    from peak_nerf.nerf.methods import peak_lite_method

    config: Any = copy.deepcopy(peak_lite_method.config)
    config.pipeline.datamanager.data = settings.data
    config.pipeline.datamanager.dataparser.num_views = settings.num_views
    config.pipeline.model.kar_form = "point"  # by itself KAR would be off with so many views
    trainer = start_trainer(config, folder)
    overall, late = train_for(trainer, settings.train_seconds)
    figures = {"peak_lite_rays_per_s": overall, "peak_lite_rays_per_s_second_half": late}
    figures["peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures["kar_cost_percent"] = kar_cost(trainer)

    pipeline = trainer.pipeline
    pipeline.eval()
    cameras = pipeline.datamanager.eval_dataset.cameras

    def frame(index: int) -> float:
        return median_seconds(lambda: pipeline.model.get_outputs_for_camera(cameras[index : index + 1]), repeats=1)

    figures["frame_s"] = statistics.median(frame(index) for index in range(min(5, len(cameras))))
    figures["frame_pixels"] = float(cameras[0].width * cameras[0].height)
    return figures


def kar_cost(trainer: Any, pairs: int = 30) -> float:
    """By how many percent KAR lengthens a step: the same model with and without it, in turn; median of the ratios.

    Over `kar_interval` steps at a time, in one of which KAR is evaluated.
    """
    model = trainer.pipeline.model
    kar, ratios = model.kar_form, []
    assert kar is not None, "this trainer has KAR off"
    for pair in range(pairs):
        times = {}
        for on in (False, True) if pair % 2 else (True, False):
            model.kar_form = kar if on else None
            start = time.perf_counter()
            for _ in range(model.config.kar_interval):
                trainer.train_iteration(pair)
            times[on] = time.perf_counter() - start
        ratios.append(times[True] / times[False])
    model.kar_form = kar
    return 100 * (statistics.median(ratios) - 1)


def nerfacto_rays_per_second(settings: Settings, folder: Path) -> float:
    """Throughput of nerfstudio's nerfacto on the CPU, default settings, same scene and views."""
    import torchmetrics.image.lpip as lpip
    from nerfstudio.configs.method_configs import all_methods

    from peak_nerf.nerf.data.dataparser import PeakDataParserConfig

    class NoLpips(torch.nn.Module):
        """Stands for a metric whose weights would have to be downloaded; training never calls it."""

        def __init__(self, **_: Any) -> None:
            super().__init__()

    lpip.LearnedPerceptualImagePatchSimilarity = NoLpips  # type: ignore[misc, assignment]
    config: Any = copy.deepcopy(all_methods["nerfacto"])
    config.mixed_precision = False
    config.pipeline.datamanager.data = settings.data
    config.pipeline.datamanager.dataparser = PeakDataParserConfig(num_views=settings.num_views)
    return train_for(start_trainer(config, folder), settings.nerfacto_seconds)[0]


def scene_at(data: Path) -> Path:
    """The scene's absolute folder; in a checkout the default one is rendered first. Raises: PeakError without one."""
    script = Path(__file__).parents[1] / "data_scripts" / "make_demo_scene.py"
    if data == Settings.data and not data.exists() and script.is_file():
        subprocess.run([sys.executable, str(script), "--out", str(data)], check=True)
    if not (data / "transforms_train.json").is_file():
        raise PeakError(
            f"{data}: no Blender scene (transforms_train.json) there; make one with"
            " `python data_scripts/make_demo_scene.py --out DIR`"
        )
    return data.resolve()


def print_and_keep(figures: dict[str, Any], out: Path | None) -> None:
    """Print figures as JSON; also write them to `out`, unless it is None."""
    print(json.dumps(figures, indent=1, allow_nan=False))
    if out is not None:
        write_json(out, figures)


def main(settings: Settings) -> None:
    """Measure and print."""
    settings.data = scene_at(settings.data)
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "data": str(settings.data), "seed": SEED}
    figures.update(hash_grid_ratio())
    figures.update(relu_mlp_ratio())
    with tempfile.TemporaryDirectory() as folder:
        figures.update(peak_lite_figures(settings, Path(folder)))
        if settings.nerfacto_seconds > 0:
            rate = nerfacto_rays_per_second(settings, Path(folder))
            figures["nerfacto_rays_per_s"] = rate
            figures["throughput_ratio"] = figures["peak_lite_rays_per_s"] / rate
            figures["throughput_ratio_second_half"] = figures["peak_lite_rays_per_s_second_half"] / rate
    print_and_keep(figures, settings.out)


if __name__ == "__main__":
    import tyro

    with exit_on_peak_error():
        main(tyro.cli(Settings, prog="python -m benchmarks.speed", description=__doc__))
    sys.exit(0)
