"""`observations.npz`: which picture saw which sparse point where; described in docs/photos.md."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from peak_nerf.errors import PeakError, first_line
from peak_nerf.system.files import write_atomically

FORMAT_VERSION = 1
LARGEST = 1 << 29
"""Bytes of all arrays; ten million observations have 280 MiB."""


@dataclass(frozen=True)
class Observations:
    """Sparse points and where they were seen; coordinates and units are those of transforms.json."""

    image_names: np.ndarray
    """(n_image,) str: `file_path` of the frames of transforms.json, in their order."""
    points: np.ndarray
    """(n_point, 3) float64."""
    colors: np.ndarray
    """(n_point, 3) uint8."""
    errors: np.ndarray
    """(n_point,) float32: mean reprojection error in pixels."""
    image_index: np.ndarray
    """(n_observation,) int32 into `image_names`."""
    point_index: np.ndarray
    """(n_observation,) int32 into `points`; ascending."""
    pixels: np.ndarray
    """(n_observation, 2) float32: (x, y) in pixels of images/; the centre of the upper left pixel is (0.5, 0.5)."""
    pixel_errors: np.ndarray
    """(n_observation,) float32: distance in pixels from there to the point's projection."""
    depths: np.ndarray
    """(n_observation,) float32: of the point along the camera's optical axis."""


_SHAPES = {
    "image_names": (("image",), "U"),
    "points": (("point", 3), "f"),
    "colors": (("point", 3), "u"),
    "errors": (("point",), "f"),
    "image_index": (("observation",), "i"),
    "point_index": (("observation",), "i"),
    "pixels": (("observation", 2), "f"),
    "pixel_errors": (("observation",), "f"),
    "depths": (("observation",), "f"),
}


def write_observations(path: Path, observations: Observations) -> None:
    """Whole or not at all. Raises: ValueError when they contradict themselves; PeakError when the disk is full."""
    arrays = {field.name: getattr(observations, field.name) for field in fields(Observations)}
    problem = _problem(arrays)
    if problem:
        raise ValueError(problem)
    write_atomically(path, lambda file: np.savez_compressed(file, format_version=np.int32(FORMAT_VERSION), **arrays))


def read_observations(path: Path, again: str = "run `peak photos` again") -> Observations:
    """Raises: PeakError when there is no such file, or it is broken, of a newer format, or contradicts itself; then
    `again` says what to do."""
    if not path.is_file():
        raise PeakError(f"{path}: no such file; {again}")
    try:
        # Opened here: np.load leaves a broken file open.
        with path.open("rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:  # type: ignore[arg-type]
            unpacked = sum(member.file_size for member in file.zip.infolist())
            if unpacked > LARGEST:
                raise ValueError(f"it would unpack to {unpacked / 2**30:.1f} GiB")
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # of zip files, their compressions and numpy's headers; MemoryError of a false header
        raise PeakError(f"{path}: cannot be read ({first_line(error)}); {again}") from error
    version = arrays.pop("format_version", None)
    if version is None or version.shape != () or version.dtype.kind != "i" or version != FORMAT_VERSION:
        raise PeakError(f"{path}: format_version is not {FORMAT_VERSION}; update peak_nerf, or {again}")
    missing = sorted(_SHAPES.keys() - arrays.keys())
    if missing:
        raise PeakError(f"{path}: has no array {missing[0]}; {again}")
    problem = _problem(arrays)
    if problem:
        raise PeakError(f"{path}: {problem}; {again}")
    return Observations(**{name: arrays[name] for name in _SHAPES})


def _problem(arrays: dict[str, np.ndarray]) -> str:
    """What is wrong with the arrays, or nothing."""
    lengths: dict[str, int] = {}
    for name, (shape, kind) in _SHAPES.items():
        array = arrays[name]
        if array.dtype.kind != kind or array.ndim != len(shape) or array.shape[1:] != shape[1:]:
            return f"{name} is {array.dtype} of shape {array.shape}"
        what = str(shape[0])
        if lengths.setdefault(what, len(array)) != len(array):
            return f"{name} has {len(array)} rows where others have {lengths[what]}"
        if kind == "f" and not np.isfinite(array).all():
            return f"{name} has values that are not finite"
    for name, what in (("image_index", "image"), ("point_index", "point")):
        index = arrays[name]
        if len(index) and (index.min() < 0 or index.max() >= lengths[what]):
            return f"{name} points outside of the {lengths[what]} {what}s"
    if (np.diff(arrays["point_index"]) < 0).any():
        return "point_index does not ascend"
    return ""
