"""The demo behind `make demo`: render our own scene, train PEAK on a few of its views, evaluate, show pictures.

    python data_scripts/demo.py --out outputs/demo

Leaves in OUT: scene/ (the data set), runs/ (nerfstudio's), eval.json and eval_images/ (from ns-eval), orbit.gif,
side_by_side.png and metrics.json.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tyro
from demo_scene.cameras import CAMERA_ANGLE_X, look_at_origin
from make_demo_scene import Settings as SceneSettings
from make_demo_scene import make_scene

from peak_nerf.errors import PeakError, exit_on_peak_error

if TYPE_CHECKING:
    from PIL.Image import Image

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.floating[Any]]  # (height, width, 3) in [0, 1]
METHOD = "peak-lite"
ORBIT_FRAMES = 40


@dataclass(frozen=True)
class Settings:
    """Render a small scene, train PEAK on a few of its views, evaluate it and make pictures. No download, no GPU."""

    out: Path = Path("outputs/demo")
    """Folder for everything the demo makes."""
    steps: int | None = 1600
    """Training steps, enough for a scene of 200 px; `None` takes the method's own number, meant for 400 px."""
    views: int = 25
    """Training views, evenly spaced among the scene's 100."""
    seed: int = 42
    """Seed of the training. The scene is always the same."""

    def check(self) -> None:
        """Raise `PeakError` on a number out of range."""
        if not 1 <= self.views <= 100:
            raise PeakError(f"--views is {self.views}: the scene has 100 training views, give 1 to 100.")
        if self.steps is not None and self.steps < 1:
            raise PeakError(f"--steps is {self.steps}: give at least 1.")

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


def run_step(command: Sequence[str]) -> float:
    """Run a command that lies next to this Python, its output passed through; returns the seconds it took.

    Raises: SystemExit with the command's own exit code, after one line; PeakError when it is not installed.
    """
    program = shutil.which(command[0], path=str(Path(sys.executable).parent))
    if program is None:
        raise PeakError(f"{command[0]}: not found next to {sys.executable}; install with `pip install -e .`.")
    print("$ " + " ".join(command), flush=True)
    start = time.perf_counter()
    code = subprocess.run([program, *command[1:]]).returncode
    if code != 0:
        print(f"peak_nerf: error: {command[0]} ended with exit code {code}; see its output above.", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)
    return time.perf_counter() - start


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


def to_model_space(poses: Array, transform: Array, scale: float) -> Array:
    """Poses (n, 3, 4) as the data parser hands them to the model: its transform (3, 4), then its scale."""
    moved = transform @ poses
    moved[..., :3] = transform[:, :3] @ poses[:, :3, :3]
    moved[..., 3] *= scale
    return moved


def depth_picture(depth: Array, accumulation: Array) -> Picture:
    """Depth (h, w) in colours, near bright and far dark, over the scene's own range; white where nothing is."""
    solid = accumulation > 0.5
    if not solid.any():
        return np.ones((*depth.shape, 3))
    near, far = np.percentile(depth[solid], [1, 99])
    level = np.clip((far - depth) / max(far - near, 1e-6), 0, 1)
    stops = np.linspace(0, 1, 5)
    palette = np.array([[48, 18, 59], [51, 86, 140], [33, 145, 140], [122, 209, 81], [253, 231, 37]]) / 255
    colours = np.stack([np.interp(level, stops, palette[:, c]) for c in range(3)], axis=-1)
    return np.where(solid[..., None], colours, 1.0)


def on_white(image: Picture) -> Picture:
    """RGB (h, w, 3) of an RGB or RGBA image."""
    return image if image.shape[-1] == 3 else image[..., :3] * image[..., 3:] + 1 - image[..., 3:]


def compare(truth: Picture, rendering: Picture, depth: Picture) -> list[Picture]:
    """One row of `side_by_side.png`."""
    return [truth, rendering, np.clip(4 * np.abs(truth - rendering), 0, 1), depth]


