"""Compiled CPU kernels of a window's similarities and their gradient; `core.window` has the reference.

A window of 80 x 80 pixels with 14 pairs and 100 features is 9 million products. torch makes them out of 14 shifted
copies of g, and as many in the backward, which take ten times as long as the products.

Kernels are serial and release the GIL, as in `hash_grid_numba`; both gather, so no two threads write one row.

Symbols:
    padded     (h + 2 a, w + 2 b, r) g, mirrored by a rows and b columns on each side
    offsets    (k, 2) s, one of each pair {s, -s}
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": {"contract", "nsz", "reassoc"},
    "error_model": "numpy",
}
HALF = np.float32(0.5)


@njit(**_OPTIONS)
@no_type_check
def similarities(padded, offsets, a, b, out, start, stop):
    """g(x)^T (g(x + s) + g(x - s)) / 2 of the rows start .. stop of the window into `out`, (h, w, k)."""
    for i in range(start, stop):
        for j in range(out.shape[1]):
            own = padded[i + a, j + b]
            for k in range(len(offsets)):
                one = padded[i + a + offsets[k, 0], j + b + offsets[k, 1]]
                other = padded[i + a - offsets[k, 0], j + b - offsets[k, 1]]
                total = np.float32(0)
                for q in range(len(own)):
                    total += own[q] * (one[q] + other[q])
                out[i, j, k] = HALF * total


@njit(**_OPTIONS)
@no_type_check
def similarities_gradient(padded, offsets, a, b, of_out, out, start, stop):
    """The gradient of rows start .. stop of `padded` into `out`, given that of the similarities, (h, w, k)."""
    h, w = of_out.shape[0], of_out.shape[1]
    for i in range(start, stop):
        for j in range(out.shape[1]):
            row, column = i - a, j - b
            total = out[i, j]
            total[:] = 0
            inside = 0 <= row < h and 0 <= column < w
            for k in range(len(offsets)):
                up, left = offsets[k, 0], offsets[k, 1]
                if inside:  # as the pixel that asks
                    factor = HALF * of_out[row, column, k]
                    one, other = padded[i + up, j + left], padded[i - up, j - left]
                    for q in range(len(total)):
                        total[q] += factor * (one[q] + other[q])
                if 0 <= row - up < h and 0 <= column - left < w:  # as x + s
                    factor = HALF * of_out[row - up, column - left, k]
                    asking = padded[i - up, j - left]
                    for q in range(len(total)):
                        total[q] += factor * asking[q]
                if 0 <= row + up < h and 0 <= column + left < w:  # as x - s
                    factor = HALF * of_out[row + up, column + left, k]
                    asking = padded[i + up, j + left]
                    for q in range(len(total)):
                        total[q] += factor * asking[q]
