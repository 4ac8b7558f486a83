"""How the cost of `peak-lite` grows with views, resolution, samples, anchors: `python -m benchmarks.cost --help`.

One thing is changed at a time, everything else is the preset's; times are medians within one run on one machine, so
only their ratios mean something elsewhere. Leaves cost.json, cost.png and cost.svg.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed import SEED, kar_cost, median_seconds, scene_at, start_trainer, train_step
from peak_nerf.errors import exit_on_peak_error
from peak_nerf.system.record import write_json


@dataclass
class Settings:
    """What to measure."""

    out: Path = Path("outputs/cost")
    """Folder for cost.json, cost.png and cost.svg."""
    data: Path = Path("outputs/demo/scene")
    """A Blender scene; in a checkout, the default one is rendered when it is not there yet."""
    warmup_steps: int = 300
    """Steps before measuring: by then the occupancy grid has let go of empty space."""
    steps: int = 60
    """Steps of which the median is taken."""
    views: tuple[int, ...] = (8, 25, 50, 100)
    """Numbers of training views."""
    sides: tuple[int, ...] = (100, 200, 400, 800)
    """Sides of a rendered frame, in pixels."""
    samples: tuple[int, ...] = (8192, 16384, 32768, 65536)
    """Ray samples a step."""
    anchors: tuple[int, ...] = (2, 4, 8, 16, 32)
    """KAR's anchors per query."""


@dataclass
class Curve:
    """One measured relation."""

    title: str
    x_label: str
    y_label: str
    x: list[float]
    y: list[float]


class Bench:
    """Trainers on one scene, each with one thing changed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder

    def trainer(self, views: int = 25, **model: Any) -> Any:
        """A trainer with these options, past its first steps."""
        from peak_nerf.nerf.methods import peak_lite_method

        config: Any = copy.deepcopy(peak_lite_method.config)
        config.pipeline.datamanager.data = self.settings.data
        config.pipeline.datamanager.dataparser.num_views = views
        for name, value in model.items():
            setattr(config.pipeline.model, name, value)
        trainer = start_trainer(config, self.folder)
        for step in range(self.settings.warmup_steps):
            self.step(trainer, step)
        return trainer

    def step(self, trainer: Any, step: int) -> float:
        """Seconds of one training step."""
        start = time.perf_counter()
        train_step(trainer, step)
        return time.perf_counter() - start

    def step_ms(self, trainer: Any) -> float:
        """Median time of a step."""
        first = self.settings.warmup_steps
        return 1e3 * statistics.median(self.step(trainer, first + i) for i in range(self.settings.steps))

    def views(self) -> list[Curve]:
        """A step sees its own rays only."""
        x = [float(views) for views in self.settings.views]
        return [Curve("Views", "training views", "ms a step", x, [self.step_ms(self.trainer(int(v))) for v in x])]

    def resolution(self) -> list[Curve]:
        """Of a frame, on one trained field: proportional to its pixels."""
        trainer = self.trainer()
        pipeline = trainer.pipeline
        pipeline.eval()
        seconds = []
        for side in self.settings.sides:
            camera = copy.deepcopy(pipeline.datamanager.eval_dataset.cameras[:1])
            camera.rescale_output_resolution(side / float(camera.width[0]))
            seconds.append(median_seconds(lambda c=camera: pipeline.model.get_outputs_for_camera(c), repeats=3))  # type: ignore[misc]
        return [
            Curve(
                "Resolution", "side of a frame in pixels", "s a frame", [float(s) for s in self.settings.sides], seconds
            )
        ]

    def samples(self) -> list[Curve]:
        """A step with more samples; more rays come with them."""
        ms = [self.step_ms(self.trainer(target_samples=n)) for n in self.settings.samples]
        return [Curve("Samples", "samples a step", "ms a step", [float(n) for n in self.settings.samples], ms)]

    def anchors(self) -> list[Curve]:
        """What KAR adds to a step."""
        trainers = (self.trainer(kar_form="point", kar_anchors=k) for k in self.settings.anchors)
        percent = [kar_cost(trainer, self.settings.steps) for trainer in trainers]
        x = [float(k) for k in self.settings.anchors]
        return [Curve("Anchors", "anchors per query", "KAR's cost in % of a step", x, percent)]


def draw(curves: list[Curve], out: Path) -> None:
    """A panel for each, as PNG and SVG."""
    from matplotlib.figure import Figure

    from peak_nerf.tasks.kernels.figures import save_figure

    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves)), curves, strict=True):
        axes.plot(curve.x, curve.y, "o-", color="#0072B2")
        axes.set_xscale("log", base=2)
        axes.set_xticks(curve.x, [f"{x:g}" for x in curve.x])
        axes.set_ylim(bottom=0)
        axes.set(title=curve.title, xlabel=curve.x_label, ylabel=curve.y_label)
        axes.grid(alpha=0.3)
    save_figure(figure, out / "cost.png")


def main(settings: Settings) -> None:
    """Measure, print, draw."""
    from rich.console import Console
    from rich.progress import track

    settings.data = scene_at(settings.data)
    curves: list[Curve] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(settings, Path(folder))
        measures: list[Callable[[], list[Curve]]] = [bench.views, bench.resolution, bench.samples, bench.anchors]
        for measure in track(measures, description="cost", console=Console(stderr=True)):
            curves += measure()
    record = {"seed": SEED, "data": str(settings.data), "curves": [vars(curve) for curve in curves]}
    write_json(settings.out / "cost.json", record)
    draw(curves, settings.out)
    for curve in curves:
        print(
            f"{curve.title}: "
            + ", ".join(f"{x:g}: {y:.3g}" for x, y in zip(curve.x, curve.y, strict=True))
            + f" ({curve.y_label})"
        )


if __name__ == "__main__":
    import tyro

    with exit_on_peak_error():
        main(tyro.cli(Settings, prog="python -m benchmarks.cost", description=__doc__))
    sys.exit(0)
