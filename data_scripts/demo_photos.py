"""The demo behind `make demo-photos`: from photos alone to a flight through the scene, by `peak photos --train`.

    python data_scripts/demo_photos.py --out outputs/demo-photos

Renders the toy village as a phone would take it, on a walk once around, and writes JPEGs with EXIF and no poses.
Leaves in OUT: photos/, scene/ (what `peak photos` makes of them), truth.json (where the photos were taken, which only
the table at the end looks at) and metrics.json.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from demo_scene.cameras import look_at_origin
from demo_scene.photos import intrinsics, photo
from demo_scene.vectors import Array
from make_demo_scene import Job, code_hash, require_trimesh, run_jobs, scene_of
from pose_errors import PoseErrors, pose_errors
from pydantic import Field

from peak_nerf.errors import PeakError
from peak_nerf.photos.train import TrainingSummary, read_summary
from peak_nerf.system.choices import check_options
from peak_nerf.system.programs import exit_as_command, run_program
from peak_nerf.system.ranges import Seconds
from peak_nerf.system.record import write_json

FILM_WIDTH = 36.0
"""mm, of the film for which EXIF converts focal lengths."""
CROP = 7.0
"""How many times smaller the pretended phone's sensor is."""


OFF_CENTRE = (0.002, -0.0015)
"""Where the optical axis meets the picture, from its middle, as fractions of its sides. Structure from motion takes
the middle for it and turns the cameras a little instead, which no radiance field notices."""


@dataclass(frozen=True)
class Settings:
    """Render photos of a small scene, find out where they were taken, train on them, and fly through. No download,
    no GPU."""

    out: Path = Path("outputs/demo-photos")
    """Folder for everything the demo makes."""
    photos: Annotated[int, Field(ge=3, le=1000)] = 24
    """Photos on one walk around the scene."""
    size: Annotated[int, Field(ge=16, le=4096)] = 560
    """Width of a photo in pixels; its height is three quarters of that."""
    supersample: Annotated[int, Field(ge=1, le=16)] = 2
    """Rays per pixel and axis: 2 means 4 rays a pixel."""
    train_seconds: Seconds = 150.0
    """Of training."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    """Processes to render with. The photos do not depend on it."""

    @property
    def photo_size(self) -> tuple[int, int]:
        """Width and height of a photo."""
        return self.size, max(1, round(0.75 * self.size))

    @property
    def scene(self) -> Path:
        """The folder that `peak photos` makes."""
        return self.out / "scene"

    def stamp(self) -> dict[str, Any]:
        """All that decides the bytes of the photos."""
        settings = {name: getattr(self, name) for name in ("photos", "size", "supersample")}
        return {"settings": settings, "code": code_hash(Path(__file__))}


# --------------------------------------------------------------------------------------------------------- photos


def walk_poses(count: int) -> list[Array]:
    """Camera-to-world (4, 4) on one turn around the scene, the phone held now higher and now lower, nearer and
    farther, and never quite level or centred."""
    rng, poses = np.random.default_rng(0), []
    for turn in np.arange(count) / count:
        azimuth = 2 * math.pi * (turn - 0.2)
        elevation = math.radians(28 + 9 * math.sin(2 * math.pi * 3 * turn))
        distance = 3.6 + 0.25 * math.sin(2 * math.pi * 2 * turn + 1)
        r = math.cos(elevation)
        pose = look_at_origin(np.array([r * math.cos(azimuth), r * math.sin(azimuth), math.sin(elevation)]), distance)
        pitch, yaw, roll = np.radians(rng.uniform(-1, 1, 3) * [1.5, 1.5, 2.5])
        pose[:3, :3] = pose[:3, :3] @ _turn(0, pitch) @ _turn(1, yaw) @ _turn(2, roll)
        poses.append(pose)
    return poses


def _turn(axis: int, angle: float) -> Array:
    """Rotation (3, 3) about an axis by an angle in radians."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[[i, j], [i, j]] = math.cos(angle)
    rotation[j, i] = math.sin(angle)
    rotation[i, j] = -math.sin(angle)
    return rotation


def exif(lens: Mapping[str, Any]) -> Any:
    """What a phone writes of itself: its make, its model, and its focal length, own and of 35 mm film."""
    from PIL import ExifTags, Image

    focal = lens["fl_x"] / lens["w"] * FILM_WIDTH
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Model] = "peak_nerf", "demo camera"
    details = tags.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.FocalLength] = round(focal / CROP, 2)
    details[ExifTags.Base.FocalLengthIn35mmFilm] = round(focal)
    return tags


def _take(job: Job, settings: Settings) -> None:
    from PIL import Image

    path, pose = job
    lens = intrinsics(*settings.photo_size, OFF_CENTRE)
    picture = Image.fromarray(photo(scene_of(0), pose, lens, settings.supersample))
    picture.save(path, format="JPEG", quality=92, exif=exif(lens))


