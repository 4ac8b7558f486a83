"""Pictures at another size, and which size an option means."""

from __future__ import annotations

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images.read import MAX_PIXELS, MIN_SIDE, Picture


def resize_picture(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture at `size` (h, w): the mean over each target pixel's area where it shrinks, cubic where it grows.

    Unobserved pixels have no part in the means: observed values are averaged over their own area. A target pixel is
    observed when at least half of its area is. The very same picture when the size is right already.

    Raises: ValueError on a size below 1.
    """
    if min(size) < 1:
        raise ValueError(f"size must be at least (1, 1), got {size}")
    if size == picture.size:
        return picture
    (h, w), (new_h, new_w) = picture.size, size
    area_rows, area_columns = _area_weights(h, new_h), _area_weights(w, new_w)
    covered = area_rows @ picture.observed.astype(np.float32) @ area_columns.T
    observed = covered >= 0.5 - 1e-4  # half an area is still half after rounding

    weight = picture.observed[..., None].astype(np.float32)
    stack = np.concatenate([picture.values * weight, weight], axis=2)
    # Axis by axis, since a picture may shrink in one direction and grow in the other.
    if new_h < h:
        stack = np.einsum("oh,hwc->owc", area_rows, stack, optimize=True)
    if new_w < w:
        stack = np.einsum("ow,hwc->hoc", area_columns, stack, optimize=True)
    if new_h > h or new_w > w:
        import cv2

        stack = np.asarray(cv2.resize(stack, (new_w, new_h), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    values = stack[..., :-1]
    if not picture.observed.all():
        # Where half the area is observed the weight is well above 0.1; elsewhere the value is dropped anyway.
        values = values / np.maximum(stack[..., -1:], 0.1)
    return Picture((np.clip(values, 0, 1) * observed[..., None]).astype(np.float32), observed)


def parse_size(text: str, size: tuple[int, int], most: int | None = MAX_PIXELS) -> tuple[int, int]:
    """(h, w) that `--size` means for a picture that has `size`.

    "original" keeps the size; "256" makes the longer side 256 and keeps the aspect; "640x480" is width x height.

    Args:
        text: the option.
        size: (h, w) of the picture.
        most: pixels that it may have; None for as many as the picture, or `MAX_PIXELS` where it has less.

    Raises: PeakError on anything else, a side below `MIN_SIDE`, or more than `most`.
    """
    given = text.strip().lower()
    h, w = size
    numbers = given.split("x")
    if given == "original":
        h_new, w_new = h, w
    elif not (len(numbers) <= 2 and all(number.isascii() and number.isdigit() for number in numbers)):
        raise PeakError(f"--size {text}: not a size; give 256 (the longer side), 640x480 (width x height) or original")
    elif len(numbers) == 2:
        w_new, h_new = int(numbers[0]), int(numbers[1])
    else:
        longer = int(numbers[0])
        h_new, w_new = (_rounded(side * longer, max(h, w)) for side in size)
    if min(h_new, w_new) < MIN_SIDE:
        raise PeakError(f"--size {text}: gives {w_new} x {h_new} pixels, and {MIN_SIDE} a side is the least; give more")
    most = max(MAX_PIXELS, h * w) if most is None else most
    if h_new * w_new > most:
        raise PeakError(
            f"--size {text}: gives {w_new} x {h_new} pixels, and {most // 10**6} megapixels is the most; give less"
        )
    return h_new, w_new


def _area_weights(n: int, n_new: int) -> np.ndarray:
    """(n_new, n) float32; row i: the fractions of target interval i that lie in each source interval, 1 in sum."""
    edges = np.arange(n_new + 1) * (n / n_new)
    cells = np.arange(n)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest integer to a ratio, halves upwards."""
    return (2 * numerator + denominator) // (2 * denominator)
