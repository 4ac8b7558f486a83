"""Photographs as cameras, phones and the web leave them: any format, upright, 8-bit sRGB; and the photos of a folder.

Where `read` gives the exact numbers of a picture that is to be reconstructed, this gives what a viewer would show.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from peak_nerf.errors import PeakError, first_line
from peak_nerf.images.color_profile import to_srgb
from peak_nerf.images.decode import (
    LINEAR,
    ORIENTATION,
    TIFF,
    MissingPackage,
    decode_linear,
    decode_tiff,
    decode_with_opencv,
    is_deep_colour,
    read_bytes,
    register_openers,
    upright,
)

PICTURE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .webp .tif .tiff .bmp .gif .heic .heif .avif .jxl".split()  # noqa: SIM905
)
MAX_PIXELS = 300_000_000
"""Phones have sensors of 200 megapixels; what is larger is a panorama or a scan."""

_EXIF, _MAKE, _MODEL, _LENS = 0x8769, 0x10F, 0x110, 0xA434
_FOCAL_LENGTHS = (0x920A, 0xA405)  # in millimetres: FocalLength, FocalLengthIn35mmFilm
_INVERSE = {6: 8, 8: 6}  # of orientations; the others undo themselves
_SKIPPED_FOLDERS = ("__macosx", "@eadir")  # of macOS' zip files; thumbnails of Synology's disks


class PhotoError(PeakError):
    """One picture that cannot be read, where others may."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.problem = problem
        """What is wrong, without the file's name."""


@dataclass(frozen=True, eq=False)
class PhotoFile:
    """A photograph as a viewer would show it."""

    rgb: UInt8[np.ndarray, "h w 3"]
    """sRGB, upright."""
    alpha: UInt8[np.ndarray, "h w"] | None = None
    """255 is opaque; None where all is."""
    exif: bytes = b""
    """Only what tells camera and focal length, as `PIL.Image.Image.save` takes it; empty where the file has none."""
    converted: str = ""
    """What was converted, such as "CMYK", "16 bits, grey" or "rotated by EXIF"."""
    is_jpeg: bool = False
    """Whether the file is one, whatever its name."""
    size: tuple[int, int] = (0, 0)
    """Width and height of the upright picture in the file; that of `rgb` unless it was decoded smaller."""
    orientation: int = 1
    """EXIF's, 1 to 8: how the file says that what is stored is to be turned; 1 where its decoder always turns it."""


def read_photo(path: str | Path, at_least: int | None = None, as_stored: bool = False) -> PhotoFile:
    """The picture in a file, by its content whatever its name: JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC, AVIF, MPO, JXL.

    Grey, palettes, 16 bits (v / 257, rounded), floats in [0, 1], CMYK and LAB are read; embedded colour profiles are
    converted to sRGB, as is the linear light of OpenEXR and Radiance files, cut off at 1. Of several pictures in a file
    the first counts.

    Args:
        path: the file.
        at_least: a longer side in pixels that will do: a JPEG more than twice as large is decoded at 1/2, 1/4 or 1/8
            of its size, not below this, which saves time and memory.
        as_stored: leave the picture as it lies in the file, whatever its EXIF orientation.

    Raises: PhotoError when it cannot be read whole, is not a picture, or has more than `MAX_PIXELS`; PeakError when
        HEIC or JPEG XL needs a package that is not installed.
    """
    path = Path(path)
    try:
        data = read_bytes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on large or odd files
            return _decode(path, data, at_least, as_stored)
    except (PhotoError, MissingPackage, MemoryError):
        raise
    except PeakError as error:
        problem, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
        raise PhotoError(path, problem, remedy) from error
    except Exception as error:  # decoders raise anything on a damaged file
        raise PhotoError(path, f"broken or truncated ({first_line(error)})", "copy it again") from error


def list_pictures(folder: Path, skip: Collection[Path] = ()) -> list[Path]:
    """All files with a picture's suffix at any depth, in the order a person would count: img2 before img10.

    Hidden files and folders and those of thumbnails are passed over; a folder that links lead to twice counts once.

    Args:
        folder: where to look.
        skip: folders not to enter.

    Raises: PeakError when the folder cannot be read.
    """
    found: list[Path] = []
    seen = {path.resolve() for path in skip} - {folder.resolve()}

    def refuse(error: OSError) -> None:
        raise PeakError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error

    for name, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(name)
        if (real := here.resolve()) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(
            child for child in folders if not _is_hidden(child) and child.lower() not in _SKIPPED_FOLDERS
        )
        found += [here / file for file in files if not _is_hidden(file) and is_picture_name(file)]
    return sorted(found, key=lambda path: natural_key(path.relative_to(folder)))


