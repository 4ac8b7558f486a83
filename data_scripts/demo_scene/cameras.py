"""Where cameras stand, and the picture that one takes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from demo_scene.light import KEY_LIGHT, KEY_LIGHT_RADIUS, Scene
from demo_scene.vectors import Array, frame_along, unit

CAMERA_ANGLE_X = 0.6911112070083618
CAMERA_RADIUS = 4.0
# Turns per view around the vertical axis. Found by search: unlike the golden angle's, every evenly spaced subset
# (of 50, 25, 12, 8 views) is spread nearly as well as the whole.
AZIMUTH_STEP = 0.317


def look_at_origin(direction: Array, radius: float = CAMERA_RADIUS) -> Array:
    """Camera-to-world (4, 4) of a camera at radius * direction that looks at the origin, z up."""
    back = unit(np.asarray(direction, float))
    right = unit(np.cross([0.0, 0.0, 1.0], back))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack([right, np.cross(back, right), back], axis=1), radius * back
    return pose


def spiral_poses(count: int, offset: float = 0.0) -> list[Array]:
    """Views of equal solid angle on the hemisphere, from 80 degrees down to 8 degrees of elevation."""
    high, low = math.sin(math.radians(80)), math.sin(math.radians(8))
    poses = []
    for i in range(count):
        z = high - (high - low) * (i + 0.5) / count
        azimuth = 2 * math.pi * (AZIMUTH_STEP * i + offset)
        r = math.sqrt(1 - z * z)
        poses.append(look_at_origin(np.array([r * math.cos(azimuth), r * math.sin(azimuth), z])))
    return poses


def orbit_poses(count: int) -> list[Array]:
    """Views on one turn around the scene whose elevation swings between 14 and 46 degrees."""
    poses = []
    for turn in np.arange(count) / count:
        azimuth = 2 * math.pi * (turn - 0.2)
        elevation = math.radians(30 + 16 * math.sin(2 * math.pi * 3 * turn))
        r = math.cos(elevation)
        poses.append(look_at_origin(np.array([r * math.cos(azimuth), r * math.sin(azimuth), math.sin(elevation)])))
    return poses


def render(scene: Scene, pose: Array, size: int, supersample: int) -> npt.NDArray[np.uint8]:
    """RGBA picture (size, size, 4) with straight alpha.

    Averages colour * alpha of display-referred (sRGB) samples, the space in which radiance fields composite. Each
    of a pixel's samples sees its own point of the key light's disc, which makes the shadows soft.
    """
    focal = 0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X)
    disc = frame_along(KEY_LIGHT)[:, :2] * KEY_LIGHT_RADIUS
    total = np.zeros((size * size, 4))
    for k in range(supersample**2):
        dx, dy = (k % supersample + 0.5) / supersample, (k // supersample + 0.5) / supersample
        row, column = np.mgrid[:size, :size]
        x, y = (column + dx - 0.5 * size) / focal, -(row + dy - 0.5 * size) / focal
        d = unit(np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)) @ pose[:3, :3].T
        o: Array = np.broadcast_to(pose[:3, 3], d.shape)
        angle, radius = k * math.pi * (3 - math.sqrt(5)), math.sqrt((k + 0.5) / supersample**2)
        light = KEY_LIGHT + radius * (disc[:, 0] * math.cos(angle) + disc[:, 1] * math.sin(angle))
        linear, hit = scene.radiance(o, d, light)
        total[:, :3] += np.clip(linear, 0, 1) ** (1 / 2.2)
        total[:, 3] += hit
    total /= supersample**2
    alpha = total[:, 3:]
    straight = np.where(alpha > 0, total[:, :3] / np.maximum(alpha, 1e-9), 0)
    return np.round(255 * np.concatenate([straight, alpha], axis=1)).astype(np.uint8).reshape(size, size, 4)
