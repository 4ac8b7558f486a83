"""`ns-export` on our runs: refused in one line where it has nothing to work on, mended where it would have no end.

nerfstudio's command loads a run, and then draws rays until it has as many points as it was asked for, or renders depth
images of the training views; neither asks whether there is anything, and both end in tracebacks of other packages.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.utils.rich_utils import CONSOLE
from pydantic import Field

from peak_nerf.errors import PeakError, exit_on_peak_error, first_line
from peak_nerf.nerf.callers import local_of
from peak_nerf.nerf.model import PeakModelConfig
from peak_nerf.system.choices import check_numbers, did_you_mean
from peak_nerf.system.memory import check_memory

MODULE = "nerfstudio.scripts.exporter"
Size = Annotated[int, Field(ge=1, le=1 << 14)]
RANGES: dict[str, Any] = {
    "num_points": Annotated[int, Field(ge=1, le=10**9)],
    "num_rays_per_batch": Annotated[int, Field(ge=1, le=1 << 18)],
    "std_ratio": Annotated[float, Field(gt=0, le=1e6)],
    "px_per_uv_triangle": Annotated[int, Field(ge=1, le=256)],
    "num_pixels_per_side": Size,
    "target_num_faces": Annotated[int | None, Field(ge=4, le=10**8)],
    "batch_size": Annotated[int, Field(ge=1, le=10**4)],
    "downscale_factor": Annotated[int, Field(ge=1, le=1024)],
    "refinement_epsilon": Annotated[float, Field(ge=0, le=1e3)],
}
"""Of nerfstudio's options of the command."""
OUTPUTS = ("rgb", "depth", "normals")
BYTES_PER_VOXEL, BYTES_PER_POINT, BYTES_PER_PIXEL = 90, 150, 320
"""Of a TSDF, for each image of a batch; of a cloud; of a texture."""
FACES, PIXELS = 10_000, 512
"""Of a texture that a CPU makes in minutes."""
MOST_BATCHES = 10_000
"""Of rays, that are drawn for a cloud."""
FIRST_BATCHES = 20
"""After which it is known how many it will take."""
FAR_AWAY = 1e6
"""Depth of what is not there."""
FEWEST_POINTS = 100
"""That a surface is made of."""


def check_export(model: Any) -> None:
    """Where `ns-export` is at work, see that what it is asked for can be had of a model of this configuration.

    Raises: PeakError where it can not.
    """
    command: Any = local_of(MODULE, "main", "self")
    if command is None:
        return
    name = type(command).__name__
    instead = "ns-export poisson, tsdf and pointcloud work on it"
    if name == "ExportGaussianSplat":
        raise PeakError(f"ns-export gaussian-splat: is for splatfacto, and this run is a radiance field; {instead}")
    if name == "ExportMarchingCubesMesh":
        raise PeakError(
            f"ns-export marching-cubes: wants a signed distance, and this run has a density field; {instead}"
        )
    check_numbers(command, "", RANGES)
    for option in ("rgb_output_name", "depth_output_name", "normal_output_name"):
        wanted = getattr(command, option, None)
        if wanted is not None and wanted not in OUTPUTS and isinstance(model, PeakModelConfig):
            raise PeakError(f"--{option.replace('_', '-')} {wanted}: is no output; {did_you_mean(wanted, OUTPUTS)}")
    _check_normals(command, model)
    _check_boxes(command)
    needed = {"points (--num-points)": BYTES_PER_POINT * getattr(command, "num_points", 0)}
    if getattr(command, "texture_method", None) == "nerf" and command.unwrap_method == "xatlas":
        needed["texture (--num-pixels-per-side)"] = BYTES_PER_PIXEL * command.num_pixels_per_side**2
    check_memory(needed, "ns-export")
    folder = Path(command.output_dir)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        problem = "cannot be written" if folder.is_dir() else "is no folder"
        raise PeakError(f"{folder}: {problem}; give another --output-dir")


