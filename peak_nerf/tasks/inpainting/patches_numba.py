"""Compiled kernels of `patches`: groups of similar patches, their covariance, conditional means.

Kernels are serial and release the GIL; strips of a picture are worked on side by side, each into sums of its own.

Symbols:
    x, c         the picture (h, w, c) as it is so far, and its channels
    trust        (h, w) how much a pixel counts in a comparison of patches: 1 where it was observed
    p, P         side and pixels of a patch
    positions    upper left pixels of the patches of a group, most alike first; the first is the anchor itself
    k, m         the observed and the missing pixels of a patch
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": {"contract", "nsz", "arcp", "reassoc"},
    "error_model": "numpy",
}
FAR = np.float32(1e30)
TINY = np.float32(1e-7)


@njit(**_OPTIONS)
@no_type_check
def find_similar(x, trust, row, column, p, radius, distances, positions):
    """Fill `positions` with the patches within `radius` that are most like the one at (row, column); how many."""
    h, w, n_channels = x.shape
    wanted = len(distances)
    for i in range(wanted):
        distances[i] = FAR
    for r in range(max(row - radius, 0), min(row + radius, h - p) + 1):
        for c in range(max(column - radius, 0), min(column + radius, w - p) + 1):
            total, weights = np.float32(0), np.float32(0)
            for i in range(p):
                for j in range(p):
                    weight = trust[row + i, column + j] * trust[r + i, c + j]
                    error = np.float32(0)
                    for q in range(n_channels):
                        difference = x[row + i, column + j, q] - x[r + i, c + j, q]
                        error += difference * difference
                    total += weight * error
                    weights += weight
            distance = total / weights
            if r == row and c == column:
                distance = np.float32(-1)
            if distance < distances[wanted - 1]:
                k = wanted - 1
                while k > 0 and distances[k - 1] > distance:
                    distances[k] = distances[k - 1]
                    positions[k, 0], positions[k, 1] = positions[k - 1, 0], positions[k - 1, 1]
                    k -= 1
                distances[k] = distance
                positions[k, 0], positions[k, 1] = r, c
    n = 0
    while n < wanted and distances[n] < FAR:
        n += 1
    return n


@njit(**_OPTIONS)
@no_type_check
def group_covariance(x, positions, n, p, mean, covariance, patch):
    """Mean (P, c) and covariance (P, P) of the first n patches of a group, pooled over channels; its trace."""
    n_channels = x.shape[2]
    mean[:] = 0
    covariance[:] = 0
    for k in range(n):
        for i in range(p):
            for j in range(p):
                for q in range(n_channels):
                    mean[i * p + j, q] += x[positions[k, 0] + i, positions[k, 1] + j, q]
    mean /= np.float32(n)
    for k in range(n):
        for q in range(n_channels):
            for i in range(p):
                for j in range(p):
                    patch[i * p + j] = x[positions[k, 0] + i, positions[k, 1] + j, q] - mean[i * p + j, q]
            for a in range(p * p):
                value = patch[a]
                for b in range(p * p):
                    covariance[a, b] += value * patch[b]
    covariance /= np.float32(n * n_channels)
    trace = np.float32(0)
    for a in range(p * p):
        trace += covariance[a, a]
    return trace


@njit(**_OPTIONS)
@no_type_check
def mean_covariance(x, trust, anchors, p, radius, n_group):
    """(P, P), the mean of the covariances of the anchors' groups, each scaled to a mean variance of 1."""
    distances, positions = np.empty(n_group, np.float32), np.empty((n_group, 2), np.int64)
    mean, covariance = np.empty((p * p, x.shape[2]), np.float32), np.empty((p * p, p * p), np.float32)
    patch, total = np.empty(p * p, np.float32), np.zeros((p * p, p * p), np.float32)
    for f in range(len(anchors)):
        n = find_similar(x, trust, anchors[f, 0], anchors[f, 1], p, radius, distances, positions)
        trace = group_covariance(x, positions, n, p, mean, covariance, patch)
        total += covariance * (np.float32(p * p) / (trace + np.float32(p * p) * TINY))
    return total / np.float32(len(anchors))


@njit(**_OPTIONS)
@no_type_check
def sweep_strips(
    x, observed, trust, anchors, bounds, tops, first, last, p, radius, n_group, n_estimated, strength, noise, prior,
    sums, weights,
):  # fmt: skip
    """Estimate the missing pixels of the patches around the anchors of strips first .. last.

    Adds each estimate times 1 / its posterior variance to `sums` (strips, rows, w, c), and that weight to `weights`.
    Anchors bounds[s] .. bounds[s + 1] are those of strip s, whose first row in `sums` is row tops[s] of the picture.
    """
    n_channels, size = x.shape[2], p * p
    distances, positions = np.empty(n_group, np.float32), np.empty((n_group, 2), np.int64)
    mean, covariance = np.empty((size, n_channels), np.float32), np.empty((size, size), np.float32)
    patch, factor = np.empty(size, np.float32), np.empty((size, size), np.float32)
    solved, residual = np.empty((size, size), np.float32), np.empty((size, n_channels), np.float32)
    known, missing = np.empty(size, np.int64), np.empty(size, np.int64)
    for s in range(first, last):
        for f in range(bounds[s], bounds[s + 1]):
            n = find_similar(x, trust, anchors[f, 0], anchors[f, 1], p, radius, distances, positions)
            trace = group_covariance(x, positions, n, p, mean, covariance, patch)
            own, of_prior = np.float32(n) / (n + strength), strength / (n + strength) * trace / np.float32(size)
            for a in range(size):
                for b in range(size):
                    covariance[a, b] = own * covariance[a, b] + of_prior * prior[a, b]
                covariance[a, a] += noise
            for g in range(min(n_estimated, n)):
                row, column = positions[g, 0], positions[g, 1]
                n_known, n_missing = 0, 0
                for a in range(size):
                    if observed[row + a // p, column + a % p]:
                        known[n_known] = a
                        n_known += 1
                    else:
                        missing[n_missing] = a
                        n_missing += 1
                if n_missing == 0:
                    continue
                # Cholesky: covariance_kk = factor factor^T, with 1 / its diagonal on the diagonal.
                for a in range(n_known):
                    for b in range(a + 1):
                        value = covariance[known[a], known[b]]
                        for q in range(b):
                            value -= factor[a, q] * factor[b, q]
                        if a == b:
                            factor[a, a] = np.float32(1) / np.sqrt(max(value, TINY))
                        else:
                            factor[a, b] = value * factor[b, b]
                for a in range(n_known):
                    for q in range(n_channels):
                        value = x[row + known[a] // p, column + known[a] % p, q] - mean[known[a], q]
                        for b in range(a):
                            value -= factor[a, b] * residual[b, q]
                        residual[a, q] = value * factor[a, a]
                for u in range(n_missing):
                    m = missing[u]
                    variance = covariance[m, m]
                    for a in range(n_known):
                        value = covariance[known[a], m]
                        for b in range(a):
                            value -= factor[a, b] * solved[u, b]
                        solved[u, a] = value * factor[a, a]
                        variance -= solved[u, a] * solved[u, a]
                    weight = np.float32(1) / max(variance, TINY)
                    r, c = row + m // p - tops[s], column + m % p
                    weights[s, r, c] += weight
                    for q in range(n_channels):
                        value = mean[m, q]
                        for a in range(n_known):
                            value += solved[u, a] * residual[a, q]
                        sums[s, r, c, q] += weight * value
