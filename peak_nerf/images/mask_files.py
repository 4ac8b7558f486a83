"""Masks as tools export them: two values whatever they are, strokes on transparency, strokes painted over the photo.

What is read is one number a pixel: 1 is known, 0 is a hole, between them a soft edge.
"""

# known: (h, w) float32 in [0, 1]   grey: what is compared with half of its range

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images.original import Original, read_original

HOLES = ("black", "white", "painted", "transparent")
"""What of a mask's picture can be the hole; the last two of one with transparency."""
_OPPOSITE = {"black": "white", "white": "black", "painted": "transparent", "transparent": "painted"}
MOST_MISSING, LEAST_MISSING = 0.75, 0.25
"""More missing than the first where the other reading has less than the second: then nobody can tell."""
_SHADES = 0.5
"""Of its pixels; a picture with more of them between black and white is no mask."""
_NOISE = 0.1
"""Of the range at either end that is no soft edge, but what JPEG leaves around one."""
# Two pictures are one up to compression when half of their pixels differ by no more than this, of 255.
_SAME = 8
# Painted is what then differs by more, of 255: more where the mask was compressed.
_PAINTED, _PAINTED_LOSSY = 0.5, 64
_TWO_COLOURS = 0.97
"""Of a mask's pixels have one of two colours; the others are edges."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Which pixels of a picture a mask says are holes."""

    known: np.ndarray
    """(h, w) float32 in [0, 1]: 0 is a hole, from half on a pixel is known, what lies between blends."""
    notes: tuple[str, ...] = ()
    """How it was read: which reading, whether it was resized."""

    @property
    def observed(self) -> np.ndarray:
        """(h, w) bool."""
        return self.known > 0.5


def read_mask(path: str | Path, photo: np.ndarray, hole: str | None = None) -> Mask:
    """The mask in a file for a picture, resized to it where only the scale differs.

    - A file with transparency: what is painted is the hole.
    - The photo itself, painted over: what differs is the hole.
    - Else two values, whichever they are: black is the hole, where brightness is below half of its range.

    Args:
        path: the file; of layers or pages the flattened or first one.
        photo: (h, w, 1 or 3) in [0, 1], the picture that it is for.
        hole: of `HOLES`, where another reading is meant; None for these.

    Raises: PeakError when the file cannot be read, has another aspect than the photo, has no two values, or leaves
        unclear what is the hole.
    """
    return interpret(path, read_mask_original(path), photo, hole)


def read_mask_original(path: str | Path) -> Original:
    """What is in a mask's file. Raises: PeakError when it cannot be read."""
    return read_original(path, convert=True, first=True)


def interpret(path: str | Path, original: Original, photo: np.ndarray, hole: str | None) -> Mask:
    """As `read_mask`, of a file that is read already."""
    h, w = photo.shape[:2]
    _check_aspect(path, original.size, (h, w))
    shown = original.colours.astype(np.float32) / np.float32(original.most)
    alpha = None if original.alpha is None else original.alpha.astype(np.float32) / np.float32(original.most)
    if alpha is not None and float(np.ptp(alpha)) == 0:
        if float(alpha.flat[0]) == 0:
            raise PeakError(f"{path}: is transparent everywhere, so nothing is painted; export the layer with strokes")
        alpha = None
    if hole in ("painted", "transparent") and alpha is None:
        raise PeakError(f"--mask-hole {hole}: {path} has no transparency; leave the option out, or give black or white")
    if alpha is not None and hole in (None, "painted", "transparent"):
        known, default = 1 - _soft(alpha), "painted"
    else:
        if alpha is not None:  # on the colour that is no hole
            shown = shown * alpha[..., None] + (1 - alpha[..., None]) * np.float32(hole == "black")
        painted = _painted_over(shown, photo) if hole is None else None
        if painted is not None:
            return Mask(
                _resized(painted, (h, w)), ("what differs from the picture is the hole", *_said(original, h, w))
            )
        known, default = _two_values(path, shown), "black"
    meaning = _meaning(path, float(np.mean(known <= 0.5)), default, hole)
    known = known if meaning == default else 1 - known
    said = meaning if meaning in ("black", "white") else f"what is {meaning}"
    return Mask(_resized(known, (h, w)), (f"{said} is the hole", *_said(original, h, w)))


def percent(fraction: float) -> str:
    """Such as 3.4 %, 96.6 % or 0.012 %: two significant digits where it is small."""
    value = 100 * fraction
    return f"{value:.1f} %" if value >= 1 or value == 0 else f"{value:.2g} %"


