"""The scene's files that say where its cameras and points are: transforms.json, sparse_pc.ply, observations.npz."""

from __future__ import annotations

import glob
import io
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.observations import Observations, write_observations
from peak_nerf.photos.model import Intrinsics, Photo, SparseModel
from peak_nerf.photos.projection import observed_errors, observed_projections
from peak_nerf.system.files import write_atomically
from peak_nerf.system.record import write_json

POINT_CLOUD = "sparse_pc.ply"
ROUNDED = 1e-5
"""Of the extent of the points: by more they are not to be rounded."""


def write_scene(folder: Path, model: SparseModel, photos: list[Photo], applied_transform: np.ndarray) -> None:
    """Write transforms.json, sparse_pc.ply and observations.npz, and white masks where only some pictures have one.

    applied_transform: (3, 4), from the coordinates of sparse/0 to those of `model`.
    Each file is whole or not there; transforms.json, by which a folder is a scene, is written last.

    Raises: PeakError when lenses of two kinds are in one scene, or a file cannot be written.
    """
    model = _in_order_of_names(model)
    masks = _masks(folder, model, photos)
    _write_point_cloud(folder / POINT_CLOUD, model)
    write_observations(folder / "observations.npz", _observations(model))
    write_json(folder / "transforms.json", _transforms(model, masks, applied_transform))


def _observations(model: SparseModel) -> Observations:
    """Without those of points that lie behind their camera, as other tools' models may have."""
    errors, (_, depths) = observed_errors(model), observed_projections(model)
    kept = np.isfinite(errors)
    return Observations(
        image_names=np.array(model.files, dtype=np.str_),
        points=np.asarray(model.points, dtype=np.float64),
        colors=np.asarray(model.colors, dtype=np.uint8),
        errors=np.asarray(model.errors, dtype=np.float32),
        image_index=np.asarray(model.image_index[kept], dtype=np.int32),
        point_index=np.asarray(model.point_index[kept], dtype=np.int32),
        pixels=np.asarray(model.pixels[kept], dtype=np.float32),
        pixel_errors=np.asarray(errors[kept], dtype=np.float32),
        depths=depths[kept].astype(np.float32),
    )


def _in_order_of_names(model: SparseModel) -> SparseModel:
    """nerfstudio reads frames in the order of their paths: then an index means the same in every file."""
    order = sorted(range(len(model.files)), key=lambda i: PurePosixPath(model.files[i]))
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order))
    return SparseModel(
        files=tuple(model.files[i] for i in order),
        poses=model.poses[order],
        intrinsics=tuple(model.intrinsics[i] for i in order),
        points=model.points,
        colors=model.colors,
        errors=model.errors,
        image_index=place[model.image_index],
        point_index=model.point_index,
        pixels=model.pixels,
        pixel_errors=model.pixel_errors,
    )


def _transforms(model: SparseModel, masks: dict[str, str], applied_transform: np.ndarray) -> dict[str, Any]:
    kinds = {intrinsics.model for intrinsics in model.intrinsics}
    if len(kinds) != 1:
        raise PeakError(
            f"{model.files[0]} and others: pictures of ordinary and of fisheye lenses, which a nerfstudio scene cannot "
            "hold together; give those of one kind"
        )
    values = [_intrinsic_values(intrinsics) for intrinsics in model.intrinsics]
    shared = all(value == values[0] for value in values)
    frames = []
    for name, pose, own in zip(model.files, model.poses, values, strict=True):
        frame: dict[str, Any] = {"file_path": name}
        if name in masks:
            frame["mask_path"] = masks[name]
        # All of them or none: nerfstudio does not look into frames for a value that the file itself has.
        frame |= {} if shared else own
        frames.append(frame | {"transform_matrix": np.asarray(pose, dtype=np.float64).tolist()})
    return {
        "camera_model": kinds.pop(),
        **(values[0] if shared else {}),
        "applied_transform": np.asarray(applied_transform, dtype=np.float64).tolist(),
        "ply_file_path": POINT_CLOUD,
        "frames": frames,
    }


def _intrinsic_values(intrinsics: Intrinsics) -> dict[str, float]:
    distortion = ("k1", "k2", "k3", "k4") if intrinsics.model == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2")
    parameters = intrinsics.parameters
    unknown = sorted(parameters.keys() - {"fl_x", "fl_y", "cx", "cy", *distortion})
    if unknown:
        raise ValueError(f"{intrinsics.model} has no parameter {unknown[0]}")
    return {
        "w": intrinsics.width,
        "h": intrinsics.height,
        **{name: float(parameters[name]) for name in ("fl_x", "fl_y", "cx", "cy")},
        **{name: float(parameters.get(name, 0.0)) for name in distortion},
    }


def _write_point_cloud(path: Path, model: SparseModel) -> None:
    """As binary little-endian PLY, which Open3D reads; transforms.json's coordinates in float32, or in float64 where
    the former has too few digits, as for map coordinates."""
    extent = np.ptp(model.points, axis=0).max(initial=0.0) if len(model.points) else 0.0
    few = len(model.points) and np.spacing(np.float32(np.abs(model.points).max())) > ROUNDED * extent
    kind, number = ("double", "<f8") if few else ("float", "<f4")
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(model.points)}\n"
        f"property {kind} x\nproperty {kind} y\nproperty {kind} z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    )
    rows = np.zeros(len(model.points), dtype=[("xyz", number, 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = model.points, model.colors
    write_atomically(path, lambda file: file.write(header.encode() + rows.tobytes()))


def _masks(folder: Path, model: SparseModel, photos: list[Photo]) -> dict[str, str]:
    """Of each posed picture; where only some have one, white ones are written for the others: nerfstudio wants masks
    for all frames or for none."""
    masks = {photo.file: photo.mask for photo in photos if photo.file in model.files and photo.mask}
    if not masks:
        return {}
    taken = set(masks.values())
    for name, intrinsics in zip(model.files, model.intrinsics, strict=True):
        if name in masks:
            continue
        path = PurePosixPath(name)
        mask = f"masks/{path.stem}.png"
        while mask in taken:
            mask = f"{mask.removesuffix('.png')}_.png"
        _write_white(folder / mask, (intrinsics.width, intrinsics.height))
        # Also for --downscale-factor N, which reads images_N/ and masks_N/.
        for smaller in folder.glob(f"images_*/{glob.escape(path.name)}"):
            with Image.open(smaller) as picture:
                factor = smaller.parent.name.removeprefix("images_")
                _write_white(folder / f"masks_{factor}" / PurePosixPath(mask).name, picture.size)
        taken.add(mask)
        masks[name] = mask
    return masks


def _write_white(path: Path, size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("L", size, 255).save(buffer, format="PNG")
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
