"""Writes a picture as its file had it: see `original`."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from peak_nerf.images.original import TIFF_TEXTS, Original
from peak_nerf.system.files import write_atomically

_PNG_START = 33
"""Bytes of a PNG's signature and header, after which its profile and EXIF stand."""


def write_original(stem: Path, original: Original) -> Path:
    """Write it as `stem` with its kind's suffix, whole or not at all, without loss; returns the path.

    Raises: PeakError when it cannot be written.
    """
    path = stem.with_name(f"{stem.name}.{original.kind}")
    write = {"npy": _save_npy, "png": _save_png}.get(original.kind, _save_tiff)
    write_atomically(path, lambda file: write(file, original))
    return path


def _save_npy(file: BinaryIO, original: Original) -> None:
    np.save(file, original.pixels[..., 0] if original.flat else original.pixels)


def _save_png(file: BinaryIO, original: Original) -> None:
    pixels = original.pixels if original.pixels.dtype.kind == "u" else _as_uint16(original.pixels)
    if pixels.dtype == np.uint8 or pixels.shape[2] == 1:
        _to_pillow(pixels).save(file, format="PNG", compress_level=4, **_extras(original))
        return
    import cv2

    if pixels.shape[2] == 2:  # neither library writes 16-bit grey with alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    done, encoded = cv2.imencode(".png", pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])
    if not done:
        raise OSError("OpenCV cannot encode it")
    data = encoded.tobytes()
    file.write(data[:_PNG_START])
    if original.icc_profile:
        PngImagePlugin.putchunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(original.icc_profile))
    if original.exif:
        PngImagePlugin.putchunk(file, b"eXIf", original.exif.removeprefix(b"Exif\0\0"))
    file.write(data[_PNG_START:])


def _save_tiff(file: BinaryIO, original: Original) -> None:
    pixels = original.pixels
    if pixels.dtype == np.uint8 or (pixels.shape[2] == 1 and pixels.dtype in (np.uint16, np.float32)):
        how = None if original.exif else "tiff_adobe_deflate"  # libtiff, which compresses, writes no EXIF
        _to_pillow(pixels).save(file, format="TIFF", compression=how, **_extras(original))
        return
    import tifffile

    exif = Image.Exif()
    exif.load(original.exif)
    texts = [(tag, 2, 0, str(exif[tag]), True) for tag in TIFF_TEXTS if tag in exif and tag not in (270, 305)]
    options: dict[str, Any] = {"resolution": original.dpi, "resolutionunit": "INCH"} if original.dpi else {}
    buffer = io.BytesIO()  # tifffile takes no file without a name
    tifffile.imwrite(
        buffer,
        pixels[..., 0] if pixels.shape[2] == 1 else pixels,
        photometric="rgb" if pixels.shape[2] > 2 else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if original.alpha is not None else None,
        iccprofile=original.icc_profile,
        description=exif.get(270),
        software=exif.get(305, False),
        extratags=texts,
        metadata=None,
        **options,
    )
    file.write(buffer.getbuffer())


def _to_pillow(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _as_uint16(floats: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(np.nan_to_num(floats), 0, 1) * 65535).astype(np.uint16)


def _extras(original: Original) -> dict[str, Any]:
    given = {"icc_profile": original.icc_profile, "exif": original.exif, "dpi": original.dpi}
    return {name: value for name, value in given.items() if value}
