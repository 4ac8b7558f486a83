"""Render our own little Blender-format scene: a toy village on a checkered plate, ray-traced on the CPU. With --photos,
a folder as ns-process-data leaves it instead: transforms.json, a lens that distorts, no alpha, a landscape behind.

    python data_scripts/make_demo_scene.py --out data/demo
    python data_scripts/make_demo_scene.py --out data/photos --photos

Geometry, textures and light are written out in `demo_scene/`; nothing is downloaded. The same settings give the same
bytes. World: x right, y back, z up; everything lies inside [-1.2, 1.2]^3. Cameras follow OpenGL and Blender: they look
along their own -z, and +y is up in the picture.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from demo_scene.cameras import CAMERA_ANGLE_X, orbit_poses, render, spiral_poses
from demo_scene.light import Scene
from demo_scene.photos import intrinsics, photo
from demo_scene.vectors import Array
from demo_scene.village import village
from pydantic import Field

from peak_nerf.errors import PeakError, exit_on_peak_error
from peak_nerf.system.choices import check_options
from peak_nerf.system.ranges import Seed

Job = tuple[Path, Array]  # a picture's path and its camera-to-world
Views = Annotated[int, Field(ge=1, le=10**5)]


@dataclass(frozen=True)
class Settings:
    """Render a small, self-made Blender-format scene (transforms_*.json and RGBA pictures)."""

    out: Path
    """Folder to write. Rendering goes to a sibling `<out>.partial`, renamed when complete."""
    size: Annotated[int, Field(ge=4, le=8192)] = 200
    """Width and height of a picture, in pixels."""
    train_views: Views = 100
    """Training views, spread over the upper hemisphere; evenly spaced subsets are well spread too."""
    val_views: Views = 5
    """Validation views, on the hemisphere between the training views."""
    test_views: Views = 20
    """Test views, on an orbit of changing height."""
    photos: bool = False
    """Write a capture like those of ns-process-data: the train and test views as 4:3 photos, no splits."""
    seed: Seed = 0
    """Changes the textures' noise, the pebbles and the angle of the windmill's sails."""
    supersample: Annotated[int, Field(ge=1, le=16)] = 3
    """Rays per pixel and axis: 3 means 9 rays a pixel."""
    workers: Annotated[int, Field(ge=1, le=1024)] = field(default_factory=lambda: min(os.cpu_count() or 1, 8))
    """Processes to render with. The pictures do not depend on it."""
    force: bool = False
    """Render again, replacing a scene that is already there."""

    @property
    def photo_size(self) -> tuple[int, int]:
        """Width and height of a photo."""
        return self.size, max(1, round(0.75 * self.size))

    def stamp(self) -> dict[str, Any]:
        """All that decides the bytes of the pictures."""
        settings = {k: v for k, v in asdict(self).items() if k not in ("out", "workers", "force")}
        return {"settings": settings, "code": code_hash()}


def code_hash(*scripts: Path) -> str:
    """Hash of this script and of all modules behind it, and of other scripts."""
    sources = [*scripts, Path(__file__), *sorted((Path(__file__).parent / "demo_scene").glob("*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def scene_of(seed: int) -> Scene:
    """The scene, built once per process."""
    return Scene(village(seed))


def _render_view(job: Job, settings: Settings) -> None:
    from PIL import Image

    path, pose = job
    scene = scene_of(settings.seed)
    if settings.photos:
        picture = photo(scene, pose, intrinsics(*settings.photo_size), settings.supersample)
    else:
        picture = render(scene, pose, settings.size, settings.supersample)
    Image.fromarray(picture).save(path, format="PNG")


def write_scene(settings: Settings, folder: Path) -> None:
    """Render all views into the folder and write its transforms."""
    if settings.photos:
        return write_photos(settings, folder)
    splits = {
        "train": spiral_poses(settings.train_views),
        "val": spiral_poses(settings.val_views, offset=0.11),
        "test": orbit_poses(settings.test_views),
    }
    jobs = []
    for split, poses in splits.items():
        (folder / split).mkdir(parents=True)
        frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": c2w.tolist()} for i, c2w in enumerate(poses)]
        _write_json(folder / f"transforms_{split}.json", {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames})
        jobs += [(folder / split / f"r_{i}.png", c2w) for i, c2w in enumerate(poses)]
    _run_jobs(jobs, settings)
    _write_json(folder / "scene.json", settings.stamp())


def write_photos(settings: Settings, folder: Path) -> None:
    """The capture: images/frame_00001.png and so on, and one transforms.json with the lens."""
    (folder / "images").mkdir(parents=True)
    frames, jobs = [], []
    for i, c2w in enumerate(spiral_poses(settings.train_views + settings.test_views), start=1):
        name = f"images/frame_{i:05d}.png"
        frames.append({"file_path": name, "transform_matrix": c2w.tolist()})
        jobs.append((folder / name, c2w))
    _write_json(folder / "transforms.json", {**intrinsics(*settings.photo_size), "frames": frames})
    _run_jobs(jobs, settings)
    _write_json(folder / "scene.json", settings.stamp())


def _run_jobs(jobs: list[Job], settings: Settings) -> None:
    n_rays = len(jobs) * (settings.size * settings.supersample) ** 2
    run_jobs(functools.partial(_render_view, settings=settings), jobs, n_rays, settings.workers)


def run_jobs(render_view: Callable[[Job], None], jobs: list[Job], n_rays: int, workers: int) -> None:
    """Render all views behind a bar, by several processes where there are rays enough."""
    from rich.console import Console
    from rich.progress import track

    progress = functools.partial(track, description="Rendering", total=len(jobs), console=Console(stderr=True))
    with contextlib.ExitStack() as stack:
        run: Any = map
        # A process start and the baking cost seconds: not worth it for a small job.
        if workers > 1 and n_rays > 2_000_000:
            run = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers)).imap_unordered
        for _ in progress(run(render_view, jobs)):
            pass


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf8")


def _read_stamp(out: Path) -> dict[str, Any] | None:
    try:
        stamp = json.loads((out / "scene.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def make_scene(settings: Settings) -> bool:
    """Render the scene unless it is there already; True when it was rendered.

    Raises: PeakError when the folder holds something else, or cannot be written.
    """
    check_options(settings)
    out, stamp = settings.out, _read_stamp(settings.out)
    if stamp == settings.stamp() and not settings.force:
        return False
    if out.exists() and stamp is None and (not out.is_dir() or any(out.iterdir())):
        raise PeakError(f"{out}: not a scene made by this script; name another folder with --out.")
    if stamp is not None and not settings.force:
        if stamp.get("settings") != settings.stamp()["settings"]:
            raise PeakError(f"{out}: holds a scene with other settings; add --force to replace it, or change --out.")
        print(f"{out}: made by another version of this script; rendering it again.", file=sys.stderr, flush=True)
    require_trimesh()
    partial = out.with_name(out.name + ".partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        write_scene(settings, partial)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise PeakError(f"{error.filename or out}: cannot write the scene ({error.strerror}); change --out.") from error
    return True


def require_trimesh() -> None:
    """Warn without embree, which makes it fast. Raises: PeakError without trimesh."""
    try:
        import trimesh
    except ImportError as error:
        raise PeakError(f"make_demo_scene.py: needs trimesh ({error}); pip install -e '.[demo]'") from None
    if not trimesh.ray.has_embree:
        print(
            "peak_nerf: WARNING: embreex is missing, so rays go through trimesh's rtree caster, some hundred times "
            "slower: `pip install -e '.[demo]'`, or try --size 50 --supersample 1.",
            file=sys.stderr,
            flush=True,
        )


def main(settings: Settings) -> None:
    """The command."""
    with exit_on_peak_error():
        rendered = make_scene(settings)
        n_views = settings.train_views + settings.test_views + (0 if settings.photos else settings.val_views)
        print(f"{settings.out}: {n_views} views " + ("rendered." if rendered else "already there; nothing to do."))


if __name__ == "__main__":
    main(tyro.cli(Settings))
