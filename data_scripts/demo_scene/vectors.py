"""Vectors, and rows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Vector = Sequence[float] | npt.NDArray[Any]


def vector(x: float, y: float, z: float) -> Array:
    """A point or direction that can be added to another."""
    return np.array([x, y, z], dtype=float)


def frame_along(direction: Array) -> Array:
    """Rotations (..., 3, 3) whose third column is the direction (..., 3)."""
    w = unit(direction)
    u = unit(np.cross(np.where(np.abs(w[..., 1:2]) < 0.9, [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]), w))
    return np.stack([u, np.cross(w, u), w], axis=-1)


def dot(a: Array, b: Array) -> Array:
    """Row-wise inner product."""
    return np.einsum("nc,nc->n", a, b)


def unit(v: Array) -> Array:
    """Vectors of length 1 along the last axis."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)
