"""Pictures from files, and back to files.

A `Picture` says for each pixel whether the file knows it: alpha 0, NaN and infinity mean that it does not.
What a user can get wrong in a picture file is raised here as a one-line `PeakError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.images.original import MIN_SIDE, Original, read_original
from peak_nerf.system.files import write_atomically

__all__ = ["MAX_PIXELS", "MIN_SIDE", "Picture", "read_picture", "to_picture", "write_png"]

MAX_PIXELS = 12_000_000
"""Of what is fitted as a whole. A file may hold more."""
LARGE = 2**22
"""Numbers of a picture that is written with less compression."""
# Floats this far outside [0, 1] are rounding, not another range.
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Picture:
    """Grey or RGB values and where they are known."""

    values: np.ndarray
    """(h, w, c) float32 in [0, 1], c 1 or 3; 0 where not observed."""
    observed: np.ndarray
    """(h, w) bool, False where the file says nothing: alpha 0, NaN or infinite pixels."""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[2] not in (1, 3) or self.observed.shape != self.values.shape[:2]:
            raise ValueError(
                f"values are (h, w, 1 or 3), observed (h, w); got {self.values.shape, self.observed.shape}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def n_channels(self) -> int:
        """1 or 3."""
        return self.values.shape[2]


def read_picture(path: str | Path) -> Picture:
    """The picture in a file that `read_original` reads, as numbers in [0, 1].

    8 and 16 bits a channel are divided by 255 or 65535; floats must be in [0, 1] already.

    Raises: PeakError as `read_original`, and on values out of range.
    """
    return to_picture(path, read_original(path))


def to_picture(path: str | Path, original: Original) -> Picture:
    """Scaled to [0, 1], without alpha, and 0 where not observed.

    Args:
        path: for messages.
        original: what is in the file.

    Raises: PeakError on values out of range.
    """
    colours, alpha = original.colours, original.alpha
    observed = np.isfinite(colours).all(axis=2)
    if alpha is not None:
        observed &= np.isfinite(alpha) & (alpha > 0)
    values = colours.astype(np.float32)
    values /= np.float32(original.most)
    values[~observed] = 0
    low, high = float(values.min()), float(values.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise PeakError(
            f"{path}: values from {low:.6g} to {high:.6g}; floats must be in [0, 1], divide by their maximum"
        )
    return Picture(np.clip(values, 0, 1, out=values), observed)


def write_png(path: str | Path, values: np.ndarray) -> None:
    """Write (h, w), (h, w, 1) or (h, w, 3) floats, clipped to [0, 1], as an 8-bit PNG that is whole or not there.

    Raises: PeakError when the file cannot be written; ValueError on another shape or NaN.
    """
    array = np.asarray(values)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"values must be (h, w), (h, w, 1) or (h, w, 3), got {np.shape(values)}")
    if np.isnan(array).any():
        raise ValueError("values hold NaN")
    image = Image.fromarray(np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8))
    level = 6 if array.size < LARGE else 3  # a large one takes seconds
    write_atomically(Path(path), lambda file: image.save(file, format="PNG", compress_level=level))
