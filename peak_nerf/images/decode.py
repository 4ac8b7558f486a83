"""What `read` and `photo` have in common: bytes of a file, and the pixels that Pillow cannot give or not exactly."""

from __future__ import annotations

import io
import os
import re
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
LINEAR = (b"v/1\x01", b"#?RADIANCE", b"#?RGBE")
"""How OpenEXR and Radiance files begin: floats, proportional to light."""
_DATA_WINDOW = b"dataWindow\0box2i\0\x10\0\0\0"
ORIENTATION = 274  # TIFF and EXIF tag
_JPEG_XL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


class MissingPackage(PeakError):
    """A format that needs a package: no picture of it can be read."""


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


def register_openers(path: Path, data: bytes) -> None:
    """Teach Pillow the format of this file where a package of its own reads it: HEIC or JPEG XL.

    Raises: MissingPackage when the package is not installed.
    """
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)] if data[4:8] == b"ftyp" else b""
    if any(brand in brands for brand in _HEIF) and not any(brand in brands for brand in (b"avif", b"avis")):
        try:
            import pillow_heif
        except ImportError:
            raise MissingPackage(f"{path}: HEIC needs a package; pip install pillow-heif") from None
        pillow_heif.register_heif_opener()
    if data.startswith(_JPEG_XL):
        try:
            import pillow_jxl  # noqa: F401  # registers itself
        except ImportError:
            raise MissingPackage(f"{path}: JPEG XL needs a package; pip install pillow-jxl-plugin") from None


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


def decode_linear(path: Path, data: bytes, check_size: Callable[[Path, int, int], None]) -> tuple[np.ndarray, bool]:
    """An OpenEXR or Radiance picture as sRGB in [0, 1], (h, w) or (h, w, 3 or 4), and whether it had values above 1.

    sRGB of linear l: 12.92 l up to 0.0031308, beyond it 1.055 l^(1 / 2.4) - 0.055; what is above 1 is cut off. Alpha is
    linear, and colours come multiplied by it, as OpenEXR has them; they are divided by it first.

    Args:
        path: for messages.
        data: the file.
        check_size: called with path, height and width before anything is decoded, of OpenEXR; raises what it likes.

    Source: IEC 61966-2-1.
    Raises: PeakError when this OpenCV has no reader of it; anything when it is damaged.
    """
    start = data.find(_DATA_WINDOW)
    if start >= 0:  # OpenCV would make room for the picture first
        left, top, right, bottom = np.frombuffer(data, "<i4", 4, start + len(_DATA_WINDOW)).tolist()
        check_size(path, bottom - top + 1, right - left + 1)
    import cv2

    if start >= 0 and re.search(r"OpenEXR:\s+NO\b", cv2.getBuildInformation()):
        raise PeakError(f"{path}: OpenEXR needs an OpenCV that reads it; pip install opencv-python-headless")
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # OpenCV asks for it, and only when it reads the first
    array = decode_with_opencv(data).astype(np.float32)
    colours, alpha = (array[..., :3], array[..., 3:]) if array.ndim == 3 and array.shape[2] == 4 else (array, None)
    if alpha is not None:
        alpha = alpha.clip(0, 1)
        colours = np.where(alpha > 0, colours / np.maximum(alpha, np.finfo(np.float32).tiny), 0)
    if np.isnan(colours).any():
        raise OSError("it holds NaN")
    light = colours.clip(0, 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
    return srgb if alpha is None else np.concatenate((srgb, alpha), axis=2), bool((colours > 1).any())


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
