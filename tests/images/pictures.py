"""Small pictures for the tests of the tasks."""

from __future__ import annotations

import numpy as np


def smooth_picture(h: int, w: int, n_channels: int = 1) -> np.ndarray:
    """(h, w, c) in [0.1, 0.9], a few waves; easy to fill in."""
    rows, columns = np.mgrid[0:h, 0:w] / max(h, w)
    channels = [np.sin(5 * rows + i) * np.cos(4 * columns - i) for i in range(n_channels)]
    return (0.5 + 0.4 * np.stack(channels, axis=2)).astype(np.float32)


def some_missing(h: int, w: int, missing: float = 0.4) -> np.ndarray:
    """(h, w) bool, the same every time."""
    return np.random.RandomState(1).rand(h, w) > missing
