"""Which parts of a picture are fitted to fill its holes, and how their fits become one picture without a seam."""

# crop: a box around holes, (top, left, height, width) in pixels of the picture   scale: it is fitted at 1 / scale

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MAX_CROP = 2**16
"""Pixels that are fitted at once, as many as a picture of 256 x 256 has."""
TILES = (64, 192)
"""Sides of the parts of a large hole that have crops of their own: the larger where margins leave room for it."""
MARGINS = (24, 96)
"""Least and most pixels around a hole that its crop takes in."""
PER_THICKNESS = 3
"""Pixels of margin for each pixel of a hole's thickness, beside half of the least."""
MAX_THICKNESS = 96
"""A hole that is thicker, and whose crop is larger than `MAX_CROP`, is fitted at a smaller scale."""
PER_CROP = 2**14
"""Pixels that take as long as a crop more."""
_JOIN = 16
"""Holes nearer than this are planned together."""
_NEIGHBOURS = 64
"""Crops among which one looks for another to be joined with."""
_LEAST_OBSERVED = 64
"""Observed pixels that a crop must have."""


@dataclass(frozen=True)
class Crop:
    """A part of a picture that is fitted by itself."""

    top: int
    left: int
    height: int
    width: int
    scale: int = 1

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Pixels."""
        return self.height * self.width

    @property
    def fitted_size(self) -> tuple[int, int]:
        """(h, w) that is fitted."""
        return tuple(max(-(-side // self.scale), 2) for side in self.size)  # type: ignore[return-value]


def whole_picture(size: tuple[int, int]) -> Crop:
    """The crop that is all of it, at its own scale."""
    return Crop(0, 0, *size)


def plan_crops(
    fill: np.ndarray, observed: np.ndarray, most: int = MAX_CROP, sides: tuple[int, ...] = TILES
) -> list[Crop]:
    """Crops that together cover every pixel to be filled, each with its surroundings.

    A hole gets one crop, with a margin that grows with its thickness. One that is long is cut into tiles, which overlap
    by their margins, where they have fewer pixels; one whose crop has more than `most` is fitted at a smaller scale
    where it is thick.

    Args:
        fill: (h, w) bool, what is to be filled.
        observed: (h, w) bool, what is known; neither is what stays as it is unseen, such as transparent pixels.
        most: pixels of a crop that are fitted.
        sides: of tiles, of which those are taken that give the fewest pixels.
    """
    crops: list[Crop] = []
    for box, part, thickness in _holes(fill):
        margin = int(np.clip(math.ceil(PER_THICKNESS * thickness) + MARGINS[0] // 2, *MARGINS))
        crop = _with_margin(box, margin, fill.shape)
        fits = crop.area <= most
        if thickness > MAX_THICKNESS and not fits:
            crops.append(_shrunk(crop, most))
            continue
        plans = [[crop]] if fits else []
        for side in sides:
            tiles = [
                _with_margin(tile, margin, fill.shape) for tile in _tiles(box, part, max(side, int(2 * thickness)))
            ]
            if side == min(sides) or max(tile.area for tile in tiles) <= most:
                plans.append(tiles)
        crops += min(plans, key=lambda plan: sum(tile.area + PER_CROP for tile in plan))
    return [_with_surroundings(crop, observed, most) for crop in _merged(crops, most)]


def compose(
    fills: Iterator[tuple[Crop, np.ndarray]] | list[tuple[Crop, np.ndarray]], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One picture of the crops' pictures, and (h, w) bool, where there is one: elsewhere it is `values`.

    Where crops overlap they are averaged with weights that fall to nothing at a crop's border, the picture's own border
    excepted, so that there is no seam.

    Args:
        fills: each crop with its picture at full scale, (height, width, c).
        values: (h, w, c) the picture that they are crops of.
    """
    total = np.zeros(values.shape, dtype=np.float32)
    weights = np.zeros(values.shape[:2], dtype=np.float32)
    for crop, picture in fills:
        weight = np.minimum.outer(
            _taper(crop.top, crop.height, values.shape[0]), _taper(crop.left, crop.width, values.shape[1])
        )
        total[crop.box] += weight[..., None] * picture
        weights[crop.box] += weight
    filled = weights > 0
    total[filled] /= weights[filled][:, None]
    total[~filled] = values[~filled]
    return total, filled


def mean_depth(observed: np.ndarray) -> float:
    """Mean distance of missing pixels to the nearest observed one: 1 for a line, 0 where none is missing."""
    missing = ~observed
    return float(_depth(missing.astype(np.uint8))[missing].mean()) if missing.any() else 0.0


def hole_thickness(observed: np.ndarray) -> float:
    """Of the thickest hole, in pixels: twice the farthest that a missing pixel is from a known one."""
    return 2 * float(_depth((~observed).astype(np.uint8)).max())


