"""LLFF's `poses_bounds.npy`, read into what a transforms.json says; and which of an LLFF folder's pictures are read.

Format: a row of 17 for each picture, in order of the pictures' names. The first 15 are a 3 x 5 matrix with columns
(down, right, back, position, (h, w, f)); h, w and f are in pixels of the full-size pictures. The last two are the
depths near and far, along the optical axis, between which the picture's sparse points lie.

Source: Mildenhall et al., SIGGRAPH 2019, and the README of its code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.errors import PeakError, first_line
from peak_nerf.images.photo import is_picture_name
from peak_nerf.nerf.data.scene_box import FORWARD
from peak_nerf.nerf.data.scene_pictures import look_at

NAME = "poses_bounds.npy"
LONGER_SIDE = (500, 1000)
"""Pixels of the pictures that are read when no factor is given, or as near to that as there are."""
ROTATION_TOLERANCE = 1e-2
UNREADABLE = {
    "Object arrays": "it holds Python objects",
    "the magic string": "it is no .npy file",
    "EOF": "it is truncated",
    "cannot reshape": "it is truncated",
}
"""What numpy's refusals mean, by how they begin."""


def picture_folder(folder: Path, factor: int | None, say: Callable[[str], None]) -> Path:
    """The folder of the pictures that are read: `images`, or `images_N` for a factor of N.

    factor: None takes the folder whose pictures' longer side is nearest, in ratio, to `LONGER_SIDE`; of several, that
        of the smallest factor; says which.
    Raises: PeakError when there are no pictures, or none by that factor.
    """
    found = picture_folders(folder)
    if not found:
        raise PeakError(f"{folder}: {NAME} has no pictures beside it; put them into images, or images_4, images_8, ...")
    if factor is not None:
        if factor not in found:
            names = ", ".join(path.name for path in found.values())
            raise PeakError(
                f"{folder}: no pictures in {_folder_name(factor)}, which --downscale-factor {factor} reads; there "
                f"{'is' if len(found) == 1 else 'are'} {names}: use --downscale-factor {' or '.join(map(str, found))}"
            )
        return found[factor]
    sizes = {n: look_at(pictures(path)[:1])[0].upright for n, path in found.items()}
    low, high = LONGER_SIDE
    factor = min(sizes, key=lambda n: max(low / max(sizes[n]), max(sizes[n]) / high, 1.0))
    width, height = sizes[factor]
    say(f"{folder}: LLFF scene, pictures of {found[factor].name}, {width}x{height} (--downscale-factor {factor})")
    return found[factor]


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of the rows: that of their names."""
    return sorted(path for path in folder.iterdir() if is_picture_name(path) and path.is_file())


def read_poses_bounds(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Camera-to-world matrices (n, 4, 4), OpenGL axes; sizes and focal lengths (n, 3) as h, w, f; bounds (n, 2).

    All float64, in the file's own world and unit of length.
    Raises: PeakError when the file is no such array.
    """
    try:
        with path.open("rb") as file:
            rows = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # numpy raises anything on a header that it cannot parse
        reason = first_line(error)
        reason = next((meaning for start, meaning in UNREADABLE.items() if reason.startswith(start)), reason)
        raise PeakError(
            f"{path}: cannot be read ({reason}); copy it again, or write it by np.save as float64"
        ) from error
    if rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] != 17:
        raise PeakError(
            f"{path}: has shape {rows.shape} of {rows.dtype}; LLFF's has 17 numbers for each picture, shape (n, 17)"
        )
    if len(rows) == 0:
        raise PeakError(f"{path}: has no rows; it needs one for each picture")
    rows = rows.astype(np.float64)
    matrix, bounds = rows[:, :15].reshape(-1, 3, 5), rows[:, 15:]
    down, right, back, position, size = np.moveaxis(matrix, 2, 0)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = np.stack([right, -down, back, position], axis=2)
    rotation = poses[:, :3, :3]
    with np.errstate(invalid="ignore"):
        off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
        _refuse(path, ~np.isfinite(rows).all(1), "has NaN or infinity; remove the row and its picture")
        handed = np.linalg.det(rotation) > 0
    _refuse(
        path,
        (off > ROTATION_TOLERANCE) | ~handed,
        "is no rotation by the axes down, right, back; write it again by LLFF's imgs2poses",
    )
    _refuse(path, (size <= 0).any(1), "has no height, width and focal length above 0; correct its columns 5, 10, 15")
    near, far = bounds.T
    _refuse(path, (near <= 0) | (far <= near), "lacks depths 0 < near < far; correct its last two columns")
    return poses, size, bounds


def transforms(path: Path, folder: Path) -> dict[str, Any]:
    """What a transforms.json would say of the file at `path` and the pictures in `folder` beside it.

    Each frame also has `near` and `far`. Cameras that face forward are turned into the axes of their mean, as NeRF's
    loader does, so that a box along the axes is one along what they see; `applied_transform` says how.
    Raises: PeakError as `read_poses_bounds` does, and when there are not as many pictures as rows.
    """
    poses, sizes, bounds = read_poses_bounds(path)
    files = pictures(folder)
    if len(files) != len(poses):
        raise PeakError(
            f"{path}: has {len(poses)} rows but {folder.name} has {len(files)} pictures; they belong together in order "
            f"of name, so add or remove what is missing or too many"
        )
    applied = np.eye(4)
    applied[:3, :3] = mean_axes(poses).T
    frames = []
    for file, pose, (h, w, f), (near, far) in zip(files, applied @ poses, sizes.tolist(), bounds.tolist(), strict=True):
        intrinsics = {"w": w, "h": h, "fl_x": f, "fl_y": f}
        name = f"{folder.name}/{file.name}"
        frames.append({"file_path": name, "transform_matrix": pose, **intrinsics, "near": near, "far": far})
    return {"applied_transform": applied[:3], "frames": frames}


def mean_axes(poses: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) with the mean right, up and back of cameras (n, 4, 4) as columns; the identity where they do not
    face one way."""
    up, back = poses[:, :3, 1].mean(0), poses[:, :3, 2].mean(0)
    right = np.cross(up, back)
    if np.linalg.norm(back) < FORWARD or np.linalg.norm(right) < 1e-3:
        return np.eye(3)
    back, right = back / np.linalg.norm(back), right / np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], axis=1)


def picture_folders(folder: Path) -> dict[int, Path]:
    """By factor; a name such as images_1008x756 is none of them."""
    found = {}
    for path in folder.iterdir():
        match = re.fullmatch(r"images(?:_([1-9]\d*))?", path.name)
        if match and path.is_dir() and pictures(path):
            found[int(match[1] or 1)] = path
    return dict(sorted(found.items()))


def _folder_name(factor: int) -> str:
    return "images" if factor == 1 else f"images_{factor}"


def _refuse(path: Path, wrong: np.ndarray, problem: str) -> None:
    if wrong.any():
        raise PeakError(f"{path}: row {int(wrong.argmax())} (counted from 0) {problem}")
