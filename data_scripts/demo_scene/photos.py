"""The village as a photographer would take it: a lens that distorts, no alpha, and a landscape that ends far away.

Symbols:
    x, y       coordinates on the image plane at distance 1, y down as OpenCV has it
    k1, k2     radial distortion; p1, p2 tangential
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from demo_scene.cameras import CAMERA_ANGLE_X
from demo_scene.light import KEY_LIGHT, Scene
from demo_scene.vectors import Array, unit

LENS = {"k1": -0.08, "k2": 0.02, "p1": 0.001, "p2": -0.0005}
FIELD_HEIGHT = -0.6  # of the fields around the plate, which lies a little above them
HORIZON = 60.0  # where the fields end


def intrinsics(width: int, height: int, off: tuple[float, float] = (0.01, -0.008)) -> dict[str, Any]:
    """As ns-process-data writes them: a camera whose principal point is a little off the middle.

    off: by how much, x as a fraction of the width, y of the height.
    """
    focal = 0.5 * width / math.tan(0.5 * CAMERA_ANGLE_X * 1.25)
    centre = {"cx": width / 2 + off[0] * width, "cy": height / 2 + off[1] * height}
    return {"camera_model": "OPENCV", "fl_x": focal, "fl_y": focal, **centre, "w": width, "h": height, **LENS}


def distort(x: Array, y: Array) -> tuple[Array, Array]:
    """Where the lens puts what a pinhole would put at (x, y); OpenCV's model."""
    r2 = x * x + y * y
    radial = 1 + LENS["k1"] * r2 + LENS["k2"] * r2 * r2
    p1, p2 = LENS["p1"], LENS["p2"]
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def undistort(x: Array, y: Array) -> tuple[Array, Array]:
    """The inverse of `distort`, by fixed-point iteration; the lens is weak, so ten rounds reach rounding."""
    u, v = x.copy(), y.copy()
    for _ in range(10):
        du, dv = distort(u, v)
        u, v = u + x - du, v + y - dv
    return u, v


def landscape(o: Array, d: Array) -> Array:
    """Colour (n, 3), display-referred, of what stands behind the village: fields up to hills, and a sky."""
    azimuth, height = np.arctan2(d[:, 1], d[:, 0]), d[:, 2]
    sky = np.stack([0.55 - 0.35 * height, 0.7 - 0.25 * height, 0.9 - 0.1 * height], axis=1)
    sun = np.clip(d @ unit(KEY_LIGHT), 0, 1) ** 200
    colour = np.clip(sky + sun[:, None], 0, 1)
    ridge = 0.06 + 0.03 * np.sin(3 * azimuth) + 0.015 * np.sin(11 * azimuth + 1)
    hills = height < ridge
    shade = 0.5 + 0.2 * np.sin(17 * azimuth) * np.sin(40 * height)
    colour[hills] = shade[hills, None] * np.array([0.45, 0.6, 0.5])
    t = (FIELD_HEIGHT - o[:, 2]) / np.minimum(d[:, 2], -1e-6)
    fields = (d[:, 2] < 0) & (t < HORIZON) & (t > 0)
    p = o[fields] + t[fields, None] * d[fields]
    # Strips of crops, wider than a pixel until far away.
    strip = np.floor(p[:, 0] / 1.5) + 2 * np.floor(p[:, 1] / 2.5)
    green = np.array([[0.42, 0.52, 0.22], [0.62, 0.56, 0.3], [0.34, 0.46, 0.26]])[np.mod(strip, 3).astype(int)]
    colour[fields] = green * (0.9 + 0.1 * np.sin(4 * p[:, :1]))
    return colour


def photo(scene: Scene, pose: Array, lens: Mapping[str, Any], supersample: int) -> npt.NDArray[np.uint8]:
    """RGB picture (height, width, 3) from a camera-to-world pose (4, 4) through a lens of `intrinsics`."""
    width, height = lens["w"], lens["h"]
    total = np.zeros((width * height, 3))
    for k in range(supersample**2):
        dx, dy = (k % supersample + 0.5) / supersample, (k // supersample + 0.5) / supersample
        row, column = np.mgrid[:height, :width].reshape(2, -1)
        x, y = undistort((column + dx - lens["cx"]) / lens["fl_x"], (row + dy - lens["cy"]) / lens["fl_y"])
        d = unit(np.stack([x, -y, -np.ones_like(x)], axis=1)) @ pose[:3, :3].T
        o: Array = np.broadcast_to(pose[:3, 3], d.shape)
        linear, hit = scene.radiance(o, d, KEY_LIGHT)
        seen = np.clip(linear, 0, 1) ** (1 / 2.2)
        total += np.where(hit[:, None], seen, landscape(o, d))
    return np.round(255 * total / supersample**2).astype(np.uint8).reshape(height, width, 3)
