"""COLMAP's models: where they lie, whether their files are whole, and what they say in the terms of transforms.json.

COLMAP does not say whether they are whole: it writes half a file to a full disk, and reads half a file as if the rest
were zeros, or for minutes.

# Records: https://colmap.github.io/format.html, little-endian
"""

from __future__ import annotations

import signal
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.errors import PeakError, first_line

SEED = 0
MODELS = ("", "sparse/0", "sparse", "colmap/sparse/0", "0")
"""Where a model lies in the folder that a user names."""
PICTURES = ("images", "input", "")
"""Where its pictures lie, in the folder that holds the model or in one of those above."""
Z_UP = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
"""(3, 4) from COLMAP's world to that of transforms.json, as ns-process-data does it: y down becomes z up."""
TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""From a camera's axes in OpenGL (y up, z backward) to COLMAP's (y down, z forward)."""
PERSPECTIVE = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
}
FISHEYE = {
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
}
OURS = {
    **PERSPECTIVE,
    **FISHEYE,
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
    "SIMPLE_FISHEYE": "f cx cy",
    "FISHEYE": "fx fy cx cy",
    "EQUIRECTANGULAR": "w h",
}
"""Parameters of the lenses that a training knows; nerfstudio's transforms.json has the first two groups."""


def load(who: str = "peak photos") -> Any:
    """The package pycolmap, silent. Raises: PeakError when it is not installed or does not load."""
    # First: loaded after pycolmap 4.2, Pillow's PNG encoder overwrites memory that is not its own.
    from PIL import Image  # noqa: F401

    terminated = signal.getsignal(signal.SIGTERM)
    try:
        import pycolmap
    except ImportError as error:
        raise PeakError(f"{who} needs pycolmap ({error}); pip install 'pycolmap>=4.2'") from None
    if not hasattr(pycolmap, "CancellationToken"):
        raise PeakError(f"{who} needs a newer pycolmap than {pycolmap.__version__}; pip install 'pycolmap>=4.2'")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # pycolmap's own handler prints a stack trace
    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.logtostderr = False
    pycolmap.logging.stderrthreshold = pycolmap.logging.Level.FATAL.value
    pycolmap.set_random_seed(SEED)
    return pycolmap


def model_folder(source: Path) -> Path | None:
    """The folder with COLMAP's cameras, images and points, binary or text; None without one."""
    for name in MODELS:
        for suffix in ("bin", "txt"):
            if all((source / name / f"{file}.{suffix}").is_file() for file in ("cameras", "images", "points3D")):
                return source / name
    return None


def read_model(folder: Path, who: str = "peak photos") -> Any:
    """pycolmap's Reconstruction. Raises: PeakError when a file is cut short or cannot be read."""
    colmap = load(who)
    if file := cut_short(folder):
        raise PeakError(f"{file}: is cut short; copy it again")
    try:
        model = colmap.Reconstruction(folder)
        for i in model.reg_image_ids():  # ids that are nowhere are found out only when somebody asks
            image = model.image(i)
            if not np.isfinite(image.cam_from_world().matrix()).all() or image.camera_id not in model.cameras:
                raise ValueError(f"image {i} has no pose or no camera")
        return model
    except Exception as error:  # whatever it raises on a damaged file
        reason = first_line(error)
        raise PeakError(f"{folder}: not a COLMAP model that can be read ({reason}); export it again") from error


def pose_of(image: Any) -> np.ndarray:
    """c2w (4, 4) of a posed image, in the world of transforms.json."""
    world_from_camera = image.cam_from_world().inverse()
    pose = np.eye(4)
    pose[:3] = np.asarray(world_from_camera.matrix())
    turned = pose @ TO_OPENGL
    turned[:3] = Z_UP[:, :3] @ turned[:3]
    return turned


def sightings(points: Sequence[Any], images: Sequence[Any]) -> np.ndarray:
    """(n, 4): index of the point, index of the image that saw it, and x, y where, in order of the points' tracks."""
    index = {image.image_id: i for i, image in enumerate(images)}
    xy = {image.image_id: np.array([p.xy for p in image.points2D], float).reshape(-1, 2) for image in images}
    rows = [
        (p, index[seen.image_id], *xy[seen.image_id][seen.point2D_idx])
        for p, point in enumerate(points)
        for seen in point.track.elements
        if seen.image_id in index
    ]
    return np.array(rows, float).reshape(-1, 4)


def cut_short(folder: Path) -> Path | None:
    """The first of a model's binary files in `folder` that ends too early; None for a whole model, or one of text."""
    parts = {"rigs": _skip_rig, "cameras": _skip_camera, "frames": _skip_frame}
    parts |= {"images": _skip_image, "points3D": _skip_point}
    for name, skip in parts.items():
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


def _skip_rig(content: bytes, at: int) -> int:
    (n_sensors,) = struct.unpack_from("<I", content, at + 4)
    at += 8 + 8 * min(1, int(n_sensors))
    for _ in range(1, n_sensors):
        (has_pose,) = struct.unpack_from("<B", content, at + 8)
        at += 9 + 56 * bool(has_pose)
    return at


def _skip_frame(content: bytes, at: int) -> int:
    (n_data,) = struct.unpack_from("<I", content, at + 64)
    return at + 68 + 16 * int(n_data)


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