def is_picture_name(name: str | Path) -> bool:
    """Whether a file's suffix is a picture's, in upper or lower case."""
    return Path(name).suffix.lower() in PICTURE_SUFFIXES


def natural_key(path: Path) -> tuple[Any, ...]:
    """Sorts paths by their parts, numbers in them by value; what differs in case or zeros alone still has an order."""
    parts = [re.split("([0-9]+)", part.casefold()) for part in path.parts]
    return [[(int(word), "") if i % 2 else (0, word) for i, word in enumerate(part)] for part in parts], path.as_posix()


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


# ------------------------------------------------------------------------------------------------------ decoding


def orientation_of(image: Image.Image) -> int:
    """EXIF's, 1 to 8, from what is read of the file so far; 1 where there is none, or a damaged one."""
    try:
        orientation = Image.Image.getexif(image).get(ORIENTATION, 1)  # a PNG's own method would decode it
    except Exception:  # damaged EXIF makes Pillow raise anything; the picture is none the worse
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _decode(path: Path, data: bytes, at_least: int | None, as_stored: bool) -> PhotoFile:
    if data.startswith(LINEAR):
        array, cut = decode_linear(path, data, _check_size)
        _check_size(path, *array.shape[:2])
        return _from_array(array, ["linear light, cut off at 1" if cut else "linear light"], None, path)
    try:
        image = _open(path, data)
    except UnidentifiedImageError:
        if data.startswith(TIFF):  # floats in colour: Pillow does not know them
            return _from_array(decode_tiff(path, data, _check_size, single=False), ["floats"], None, path)
        raise PhotoError(path, "broken or truncated, or not a picture", "copy it again") from None
    with image:
        _check_size(path, image.height, image.width)
        is_jpeg, (w, h) = image.format in ("JPEG", "MPO"), image.size
        deep = is_deep_colour(image)  # before EXIF, for which Pillow decodes a PNG and forgets how it was stored
        exif, orientation, notes = _read_exif(image)
        if image.format == "JXL":  # as HEIC
            orientation = 1
        if max(orientation, image.info.get("original_orientation") or 1) > 1:  # of HEIC, whose decoder turns it
            notes.append("rotated by EXIF")
        if image.format in ("GIF", "TIFF", "WEBP", "PNG") and (n_frames := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"first of {n_frames} pictures")
        profile = image.info.get("icc_profile")
        if is_jpeg and at_least:
            factor = min(max(1, max(w, h) // at_least), 8)
            image.draft(None, (max(1, w // factor), max(1, h // factor)))
        image.load()  # also finds a file cut short, which OpenCV would let pass
        if deep:
            if image.format == "TIFF":
                array = decode_tiff(path, data, _check_size, single=False)
            else:
                array = decode_with_opencv(data)
            photo = _from_array(array, notes, profile, path)
        elif image.mode.startswith("I") or image.mode == "F":
            photo = _from_array(_numbers(path, image), notes, profile, path)
        else:
            photo = _from_image(image, notes, profile)
        turn = 1 if as_stored else orientation
        if image.format == "TIFF":  # turned by Pillow, or by `decode_tiff`, already
            turn = _INVERSE.get(orientation, orientation) if as_stored else 1
        alpha = None if photo.alpha is None else np.ascontiguousarray(upright(photo.alpha, turn))
        rgb = np.ascontiguousarray(upright(photo.rgb, turn))
        if (w > h) != (rgb.shape[1] > rgb.shape[0]):
            w, h = h, w
        return PhotoFile(rgb, alpha, exif, photo.converted, is_jpeg, (w, h), orientation)


def _open(path: Path, data: bytes) -> Image.Image:
    if data.startswith(b"\xff\xd8\xff"):
        # Not by `Image.open`, which refuses above 179 megapixels, nor as MPO, whose further pictures are previews.
        return JpegImageFile(io.BytesIO(data))
    register_openers(path, data)
    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise PhotoError(path, "too many pixels", "scale it down first") from None


def _check_size(path: Path, h: int, w: int) -> None:
    if h * w > MAX_PIXELS:
        raise PhotoError(
            path, f"{w} x {h} is more than {MAX_PIXELS // 10**6} megapixels", "scale it down or cut it first"
        )


def _numbers(path: Path, image: Image.Image) -> np.ndarray:
    """Greys of more than 8 bits."""
    array = np.asarray(image)
    if image.mode == "I":
        if image.format != "PNG":
            raise PhotoError(path, "holds 32-bit integers, whose range nobody knows", "save it with 8 or 16 bits")
        array = array.astype(np.uint16)  # how older versions of Pillow give 16 bits
    return array if array.dtype.kind == "f" else array.astype(np.uint16)  # native byte order


def _from_array(array: np.ndarray, notes: list[str], profile: bytes | None, path: Path) -> PhotoFile:
    """Numbers of any depth, (h, w) or (h, w, 1 to 4)."""
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] > 4:
        raise PhotoError(path, f"has shape {array.shape}", "save it as grey or RGB")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also when they are NaN
            raise PhotoError(path, f"values from {low:.6g} to {high:.6g}", "floats must be in [0, 1]")
        array = np.rint(array * 255).astype(np.uint8)
        notes = list(dict.fromkeys([*notes, "floats"]))
    elif array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
        notes = [*notes, "16 bits"]
    elif array.dtype != np.uint8:
        raise PhotoError(path, f"holds {array.dtype} numbers", "save it with 8 or 16 bits")
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[array.shape[2]]
    image = Image.fromarray(np.ascontiguousarray(array[..., 0] if mode == "L" else array))
    return _from_image(image, notes, profile)


def _from_image(image: Image.Image, notes: list[str], profile: bytes | None) -> PhotoFile:
    """8 bits of any mode."""
    simple: dict[str, Callable[[], Image.Image]] = {
        "1": lambda: image.convert("L"),
        "P": lambda: image.convert("RGBA" if image.has_transparency_data else "RGB"),
        "PA": lambda: image.convert("RGBA"),
        "La": lambda: image.convert("LA"),
        "RGBa": lambda: image.convert("RGBA"),
    }
    names = {"1": "black and white", "P": "palette", "PA": "palette", "CMYK": "CMYK", "L": "grey", "LA": "grey"}
    notes = [*notes, *filter(None, [names.get(image.mode)])]
    if image.mode in simple:
        image = simple[image.mode]()
    elif image.mode in ("L", "RGB") and "transparency" in image.info:  # one colour is the transparent one
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB"):
        image = image.convert("RGB")
    alpha = None
    if image.mode in ("LA", "RGBA"):
        alpha = np.array(image.getchannel("A"))
        image = image.convert(image.mode[:-1])
    rgb, note = to_srgb(image, profile)
    converted = ", ".join([*notes, *filter(None, [note])])
    return PhotoFile(rgb, None if alpha is None or (alpha == 255).all() else alpha, converted=converted)


def _read_exif(image: Image.Image) -> tuple[bytes, int, list[str]]:
    """What is kept of it, the orientation, and a note where it cannot be read."""
    orientation: Any = 1
    kept = Image.Exif()
    try:
        exif = image.getexif()
        orientation = exif.get(ORIENTATION, 1)
        details = exif.get_ifd(_EXIF)
        camera = {tag: _text(exif.get(tag)) for tag in (_MAKE, _MODEL)}
        lens = {tag: _positive(details.get(tag)) for tag in _FOCAL_LENGTHS} | {_LENS: _text(details.get(_LENS))}
        kept.update({tag: value for tag, value in camera.items() if value})
        if useful := {tag: value for tag, value in lens.items() if value}:
            kept[_EXIF] = useful
        data, notes = kept.tobytes() if len(kept) else b"", []
    except Exception:  # damaged EXIF makes Pillow raise anything; the picture is none the worse
        data, notes = b"", ["EXIF unreadable"]
    return data, orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1, notes


def _text(value: Any) -> str:
    return " ".join(value.replace("\0", " ").split()) if isinstance(value, str) else ""


def _positive(value: Any) -> Any:
    """The number, or None where it says nothing: 0, 0/0, no number at all."""
    try:
        return value if 0 < float(value) < 1e5 else None
    except (TypeError, ValueError, ZeroDivisionError):
        return None