def mend_export(pipeline: Any) -> None:
    """Where `ns-export` is at work, let what it is about to call end in one line, and see that cameras suit it.

    Raises: PeakError where they do not.
    """
    command: Any = local_of(MODULE, "main", "self")
    if command is None:
        return
    exporter, name = sys.modules[MODULE], type(command).__name__
    dataset = pipeline.datamanager.train_dataset
    if name == "ExportCameraPoses" and dataset.cameras.metadata is None:
        dataset.cameras.metadata = {}  # it notes there which of the refined poses is whose
    if name == "ExportTSDFMesh":
        _check_tsdf(command, dataset.cameras)
        # Rays that meet nothing would end in a shell around the box.
        _guard(
            exporter.tsdf_utils,
            "render_trajectory",
            "no depth images",
            "lower --downscale-factor or --batch-size",
            _see_through,
        )
        remedy = "train longer, or give a box that holds what the cameras see (--bounding-box-min, -max)"
        _guard(exporter.tsdf_utils, "export_tsdf_mesh", "no surface within the box", remedy)
    if name in ("ExportPointCloud", "ExportPoissonMesh"):
        _draw_rays_to_an_end(pipeline.datamanager)
        _guard(exporter, "generate_point_cloud", "no point cloud", "train longer, or give a wider box", _check_cloud)
    if name in ("ExportPoissonMesh", "ExportTSDFMesh") and command.texture_method == "nerf":
        other = "point_cloud" if name == "ExportPoissonMesh" else "tsdf"
        remedy = f"--texture-method {other} leaves the texture out; the mesh itself is in {command.output_dir}"
        _guard(exporter, "get_mesh_from_filename", "the mesh cannot be simplified", remedy, _check_mesh)
        _guard(exporter.texture_utils, "export_textured_mesh", "the mesh cannot be textured", remedy)
        if pipeline.device.type == "cpu" and command.unwrap_method == "xatlas":
            _say_how_long(command, other)


def _check_normals(command: Any, model: Any) -> None:
    if getattr(command, "normal_method", None) != "model_output" or isinstance(model, PeakModelConfig):
        return
    if not getattr(model, "predict_normals", False):
        raise PeakError(
            "--normal-method model_output: this run was trained without normals (--pipeline.model.predict-normals);"
            " give --normal-method open3d"
        )


def _check_boxes(command: Any) -> None:
    boxes = {part: getattr(command, f"obb_{part}", None) for part in ("center", "rotation", "scale")}
    given = [part for part, value in boxes.items() if value is not None]
    if given and len(given) < len(boxes):
        lacking = next(part for part in boxes if part not in given)
        raise PeakError(f"--obb-{given[0]} without --obb-{lacking}: a box wants centre, rotation and scale")
    numbers = [x for part in given for x in boxes[part] or ()]
    if not all(map(math.isfinite, numbers)) or any(x <= 0 for x in boxes["scale"] or ()):
        raise PeakError("--obb-scale: must be above 0, and all of the box finite")
    low, high = (getattr(command, f"bounding_box_{end}", (0, 0, 0)) for end in ("min", "max"))
    if hasattr(command, "bounding_box_min") and not all(
        math.isfinite(b - a) and a < b for a, b in zip(low, high, strict=True)
    ):
        raise PeakError(f"--bounding-box-min {low}: must be below --bounding-box-max {high}")


def _check_tsdf(command: Any, cameras: Cameras) -> None:
    resolution = command.resolution
    voxels = [resolution] * 3 if isinstance(resolution, int) else list(resolution)
    if len(voxels) != 3 or not all(2 <= n <= 1 << 14 for n in voxels):
        raise PeakError(f"--resolution: must be one number or three, each from 2 to {1 << 14}, got {resolution}")
    voxel_bytes = BYTES_PER_VOXEL * math.prod(voxels) * min(command.batch_size, len(cameras))
    check_memory({"volume (--resolution, --batch-size)": voxel_bytes}, "ns-export tsdf")
    if bool((cameras.camera_type != CameraType.PERSPECTIVE.value).any()):
        raise PeakError(
            "ns-export tsdf: takes all cameras for pinholes, and this run has others; use ns-export poisson"
        )
    sizes = {(int(w), int(h)) for w, h in zip(cameras.width.flatten(), cameras.height.flatten(), strict=True)}
    if len(sizes) > 1:
        raise PeakError(
            f"ns-export tsdf: wants pictures of one size, and this run has {len(sizes)}; use ns-export poisson"
        )
    if min(sizes.pop()) < 2 * command.downscale_factor:
        raise PeakError(f"--downscale-factor {command.downscale_factor}: leaves nothing of the pictures; lower it")


