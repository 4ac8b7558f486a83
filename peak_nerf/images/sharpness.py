"""How sharp a photograph is, and which photographs are the same picture twice or its mirror image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

# Sharpness is measured where a viewer would notice it: with the longer side at so many pixels, in blocks.
_LONGER_SIDE, _BLOCKS, _PERCENTILE = 640, 8, 90
# Second differences along rows, columns and diagonals; the diagonals' steps are longer by sqrt(2).
_SECOND_DIFFERENCES = (
    np.array([[0, 0, 0], [1, -2, 1], [0, 0, 0]], np.float32),
    np.array([[0, 1, 0], [0, -2, 0], [0, 1, 0]], np.float32),
    np.array([[1, 0, 0], [0, -2, 0], [0, 0, 1]], np.float32) / np.float32(np.sqrt(2)),
    np.array([[0, 0, 1], [0, -2, 0], [1, 0, 0]], np.float32) / np.float32(np.sqrt(2)),
)
# Pictures are compared as so many cells a side, all of them and in so many blocks a side.
_CELLS, _PARTS = 64, 8
# How far copies may differ, root mean square, as a fraction of the picture's standard deviation, in all cells and in
# the worst block; and in grey levels, where there is little contrast. On four captures and 100 views of lego, copies
# at half the size and JPEG quality 60 differ by 0.042 and 0.12 at most, neighbouring views by 0.073 and 0.21 at least;
# a picture and itself shifted by 1 % of its width by 0.115 and 0.27 at least.
_SAME, _SAME_BLOCK = (0.055, 0.4), (0.15, 1.0)
# Below so many grey levels of standard deviation a wall looks like any other.
_TEXTURELESS = 2.0


def sharpness(rgb: UInt8[np.ndarray, "h w 3"]) -> float:
    """90th percentile, over 8 x 8 blocks, of the least standard deviation of second differences in four directions.

    0 where all is flat; 10 to 40 for photographs in focus, in grey levels of 255. Half a picture of sky changes little,
    since the sharp blocks decide; a blurred picture has none. The least direction, since a shaken picture stays sharp
    across the motion: shaken by 2 % of its width it keeps 0.1 of its sharpness, of its Laplacian's 0.3 to 0.6.

    Pictures are measured at one size, the longer side at 640 pixels (smaller ones as they are), so that the number
    compares within one capture.
    """
    import cv2

    return grey_sharpness(np.asarray(cv2.cvtColor(shrink(rgb, _LONGER_SIDE), cv2.COLOR_RGB2GRAY)))


def grey_sharpness(grey: UInt8[np.ndarray, "h w"]) -> float:
    """`sharpness` of a grey picture at the size that it has."""
    import cv2

    values = grey.astype(np.float32)
    variances = []
    for kernel in _SECOND_DIFFERENCES:
        second = np.asarray(cv2.filter2D(values, -1, kernel, borderType=cv2.BORDER_REPLICATE))
        variances.append(_block_means(second**2) - _block_means(second) ** 2)
    return float(np.percentile(np.sqrt(np.maximum(np.min(variances, axis=0), 0)), _PERCENTILE))


def _block_means(values: np.ndarray) -> np.ndarray:
    """(h, w) to (8, 8), or fewer where it has fewer rows or columns."""
    sums, count = values, np.ones((1, 1))
    for axis, n in enumerate(values.shape):
        edges = np.linspace(0, n, min(_BLOCKS, n) + 1).astype(int)
        sums = np.add.reduceat(sums, edges[:-1], axis=axis, dtype=np.float64)
        count = count * np.expand_dims(np.diff(edges), 1 - axis)
    return sums / count


def shrink(rgb: UInt8[np.ndarray, "h w ..."], longer_side: int) -> UInt8[np.ndarray, "new_h new_w ..."]:
    """The picture with its longer side at most so long, each pixel the mean over its area; a small one as it is."""
    import cv2

    h, w = rgb.shape[:2]
    if max(h, w) <= longer_side:
        return rgb
    size = tuple(max(1, round(side * longer_side / max(h, w))) for side in (w, h))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def thumbnail_signature(rgb: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "64 64"]:
    """Mean grey, 0 to 255, of 64 x 64 cells: what stays when a picture is resized or compressed once more."""
    import cv2

    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)).astype(np.float32)
    return np.asarray(cv2.resize(grey, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA), dtype=np.float32)


def same_picture(
    a: Float32[np.ndarray, "64 64"], b: Float32[np.ndarray, "64 64"]
) -> Literal["duplicate", "mirrored", None]:
    """Whether two signatures are of one picture, saved twice or resized, or of one and its mirror image.

    Mirrored left to right or upside down. Pictures without texture say nothing, unless they are equal.
    """
    contrast = min(float(a.std()), float(b.std()))
    if contrast < _TEXTURELESS:
        return "duplicate" if np.array_equal(a, b) else None
    if _differ_little(a - b, contrast):
        return "duplicate"
    return "mirrored" if any(_differ_little(a - mirror, contrast) for mirror in (b[:, ::-1], b[::-1])) else None


def find_copy(
    signature: Float32[np.ndarray, "64 64"], others: Sequence[Float32[np.ndarray, "64 64"]]
) -> tuple[int, Literal["duplicate", "mirrored"]] | None:
    """The first of `others` that is the same picture, by its index, and how; None where none is.

    As `same_picture` with each, but most are ruled out at once: coarse cells differ by less than fine ones.
    """
    if not others:
        return None
    side = _CELLS // _PARTS
    stack = np.stack(others).reshape(-1, _PARTS, side, _PARTS, side).mean(axis=(2, 4))
    own = signature.reshape(_PARTS, side, _PARTS, side).mean(axis=(1, 3))
    least = np.min([((stack - turned) ** 2).mean(axis=(1, 2)) for turned in (own, own[:, ::-1], own[::-1])], axis=0)
    # A hair wider than the bound itself, for rounding.
    bound = max(_SAME[0] * float(signature.std()), _SAME[1]) * 1.01 + 1e-3
    for index in np.flatnonzero(np.sqrt(least) <= bound):
        if kind := same_picture(signature, others[index]):
            return int(index), kind
    return None


def _differ_little(difference: Float32[np.ndarray, "64 64"], contrast: float) -> bool:
    squares = difference**2
    if np.sqrt(squares.mean()) > max(_SAME[0] * contrast, _SAME[1]):
        return False
    side = _CELLS // _PARTS
    blocks = squares.reshape(_PARTS, side, _PARTS, side).mean(axis=(1, 3))
    return bool(np.sqrt(blocks.max()) <= max(_SAME_BLOCK[0] * contrast, _SAME_BLOCK[1]))
