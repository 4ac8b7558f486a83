"""A picture as its file has it, to be written again as it was: depth, channels, alpha, colour profile, EXIF.

    original = read_original(path)
    write_original(folder / "copy", replace(original, pixels=changed))  # of `write`

Pixels that nobody changes come back bit-identical. What a file says beyond numbers is either kept or named in `notes`.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from peak_nerf.errors import PeakError, first_line
from peak_nerf.images.color_profile import to_srgb
from peak_nerf.images.decode import (
    FORMATS,
    ORIENTATION,
    TIFF,
    decode_tiff,
    decode_with_opencv,
    is_deep_colour,
    read_bytes,
    register_openers,
    upright,
)
from peak_nerf.system.record import memory_total

MIN_SIDE = 8
BYTES_PER_PIXEL = 80
"""What a picture takes while it is worked on: its numbers as they are, and four times as float32."""

LOSSY, BLEED = ("JPEG", "WEBP", "HEIF", "AVIF"), 2
"""Formats that halve the resolution of colour, and how far that blurs an edge."""

_NPY = b"\x93NUMPY"
_XCF = b"gimp xcf"
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
# Of a TIFF: description, make, model, software, date, artist, copyright. The rest says how its pixels are stored.
TIFF_TEXTS = (270, 271, 272, 305, 306, 315, 33432)
_LEFT_OUT = "EXIF beyond make, model, date and names left out of a TIFF of this depth"


@dataclass(frozen=True, eq=False)
class Original:
    """A picture and what its file says beside the numbers."""

    pixels: np.ndarray
    """(h, w, c) uint8, uint16 or float, upright; c 1 to 4: grey, grey + alpha, RGB, RGBA."""
    kind: str = "png"
    """What it is written as: png, tif, tiff or npy."""
    flat: bool = False
    """A .npy of shape (h, w)."""
    icc_profile: bytes | None = None
    """Of the pixels' colours."""
    exif: bytes = b""
    """As `PIL.Image.Image.save` takes it, its orientation 1."""
    dpi: tuple[float, float] | None = None
    """Resolution of the print."""
    notes: tuple[str, ...] = ()
    """What was converted or left out, such as "palette, as RGB"."""
    bleed: int = 0
    """Pixels that colour may have run beyond an edge, in a format that keeps it coarser than the pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def alpha(self) -> np.ndarray | None:
        """(h, w), or None for a picture without."""
        return self.pixels[..., -1] if self.pixels.shape[2] in (2, 4) else None

    @property
    def colours(self) -> np.ndarray:
        """(h, w, 1 or 3)."""
        return self.pixels if self.alpha is None else self.pixels[..., :-1]

    @property
    def most(self) -> float:
        """What white, and opaque, is: 255, 65535 or 1."""
        return float(np.iinfo(self.pixels.dtype).max) if self.pixels.dtype.kind == "u" else 1.0

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Floats in [0, 1] as numbers of this picture's depth, rounded and clipped."""
        scaled = np.clip(values, 0, 1) * self.most
        return (np.rint(scaled) if self.pixels.dtype.kind == "u" else scaled).astype(self.pixels.dtype)


