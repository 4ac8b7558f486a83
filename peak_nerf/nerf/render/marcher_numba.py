"""Compiled CPU kernel of the occupancy-guided ray marcher; `sampler.march_torch` is its reference.

Symbols:
    k        index of a step on a ray: t_k = t_enter + (k + jitter) * dt, the middle of the sample's interval
    cell     voxel of the occupancy grid, in normalised coordinates [-1, 1]^3
    block    8 x 8 x 8 cells (fewer at the rim); an empty block is skipped in one go
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(inline="always")
@no_type_check
def _cell(position, half, top):
    return min(max(np.int32((position + np.float32(1)) * half), np.int32(0)), top)


@njit(inline="always")
@no_type_check
def _wall(cell, forward, width, per_half, origin, inverse):
    """Distance to the far wall of a cell, or of its block when width is 8, along one axis."""
    lower = cell & np.int32(-8) if width == 8 else cell
    edge = np.float32(lower + (width if forward else np.int32(0))) * per_half - np.float32(1)
    return (edge - origin) * inverse


@njit(**_OPTIONS)
@no_type_check
def march(
    origins, directions, t_enter, t_exit, jitter, dt, occupied, blocks, first_step, steps, counts, start, stop
):  # fmt: skip
    """Walk rays start..stop from step `first_step`, visiting occupied cells only.

    Writes the steps k that lie in occupied cells to `steps` (at most steps.shape[1] for each ray), their number to
    `counts`, and the step to go on from to `first_step`.
    """
    limit = steps.shape[1]
    top = np.int32(occupied.shape[0] - 1)
    half = np.float32(0.5 * occupied.shape[0])
    per_half = np.float32(1) / half
    per_dt = np.float32(1) / dt
    tiny = np.float32(1e-9)
    one_cell, one_block = np.int32(1), np.int32(8)
    for r in range(start, stop):
        k = np.int32(first_step[r])
        found = 0
        enter = t_enter[r]
        begin = enter + jitter[r] * dt
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        ix = np.float32(1) / (dx if abs(dx) > tiny else tiny)
        iy = np.float32(1) / (dy if abs(dy) > tiny else tiny)
        iz = np.float32(1) / (dz if abs(dz) > tiny else tiny)
        n_steps = np.int32(np.ceil((t_exit[r] - enter) * per_dt - jitter[r])) if t_exit[r] > enter else np.int32(0)
        while k < n_steps and found < limit:
            t_k = begin + np.float32(k) * dt
            i = _cell(ox + t_k * dx, half, top)
            j = _cell(oy + t_k * dy, half, top)
            m = _cell(oz + t_k * dz, half, top)
            in_block = blocks[i >> 3, j >> 3, m >> 3]
            if in_block and occupied[i, j, m]:
                steps[r, found] = k
                found += 1
                k += np.int32(1)
            else:
                # Skip to the wall of this empty cell or block, rounding down: a sample is never jumped over.
                width = one_cell if in_block else one_block
                wall = min(
                    _wall(i, dx > 0, width, per_half, ox, ix),
                    _wall(j, dy > 0, width, per_half, oy, iy),
                    _wall(m, dz > 0, width, per_half, oz, iz),
                )
                k += max(np.int32(1), np.int32((wall - t_k) * per_dt))
        first_step[r] = min(k, n_steps)
        counts[r] = found


@njit(**_OPTIONS)
@no_type_check
def fill(origins, directions, t_enter, jitter, dt, steps, ends, ray, t, x, start, stop):
    """Pack the samples of rays start..stop; those of ray r end at ends[r]."""
    for r in range(start, stop):
        at = ends[r - 1] if r > 0 else 0
        begin = t_enter[r] + jitter[r] * dt
        for n in range(ends[r] - at):
            t_k = begin + np.float32(steps[r, n]) * dt
            ray[at + n] = r
            t[at + n] = t_k
            for axis in range(3):
                x[at + n, axis] = origins[r, axis] + t_k * directions[r, axis]
