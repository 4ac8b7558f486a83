"""Compiled kernel of `triangulation`, where symbols are explained."""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": True}


@njit(**_OPTIONS)
@no_type_check
def best_on_lines(normals, directions, limit, p, q):
    """The most similar of q's features on the epipolar line of each of p's, and the other way round.

    Args:
        normals: (m, 3) float32 unit normals of the epipolar planes of p's features.
        directions: (k, 3) float32 unit directions of q's features.
        limit: sine of the largest angle between plane and direction.
        p: (m, 128) float32 unit descriptors.
        q: (k, 128) likewise.

    Returns: for each of p's the index of the best of q's (-1 without one), its similarity p . q and that of the second
    best (-1 without one); for each of q's the index of the best of p's.
    """
    m, k = len(p), len(q)
    best, first = np.full(m, -1, np.int64), np.full(m, -1.0, np.float32)
    second = np.full(m, -1.0, np.float32)
    back, back_first = np.full(k, -1, np.int64), np.full(k, -1.0, np.float32)
    for i in range(m):
        x, y, z = normals[i, 0], normals[i, 1], normals[i, 2]
        for j in range(k):
            if abs(x * directions[j, 0] + y * directions[j, 1] + z * directions[j, 2]) > limit:
                continue
            similarity = np.float32(0)
            for c in range(p.shape[1]):
                similarity += p[i, c] * q[j, c]
            if similarity > first[i]:
                first[i], second[i], best[i] = similarity, first[i], j
            elif similarity > second[i]:
                second[i] = similarity
            if similarity > back_first[j]:
                back_first[j], back[j] = similarity, i
    return best, first, second, back


@njit(**_OPTIONS)
@no_type_check
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(**_OPTIONS)
@no_type_check
def join(edges, picture, n_pictures):
    """For each of n features (picture[i] says whose) the number of its track, that of one of its features.

    Edges (k, 2), the surest first, join two tracks unless both have a feature of the same picture.
    """
    n = len(picture)
    parent = np.arange(n)
    held = np.zeros((n, (n_pictures + 63) // 64), np.uint64)  # which pictures a track has features of, by its root
    for i in range(n):
        held[i, picture[i] // 64] = np.uint64(1) << np.uint64(picture[i] % 64)
    for e in range(len(edges)):
        a, b = _root(parent, edges[e, 0]), _root(parent, edges[e, 1])
        if a == b:
            continue
        apart = True
        for w in range(held.shape[1]):
            apart = apart and (held[a, w] & held[b, w]) == 0
        if apart:
            parent[b] = a
            for w in range(held.shape[1]):
                held[a, w] |= held[b, w]
    for i in range(n):
        parent[i] = _root(parent, i)
    return parent
