"""Whether COLMAP's binary files are whole. COLMAP does not say: it writes half a file to a full disk, and reads half a
file as if the rest were zeros, or for minutes.

# Records: https://colmap.github.io/format.html, little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from peak_nerf.photos.calls import load


def cut_short(folder: Path) -> Path | None:
    """The first of a model's binary files in `folder` that ends too early; None for a whole model, or one of text."""
    for name, skip in (("cameras", _skip_camera), ("images", _skip_image), ("points3D", _skip_point)):
        path = folder / f"{name}.bin"
        if path.is_file() and not _is_whole(path.read_bytes(), skip):
            return path
    return None


def _is_whole(content: bytes, skip: Callable[[bytes, int], int]) -> bool:
    """Whether as many records follow as the first 8 bytes say; `skip` gives where the one at an offset ends."""
    try:
        (n_records,), at = struct.unpack_from("<Q", content), 8
        for _ in range(n_records):
            at = skip(content, at)
            if at > len(content):
                return False
    except (struct.error, ValueError):  # no such field; no end of a name, no such camera model
        return False
    return True


def _skip_camera(content: bytes, at: int) -> int:
    colmap = load()
    (model,) = struct.unpack_from("<i", content, at + 4)
    camera = colmap.Camera.create_from_model_id(1, colmap.CameraModelId(model), 1.0, 1, 1)
    return at + 24 + 8 * len(camera.params)


def _skip_image(content: bytes, at: int) -> int:
    end_of_name = content.index(b"\0", at + 64)
    (n_points,) = struct.unpack_from("<Q", content, end_of_name + 1)
    return end_of_name + 9 + 24 * int(n_points)


def _skip_point(content: bytes, at: int) -> int:
    (track_length,) = struct.unpack_from("<Q", content, at + 43)
    return at + 51 + 8 * int(track_length)