def _draw_rays_to_an_end(datamanager: Any) -> None:
    """Let the data manager refuse to draw more rays for a cloud that would take for ever."""
    draw = datamanager.next_train

    def next_train(step: int) -> Any:
        points = local_of("nerfstudio.exporter.exporter_utils", "generate_point_cloud", "points")
        total = local_of("nerfstudio.exporter.exporter_utils", "generate_point_cloud", "num_points")
        if isinstance(points, list) and len(points) >= FIRST_BATCHES and isinstance(total, int):
            found = sum(len(part) for part in points)
            if found == 0 or len(points) * total / found > MOST_BATCHES:
                with exit_on_peak_error():
                    raise PeakError(
                        f"ns-export: the rays of {len(points)} batches have met {found} points (an opacity above 0.5,"
                        " within the box if there is one); train longer, or give a wider --obb-scale"
                    )
        return draw(step)

    datamanager.next_train = next_train


def _guard(
    module: ModuleType, name: str, problem: str, remedy: str, mend: Callable[[Any, Any], None] | None = None
) -> None:
    """Let a function of nerfstudio's end in one line where it fails; `mend` gets what it returns, and the command."""
    function = getattr(module, name)
    function = getattr(function, "__wrapped__", function)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with exit_on_peak_error():
            try:
                result = function(*args, **kwargs)
            except Exception as error:  # of open3d, pymeshlab, xatlas, skimage and torch
                raise PeakError(f"ns-export: {problem} ({first_line(error)}); {remedy}") from error
            if mend is not None:
                mend(result, local_of(MODULE, "main", "self"))
            return result

    setattr(module, name, guarded)


def _check_cloud(cloud: Any, command: Any) -> None:
    """Raises: PeakError when a surface wants more points. In the world's coordinates they are written as float64: for
    those of maps float32 has too few digits."""
    n = len(cloud.points)
    if type(command).__name__ == "ExportPoissonMesh" and n < FEWEST_POINTS:
        raise PeakError(f"ns-export poisson: {n} points make no surface; give more --num-points")
    if n == 0:
        raise PeakError("ns-export pointcloud: no point is left; give more --num-points or a larger --std-ratio")
    if getattr(command, "save_world_frame", False):
        _write_all_digits()


def _write_all_digits() -> None:
    import open3d

    cloud: Any = open3d.t.geometry.PointCloud
    convert = getattr(cloud.from_legacy, "func", cloud.from_legacy)
    cloud.from_legacy = functools.partial(convert, dtype=open3d.core.Dtype.Float64)


def _see_through(images: Any, _: Any) -> None:
    """Depth images, beside RGBA images (h, w, 4): beyond everything where these are more than half transparent."""
    for rgba, depth in zip(*images, strict=True):
        depth[rgba[..., 3] < 0.5] = FAR_AWAY


def _check_mesh(mesh: Any, command: Any) -> None:
    if len(mesh.faces) == 0 or not bool(torch.isfinite(mesh.vertices).all()):
        raise PeakError("ns-export: the mesh has no faces; train longer, or give more --num-points or --resolution")


def _say_how_long(command: Any, other: str) -> None:
    if (command.target_num_faces or math.inf) > FACES or command.num_pixels_per_side > PIXELS:
        CONSOLE.print(
            f"ns-export: without a GPU the texture takes long; --target-num-faces {FACES} --num-pixels-per-side"
            f" {PIXELS} make it smaller, --texture-method {other} leaves it out",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