def _meaning(path: str | Path, missing: float, default: str, hole: str | None) -> str:
    """What is the hole, where the default leaves this fraction missing. Raises: PeakError when that is unclear."""
    if hole is not None:
        return hole
    other = _OPPOSITE[default]
    if missing > MOST_MISSING and 0 < 1 - missing < LEAST_MISSING:
        raise PeakError(
            f"{path}: {percent(missing)} would be missing with {default} as the hole, {percent(1 - missing)} with"
            f" {other}; say which with --mask-hole {other} or --mask-hole {default}"
        )
    return default


def _two_values(path: str | Path, shown: np.ndarray) -> np.ndarray:
    """1 where a picture is bright, of the two values that it has; shown (h, w, c) in any range."""
    shown = np.nan_to_num(shown)
    grey = shown.mean(axis=2)
    ranges = np.ptp(shown, axis=(0, 1))
    if np.ptp(grey) < 0.25 * ranges.max():  # two colours of one brightness
        grey = shown[..., int(ranges.argmax())]
    low, high = float(grey.min()), float(grey.max())
    if low == high:  # no two values: 0 is black
        return np.full(grey.shape, float(high > 0), dtype=np.float32)
    known = _soft((grey - low) / (high - low))
    if np.mean((known > 0) & (known < 1)) > _SHADES:
        raise PeakError(f"{path}: is a picture with shades, not a mask of two values; draw the hole black on white")
    return known


def _soft(values: np.ndarray) -> np.ndarray:
    """[0, 1] stretched, so that what JPEG leaves near 0 and 1 is 0 and 1."""
    return np.clip((values - _NOISE) / (1 - 2 * _NOISE), 0, 1).astype(np.float32)


def _painted_over(shown: np.ndarray, photo: np.ndarray) -> np.ndarray | None:
    """0 where the photo was painted over and 1 elsewhere, (h, w); None where the mask is not the photo."""
    if shown.shape[:2] != photo.shape[:2] or (shown.shape[2] == 1 and photo.shape[2] == 3):
        return None
    difference = 255 * np.abs(shown - photo).max(axis=2)
    # A mask may be white where the photo is: then it is like the photo, and yet a mask.
    if not float(np.median(difference)) <= _SAME or _has_two_colours(shown):
        return None
    exact = float(np.mean(difference < _PAINTED)) > 0.5
    painted = difference > (_PAINTED if exact else _PAINTED_LOSSY)
    if not painted.any():
        return None
    import cv2

    # Where the photo happens to have the paint's colour a stroke has gaps.
    closed = cv2.morphologyEx(painted.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return 1 - closed.astype(np.float32)


def _has_two_colours(shown: np.ndarray) -> bool:
    """Whether nearly all pixels have one of two colours, up to a few levels."""
    bins = np.clip(shown * 8, 0, 7).astype(np.int64) @ (8 ** np.arange(shown.shape[2]))
    counts = np.sort(np.bincount(bins.ravel()))
    return bool(counts[-2:].sum() >= _TWO_COLOURS * bins.size)


def _check_aspect(path: str | Path, mask: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise `PeakError` unless both (h, w) are of one shape, up to the rounding of a side."""
    (h_mask, w_mask), (h, w) = mask, size
    if min(abs(h * w_mask / w - h_mask), abs(w * h_mask / h - w_mask)) <= 1:
        return
    turned = min(abs(h * h_mask / w - w_mask), abs(w * w_mask / h - h_mask)) <= 1
    remedy = (
        "turn the mask as the picture is shown" if turned else f"draw it over the picture, or resize it to {w} x {h}"
    )
    raise PeakError(
        f"{path}: the mask is {w_mask} x {h_mask} pixels and the picture {w} x {h}, of another shape; {remedy}"
    )


def _said(original: Original, h: int, w: int) -> tuple[str, ...]:
    resized = () if original.size == (h, w) else (f"mask resized from {original.size[1]} x {original.size[0]}",)
    return (*(note for note in original.notes if "pictures" in note), *resized)


def _resized(known: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest where it grows, so that two values stay two; where it shrinks the mean, so that a thin line blends."""
    if known.shape == size:
        return known.astype(np.float32)
    import cv2

    shrinks = known.shape[0] > size[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(known.astype(np.float32), size[::-1], interpolation=how), dtype=np.float32)
