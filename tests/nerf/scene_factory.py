"""Tiny scenes on disk: a shaded ball at the origin, seen by cameras on a ring around it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CAMERA_ANGLE_X = 0.7
DISTANCE = 4.0


def ring_pose(angle: float, height: float = 1.0) -> np.ndarray:
    """Camera-to-world (4, 4), OpenGL axes, at `DISTANCE` from the origin and looking at it."""
    radius = math.sqrt(DISTANCE**2 - height**2)
    origin = np.array([radius * math.cos(angle), radius * math.sin(angle), height])
    back = origin / DISTANCE
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, origin], axis=1)
    return pose


def ball_image(pose: np.ndarray, size: int) -> np.ndarray:
    """The unit ball coloured by its normal, (size, size, 4) uint8, transparent around it."""
    x = (np.arange(size) + 0.5 - size / 2) / (0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X))
    rays = np.stack([*np.meshgrid(x, -x), -np.ones((size, size))], axis=-1) @ pose[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    b = rays @ pose[:3, 3]
    discriminant = b**2 - (DISTANCE**2 - 1.0)
    hit = discriminant > 0
    normal = pose[:3, 3] + (-b - np.sqrt(np.maximum(discriminant, 0)))[..., None] * rays
    rgba = np.concatenate([0.5 + 0.5 * normal, np.ones((size, size, 1))], axis=-1) * hit[..., None]
    return (255 * rgba.clip(0, 1)).round().astype(np.uint8)


def write_image(path: Path, pose: np.ndarray, size: int, alpha: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ball_image(pose, size))
    (image if alpha else image.convert("RGB")).save(path)


def write_blender_scene(
    path: Path, n_train: int = 6, n_val: int = 1, n_test: int = 2, size: int = 16, alpha: bool = True
) -> Path:
    """A Blender scene in `path`; a split of 0 frames gets no file."""
    path.mkdir(parents=True, exist_ok=True)
    for offset, (split, n) in enumerate({"train": n_train, "val": n_val, "test": n_test}.items()):
        frames = []
        for i in range(n):
            pose = ring_pose(2 * math.pi * (i + offset / 3) / n, height=1.0 + 0.3 * offset)
            write_image(path / split / f"r_{i}.png", pose, size, alpha)
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()})
        if n:
            write_json(path / f"transforms_{split}.json", {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames})
    return path


def write_nerfstudio_scene(path: Path, n: int = 9, size: int = 16, alpha: bool = False, **values: Any) -> Path:
    """A transforms.json scene in `path`; `values` are added to the file, and one that is None is left out."""
    frames = []
    for i in range(n):
        pose = ring_pose(2 * math.pi * i / n, height=1.0 + 0.1 * (i % 25))
        write_image(path / "images" / f"frame_{i:05d}.png", pose, size, alpha)
        frames.append({"file_path": f"images/frame_{i:05d}.png", "transform_matrix": pose.tolist()})
    focal = 0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X)
    intrinsics = {"fl_x": focal, "fl_y": focal, "cx": size / 2, "cy": size / 2, "w": size, "h": size}
    written = {"camera_model": "OPENCV", **intrinsics, **values, "frames": frames}
    write_json(path / "transforms.json", {key: value for key, value in written.items() if value is not None})
    return path


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def edit_json(path: Path, **values: Any) -> None:
    """Set values of a transforms file; one that is None is removed."""
    merged = {**json.loads(path.read_text(encoding="utf-8")), **values}
    write_json(path, {key: value for key, value in merged.items() if value is not None})


def edit_frame(path: Path, index: int, **values: Any) -> None:
    """Set values of one frame; one that is None is removed."""
    frames = json.loads(path.read_text(encoding="utf-8"))["frames"]
    frames[index] = {key: value for key, value in {**frames[index], **values}.items() if value is not None}
    edit_json(path, frames=frames)
