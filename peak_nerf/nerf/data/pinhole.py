"""Pictures as a camera without distortion takes them, shrunk, where a plane in one is a homography away from others.

Symbols:
    u, v       column and row of a shrunken picture; the middle of the first pixel is (0, 0), as OpenCV has it
    K, R, o    intrinsics, rotation from the world to the camera's axes (x right, y down, z forward), centre
    z          depth along the optical axis
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from peak_nerf.nerf.cameras import project
from peak_nerf.nerf.data.pixels import used_pixels


@dataclass(frozen=True)
class PinholePicture:
    """A picture and its camera."""

    rgb: np.ndarray
    """(h, w, 3) uint8."""
    used: np.ndarray
    """(h, w) uint8; 0 where masks, transparency or distortion leave nothing."""
    k: np.ndarray
    """(3, 3)"""
    rotation: np.ndarray
    """(3, 3)"""
    centre: np.ndarray
    """(3,)"""

    @cached_property
    def grey(self) -> np.ndarray:
        """(h, w) float32, 0 to 255."""
        return cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)

    def points_at(self, u: np.ndarray, v: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Points of the world, (m, 3), at pixels and depths, each (m,)."""
        local = np.linalg.inv(self.k) @ np.stack([u, v, np.ones_like(z)])
        return (local * z).T @ self.rotation + self.centre

    def place(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u, v and z of points (m, 3), each (m,); u and v of those behind mean nothing."""
        u, v, z = self.k @ self.rotation @ (x - self.centre).T
        before = np.where(z > 0, z, 1)
        return u / before, v / before, z

    def inside(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Whether there is a pixel there."""
        h, w = self.used.shape
        return (u > -0.5) & (v > -0.5) & (u < w - 0.5) & (v < h - 0.5)

    def to_other(self, other: PinholePicture) -> tuple[np.ndarray, np.ndarray]:
        """A (3, 3) and b (3,): by the plane of depth z, (u, v, 1) is at (A + b (0, 0, 1) / z) (u, v, 1) in the other,
        in homogeneous coordinates."""
        turn = other.k @ other.rotation
        return turn @ self.rotation.T @ np.linalg.inv(self.k), turn @ (self.centre - other.centre)


def pinhole_picture(
    cameras: Cameras, i: int, image: torch.Tensor, mask: torch.Tensor | None, most_pixels: int
) -> PinholePicture:
    """Of the i-th camera, which is perspective, a picture (h, w, 3 or 4) uint8 and its mask (h, w) bool, False where it
    is not to be used; at most about so many pixels."""
    rgb = np.ascontiguousarray(image[..., :3].numpy())
    h, w = rgb.shape[:2]
    used: Any = used_pixels(image, mask)
    ratio = max(1.0, (h * w / most_pixels) ** 0.5)
    size = (max(1, round(w / ratio)), max(1, round(h / ratio)))
    rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    used = cv2.resize(used, size, interpolation=cv2.INTER_NEAREST)
    per_pixel = size[0] / w, size[1] / h
    fx, fy, cx, cy = (float(getattr(cameras, name)[i]) for name in ("fx", "fy", "cx", "cy"))
    k = np.array(
        [[fx * per_pixel[0], 0, cx * per_pixel[0] - 0.5], [0, fy * per_pixel[1], cy * per_pixel[1] - 0.5], [0, 0, 1]]
    )
    pose = cameras.camera_to_worlds[i].cpu().double().numpy()
    rotation = np.diag([1.0, -1.0, -1.0]) @ pose[:, :3].T  # nerfstudio's y is up, its z backward
    picture = PinholePicture(rgb, used, k, rotation, pose[:, 3])
    if cameras.distortion_params is None or not bool((cameras.distortion_params[i] != 0).any()):
        return picture
    v, u = (x.ravel() for x in np.mgrid[: size[1], : size[0]])
    ahead = torch.from_numpy(picture.points_at(u, v, np.ones(len(u)))).float()
    distorted = project(cameras.to("cpu"), i, ahead)[:2]
    at_u, at_v = (
        (x.numpy() * s - 0.5).astype(np.float32).reshape(rgb.shape[:2])
        for x, s in zip(distorted, per_pixel, strict=True)
    )
    rgb = cv2.remap(rgb, at_u, at_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    used = cv2.remap(used, at_u, at_v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return PinholePicture(rgb, used, k, rotation, pose[:, 3])