def read_original(path: str | Path, convert: bool = False, first: bool = False) -> Original:
    """The picture in a PNG, JPEG, TIFF, BMP, WebP, HEIC or .npy file, upright as its EXIF orientation says.

    A .npy holds (h, w) or (h, w, c) with c 1 to 4; bool, uint8, uint16 or float. A palette of greys gives one channel;
    a colour key becomes alpha.

    Args:
        path: the file.
        convert: read CMYK and LAB too, as sRGB by their profile; else they are refused.
        first: of a file with several pictures read the first; else it is refused.

    Raises: PeakError when there is no such file, it cannot be read whole, holds more than one picture, another colour
        space than grey or RGB, or is smaller than `MIN_SIDE` or larger than this machine's memory takes.
    """
    path = Path(path)
    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on large or odd files: what matters is checked below
            return _decode(path, data, convert, first)
    except (PeakError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything on a damaged file
        raise PeakError(
            f"{path}: cannot be read ({first_line(error)}); the file is damaged or cut short, copy it again"
        ) from error


# -------------------------------------------------------------------------------------------------------- decoding


def _decode(path: Path, data: bytes, convert: bool, first: bool) -> Original:
    if data.startswith(_NPY):
        array = np.load(io.BytesIO(data), allow_pickle=False)
        if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4):
            raise PeakError(f"{path}: has shape {array.shape}; a picture is (h, w) or (h, w, c) with c from 1 to 4")
        return _checked(path, array, "npy")
    if data.startswith(_XCF):
        raise PeakError(f"{path}: is GIMP's own format, which only GIMP reads; export it there as PNG")
    register_openers(path, data)
    suffix = path.suffix.lower()[1:]
    kind = (suffix if suffix in ("tif", "tiff") else "tiff") if data.startswith(TIFF) else "png"
    try:
        # Not by `Image.open`, which refuses above 179 megapixels, nor as MPO, whose further pictures are previews.
        is_jpeg = data.startswith(b"\xff\xd8\xff")
        image: Image.Image = JpegImageFile(io.BytesIO(data)) if is_jpeg else Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise PeakError(f"{path}: has more than 179 megapixels; scale it down, or save it as JPEG") from None
    except UnidentifiedImageError:
        if data.startswith(TIFF):  # floats in colour, float64: Pillow does not know them
            return _checked(path, decode_tiff(path, data, check_size, single=not first), kind)
        raise PeakError(f"{path}: not a picture that can be read; convert it to {FORMATS}") from None
    with image:
        check_size(path, image.height, image.width)
        bleed = BLEED if image.format in LOSSY else 0
        n_frames, notes = getattr(image, "n_frames", 1), []
        if n_frames > 1 and not first and image.format != "PSD":  # whose frames are layers of the picture
            raise PeakError(f"{path}: holds {n_frames} pictures; save the one you mean in a file of its own")
        if n_frames > 1 and image.format != "PSD":
            notes.append(f"first of {n_frames} pictures")
        inks = image.mode in ("CMYK", "LAB")
        if image.mode in ("HSV", "I") or (inks and not convert):
            what = "32-bit integers, whose range nobody knows" if image.mode == "I" else f"{image.mode} colours"
            raise PeakError(f"{path}: holds {what}; convert it to 8- or 16-bit grey or RGB first")
        deep, profile, dpi = is_deep_colour(image), image.info.get("icc_profile"), image.info.get("dpi")
        dpi = (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 1 else None  # a TIFF without resolution has 1
        orientation, exif = 1, b""
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
            exif = _kept_exif(image, deep and image.format == "TIFF", notes)
        except Exception:  # damaged EXIF makes Pillow raise anything; the picture is none the worse
            notes.append("EXIF unreadable, left out")
        if deep and image.format == "TIFF":
            array = decode_tiff(path, data, check_size, single=not first)
        else:
            image.load()  # also finds a file cut short, which OpenCV would let pass
            if deep:
                array = upright(decode_with_opencv(data), orientation)
            else:
                image = ImageOps.exif_transpose(image)
                if inks:
                    array, named = to_srgb(image, profile)
                    lost = "for it has no profile" if not profile else "for its profile cannot be used"
                    lost = lost if not profile or named.startswith("colour profile un") else ""
                    by = f"ideal inks, {lost}" if lost else f"its profile, {named}"
                    notes.append(f"{image.mode} converted to sRGB by {by if image.mode == 'CMYK' else 'CIE L*a*b*'}")
                    profile = None
                else:
                    array, note = _pillow_array(image)
                    notes += [note] if note else []
        return replace(_checked(path, array, kind, profile, exif, dpi, notes), bleed=bleed)


def _checked(
    path: Path,
    array: np.ndarray,
    kind: str,
    profile: bytes | None = None,
    exif: bytes = b"",
    dpi: tuple[float, float] | None = None,
    notes: list[str] | None = None,
) -> Original:
    flat = array.ndim == 2
    array = array[..., None] if flat else array
    check_size(path, *array.shape[:2])
    if array.shape[2] > 4:
        raise PeakError(f"{path}: has {array.shape[2]} channels; save it as grey or RGB")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype not in (np.uint8, np.uint16) and array.dtype.kind != "f":
        raise PeakError(f"{path}: holds {array.dtype} numbers; save uint8, uint16, or floats in [0, 1]")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return Original(array, kind, flat, profile, exif, dpi, tuple(notes or ()))


def check_size(path: Path, h: int, w: int) -> None:
    """Raise `PeakError` on a picture with a side below `MIN_SIDE`, or too large for this machine's memory."""
    need, total = h * w * BYTES_PER_PIXEL, memory_total()
    if total is not None and need > 0.8 * total:
        raise PeakError(
            f"{path}: {w} x {h} pixels take about {need / 2**30:.1f} GiB, and this machine has {total / 2**30:.1f} GiB;"
            " scale it down or cut it first"
        )
    if min(h, w) < MIN_SIDE:
        raise PeakError(f"{path}: is {w} x {h} pixels; {MIN_SIDE} a side is the least, choose a larger picture")


def _kept_exif(image: Image.Image, texts_only: bool, notes: list[str]) -> bytes:
    """All of it but the thumbnail, orientation 1; of a TIFF what does not say how its pixels are stored.

    Args:
        image: as opened.
        texts_only: where the writer, tifffile's, takes no more.
        notes: gains a line where something is left out.
    """
    exif, kept = image.getexif(), Image.Exif()
    for tag, value in exif.items():
        if tag not in (_EXIF_IFD, _GPS_IFD) and (image.format != "TIFF" or tag in TIFF_TEXTS):
            kept[tag] = value
    for pointer in (_EXIF_IFD, _GPS_IFD):
        if part := exif.get_ifd(pointer):
            if texts_only:
                notes += [] if _LEFT_OUT in notes else [_LEFT_OUT]
            else:
                kept[pointer] = dict(part)
    if ORIENTATION in kept:
        kept[ORIENTATION] = 1
    return kept.tobytes() if len(kept) else b""


def _pillow_array(image: Image.Image) -> tuple[np.ndarray, str]:
    """The numbers of a picture that Pillow gives exactly, and what was converted."""
    key = image.info.get("transparency")
    if image.mode in ("P", "PA"):
        array = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
        if (array[..., :1] == array[..., 1:3]).all():
            array = np.delete(array, (1, 2), axis=2)
        return array, f"palette, as {('grey', 'grey and alpha', 'RGB', 'RGBA')[array.shape[2] - 1]}"
    if image.mode == "1":
        return np.asarray(image), "black and white, as grey"
    if image.mode in ("L", "RGB") or image.mode.startswith("I;16"):
        array = np.asarray(image)
        if array.dtype.itemsize == 2:
            array = array.astype(np.uint16)  # native byte order
        if key is None or isinstance(key, bytes):
            return array, ""
        same = array == np.asarray(key)
        same = same if array.ndim == 2 else same.all(axis=-1)
        alpha = np.where(same, 0, np.iinfo(array.dtype).max).astype(array.dtype)
        return np.dstack([array, alpha]), "transparent colour, as alpha"
    if image.mode == "F":
        return np.asarray(image), ""
    return np.asarray(
        image.convert({"La": "LA", "LA": "LA", "RGBA": "RGBA", "RGBa": "RGBA"}.get(image.mode, "RGB"))
    ), ""
