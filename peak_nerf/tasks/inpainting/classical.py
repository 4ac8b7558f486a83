"""Filling in missing pixels without learning: what a field must beat."""

from __future__ import annotations

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.system.choices import did_you_mean
from peak_nerf.tasks.inpainting.patches import fill_by_patches

CLASSICAL = ("biharmonic", "telea", "navier-stokes", "linear", "patches")
RADIUS = 3
"""Pixels around a missing one that OpenCV's methods look at."""
SPLIT_ABOVE = 65_536
"""Missing pixels from which the biharmonic method solves each region by itself."""


def fill(method: str, values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The picture with its missing pixels filled in; observed ones come back as they are.

    Args:
        method: of `CLASSICAL`.
        values: (h, w, c) in [0, 1]; what stands at missing pixels is never looked at.
        observed: (h, w) bool.
    Returns: (h, w, c) float32 in [0, 1].
    Raises: PeakError on a method not in `CLASSICAL`, or one out of memory; ValueError on other shapes, or when nothing
        is observed.
    """
    if method not in CLASSICAL:
        raise PeakError(f"--method {method}: no such method; {did_you_mean(method, CLASSICAL)}")
    if values.ndim != 3 or observed.shape != values.shape[:2] or observed.dtype != np.bool_:
        raise ValueError(f"values must be (h, w, c) and observed (h, w) bool, got {values.shape} and {observed.shape}")
    if not observed.any():
        raise ValueError("no pixel is observed")
    known = np.where(observed[..., None], values, 0).astype(np.float32)
    if observed.all():
        return known
    try:
        if method == "biharmonic":
            filled = _biharmonic(known, observed)
        elif method == "linear":
            filled = _linear(known, observed)
        elif method == "patches":
            filled = fill_by_patches(known, observed, _biharmonic(known, observed))
        else:
            filled = _opencv(method, known, observed)
    except MemoryError:
        raise PeakError(f"--method {method}: out of memory; choose telea, or a smaller --size") from None
    return np.where(observed[..., None], known, np.clip(filled, 0, 1)).astype(np.float32)


def _biharmonic(known: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Solves laplace(laplace(u)) = 0 at the missing pixels: one sparse system, in float64.

    The equation's stencil reaches two pixels far, and skimage joins regions that close to each other, so that regions
    solved one by one give the same result in the memory of the largest. Many regions are slower by themselves, hence
    only above `SPLIT_ABOVE` missing pixels. A random mask is one region: there memory grows with the picture.
    """
    from skimage.restoration import inpaint_biharmonic

    missing = ~observed
    split = int(np.count_nonzero(missing)) > SPLIT_ABOVE
    return inpaint_biharmonic(known.astype(np.float64), missing, split_into_regions=split, channel_axis=-1)


def _opencv(method: str, known: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Telea's fast marching or the Navier-Stokes method, channel by channel in 16 bits.

    OpenCV takes 8 and 16 bits and, one channel at a time, floats. Its Telea adds a rounding of 0.5 in floats too, which
    is wrong for values in [0, 1]; in 16 bits that is nothing.
    """
    import cv2

    flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    missing = (~observed).astype(np.uint8)
    deep = np.rint(known * 65535).astype(np.uint16)
    channels = [cv2.inpaint(np.ascontiguousarray(deep[..., i]), missing, RADIUS, flag) for i in range(known.shape[2])]
    return np.stack(channels, axis=2) / np.float32(65535)


def _linear(known: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Linear on the triangles of the observed pixels; the nearest one outside their convex hull, or all on a line."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator  # type: ignore[import-untyped]
    from scipy.spatial import QhullError  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    points, targets = np.argwhere(observed), np.argwhere(~observed)
    values = known[observed].astype(np.float64)
    filled = known.copy()
    try:
        # Each triangle is a tiny LAPACK call, whose threads wait for each other when another process wants the cores.
        with threadpool_limits(1, user_api="blas"):
            found = LinearNDInterpolator(points, values)(targets)
    except (QhullError, ValueError):  # fewer than three points, or all on one line
        found = np.full((len(targets), known.shape[2]), np.nan)
    outside = np.isnan(found).any(axis=1)
    if outside.any():
        found[outside] = NearestNDInterpolator(points, values)(targets[outside])
    filled[~observed] = found
    return filled
