"""Pictures of an object before plain white, without an alpha channel: their white, from the border on, is transparent.

Symbols:
    p      colour of a pixel, 0 to 1
    a      its opacity
    C      colour of the object there: p = a C + (1 - a) white
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from peak_nerf.nerf.data.scene_pictures import ScenePicture, stamp_of

LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
"""JPEG's ringing paints around the object what is no longer white."""
BORDER = 0.9
"""Fraction of a picture's border that must be white: an object may touch it."""
SMALLEST_HOLE = 9
"""Pixels of white within the object that are taken for a hole in it; fewer are highlights."""
BEFORE_WHITE = (
    "all {} pictures are of an object before plain white, which is taken for transparent from the border on;"
    " --plain-background False takes them for photos"
)
_CONTRAST = 0.02
"""Squared distance of C from white below which a pixel's colour does not tell its opacity."""


def all_before_white(pictures: list[ScenePicture]) -> bool:
    """Whether the border of every picture is exactly white, up to what the object covers; transparent is white too."""
    return all(
        picture.file.path.suffix.lower() in LOSSLESS and _before_white(picture, stamp_of(picture.file.path))
        for picture in pictures  # the first photo ends it
    )


@lru_cache(maxsize=1 << 16)
def _before_white(picture: ScenePicture, stamp: tuple[int, ...]) -> bool:
    values = picture.read()
    white = (values[..., :3] == 255).all(-1)
    if values.shape[-1] == 4:
        white |= values[..., 3] == 0
    border = np.concatenate((white[0], white[-1], white[1:-1, 0], white[1:-1, -1]))
    return bool(border.mean() >= BORDER) and not white.all()


def with_alpha(picture: np.ndarray) -> np.ndarray:
    """The picture with an alpha channel, which put before white gives the picture again.

    Transparent is what is white and connected with the border, and white spots of `SMALLEST_HOLE` pixels and more. Of
    pixels beside these, which show both, C is taken from the nearest pixel of the object further in, and
    a = (1 - p) . (1 - C) / |1 - C|^2, clipped to [0, 1].

    Args:
        picture: (h, w, 3) uint8.

    Returns: (h, w, 4) uint8.
    """
    empty = _empty(picture)
    edge = ~empty & (cv2.dilate(empty.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    core = ~empty & ~edge
    p = picture.astype(np.float32) / 255
    colour, opacity = p.copy(), 1.0 - empty.astype(np.float32)
    if edge.any() and core.any():
        toward_white = 1 - p[core][_nearest(core)[edge]]
        size = np.square(toward_white).sum(-1)
        a = ((1 - p[edge]) * toward_white).sum(-1) / np.maximum(size, _CONTRAST)
        a = np.where(size < _CONTRAST, 1, a.clip(0, 1))
        opacity[edge] = a
        colour[edge] = 1 - (1 - p[edge]) / np.maximum(a, 1 / 255)[:, None]
    rgba = np.dstack((colour.clip(0, 1), opacity))
    return np.round(rgba * 255).astype(np.uint8)


def _empty(picture: np.ndarray) -> np.ndarray:
    """(h, w) bool, where white shows that nothing is there."""
    white = (picture == 255).all(-1).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(white, connectivity=4)
    border = np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
    empty = stats[:, cv2.CC_STAT_AREA] >= SMALLEST_HOLE
    empty[border] = True
    empty[0] = False  # label 0 is what is not white
    return np.asarray(empty[labels])


def _nearest(core: np.ndarray) -> np.ndarray:
    """(h, w), of each pixel which of those of `core`, in the order of core's True, is nearest."""
    labels = cv2.distanceTransformWithLabels(
        (~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    of_label = np.zeros(labels.max() + 1, np.int64)
    of_label[labels[core]] = np.arange(np.count_nonzero(core))
    return np.asarray(of_label[labels])
