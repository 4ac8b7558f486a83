"""Compiled kernel of `multi_view_stereo`, where symbols are explained."""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
PATHS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
"""Steps (down, right) along which costs are passed on."""
FAR = np.int32(1 << 20)
"""More than any cost."""


@njit(**_OPTIONS)
@no_type_check
def better_half(scores, units):
    """C in these units, (h, w) uint8.

    Args:
        scores: (s, h, w) float32, Z of each source; NaN where it has no such pixel. Without any, windows are unlike.
        units: of 1; at most 127.
    """
    s, h, w = scores.shape
    cost, best = np.empty((h, w), np.uint8), np.empty(s, np.float32)
    for y in range(h):
        for x in range(w):
            count = 0
            for j in range(s):  # insertion, the largest first
                score = scores[j, y, x]
                if np.isnan(score):
                    continue
                i = count
                while i > 0 and best[i - 1] < score:
                    best[i] = best[i - 1]
                    i -= 1
                best[i] = score
                count += 1
            half = (count + 1) // 2
            total = np.float32(0)
            for i in range(half):
                total += best[i]
            cost[y, x] = np.uint8(units * min(max(1 - total / max(half, 1), 0), 2))
    return cost


@njit(**_OPTIONS)
@no_type_check
def aggregate(cost, grey, step, jump, edge):
    """Sums over the paths of S(p, k), (h, w, n) uint16.

    Args:
        cost: (h, w, n) uint8, C.
        grey: (h, w) float32, the reference picture.
        step: P1, of a surface that goes on one plane nearer or farther.
        jump: P2, of any other change, where the picture has no edge; never less than step.
        edge: difference of neighbouring greys that halves it.
    """
    h, w, n = cost.shape
    total = np.zeros((h, w, n), np.uint16)
    # One more on each side, so that the first and the last plane have neighbours.
    last, row = np.full((w, n + 2), FAR, np.int32), np.full((w, n + 2), FAR, np.int32)
    for path in range(len(PATHS)):
        down, right = PATHS[path]
        for i in range(h):
            y = i if down >= 0 else h - 1 - i
            last, row = row, last
            before = row if down == 0 else last
            for j in range(w):
                x = j if right >= 0 else w - 1 - j
                y_before, x_before = y - down, x - right
                here = row[x]
                if y_before < 0 or y_before >= h or x_before < 0 or x_before >= w:
                    for k in range(n):
                        here[k + 1] = cost[y, x, k]
                else:
                    there = before[x_before]
                    least = FAR
                    for k in range(1, n + 1):
                        least = min(least, there[k])
                    change = abs(grey[y, x] - grey[y_before, x_before])
                    other = least + np.int32(max(step, jump / (1 + change / edge)))
                    for k in range(1, n + 1):
                        near = min(there[k - 1], there[k + 1]) + step
                        here[k] = cost[y, x, k - 1] + min(min(there[k], near), other) - least
                for k in range(n):
                    total[y, x, k] += np.uint16(here[k + 1])
    return total


@njit(**_OPTIONS)
@no_type_check
def between(inverse, reach):
    """Guesses of inverse depth where it is 0, (h, w): the second least of what is nearest along `PATHS`, or else 0.

    Args:
        inverse: (h, w) float32.
        reach: pixels, within which there must be some along a path and its opposite.
    """
    h, w = inverse.shape
    guess, found = np.zeros_like(inverse), np.empty(len(PATHS), np.float32)
    for y in range(h):
        for x in range(w):
            if inverse[y, x] > 0:
                continue
            opposite = False
            for path in range(len(PATHS)):  # its opposite is the one before or after it
                down, right = PATHS[path]
                found[path] = np.inf
                for i in range(1, reach + 1):
                    y_there, x_there = y + i * down, x + i * right
                    if y_there < 0 or y_there >= h or x_there < 0 or x_there >= w:
                        break
                    if inverse[y_there, x_there] > 0:
                        found[path] = inverse[y_there, x_there]
                        break
                if path % 2 == 1 and found[path] < np.inf and found[path - 1] < np.inf:
                    opposite = True
            if opposite:
                guess[y, x] = np.sort(found)[1]
    return guess
