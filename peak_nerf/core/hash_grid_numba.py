"""Compiled CPU kernels of the multi-resolution grid: forward, table gradient and input gradient.

Each kernel is specialised on (in_dim, n_features), serial, and releases the GIL; `parallel.parallel_for` splits the
work. Forward and input gradient split over points, the table gradient over levels, so no two threads write one row.

Symbols:
    n, l, c, f   index of point, level, corner of the cell, feature
    lo, w        lower vertex of the cell of a point, and the position inside the cell, per dimension
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from peak_nerf.core.hash_grid import PRIMES

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": {"contract", "nsz", "arcp"},
    "error_model": "numpy",
}


@cache
def kernels(in_dim: int, n_features: int) -> tuple[Any, Any, Any]:
    """The compiled (forward, table_gradient, input_gradient) for one input dimension and feature count."""
    D, F, C = in_dim, n_features, 2**in_dim
    primes = PRIMES[:in_dim]

    @njit(inline="always")
    def clamp_to_unit(value, one):
        """Written so that NaN becomes 0: a NaN index would read outside the table."""
        if value > 0:
            return value if value < one else one
        return one - one

    @njit(inline="always")
    def vertex_index(c, lo, resolution, is_dense, mask, strides):
        """Row of corner c of the cell at `lo`, inside its level."""
        index = np.int64(0)
        if is_dense:
            for d in range(D):
                index += (lo[d] + ((c >> d) & 1)) * strides[d]
            return index
        for d in range(D):
            index ^= (lo[d] + ((c >> d) & 1)) * np.int64(primes[d])
        return index & mask

    @njit(**_OPTIONS)
    def forward(x, table, offsets, resolutions, sizes, dense, out, start, stop):
        lo = np.empty(D, np.int64)
        strides = np.empty(D, np.int64)
        w = np.empty(D, table.dtype)
        one = table.dtype.type(1)
        for level in range(resolutions.shape[0]):
            resolution, offset, is_dense = resolutions[level], offsets[level], dense[level]
            mask = sizes[level] - 1
            scale = table.dtype.type(resolution)
            stride = np.int64(1)
            for d in range(D):
                strides[d] = stride
                stride *= resolution + 1
            for n in range(start, stop):
                for d in range(D):
                    position = clamp_to_unit(x[n, d], one) * scale
                    lo[d] = min(np.int64(position), resolution - 1)
                    w[d] = position - lo[d]
                for f in range(F):
                    out[n, level * F + f] = 0
                for c in range(C):
                    weight = one
                    for d in range(D):
                        weight *= w[d] if (c >> d) & 1 else one - w[d]
                    row = offset + vertex_index(c, lo, resolution, is_dense, mask, strides)
                    for f in range(F):
                        out[n, level * F + f] += weight * table[row, f]

    @njit(**_OPTIONS)
    def table_gradient(x, grad_out, offsets, resolutions, sizes, dense, order, grad_table, start, stop):
        lo = np.empty(D, np.int64)
        strides = np.empty(D, np.int64)
        w = np.empty(D, grad_table.dtype)
        one = grad_table.dtype.type(1)
        for item in range(start, stop):
            level = order[item]
            resolution, offset, is_dense = resolutions[level], offsets[level], dense[level]
            mask = sizes[level] - 1
            scale = grad_table.dtype.type(resolution)
            stride = np.int64(1)
            for d in range(D):
                strides[d] = stride
                stride *= resolution + 1
            for n in range(x.shape[0]):
                for d in range(D):
                    position = clamp_to_unit(x[n, d], one) * scale
                    lo[d] = min(np.int64(position), resolution - 1)
                    w[d] = position - lo[d]
                for c in range(C):
                    weight = one
                    for d in range(D):
                        weight *= w[d] if (c >> d) & 1 else one - w[d]
                    row = offset + vertex_index(c, lo, resolution, is_dense, mask, strides)
                    for f in range(F):
                        grad_table[row, f] += weight * grad_out[n, level * F + f]

    @njit(**_OPTIONS)
    def input_gradient(x, table, grad_out, offsets, resolutions, sizes, dense, grad_x, start, stop):
        lo = np.empty(D, np.int64)
        strides = np.empty(D, np.int64)
        w = np.empty(D, table.dtype)
        one = table.dtype.type(1)
        for n in range(start, stop):
            for d in range(D):
                grad_x[n, d] = 0
        for level in range(resolutions.shape[0]):
            resolution, offset, is_dense = resolutions[level], offsets[level], dense[level]
            mask = sizes[level] - 1
            scale = table.dtype.type(resolution)
            stride = np.int64(1)
            for d in range(D):
                strides[d] = stride
                stride *= resolution + 1
            for n in range(start, stop):
                for d in range(D):
                    position = clamp_to_unit(x[n, d], one) * scale
                    lo[d] = min(np.int64(position), resolution - 1)
                    w[d] = position - lo[d]
                for c in range(C):
                    row = offset + vertex_index(c, lo, resolution, is_dense, mask, strides)
                    dot = table.dtype.type(0)
                    for f in range(F):
                        dot += table[row, f] * grad_out[n, level * F + f]
                    for d in range(D):
                        weight = scale if (c >> d) & 1 else -scale
                        for other in range(D):
                            if other != d:
                                weight *= w[other] if (c >> other) & 1 else one - w[other]
                        grad_x[n, d] += weight * dot
        # The clamp to the box is flat outside it.
        for n in range(start, stop):
            for d in range(D):
                if x[n, d] < 0 or x[n, d] > 1:
                    grad_x[n, d] = 0

    return forward, table_gradient, input_gradient