def take_photos(settings: Settings) -> bool:
    """Render the photos, and truth.json beside their folder, unless they are there already; True when rendered.

    Raises: PeakError when the folder cannot be written, or trimesh is missing.
    """
    folder, truth = settings.out / "photos", settings.out / "truth.json"
    if folder.is_dir() and _read_stamp(truth) == settings.stamp():
        return False
    require_trimesh()
    partial = folder.with_name("photos.partial")
    try:
        truth.unlink(missing_ok=True)
        for old in (partial, folder):
            if old.exists():
                shutil.rmtree(old)
        partial.mkdir(parents=True)
        poses = {f"IMG_{i:04d}.jpg": pose for i, pose in enumerate(walk_poses(settings.photos), start=1)}
        jobs = [(partial / name, pose) for name, pose in poses.items()]
        n_rays = len(jobs) * math.prod(settings.photo_size) * settings.supersample**2
        run_jobs(functools.partial(_take, settings=settings), jobs, n_rays, settings.workers)
        partial.rename(folder)
        written = {name: pose.tolist() for name, pose in poses.items()}
        write_json(truth, {"stamp": settings.stamp(), "poses": written})
    except OSError as error:
        raise PeakError(f"{error.filename or folder}: cannot be written ({error.strerror}); change --out") from error
    return True


def _read_stamp(truth: Path) -> Any:
    try:
        return json.loads(truth.read_text(encoding="utf8"))["stamp"]
    except (OSError, ValueError, KeyError, TypeError):  # rendered again
        return None


# ------------------------------------------------------------------------------------------------------ measuring


def read_poses(scene: Path, names: list[str]) -> dict[str, Array]:
    """The scene's poses by the photos' names; a copy has its photo's stem somewhere in its own.

    Raises: PeakError when the scene cannot be read.
    """
    path = scene / "transforms.json"
    try:
        frames = json.loads(path.read_text(encoding="utf8"))["frames"]
        poses = {Path(frame["file_path"]).stem: np.array(frame["transform_matrix"], float) for frame in frames}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PeakError(f"{path}: cannot be read ({error}); run the demo again") from error
    return {name: pose for stem, pose in poses.items() for name in names if Path(name).stem in stem}


# -------------------------------------------------------------------------------------------------------- command


def photos_command(settings: Settings) -> list[str]:
    """The one command that this is the demo of."""
    where = ["peak", "photos", str(settings.out / "photos"), "--out", str(settings.scene)]
    return [*where, "--train", "--train-seconds", f"{settings.train_seconds:g}"]


def print_summary(settings: Settings, errors: PoseErrors, summary: TrainingSummary, seconds: dict[str, float]) -> None:
    """The tables, and where to look."""
    from rich.console import Console
    from rich.table import Table

    table = Table("registered", "rotation error", "position error", "PSNR (dB)", "SSIM", title="Photos in, poses out")
    table.add_row(
        f"{errors.n_found} of {settings.photos}",
        f"{errors.rotation_degrees:.2f} degrees",
        f"{errors.position_percent:.2f} %",
        f"{summary.psnr:.2f}",
        f"{summary.ssim:.4f}",
    )
    times = Table(*seconds, "all", title="Seconds")
    times.add_row(*(f"{value:.0f}" for value in seconds.values()), f"{sum(seconds.values()):.0f}")
    for shown in (table, times):
        Console().print(shown)
    print("Errors are medians against the poses that drew the photos; position relative to the cameras' extent.")
    viewer = Path(sys.executable).parent / "ns-viewer"
    print(f"Page:             {settings.scene / 'index.html'}")
    print(f"Flight:           {settings.scene / summary.gif}")
    print(f"Comparison:       {settings.scene / summary.comparison}")
    print(f"Look around:      {viewer} --load-config {settings.scene / summary.run / 'config.yml'}")
    print(f"Your own photos:  {viewer.with_name('peak')} photos YOUR_FOLDER --out YOUR_SCENE --train")


def run_demo(settings: Settings) -> None:
    """All steps. Raises: PeakError on what a user can mend, and when a step fails."""
    check_options(settings)
    begin = time.perf_counter()
    taken = take_photos(settings)
    rendering = time.perf_counter() - begin
    print(f"{settings.out / 'photos'}: {settings.photos} photos " + ("rendered." if taken else "already there."))
    if settings.scene.exists():
        shutil.rmtree(settings.scene)
    whole = run_program(photos_command(settings))
    summary = read_summary(settings.scene)
    poses = json.loads((settings.out / "truth.json").read_text(encoding="utf8"))["poses"]
    truth = {name: np.array(pose) for name, pose in poses.items()}
    errors = pose_errors(read_poses(settings.scene, list(truth)), truth)
    after = {
        "training": summary.seconds,
        "evaluation": summary.seconds_evaluation,
        "pictures": summary.seconds_pictures,
    }
    seconds = {"rendering": rendering, "poses": whole - sum(after.values()), **after}
    record = {"photos": settings.photos, **asdict(errors), **asdict(summary), "settings": settings.stamp()}
    write_json(settings.out / "metrics.json", {**record, "seconds": seconds})
    print_summary(settings, errors, summary, seconds)


def main(settings: Settings) -> None:
    """The command."""
    with exit_as_command():
        run_demo(settings)


if __name__ == "__main__":
    main(tyro.cli(Settings))
