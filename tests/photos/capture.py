"""Pictures of a corner, a wall and a floor with noise on them, by homographies: with poses, in milliseconds each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (400, 300)
TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
FOCAL = 380.0


@functools.cache
def texture(seed: int, side: int = 900) -> np.ndarray:
    """(side, side, 3) uint8: noise of all scales, in colours."""
    random = np.random.RandomState(seed)
    total = np.zeros((side, side, 3), np.float32)
    for scale in (4, 8, 16, 32, 64, 128):
        cells = random.rand(side // scale + 2, side // scale + 2, 3).astype(np.float32)
        total += cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC) * scale**0.3
    total = (total - total.mean()) / total.std()
    return np.clip(128 + 60 * total, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Plane:
    """A square of side `side`: corner + u * across + v * along, u and v in [0, 1]."""

    corner: tuple[float, float, float]
    across: tuple[float, float, float]
    along: tuple[float, float, float]
    seed: int


CORNER = (
    Plane((-3, 3, 3), (6, 0, 0), (0, 0, -3), 1),  # the wall, at y = 3, from the top down
    Plane((-3, 3, 0), (6, 0, 0), (0, -4, 0), 2),  # the floor, towards the cameras
    Plane((-0.6, 1.6, 1.4), (1.2, 0, 0), (0, -0.3, -1.4), 3),  # a board that leans
)


def look_at(position: tuple[float, float, float], target: tuple[float, float, float] = (0, 2, 0.8)) -> np.ndarray:
    """c2w (4, 4), x right, y up, z backward; z is up in the world."""
    back = np.subtract(position, target)
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, np.array(position, float)], axis=1)
    return pose


def arc(n: int, reach: float = 1.6, distance: float = 4.0) -> list[np.ndarray]:
    """Poses of n cameras on an arc before the corner, some higher than others."""
    angles = np.linspace(-1, 1, n) * reach / distance
    return [
        look_at((distance * np.sin(a), 2 - distance * np.cos(a), 1.2 + 0.25 * (i % 3))) for i, a in enumerate(angles)
    ]


def picture(
    pose: np.ndarray,
    planes: tuple[Plane, ...] = CORNER,
    size: tuple[int, int] = SIZE,
    off_centre: tuple[float, float] = (0, 0),
) -> np.ndarray:
    """(h, w, 3) uint8 of the planes, the later ones before the earlier.

    off_centre: pixels by which the principal point is off the middle.
    """
    w, h = size
    # COLMAP's pixels: the first one's centre is at (0.5, 0.5); OpenCV's is at (0, 0).
    middle = w / 2 + off_centre[0] - 0.5, h / 2 + off_centre[1] - 0.5
    focal = FOCAL * w / SIZE[0]
    intrinsics = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]])
    from_world = np.linalg.inv(pose @ TO_OPENGL)[:3]
    image = np.full((h, w, 3), 200, np.uint8)
    for plane in planes:
        surface = texture(plane.seed)
        side = surface.shape[0]
        to_world = np.stack([np.divide(plane.across, side), np.divide(plane.along, side), plane.corner], axis=1)
        homography = intrinsics @ from_world[:, :3] @ to_world
        homography[:, 2] += intrinsics @ from_world[:, 3]
        warped = cv2.warpPerspective(surface, homography, (w, h), flags=cv2.INTER_AREA)
        there = cv2.warpPerspective(np.full((side, side), 255, np.uint8), homography, (w, h))
        image = np.where(there[..., None] > 127, warped, image)
    return image


def write_capture(
    folder: Path, poses: Sequence[np.ndarray], planes: tuple[Plane, ...] = CORNER, name: str = "IMG"
) -> Path:
    """The pictures as JPEGs, named by number."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, pose in enumerate(poses):
        Image.fromarray(picture(pose, planes)).save(folder / f"{name}_{i:03d}.jpg", quality=95)
    return folder


def aligned(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far poses (n, 4, 4) are off after the similarity that takes their positions nearest to the true ones.

    Returns: angles (n,) in degrees between the cameras' axes; distances (n,) as fractions of the true extent.
    """
    a, b = found[:, :3, 3], true[:, :3, 3]
    a0, b0 = a - a.mean(0), b - b.mean(0)
    u, values, vt = np.linalg.svd(b0.T @ a0)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = u @ sign @ vt
    scale = (values * np.diag(sign)).sum() / (a0**2).sum()
    off = turn @ found[:, :3, :3] @ true[:, :3, :3].transpose(0, 2, 1)
    sines = np.linalg.norm(off - off.transpose(0, 2, 1), axis=(1, 2)) / np.sqrt(8)
    extent = np.linalg.norm(b.max(0) - b.min(0))
    angles = np.degrees(np.arctan2(sines, (np.trace(off, axis1=1, axis2=2) - 1) / 2))
    return angles, np.linalg.norm(scale * a0 @ turn.T - b0, axis=1) / extent


def distances(points: np.ndarray, planes: tuple[Plane, ...] = CORNER) -> np.ndarray:
    """(n,) of points (n, 3), in the world of the planes, to the nearest of these planes."""
    normals = [np.cross(plane.across, plane.along) for plane in planes]
    offs = [(points - plane.corner) @ (n / np.linalg.norm(n)) for plane, n in zip(planes, normals, strict=True)]
    return np.abs(offs).min(0)
