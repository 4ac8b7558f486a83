"""What `read` and `photo` have in common: bytes of a file, and the pixels that Pillow cannot give or not exactly."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.system.files import check_file

FORMATS = "PNG, JPEG, TIFF, BMP, WebP or .npy"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF file begins."""
ORIENTATION = 274  # TIFF and EXIF tag


def read_bytes(path: Path) -> bytes:
    """All of a file.

    Raises: PeakError when it is a folder, not there, unreadable or empty.
    """
    check_file(path, "name one picture in it" if os.path.isdir(path) else f"name a picture ({FORMATS})")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PeakError(f"{path}: cannot be read ({error.strerror}); check its permissions and its disk") from error
    if not data:
        raise PeakError(f"{path}: is empty (0 bytes); copy it again")
    return data


def is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would halve the depth of a picture: it has no mode for 16 bits a channel but for grey alone."""
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA", "RGBa"):
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,))) > 8  # type: ignore[attr-defined]
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))


def decode_with_opencv(data: bytes) -> np.ndarray:
    """(h, w) or (h, w, 3 or 4), RGB(A), in the depth of the file, not turned upright."""
    import cv2

    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise OSError("OpenCV cannot decode it")
    array = np.asarray(array)
    if array.ndim == 3:  # OpenCV's order is BGR(A)
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    return array


def decode_tiff(path: Path, data: bytes, check_size: Callable[[Path, int, int], None], single: bool) -> np.ndarray:
    """The first picture of a TIFF that Pillow cannot read, or not exactly: (h, w) or (h, w, c) numbers, upright.

    Args:
        path: for messages.
        data: the file.
        check_size: called with path, height and width before anything is decoded; raises what it likes.
        single: refuse a file with several pictures.

    Raises: PeakError when it holds several pictures or neither grey nor RGB; anything when the file is damaged.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if single and len(file.pages) > 1:
            raise PeakError(f"{path}: holds {len(file.pages)} pictures; save the one you mean in a file of its own")
        page: Any = file.pages.first
        check_size(path, page.imagelength, page.imagewidth)
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            raise PeakError(
                f"{path}: holds {page.photometric.name} values; convert it to 8- or 16-bit grey or RGB first"
            )
        orientation = page.tags.valueof(ORIENTATION, 1)
        try:
            array = page.asarray()
            if array.ndim == 3 and page.axes.startswith("S"):  # channels stored one after the other
                array = np.moveaxis(array, 0, -1)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            array = decode_with_opencv(data)  # has the compressions that tifffile leaves to another package
    return upright(array, orientation)


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF orientation: 2 mirrored, 3 turned by 180 degrees, 6 to be turned clockwise, ..."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return array[rows, columns]
