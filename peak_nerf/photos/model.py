"""What `peak photos` knows of a capture: its pictures, and cameras and points as numpy arrays.

# c2w: camera-to-world, x right, y up, z backward (OpenGL); world: the coordinates of transforms.json, z up
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

State = Literal["used", "left out"]


@dataclass
class Photo:
    """One picture of the source, and what became of it."""

    name: str
    """As the user knows it: its path within the source, or the time of a video's frame."""
    file: str | None = None
    """Its upright copy, relative to the scene's folder: images/NAME.jpg or .png. None where none was made."""
    mask: str | None = None
    """Its mask's copy, relative to the scene's folder: masks/NAME.png."""
    size: tuple[int, int] = (0, 0)
    """Width and height of the copy, in pixels."""
    sharpness: float = 0.0
    """See `images.sharpness`; comparable between the pictures of one capture."""
    camera: str = ""
    """Pictures with the same text were taken by one camera with one focal length, as far as EXIF tells."""
    digest: str = ""
    """Of the copy's pixels: the order in which poses are computed does not depend on names."""
    state: State = "used"
    reason: str = ""
    """Why it was left out, such as "too blurred"."""
    converted: str = ""
    """What was converted when it was read, such as "CMYK" or "16 bits"."""


@dataclass(frozen=True)
class Intrinsics:
    """A camera with radial and tangential distortion, in pixels of the copies."""

    width: int
    height: int
    parameters: Mapping[str, float]
    """As transforms.json calls them: fl_x, fl_y, cx, cy, and k1, k2, p1, p2 (k1 to k4 for a fisheye)."""
    model: Literal["OPENCV", "OPENCV_FISHEYE"] = "OPENCV"


@dataclass(frozen=True)
class SparseModel:
    """Posed pictures and the sparse points that they saw."""

    files: tuple[str, ...]
    """(n_image) the copies that have a pose, as `Photo.file`, in the order of their names."""
    poses: np.ndarray
    """(n_image, 4, 4) float64, c2w."""
    intrinsics: tuple[Intrinsics, ...]
    """(n_image); pictures of one camera have equal ones."""
    points: np.ndarray
    """(n_point, 3) float64, world."""
    colors: np.ndarray
    """(n_point, 3) uint8."""
    errors: np.ndarray
    """(n_point,) float32: mean reprojection error in pixels of the copies."""
    image_index: np.ndarray
    """(n_observation,) int32 into `files`: which picture saw the point."""
    point_index: np.ndarray
    """(n_observation,) int32 into `points`: which point it saw; sorted."""
    pixels: np.ndarray
    """(n_observation, 2) float32: where, as (x, y) in pixels; the centre of the upper left pixel is (0.5, 0.5)."""
    pixel_errors: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """(n_observation,) float32: distance in pixels from there to the point's projection."""

    @property
    def track_lengths(self) -> np.ndarray:
        """(n_point,) how many pictures saw each point."""
        return np.bincount(self.point_index, minlength=len(self.points))
