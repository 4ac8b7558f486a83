"""Pictures from files, and back to files.

A `Picture` says for each pixel whether the file knows it: alpha 0, NaN and infinity mean that it does not.
What a user can get wrong in a picture file is raised here as a one-line `PeakError`.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from peak_nerf.errors import PeakError, first_line
from peak_nerf.images.decode import (
    FORMATS,
    ORIENTATION,
    TIFF,
    decode_tiff,
    decode_with_opencv,
    is_deep_colour,
    read_bytes,
    upright,
)
from peak_nerf.system.files import write_atomically

MAX_PIXELS = 12_000_000
MIN_SIDE = 8

_NPY = b"\x93NUMPY"
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
    """The picture in a PNG, JPEG, TIFF, BMP, WebP or .npy file, upright as its EXIF orientation says.

    8 and 16 bits a channel are read exactly and divided by 255 or 65535; floats must be in [0, 1] already. A .npy holds
    (h, w) or (h, w, c) with c 1 to 4: grey, grey + alpha, RGB, RGBA; bool, uint8, uint16 or float.
    A grey palette gives one channel.

    Raises: PeakError when there is no such file, it cannot be read whole, holds more than one picture, another colour
        space than grey or RGB, or values out of range, or is smaller than `MIN_SIDE` or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on large or odd files: what matters is checked below
            array, transparent = _decode(path, data)
    except PeakError:
        raise
    except Exception as error:  # decoders raise anything on a damaged file
        raise PeakError(
            f"{path}: cannot be read ({first_line(error)}); the file is damaged or cut short, copy it again"
        ) from error
    return _to_picture(path, array, transparent)


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
    write_atomically(Path(path), lambda file: image.save(file, format="PNG"))


# ------------------------------------------------------------------------------------------------------ decoding


def _decode(path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """(h, w) or (h, w, c) numbers as the file has them, and which pixels a colour key makes transparent."""
    if data.startswith(_NPY):
        return _decode_npy(path, data), None
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise PeakError(_too_large(path, "")) from None
    except UnidentifiedImageError:
        if data.startswith(TIFF):  # floats in colour, float64: Pillow does not know them
            return decode_tiff(path, data, _check_size, single=True), None
        raise PeakError(f"{path}: not a picture that can be read; convert it to {FORMATS}") from None
    with image:
        _check_size(path, image.height, image.width)
        n_frames = getattr(image, "n_frames", 1)
        if n_frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with its preview
            raise PeakError(f"{path}: holds {n_frames} pictures; save the one you mean in a file of its own")
        if image.mode in ("CMYK", "LAB", "HSV", "I"):
            what = "32-bit integers, whose range nobody knows" if image.mode == "I" else f"{image.mode} colours"
            raise PeakError(f"{path}: holds {what}; convert it to 8- or 16-bit grey or RGB first")
        deep = is_deep_colour(image)
        orientation = image.getexif().get(ORIENTATION, 1)
        if deep and image.format == "TIFF":
            return decode_tiff(path, data, _check_size, single=True), None
        image.load()  # also finds a file cut short, which OpenCV would let pass
        if deep:
            return upright(decode_with_opencv(data), orientation), None
        return _pillow_array(ImageOps.exif_transpose(image))


def _pillow_array(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    key = image.info.get("transparency")
    if image.mode in ("P", "PA"):
        array = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
        if (array[..., :1] == array[..., 1:3]).all():
            array = np.delete(array, (1, 2), axis=2)
        return array, None
    if image.mode == "1":
        return np.asarray(image), None
    if image.mode in ("L", "RGB") or image.mode.startswith("I;16"):
        array = np.asarray(image)
        if array.dtype.itemsize == 2:
            array = array.astype(np.uint16)  # native byte order
        if key is None or isinstance(key, bytes):
            return array, None
        same = array == np.asarray(key)
        return array, same if array.ndim == 2 else same.all(axis=-1)
    if image.mode == "F":
        return np.asarray(image), None
    return np.asarray(
        image.convert({"La": "LA", "LA": "LA", "RGBA": "RGBA", "RGBa": "RGBA"}.get(image.mode, "RGB"))
    ), None


def _decode_npy(path: Path, data: bytes) -> np.ndarray:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4):
        raise PeakError(f"{path}: has shape {array.shape}; a picture is (h, w) or (h, w, c) with c from 1 to 4")
    return array


def _check_size(path: Path, h: int, w: int) -> None:
    if h * w > MAX_PIXELS:
        raise PeakError(_too_large(path, f" ({w} x {h})"))
    if min(h, w) < MIN_SIDE:
        raise PeakError(f"{path}: is {w} x {h} pixels; {MIN_SIDE} a side is the least, choose a larger picture")


def _too_large(path: Path, size: str) -> str:
    return f"{path}: has more than {MAX_PIXELS // 10**6} megapixels{size}; scale it down first"


def _to_picture(path: Path, array: np.ndarray, transparent: np.ndarray | None) -> Picture:
    """Scale to [0, 1], split off alpha, and zero what is not observed."""
    if array.ndim == 2:
        array = array[..., None]
    _check_size(path, *array.shape[:2])
    if array.shape[2] > 4:
        raise PeakError(f"{path}: has {array.shape[2]} channels; save it as grey or RGB")
    if array.dtype == np.bool_:
        scale = 1.0
    elif array.dtype in (np.uint8, np.uint16):
        scale = float(np.iinfo(array.dtype).max)
    elif np.issubdtype(array.dtype, np.floating):
        scale = 1.0
    else:
        raise PeakError(f"{path}: holds {array.dtype} numbers; save uint8, uint16, or floats in [0, 1]")
    numbers = array.astype(np.float64) / scale
    colours, alpha = (numbers[..., :-1], numbers[..., -1]) if array.shape[2] in (2, 4) else (numbers, None)
    observed = np.isfinite(colours).all(axis=2)
    if alpha is not None:
        observed &= np.isfinite(alpha) & (alpha > 0)
    if transparent is not None:
        observed &= ~transparent
    values = np.where(observed[..., None], colours, 0.0)
    low, high = float(values.min()), float(values.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise PeakError(
            f"{path}: values from {low:.6g} to {high:.6g}; floats must be in [0, 1], divide by their maximum"
        )
    return Picture(np.ascontiguousarray(np.clip(values, 0, 1), dtype=np.float32), observed)
