"""The demo behind `make demo`: render our own scene, train PEAK on a few of its views, evaluate, show pictures.

    python data_scripts/demo.py --out outputs/demo

Leaves in OUT: scene/ (the data set), runs/ (nerfstudio's), eval.json and eval_images/ (from ns-eval), orbit.gif,
side_by_side.png and metrics.json.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from demo_scene.cameras import CAMERA_ANGLE_X, look_at_origin
from make_demo_scene import Settings as SceneSettings
from make_demo_scene import make_scene
from pydantic import Field

from peak_nerf.errors import PeakError
from peak_nerf.images.figures import save_gif, save_grid
from peak_nerf.system.choices import check_options
from peak_nerf.system.programs import exit_as_command, run_program
from peak_nerf.system.ranges import Seed, Steps

Array = npt.NDArray[np.float64]
METHOD = "peak"
ORBIT_FRAMES = 40


@dataclass(frozen=True)
class Settings:
    """Render a small scene, train PEAK on a few of its views, evaluate it and make pictures. No download, no GPU."""

    out: Path = Path("outputs/demo")
    """Folder for everything the demo makes."""
    steps: Steps | None = 1600
    """Training steps, enough for a scene of 200 px; `None` takes the method's own number, meant for 400 px."""
    views: Annotated[int, Field(ge=1, le=100)] = 25
    """Training views, evenly spaced among the scene's 100."""
    seed: Seed = 42
    """Seed of the training. The scene is always the same."""

    @property
    def run(self) -> Path:
        """Folder of the trained run."""
        return self.out / "runs" / "demo" / METHOD / "run"

    @property
    def config(self) -> Path:
        """The run's configuration, which nerfstudio's commands load."""
        return self.run / "config.yml"


# ------------------------------------------------------------------------------------------------------- commands


def train_command(settings: Settings) -> list[str]:
    """ns-train's arguments."""
    steps = [] if settings.steps is None else ["--max-num-iterations", str(settings.steps)]
    where = ["--data", str(settings.out / "scene"), "--output-dir", str(settings.out / "runs")]
    name = ["--experiment-name", "demo", "--timestamp", "run", "--vis", "tensorboard"]
    seed = ["--machine.seed", str(settings.seed)]
    return ["ns-train", METHOD, *where, *name, *seed, *steps, "peak-data", "--num-views", str(settings.views)]


def eval_command(settings: Settings) -> list[str]:
    """ns-eval's arguments."""
    where = [
        "--output-path",
        str(settings.out / "eval.json"),
        "--render-output-path",
        str(settings.out / "eval_images"),
    ]
    return ["ns-eval", "--load-config", str(settings.config), *where]


# ------------------------------------------------------------------------------------------------------- pictures


def orbit_poses(n_frames: int) -> Array:
    """Camera-to-world (n_frames, 4, 4) on one smooth, closed turn around the scene."""
    poses = []
    for turn in np.arange(n_frames) / n_frames:
        azimuth = 2 * math.pi * (turn - 0.2)
        elevation = math.radians(26 + 8 * math.sin(2 * math.pi * turn))
        r = math.cos(elevation)
        poses.append(look_at_origin(np.array([r * math.cos(azimuth), r * math.sin(azimuth), math.sin(elevation)])))
    return np.stack(poses)


def render_pictures(settings: Settings) -> int:
    """Write orbit.gif and side_by_side.png from the trained run; returns the model's number of parameters."""
    from peak_nerf.nerf.flythrough import (
        CAPTIONS,
        comparison_rows,
        load_run,
        pinhole_cameras,
        render_frames,
        to_model_space,
    )

    run = load_run(settings.config)
    save_grid(settings.out / "side_by_side.png", comparison_rows(run), CAPTIONS)  # a quarter of the test orbit apart
    size = int(run.test_set.cameras.width[0])
    parsed = run.test_set._dataparser_outputs
    poses = to_model_space(orbit_poses(ORBIT_FRAMES), parsed.dataparser_transform.numpy(), parsed.dataparser_scale)
    half = math.tan(0.5 * CAMERA_ANGLE_X)
    frames = render_frames(run.model, pinhole_cameras(poses, (size, size), (half, half)), "Orbit")
    save_gif(frames, settings.out / "orbit.gif")
    return sum(p.numel() for p in run.model.parameters())


# --------------------------------------------------------------------------------------------------------- record


def metrics_record(
    settings: Settings, results: Mapping[str, float], train_seconds: float, eval_seconds: float, n_parameters: int
) -> dict[str, Any]:
    """The result record. A metric that ns-eval does not report, or that is not finite, is absent.

    Raises: PeakError when PSNR or SSIM is missing.
    """
    quality = {k: float(results[k]) for k in ("psnr", "ssim", "lpips") if math.isfinite(results.get(k, math.nan))}
    if not {"psnr", "ssim"} <= set(quality):
        raise PeakError(f"{settings.out / 'eval.json'}: no finite psnr and ssim; the training went wrong, try again.")
    return {
        "task": "nerf",
        "method": METHOD,
        "data": str(settings.out / "scene"),
        "seed": settings.seed,
        "settings": {"views": settings.views} | ({} if settings.steps is None else {"steps": settings.steps}),
        **quality,
        "seconds": round(train_seconds, 2),
        "seconds_eval": round(eval_seconds, 2),
        "n_parameters": n_parameters,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("peak_nerf", "nerfstudio", "torch", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_results(path: Path) -> dict[str, float]:
    """The numbers that ns-eval wrote."""
    try:
        results = json.loads(path.read_text(encoding="utf8"))["results"]
        return {k: float(v) for k, v in results.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PeakError(f"{path}: not the result file of ns-eval ({error}); run the demo again.") from error


def print_summary(settings: Settings, record: Mapping[str, Any]) -> None:
    """The table, and what to do next."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "PSNR (dB)", "SSIM", "views", "train (s)", "eval (s)", title=f"{METHOD} on our demo scene, test views"
    )
    numbers = [f"{record['psnr']:.2f}", f"{record['ssim']:.4f}", str(settings.views)]
    table.add_row(*numbers, f"{record['seconds']:.0f}", f"{record['seconds_eval']:.0f}")
    Console().print(table)
    viewer = Path(sys.executable).parent / "ns-viewer"
    print(f"Pictures:         {settings.out / 'side_by_side.png'}, {settings.out / 'orbit.gif'}")
    print(f"Record:           {settings.out / 'metrics.json'}")
    print(f"Look around:      {viewer} --load-config {settings.config}")
    print(f"Your own photos:  {viewer.with_name('peak')} photos YOUR_FOLDER --out YOUR_SCENE --train")


def run_demo(settings: Settings) -> None:
    """All steps."""
    check_options(settings)
    scene = SceneSettings(out=settings.out / "scene")
    print(f"{scene.out}: " + ("rendered." if make_scene(scene) else "already there."), flush=True)
    if settings.run.exists():
        shutil.rmtree(settings.run)  # ns-eval would take its checkpoint when that had more steps
    train_seconds = run_program(train_command(settings))
    eval_seconds = run_program(eval_command(settings))
    n_parameters = render_pictures(settings)
    record = metrics_record(
        settings, read_results(settings.out / "eval.json"), train_seconds, eval_seconds, n_parameters
    )
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    (settings.out / "metrics.json").write_text(text, encoding="utf8")
    print_summary(settings, record)


def main(settings: Settings) -> None:
    """The command."""
    with exit_as_command():
        run_demo(settings)


if __name__ == "__main__":
    main(tyro.cli(Settings))
