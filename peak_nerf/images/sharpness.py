"""How sharp a photograph is, and which photographs are the same picture twice or its mirror image."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

# Sharpness is measured where a viewer would notice it: with the longer side at so many pixels, in blocks.
_LONGER_SIDE, _BLOCKS, _PERCENTILE = 640, 8, 90
# Pictures are compared as so many cells a side, and with each other in so many blocks of cells a side.
_CELLS, _PARTS = 64, 8
# Same pictures differ by no more than this, root mean square in any block, of 255; what compression leaves of a cell's
# mean. Neighbouring frames of a moving camera differ by more where there is any contrast.
_SAME_LEVELS = 2.5
_SAME_CONTRAST = 0.12
_TEXTURELESS = 1.0


def sharpness(rgb: UInt8[np.ndarray, "h w 3"]) -> float:
    """90th percentile, over 8 x 8 blocks, of the standard deviation of the Laplacian of the grey picture.

    0 where all is flat; some 5 to 40 for photographs in focus, in grey levels of 255. Half a picture of sky changes
    little, since the sharp blocks decide; a blurred picture has none. Pictures are measured at one size, the longer
    side at 640 pixels (smaller ones as they are), so that the number compares within one capture.
    """
    import cv2

    grey = np.asarray(cv2.cvtColor(shrink(rgb, _LONGER_SIDE), cv2.COLOR_RGB2GRAY))
    return block_sharpness(grey)


def block_sharpness(grey: UInt8[np.ndarray, "h w"]) -> float:
    """`sharpness` of a grey picture at the size that it has."""
    import cv2

    laplacian = np.asarray(cv2.Laplacian(grey, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REPLICATE))
    n_rows, n_columns = (min(_BLOCKS, side) for side in grey.shape)
    blocks = [
        float(block.std())
        for rows in np.array_split(laplacian, n_rows, axis=0)
        for block in np.array_split(rows, n_columns, axis=1)
    ]
    return float(np.percentile(blocks, _PERCENTILE))


def shrink(rgb: UInt8[np.ndarray, "h w ..."], longer_side: int) -> UInt8[np.ndarray, "new_h new_w ..."]:
    """The picture with its longer side at most so long, each pixel the mean over its area; as it is if small already."""
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
    return None
