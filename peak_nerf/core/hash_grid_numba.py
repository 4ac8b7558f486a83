"""Compiled CPU kernels of the multi-resolution grid: forward, table gradient and input gradient.

Kernels are serial and release the GIL; `parallel.parallel_for` splits the work. Forward and input gradient split over
points, the table gradient over levels, so no two threads write one row.

A block of points at a time, each kernel first works out rows and weights of all corners (loops without branches or
look-ups, which LLVM vectorises), then visits the table: its cache misses depend on nothing and overlap.

The kernels are specialised on the input dimension through the length of the tuple `primes`, not through a closure:
numba finds a function in its disk cache only when its closure holds no other compiled function.

Symbols:
    l, c, i      index of level, corner of the cell, point within the block
    bit          0 for the lower and 1 for the upper vertex of a cell, along one dimension: bit d of c
    terms        per dimension and bit, what the vertex adds to (dense) or flips in (hashed) the row number
    fractions       per dimension and bit, the interpolation weight 1 - w or w
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": {"contract", "nsz", "arcp"},
    "error_model": "numpy",
}

BLOCK = 128
"""Points at a time: rows and weights of 8 corners are 8 KiB."""


@njit(**_OPTIONS)
@no_type_check
def _locate(x, first, count, resolution, is_dense, primes, terms, fractions):
    """Terms and fractions of the points first .. first + count."""
    one = fractions.dtype.type(1)
    scale = fractions.dtype.type(resolution)
    top = np.int32(resolution - 1)
    stride = np.uint32(1)
    for d in range(len(primes)):
        factor = stride if is_dense else primes[d]
        for i in range(count):
            value = x[first + i, d]
            # Written so that NaN becomes 0: a NaN index would read outside the table.
            inside = (value if value < one else one) if value > 0 else one - one
            position = inside * scale
            lower = min(np.int32(position), top)
            w = position - fractions.dtype.type(lower)
            fractions[d, 0, i], fractions[d, 1, i] = one - w, w
            term = np.uint32(np.uint32(lower) * factor)
            terms[d, 0, i], terms[d, 1, i] = term, np.uint32(term + factor)
        stride = np.uint32(stride * np.uint32(resolution + 1))


@njit(**_OPTIONS)
@no_type_check
def _corners(count, is_dense, mask, primes, terms, fractions, rows, weights):
    """Rows and weights of all corners, each (2^d, count), from terms and fractions."""
    for c in range(1 << len(primes)):
        if is_dense:
            for i in range(count):
                row = terms[0, c & 1, i]
                for d in range(1, len(primes)):
                    row = np.uint32(row + terms[d, (c >> d) & 1, i])
                rows[c, i] = row
        else:
            for i in range(count):
                row = terms[0, c & 1, i]
                for d in range(1, len(primes)):
                    row = np.uint32(row ^ terms[d, (c >> d) & 1, i])
                rows[c, i] = row & mask
        for i in range(count):
            weight = fractions[0, c & 1, i]
            for d in range(1, len(primes)):
                weight *= fractions[d, (c >> d) & 1, i]
            weights[c, i] = weight


@njit(**_OPTIONS)
@no_type_check
def _buffers(primes, dtype_of):
    """Room for one block: terms, fractions, rows, weights."""
    n_dims, n_corners = len(primes), 1 << len(primes)
    return (
        np.empty((n_dims, 2, BLOCK), np.uint32),
        np.empty((n_dims, 2, BLOCK), dtype_of.dtype),
        np.empty((n_corners, BLOCK), np.uint32),
        np.empty((n_corners, BLOCK), dtype_of.dtype),
    )


@njit(**_OPTIONS)
@no_type_check
def forward(x, table, offsets, resolutions, sizes, dense, primes, out, start, stop):
    """Features of the points start..stop into out, (n, levels * features)."""
    terms, fractions, rows, weights = _buffers(primes, table)
    n_features, n_corners, zero = table.shape[1], 1 << len(primes), table.dtype.type(0)
    for level in range(resolutions.shape[0]):
        entries = table[offsets[level] : offsets[level] + sizes[level]]
        mask, column = np.uint32(sizes[level] - 1), level * n_features
        for first in range(start, stop, BLOCK):
            count = min(BLOCK, stop - first)
            _locate(x, first, count, resolutions[level], dense[level], primes, terms, fractions)
            _corners(count, dense[level], mask, primes, terms, fractions, rows, weights)
            # Sums in scalars, not in `out`: the compiler cannot know that `out` is not part of the table.
            if n_features == 2:
                for i in range(count):
                    a = b = zero
                    for c in range(n_corners):
                        row, weight = rows[c, i], weights[c, i]
                        a += weight * entries[row, 0]
                        b += weight * entries[row, 1]
                    out[first + i, column], out[first + i, column + 1] = a, b
            elif n_features == 4:
                for i in range(count):
                    a = b = e = f = zero
                    for c in range(n_corners):
                        row, weight = rows[c, i], weights[c, i]
                        a += weight * entries[row, 0]
                        b += weight * entries[row, 1]
                        e += weight * entries[row, 2]
                        f += weight * entries[row, 3]
                    out[first + i, column], out[first + i, column + 1] = a, b
                    out[first + i, column + 2], out[first + i, column + 3] = e, f
            else:
                for i in range(count):
                    for f in range(n_features):
                        a = zero
                        for c in range(n_corners):
                            a += weights[c, i] * entries[rows[c, i], f]
                        out[first + i, column + f] = a


@njit(**_OPTIONS)
@no_type_check
def table_gradient(x, grad_out, offsets, resolutions, sizes, dense, primes, order, grad_table, start, stop):
    """Gradient of the table for the levels order[start..stop], which it sets to zero first: then it is in the cache."""
    terms, fractions, rows, weights = _buffers(primes, grad_table)
    n_features, n_corners = grad_table.shape[1], 1 << len(primes)
    for item in range(start, stop):
        level = order[item]
        entries = grad_table[offsets[level] : offsets[level] + sizes[level]]
        entries[:] = 0
        mask, column = np.uint32(sizes[level] - 1), level * n_features
        for first in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - first)
            _locate(x, first, count, resolutions[level], dense[level], primes, terms, fractions)
            _corners(count, dense[level], mask, primes, terms, fractions, rows, weights)
            if n_features == 2:
                for i in range(count):
                    a, b = grad_out[first + i, column], grad_out[first + i, column + 1]
                    for c in range(n_corners):
                        row, weight = rows[c, i], weights[c, i]
                        entries[row, 0] += weight * a
                        entries[row, 1] += weight * b
            elif n_features == 4:
                for i in range(count):
                    a, b = grad_out[first + i, column], grad_out[first + i, column + 1]
                    e, f = grad_out[first + i, column + 2], grad_out[first + i, column + 3]
                    for c in range(n_corners):
                        row, weight = rows[c, i], weights[c, i]
                        entries[row, 0] += weight * a
                        entries[row, 1] += weight * b
                        entries[row, 2] += weight * e
                        entries[row, 3] += weight * f
            else:
                for i in range(count):
                    for c in range(n_corners):
                        row, weight = rows[c, i], weights[c, i]
                        for f in range(n_features):
                            entries[row, f] += weight * grad_out[first + i, column + f]


@njit(**_OPTIONS)
@no_type_check
def _dots(entries, grad_out, first, column, count, rows, dots):
    """Features of each corner times the gradient of the features, (2^d, count)."""
    n_features = entries.shape[1]
    if n_features == 4:
        for i in range(count):
            a, b = grad_out[first + i, column], grad_out[first + i, column + 1]
            e, f = grad_out[first + i, column + 2], grad_out[first + i, column + 3]
            for c in range(rows.shape[0]):
                row = rows[c, i]
                dots[c, i] = entries[row, 0] * a + entries[row, 1] * b + entries[row, 2] * e + entries[row, 3] * f
    elif n_features == 2:
        for i in range(count):
            a, b = grad_out[first + i, column], grad_out[first + i, column + 1]
            for c in range(rows.shape[0]):
                dots[c, i] = entries[rows[c, i], 0] * a + entries[rows[c, i], 1] * b
    else:
        for i in range(count):
            for c in range(rows.shape[0]):
                dot = entries[rows[c, i], 0] * grad_out[first + i, column]
                for f in range(1, n_features):
                    dot += entries[rows[c, i], f] * grad_out[first + i, column + f]
                dots[c, i] = dot


@njit(**_OPTIONS)
@no_type_check
def input_gradient(x, table, grad_out, offsets, resolutions, sizes, dense, primes, grad_x, start, stop):
    """Gradient of the positions start..stop; 0 outside the box, where the clamp is flat."""
    terms, fractions, rows, weights = _buffers(primes, table)
    dots = np.empty_like(weights)
    n_features, n_corners, n_dims = table.shape[1], 1 << len(primes), len(primes)
    grad_x[start:stop] = 0
    for level in range(resolutions.shape[0]):
        entries = table[offsets[level] : offsets[level] + sizes[level]]
        mask, column = np.uint32(sizes[level] - 1), level * n_features
        scale = table.dtype.type(resolutions[level])
        for first in range(start, stop, BLOCK):
            count = min(BLOCK, stop - first)
            _locate(x, first, count, resolutions[level], dense[level], primes, terms, fractions)
            _corners(count, dense[level], mask, primes, terms, fractions, rows, weights)
            _dots(entries, grad_out, first, column, count, rows, dots)
            # Along each edge of the cell: the difference of its ends, weighted by the other coordinates.
            for d in range(n_dims):
                for c in range(n_corners):
                    if (c >> d) & 1:
                        continue
                    end = c | (1 << d)
                    for i in range(count):
                        weight = scale
                        for other in range(n_dims):
                            if other != d:
                                weight *= fractions[other, (c >> other) & 1, i]
                        grad_x[first + i, d] += weight * (dots[end, i] - dots[c, i])
    for n in range(start, stop):
        for d in range(len(primes)):
            if x[n, d] < 0 or x[n, d] > 1:
                grad_x[n, d] = 0