def compose_grid(rows: Sequence[Sequence[Picture]], captions: Sequence[str], gap: int = 4, band: int = 20) -> Image:
    """Rows of equally large pictures on white, each column under its caption."""
    from PIL import Image, ImageDraw

    height, width = rows[0][0].shape[:2]
    size = (len(captions) * (width + gap) - gap, band + len(rows) * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            sheet.paste(to_image(picture), (j * (width + gap), band + i * (height + gap)))
    draw = ImageDraw.Draw(sheet)
    for j, caption in enumerate(captions):
        draw.text((j * (width + gap) + width / 2, band / 2), caption, fill="black", anchor="mm")
    return sheet


def to_image(picture: Picture) -> Image:
    """A PIL image of 8-bit RGB."""
    from PIL import Image

    return Image.fromarray(np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8))


def save_gif(frames: Sequence[Picture], path: Path, milliseconds: int = 80) -> None:
    """An endless GIF whose frames share one palette, so that colours do not flicker."""
    from PIL import Image

    palette = to_image(np.concatenate(frames[:: max(1, len(frames) // 6)], axis=1)).quantize(255)
    palette.putpalette([*(palette.getpalette() or [])[: 3 * 255], 255, 255, 255])  # the background stays pure white
    images = [to_image(f).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for f in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0)


def render_pictures(settings: Settings) -> int:
    """Write orbit.gif and side_by_side.png from the trained run; returns the model's number of parameters."""
    import torch
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.utils.eval_utils import eval_setup
    from rich.progress import track

    _, pipeline, _, _ = eval_setup(settings.config)
    model, data = pipeline.model, pipeline.datamanager.eval_dataset

    def shoot(cameras: Any) -> dict[str, Array]:
        with torch.no_grad():
            outputs = model.get_outputs_for_camera(cameras.to(model.device))
        return {k: outputs[k].cpu().double().numpy() for k in ("rgb", "depth", "accumulation")}

    rows = []
    for i in (np.arange(4) * len(data) // 4).tolist():  # a quarter of the test orbit apart
        shot = shoot(data.cameras[i : i + 1])
        depth = depth_picture(shot["depth"][..., 0], shot["accumulation"][..., 0])
        rows.append(compare(on_white(data.get_image_float32(i).double().numpy()), shot["rgb"], depth))
    captions = ["ground truth", "rendering", "|difference| x 4", "depth"]
    compose_grid(rows, captions).save(settings.out / "side_by_side.png")

    size = int(data.cameras.width[0])
    parsed = data._dataparser_outputs
    poses = to_model_space(orbit_poses(ORBIT_FRAMES), parsed.dataparser_transform.numpy(), parsed.dataparser_scale)
    focal = 0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X)
    orbit = Cameras(torch.tensor(poses, dtype=torch.float32), focal, focal, size / 2, size / 2, size, size)
    frames = [shoot(orbit[i : i + 1])["rgb"] for i in track(range(ORBIT_FRAMES), "Orbit")]
    save_gif(frames, settings.out / "orbit.gif")
    return sum(p.numel() for p in model.parameters())


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
    print(f"Your own photos:  {viewer.with_name('ns-train')} {METHOD} --data YOUR_FOLDER")


def run_demo(settings: Settings) -> None:
    """All steps."""
    settings.check()
    scene = SceneSettings(out=settings.out / "scene")
    print(f"{scene.out}: " + ("rendered." if make_scene(scene) else "already there."), flush=True)
    if settings.run.exists():
        shutil.rmtree(settings.run)  # ns-eval would take its checkpoint when that had more steps
    train_seconds = run_step(train_command(settings))
    eval_seconds = run_step(eval_command(settings))
    n_parameters = render_pictures(settings)
    record = metrics_record(
        settings, read_results(settings.out / "eval.json"), train_seconds, eval_seconds, n_parameters
    )
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    (settings.out / "metrics.json").write_text(text, encoding="utf8")
    print_summary(settings, record)


def main(settings: Settings) -> None:
    """The command."""
    with exit_on_peak_error():
        run_demo(settings)


if __name__ == "__main__":
    main(tyro.cli(Settings))