def _depth(missing: np.ndarray) -> np.ndarray:
    """(h, w) distance of each missing pixel to the nearest that is not; what is outside the picture is none."""
    import cv2

    # The frame counts as known: a hole at the border is as thick as it looks.
    return np.asarray(cv2.distanceTransform(np.pad(missing, 1), cv2.DIST_L2, 3))[1:-1, 1:-1]


def _holes(fill: np.ndarray) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray, float]]:
    """Holes, near ones as one: box (top, left, bottom, right), (h, w) bool within the box, and thickness in pixels."""
    import cv2

    mask = fill.astype(np.uint8)
    depth = _depth(mask)
    near = cv2.dilate(mask, np.ones((_JOIN, _JOIN), np.uint8))
    n, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    for label in range(1, n):
        left, top, width, height = (int(number) for number in stats[label][:4])
        rows, columns = slice(top, top + height), slice(left, left + width)
        part = fill[rows, columns] & (labels[rows, columns] == label)
        ys, xs = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if len(ys) == 0:
            continue
        inner = part[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        box = (top + int(ys[0]), left + int(xs[0]), top + int(ys[-1]) + 1, left + int(xs[-1]) + 1)
        yield box, inner, 2 * float(depth[rows, columns][part].max())


def _tiles(box: tuple[int, int, int, int], part: np.ndarray, tile: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of at most `tile` a side around what of a hole is in each."""
    top, left = box[:2]
    rows, columns = (np.linspace(0, side, -(-side // tile) + 1).astype(int) for side in part.shape)
    for first, last in pairwise(rows):
        for begin, end in pairwise(columns):
            ys = np.flatnonzero(part[first:last, begin:end].any(axis=1))
            xs = np.flatnonzero(part[first:last, begin:end].any(axis=0))
            if len(ys):
                yield (
                    top + int(first + ys[0]),
                    left + int(begin + xs[0]),
                    top + int(first + ys[-1]) + 1,
                    left + int(begin + xs[-1]) + 1,
                )


def _with_margin(box: tuple[int, int, int, int], margin: int, size: tuple[int, ...]) -> Crop:
    top, left = max(box[0] - margin, 0), max(box[1] - margin, 0)
    return Crop(top, left, min(box[2] + margin, size[0]) - top, min(box[3] + margin, size[1]) - left)


def _shrunk(crop: Crop, most: int) -> Crop:
    """At the largest scale at which it has no more pixels."""
    scale = max(math.ceil(math.sqrt(crop.area / most)), 1)
    return Crop(crop.top, crop.left, crop.height, crop.width, scale)


def _merged(crops: list[Crop], most: int) -> list[Crop]:
    """Crops of full scale that are cheaper together, joined."""
    kept: list[Crop] = []
    for crop in sorted(crops, key=lambda crop: (crop.top // TILES[0], crop.left, crop.top)):
        while (other := next((k for k in reversed(kept[-_NEIGHBOURS:]) if _cheaper(k, crop, most)), None)) is not None:
            kept.remove(other)
            crop = _joined(other, crop)
        kept.append(crop)
    return kept


def _joined(a: Crop, b: Crop) -> Crop:
    top, left = min(a.top, b.top), min(a.left, b.left)
    bottom, right = max(a.top + a.height, b.top + b.height), max(a.left + a.width, b.left + b.width)
    return Crop(top, left, bottom - top, right - left)


def _cheaper(a: Crop, b: Crop, most: int) -> bool:
    union = _joined(a, b)
    return a.scale == b.scale == 1 and union.area <= min(most, a.area + b.area + PER_CROP)


def _with_surroundings(crop: Crop, observed: np.ndarray, most: int) -> Crop:
    """The crop, grown where it has next to nothing that is known."""
    while np.count_nonzero(observed[crop.box]) < _LEAST_OBSERVED * crop.scale**2 and crop.size != observed.shape:
        box = (crop.top, crop.left, crop.top + crop.height, crop.left + crop.width)
        crop = _shrunk(_with_margin(box, max(crop.size) // 2, observed.shape), most)
    return crop


def _taper(start: int, n: int, n_picture: int) -> np.ndarray:
    """Weights along one side: 1 but for the outermost `MARGINS[0]` pixels, where they rise from the crop's border."""
    i = np.arange(n, dtype=np.float32)
    ramp = max(min(MARGINS[0], n // 2), 1)
    rising = np.ones(n, dtype=np.float32) if start == 0 else np.minimum((i + 1) / ramp, 1)
    falling = np.ones(n, dtype=np.float32) if start + n == n_picture else np.minimum((n - i) / ramp, 1)
    return (np.minimum(rising, falling) ** 2 + 1e-4).astype(np.float32)
