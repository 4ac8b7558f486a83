"""Textures: functions from texture coordinates t, the object's own before it is placed, to linear-light colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demo_scene.vectors import Array, Vector

Texture = Callable[[Array], Array]  # texture coordinates (n, 3) -> linear-light colour (n, 3)


def colour(hex_code: str) -> Array:
    """Linear-light colour of an sRGB hex code such as "d9480f"."""
    srgb = np.array([int(hex_code[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def mix(a: Array, b: Array, weight: Array) -> Array:
    """Colours between a (weight 0) and b (weight 1); weight has shape (n,)."""
    return a + (b - a) * weight[:, None]


def plain(hex_code: str) -> Texture:
    """One colour."""
    a = colour(hex_code)
    return lambda t: np.broadcast_to(a, t.shape)


def checker(hex_a: str, hex_b: str, cell: float) -> Texture:
    """Checkers in x, y and z; half a cell off the origin so that faces at 0 do not flicker."""
    a, b = colour(hex_a), colour(hex_b)
    return lambda t: mix(a, b, (np.floor(t / cell + 0.5).sum(1) % 2).astype(float))


def stripes(hex_a: str, hex_b: str, period: float, axis: Vector) -> Texture:
    """Stripes of equal width across `axis`."""
    a, b, direction = colour(hex_a), colour(hex_b), np.asarray(axis, float)
    return lambda t: mix(a, b, ((t @ direction / period) % 1 < 0.5).astype(float))


def sectors(hex_a: str, hex_b: str, count: int) -> Texture:
    """Slices of a cake around the z axis, such as a beach ball's."""
    a, b = colour(hex_a), colour(hex_b)
    return lambda t: mix(a, b, np.floor((np.arctan2(t[:, 1], t[:, 0]) / (2 * np.pi) % 1) * count) % 2)


class ValueNoise:
    """Smooth noise in [0, 1]: random values on a periodic 32^3 lattice, blended by smoothstep, three octaves."""

    def __init__(self, seed: int) -> None:
        self.lattice = np.random.default_rng(seed).random((32, 32, 32)).ravel()

    def octave(self, t: Array) -> Array:
        """Noise (n,) in [0, 1] at points (n, 3): the lattice's values, smoothly interpolated."""
        cell = np.floor(t)
        w = t - cell
        w = w * w * (3 - 2 * w)
        low = cell.astype(np.int64) & 31
        high = (low + 1) & 31
        value = np.zeros(len(t))
        for corner in range(8):
            use_high = [(corner >> axis) & 1 for axis in range(3)]
            i, j, k = ((high if use else low)[:, axis] for axis, use in enumerate(use_high))
            weights = [w[:, axis] if use else 1 - w[:, axis] for axis, use in enumerate(use_high)]
            value += weights[0] * weights[1] * weights[2] * self.lattice[(i * 32 + j) * 32 + k]
        return value

    def __call__(self, t: Array) -> Array:
        """Three octaves, each of half the amplitude of the one before: (n,) in [0, 1] at points (n, 3)."""
        return (self.octave(t) + 0.5 * self.octave(2 * t + 11.3) + 0.25 * self.octave(4 * t + 5.7)) / 1.75


def speckle(noise: ValueNoise, hex_a: str, hex_b: str, frequency: float) -> Texture:
    """Clouds of two colours."""
    a, b = colour(hex_a), colour(hex_b)
    return lambda t: mix(a, b, np.clip(2.4 * noise(t * frequency) - 0.7, 0, 1))


def marble(noise: ValueNoise, hex_a: str, hex_b: str, frequency: float) -> Texture:
    """Veins: a sine wave bent by noise."""
    a, b = colour(hex_a), colour(hex_b)
    return lambda t: mix(a, b, (0.5 + 0.5 * np.sin(frequency * (t.sum(1) + 0.6 * noise(t * 6)))) ** 3)


def wood(noise: ValueNoise, hex_a: str, hex_b: str, axis: int, ring: float = 0.045) -> Texture:
    """Year rings around a trunk along `axis` whose heart lies a little off the object, wobbled by noise."""
    a, b = colour(hex_a), colour(hex_b)
    u, v = [k for k in range(3) if k != axis]

    def evaluate(t: Array) -> Array:
        stretched = t * 5
        stretched[:, axis] *= 0.25
        radius = np.hypot(t[:, u] + 0.13, t[:, v] + 0.21) + 0.06 * noise(stretched)
        return mix(a, b, (radius / ring % 1) ** 2)

    return evaluate


def planks(base: Texture, height: float, seam: float = 0.1) -> Texture:
    """`base`, with a dark seam between horizontal boards."""
    return lambda t: base(t) * np.where(t[:, 2] / height % 1 < seam, 0.35, 1.0)[:, None]
