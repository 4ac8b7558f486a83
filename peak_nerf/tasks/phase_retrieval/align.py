"""What magnitudes cannot tell: the picture's sign, a turn by 180 degrees, a circular shift. For scoring only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Alignment(NamedTuple):
    """How a picture was moved onto the truth."""

    picture: np.ndarray
    """(n, n) float64: sign * roll(turned, shift)."""
    sign: int
    turned: bool
    """By 180 degrees, before the shift."""
    shift: tuple[int, int]
    """Rows and columns, each in [-n/2, n/2)."""


def align(picture: np.ndarray, truth: np.ndarray) -> Alignment:
    """The picture sign * roll(turned, shift) that is nearest to the truth in squares, of all signs, turns and shifts.

    ||s x' - t||^2 = ||x||^2 + ||t||^2 - 2 s <x', t>, so the best shift is where the circular cross-correlation with t
    is largest in absolute value, and s is its sign there. Of equals, the one that moves less is taken.

    Args: both (h, w), any real values. Raises: ValueError on other shapes or values that are not finite.
    """
    if picture.ndim != 2 or picture.shape != truth.shape:
        raise ValueError(f"both must be (h, w), got {picture.shape} and {truth.shape}")
    x, t = picture.astype(np.float64), truth.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(t).all()):
        raise ValueError("values must be finite")
    spectrum = np.fft.rfft2(t)
    best: Alignment | None = None
    best_value = -np.inf
    tolerance = 1e-9 * float(np.sqrt((x**2).sum() * (t**2).sum()))  # rounding of the transforms
    for turned in (False, True):
        candidate = x[::-1, ::-1] if turned else x
        correlation = np.fft.irfft2(np.conj(np.fft.rfft2(candidate)) * spectrum, s=x.shape)
        for sign in (1, -1):
            top = float((sign * correlation).max())
            unmoved = sign * correlation[0, 0] >= top - tolerance
            row, column = (0, 0) if unmoved else np.unravel_index((sign * correlation).argmax(), x.shape)
            if top > best_value + tolerance:
                shift = tuple(int((k + n // 2) % n - n // 2) for k, n in zip((row, column), x.shape, strict=True))
                best_value = top
                best = Alignment(sign * np.roll(candidate, shift, axis=(0, 1)), sign, turned, (shift[0], shift[1]))
    assert best is not None  # the first candidate always wins against -inf
    return best
