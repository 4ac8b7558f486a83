"""Pictures of a trained run: a flight along its own cameras as a GIF, and test views beside their renderings.

python -m peak_nerf.nerf.flythrough --load-config RUN/config.yml --out DIR
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.eval_utils import eval_setup
from pydantic import Field

from peak_nerf.errors import PeakError, exit_on_peak_error
from peak_nerf.images.figures import compare, depth_picture, on_white, save_gif, save_grid
from peak_nerf.nerf.camera_path import Array, CameraPath, camera_path, mean_pose
from peak_nerf.system.choices import check_options
from peak_nerf.system.record import check_folder, write_json

CAPTIONS = ("ground truth", "rendering", "|difference| x 4", "depth")
"""Columns of a comparison."""
ROWS = 4
"""Test views in a comparison."""
PROBE_WIDTH = 48
"""Of the rendering that finds out how far away things are."""


@dataclass(frozen=True)
class Options:
    """Fly through a trained run along its own cameras, and put test views beside their renderings."""

    load_config: Path
    """config.yml of the run."""
    out: Path
    """Folder for flythrough.gif, side_by_side.png and flythrough.json."""
    frames: Annotated[int, Field(ge=2, le=1000)] = 48
    """Frames of the GIF."""
    width: Annotated[int, Field(ge=16, le=4096)] = 400
    """Longer side of a frame, and of the pictures side by side, in pixels."""


@dataclass(frozen=True)
class Run:
    """A trained run, ready to render."""

    model: Any
    train_set: Any
    """nerfstudio's datasets; their cameras are where the model has them."""
    test_set: Any


def load_run(config: Path) -> Run:
    """The run of this config.yml with its last checkpoint. Raises: PeakError when there is none."""
    if not config.is_file():
        raise PeakError(f"{config}: no such file; --load-config wants the config.yml of a trained run")
    _, pipeline, _, _ = eval_setup(config)
    datamanager: Any = pipeline.datamanager
    return Run(pipeline.model, datamanager.train_dataset, datamanager.eval_dataset)


def render(model: Any, camera: Cameras) -> dict[str, Array]:
    """rgb (h, w, 3), depth and accumulation (h, w) of one camera, a batch of one."""
    with torch.no_grad():
        outputs = model.get_outputs_for_camera(camera.to(model.device))
    shot = {name: outputs[name].cpu().double().numpy() for name in ("rgb", "depth", "accumulation")}
    return {"rgb": shot["rgb"], "depth": shot["depth"][..., 0], "accumulation": shot["accumulation"][..., 0]}


def render_frames(model: Any, cameras: Cameras, title: str = "Flight") -> list[Array]:
    """A picture (h, w, 3) of each camera; places that come again, as on a way back, are rendered once."""
    from rich.progress import track

    done: dict[bytes, Array] = {}
    keys = [np.round(pose.numpy(), 5).tobytes() for pose in cameras.camera_to_worlds]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    for key, i in track(sorted(first.items(), key=lambda item: item[1]), title):
        done[key] = render(model, cameras[i : i + 1])["rgb"]
    return [done[key] for key in keys]


def comparison_rows(run: Run, width: int | None = None) -> list[list[Array]]:
    """`ROWS` test views, evenly apart: truth, rendering, difference, depth; none longer than `width` pixels."""
    import cv2

    rows = []
    for i in np.unique(np.arange(ROWS) * len(run.test_set) // ROWS).tolist():
        camera = run.test_set.cameras[i : i + 1]
        longer = int(max(camera.width[0], camera.height[0]))
        if width is not None and longer > width:
            camera.rescale_output_resolution(width / longer)
        shot = render(run.model, camera)
        truth = on_white(run.test_set.get_image_float32(i).double().numpy())
        truth = cv2.resize(truth, shot["rgb"].shape[1::-1], interpolation=cv2.INTER_AREA)
        rows.append(compare(truth, shot["rgb"], depth_picture(shot["depth"], shot["accumulation"])))
    return rows


def to_model_space(poses: Array, transform: Array, scale: float) -> Array:
    """Poses (n, 3, 4) as the data parser hands them to the model: its transform (3, 4), then its scale."""
    moved = transform @ poses
    moved[..., :3] = transform[:, :3] @ poses[:, :3, :3]
    moved[..., 3] *= scale
    return moved


def pinhole_cameras(poses: Array, size: tuple[int, int], half_extent: tuple[float, float]) -> Cameras:
    """Cameras at poses (n, 3, 4). size: width, height in pixels; half_extent: tan of half the angles of view."""
    (width, height), (x, y) = size, half_extent
    c2w = torch.tensor(poses[:, :3], dtype=torch.float32)
    return Cameras(c2w, 0.5 * width / x, 0.5 * height / y, 0.5 * width, 0.5 * height, width, height)


def field_of_view(cameras: Cameras) -> tuple[float, float]:
    """tan of half the horizontal and vertical angle of view, the cameras' medians, distortion aside."""
    x = 0.5 * cameras.width / cameras.fx
    y = 0.5 * cameras.height / cameras.fy
    return float(x.median()), float(y.median())


def frame_size(half_extent: tuple[float, float], longer: int) -> tuple[int, int]:
    """Even width and height in pixels of a frame with square pixels and this longer side."""
    x, y = half_extent
    return tuple(max(2, 2 * round(0.5 * longer * part / max(x, y))) for part in (x, y))  # type: ignore[return-value]


def flight(run: Run, n_frames: int) -> CameraPath:
    """The path along the cameras of all splits, in the order of their pictures' names."""
    sets = (run.train_set, run.test_set)
    named = {path: pose for s in sets for path, pose in zip(s.image_filenames, s.cameras.camera_to_worlds, strict=True)}
    poses = np.stack([named[path].double().numpy() for path in sorted(named)])
    view = field_of_view(run.train_set.cameras)
    probe = render(run.model, pinhole_cameras(mean_pose(poses)[None], frame_size(view, PROBE_WIDTH), view))
    solid = probe["accumulation"] > 0.5
    subject = float(np.median(probe["depth"][solid])) if solid.any() else None
    return camera_path(poses, n_frames, math.atan(max(view)), subject)


def fly(options: Options) -> dict[str, Any]:
    """Write flythrough.gif, side_by_side.png and, last, flythrough.json, whose content is returned.

    Raises: PeakError on an option out of range, and when there is no run or the folder cannot be written.
    """
    check_options(options)
    check_folder(options.out)
    begin = time.perf_counter()
    run = load_run(options.load_config)
    save_grid(options.out / "side_by_side.png", comparison_rows(run, options.width), CAPTIONS)
    path = flight(run, options.frames)
    view = field_of_view(run.train_set.cameras)
    size = frame_size(view, options.width)
    save_gif(render_frames(run.model, pinhole_cameras(path.poses, size, view)), options.out / "flythrough.gif")
    record = {
        "path": path.kind,
        "frames": options.frames,
        "width": size[0],
        "height": size[1],
        "test_views": len(run.test_set),
        "seconds": round(time.perf_counter() - begin, 2),
    }
    write_json(options.out / "flythrough.json", record)
    return record


def main(options: Options) -> None:
    """The command."""
    with exit_on_peak_error():
        fly(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
