"""pycolmap's Reconstruction as our `SparseModel`, in nerfstudio's axes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.colmap import FISHEYE, OURS, PERSPECTIVE, Z_UP, pose_of, sightings
from peak_nerf.photos.model import Intrinsics, SparseModel

BEHIND = 1e3
"""Error in pixels of a point that lies behind a camera by which it was seen."""


def intrinsics_of(camera: Any, source: Path) -> Intrinsics:
    """What transforms.json says of a COLMAP camera. Raises: PeakError on a lens that nerfstudio does not have."""
    names = {**PERSPECTIVE, **FISHEYE}.get(camera.model_name)
    if names is None:
        instead = f"or use one of {', '.join((*PERSPECTIVE, *FISHEYE))}"
        if camera.model_name in OURS:
            instead = "or train on the model as it is: ns-train peak --data its folder"
        raise PeakError(
            f"{source}: camera model {camera.model_name} is not one that nerfstudio has; undistort the model first "
            f"(colmap image_undistorter), {instead}"
        )
    given = dict(zip(names.split(), (float(value) for value in camera.params), strict=True))
    f = given.pop("f", None)
    parameters = {"fl_x": given.pop("fx", f), "fl_y": given.pop("fy", f), **given}
    distortion = ("k1", "k2", "k3", "k4") if camera.model_name in FISHEYE else ("k1", "k2", "p1", "p2")
    model = "OPENCV_FISHEYE" if camera.model_name in FISHEYE else "OPENCV"
    complete = {**dict.fromkeys(distortion, 0.0), **{k: v for k, v in parameters.items() if v is not None}}
    return Intrinsics(camera.width, camera.height, complete, model)  # type: ignore[arg-type]


def scaled(intrinsics: Intrinsics, size: tuple[int, int]) -> Intrinsics:
    """The same lens for a copy of another size (w, h)."""
    x, y = size[0] / intrinsics.width, size[1] / intrinsics.height
    factors = {"fl_x": x, "cx": x, "fl_y": y, "cy": y}
    parameters = {name: value * factors.get(name, 1.0) for name, value in intrinsics.parameters.items()}
    return Intrinsics(*size, parameters, intrinsics.model)


def sparse_model(
    model: Any, source: Path, files: Mapping[str, str], sizes: Mapping[str, tuple[int, int]]
) -> SparseModel:
    """A reconstruction's posed images and points.

    Args:
        model: pycolmap's Reconstruction.
        source: what an error names.
        files: the copy of each image, by COLMAP's name for it; images without one are left out.
        sizes: width and height of the copies, by COLMAP's name.
    """
    images = [model.image(i) for i in model.reg_image_ids()]
    images = sorted((image for image in images if image.name in files), key=lambda image: files[image.name])
    lenses = [intrinsics_of(model.cameras[image.camera_id], source) for image in images]
    intrinsics = tuple(scaled(lens, sizes[image.name]) for lens, image in zip(lenses, images, strict=True))
    poses = np.stack([pose_of(image) for image in images])

    points = [point for _, point in sorted(model.points3D.items())]
    table = sightings(points, images)
    image_index = table[:, 1].astype(np.int32)
    ratio = np.array(
        [[i.width / lens.width, i.height / lens.height] for i, lens in zip(intrinsics, lenses, strict=True)]
    )
    seen, compact = np.unique(table[:, 0].astype(np.int64), return_inverse=True)
    points = [points[p] for p in seen]
    xyz = np.array([point.xyz for point in points], float).reshape(-1, 3)
    errors = _errors(model, images, points, compact, image_index, table[:, 2:])
    pixel_errors = (errors * ratio[image_index].mean(1)).astype(np.float32)
    counts = np.maximum(np.bincount(compact, minlength=len(points)), 1)
    return SparseModel(
        files=tuple(files[image.name] for image in images),
        poses=poses,
        intrinsics=intrinsics,
        points=xyz @ Z_UP[:, :3].T,
        colors=np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        errors=(np.bincount(compact, pixel_errors, len(points)) / counts).astype(np.float32),
        image_index=image_index,
        point_index=compact.astype(np.int32),
        pixels=(table[:, 2:] * ratio[image_index]).astype(np.float32),
        pixel_errors=pixel_errors,
    )


def _errors(
    model: Any, images: list[Any], points: list[Any], point_index: np.ndarray, image_index: np.ndarray, xy: np.ndarray
) -> np.ndarray:
    """(n_observation,) distance in pixels of COLMAP's images between an observation and its point's projection."""
    xyz = np.array([point.xyz for point in points], float).reshape(-1, 3)
    errors = np.zeros(len(xy))
    for i, image in enumerate(images):
        rows = np.flatnonzero(image_index == i)
        if len(rows):
            from_world = np.asarray(image.cam_from_world().matrix())
            local = xyz[point_index[rows]] @ from_world[:, :3].T + from_world[:, 3]
            projected = np.asarray(model.cameras[image.camera_id].img_from_cam(local))  # NaN behind the camera
            errors[rows] = np.linalg.norm(projected - xy[rows], axis=1)
    return np.where(np.isfinite(errors), errors, BEHIND)
