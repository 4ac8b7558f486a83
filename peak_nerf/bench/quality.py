"""Quality of `peak-lite` with KAR on and off: trains with ns-train, evaluates with ns-eval, prints one table.

`python -m peak_nerf.bench.quality --data SCENE --num-views 25`. Same command, steps and seed for both; the only
difference is `--pipeline.model.kar-weight 0`. Results are kept in --out, and a finished cell is not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from peak_nerf.errors import PeakError, exit_on_peak_error


@dataclass
class Settings:
    """What to train."""

    data: tuple[Path, ...]
    """Scenes."""
    out: Path
    """Folder of runs and results."""
    num_views: tuple[int, ...] = (25,)
    """Numbers of training views, evenly spaced."""
    seeds: tuple[int, ...] = (42,)
    """Seeds."""
    steps: int | None = None
    """Steps of training; None is peak-lite's own default."""
    kar: tuple[str, ...] = ("on", "off")
    """Which of the two to run."""
    extra: tuple[str, ...] = field(default_factory=tuple)
    """Further options for ns-train, e.g. `--extra=--pipeline.model.finest-resolution=256`."""


def run(command: list[str], log: Path) -> None:
    """Run a command with its output in `log`. Raises: PeakError when it fails."""
    with log.open("w") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise PeakError(f"{Path(command[0]).name} ended with code {code}; its output is in {log}")


def cell(settings: Settings, scene: Path, views: int, seed: int, kar: str) -> dict[str, Any]:
    """Train and evaluate one cell, or read its result when it is there."""
    name = f"{scene.name}-{views}-views-seed-{seed}-kar-{kar}"
    folder = settings.out / name
    result = folder / "result.json"
    if result.is_file():
        return json.loads(result.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    tools = Path(sys.executable).parent
    command = [str(tools / "ns-train"), "peak-lite", "--data", str(scene), "--output-dir", str(folder)]
    command += ["--experiment-name", "run", "--timestamp", "run", "--vis", "tensorboard", "--machine.seed", str(seed)]
    command += ["--steps-per-eval-image", "0"]
    command += [] if settings.steps is None else ["--max-num-iterations", str(settings.steps)]
    command += [] if kar == "on" else ["--pipeline.model.kar-weight", "0"]
    command += [*settings.extra, "peak-data", "--num-views", str(views)]
    start = time.perf_counter()
    run(command, folder / "train.log")
    seconds = time.perf_counter() - start
    config, output = folder / "run" / "peak-lite" / "run" / "config.yml", folder / "eval.json"
    run([str(tools / "ns-eval"), "--load-config", str(config), "--output-path", str(output)], folder / "eval.log")
    measured = json.loads(output.read_text())["results"]
    record = {"scene": scene.name, "views": views, "seed": seed, "kar": kar, "seconds": seconds, **measured}
    record["command"] = " ".join(command)
    temporary = result.with_suffix(".partial")
    temporary.write_text(json.dumps(record, indent=2, allow_nan=False))
    temporary.replace(result)
    return record


def main(settings: Settings) -> None:
    """Run all cells and print the table."""
    table = Table("scene", "views", "seed", "KAR", "PSNR", "SSIM", "s / frame", "s (ns-train, all in)")
    for scene in settings.data:
        for views in settings.num_views:
            for seed in settings.seeds:
                for kar in settings.kar:
                    r = cell(settings, scene.resolve(), views, seed, kar)
                    row = [r["scene"], r["views"], r["seed"], r["kar"], f"{r['psnr']:.2f}", f"{r['ssim']:.3f}"]
                    table.add_row(*map(str, row), f"{1 / r['fps']:.2f}", f"{r['seconds']:.0f}")
                    print(f"{r['scene']}, {views} views, seed {seed}, KAR {kar}: {r['psnr']:.2f} dB", flush=True)
    Console().print(table)


if __name__ == "__main__":
    import tyro

    with exit_on_peak_error():
        main(tyro.cli(Settings, prog="python -m peak_nerf.bench.quality", description=__doc__))
