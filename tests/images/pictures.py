"""Small pictures for tests."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image


def smooth_picture(h: int, w: int, n_channels: int = 1) -> np.ndarray:
    """(h, w, c) in [0.1, 0.9], a few waves; easy to fill in."""
    rows, columns = np.mgrid[0:h, 0:w] / max(h, w)
    channels = [np.sin(5 * rows + i) * np.cos(4 * columns - i) for i in range(n_channels)]
    return (0.5 + 0.4 * np.stack(channels, axis=2)).astype(np.float32)


def some_missing(h: int, w: int, missing: float = 0.4) -> np.ndarray:
    """(h, w) bool, the same every time."""
    return np.random.RandomState(1).rand(h, w) > missing


def scenery(seed: int = 0, h: int = 360, w: int = 480) -> np.ndarray:
    """(h, w, 3) uint8: noise at all scales, as photographs have."""
    random = np.random.default_rng(seed)
    total = np.zeros((h, w, 3))
    for size in (4, 8, 16, 32, 64, 128, 256, w):
        coarse = random.normal(size=(max(1, size * h // w), size, 3)).astype(np.float32)
        total += cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC) / size**0.5
    return np.clip(128 + 110 * total, 0, 255).astype(np.uint8)


def camera_exif(orientation: int = 1) -> Image.Exif:
    """A camera, its lens, and what must not be kept: date, size and place."""
    exif = Image.Exif()
    exif[0x112], exif[0x10F], exif[0x110] = orientation, "Canon\0", " EOS  5D "
    exif[0x132] = "2020:01:01 00:00:00"
    exif[0x8769] = {0x920A: 24.5, 0xA405: 39, 0xA434: "EF 24-70", 0xA002: 4000, 0x9003: "2020:01:01 00:00:00"}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    return exif
