"""Compiled CPU kernel of the sampler; `marcher.sample_torch` is its reference and says what the symbols mean."""

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
def _wall(cell, forward, width, per_half, scale, origin, inverse):
    """Distance to the far wall of a cell, or of its block when width is 8, along one axis."""
    lower = cell & np.int32(-8) if width == 8 else cell
    edge = np.float32(lower + (width if forward else np.int32(0))) * per_half - np.float32(1)
    return (edge * scale - origin) * inverse


@njit(inline="always")
@no_type_check
def _to_steps(t, dt, cone, t_bend):
    if t <= t_bend:
        return t / dt
    return t_bend / dt + np.log(t / t_bend) / cone


@njit(inline="always")
@no_type_check
def _to_distance(s, dt, cone, t_bend, s_bend):
    if s <= s_bend:
        return s * dt
    return t_bend * np.exp((s - s_bend) * cone)


@njit(inline="always")
@no_type_check
def _steps_to(wall, t, dt, cone):
    """Steps from t to a wall behind it, or a few less: of ln(q) >= 2 (q - 1) / (q + 1) where they grow."""
    bend = dt / cone if cone > 0 else np.float32(np.inf)
    if wall <= bend:
        return (wall - t) / dt
    straight = np.float32(0)
    if t < bend:
        straight, t = (bend - t) / dt, bend
    return straight + np.float32(2) * (wall - t) / ((wall + t) * cone)


@njit(inline="always")
@no_type_check
def _blurred(steps, weights, c, found, blur):
    """The largest weight within `blur` steps of candidate c."""
    k, largest = steps[c], weights[c]
    other = c - 1
    while other >= 0 and k - steps[other] <= blur:
        largest = max(largest, weights[other])
        other -= 1
    other = c + 1
    while other < found and steps[other] - k <= blur:
        largest = max(largest, weights[other])
        other += 1
    return np.float64(largest)


@njit(**_OPTIONS)
@no_type_check
def sample(
    origins, directions, t_enter, t_exit, jitter, offset, dt, cone, reference, grid, blocks, log_clear, opaque, explore,
    blur, budget, longest, t_out, dt_out, cell_out, counts, candidates, start, stop,
):  # fmt: skip
    """Samples of rays start..stop, at most budget + 1 each: distances, lengths, cells, and their number to `counts`."""
    n_cascades, n = grid.shape[0], grid.shape[1]
    top = np.int32(n - 1)
    half = np.float32(0.5 * n)
    per_half = np.float32(1) / half
    tiny = np.float32(1e-9)
    t_bend = dt / cone if cone > 0 else np.float32(np.inf)
    s_bend = t_bend / dt
    one_cell, one_block = np.int32(1), np.int32(8)
    steps, cells = np.empty(longest, np.int32), np.empty(longest, np.int64)
    weights, distances = np.empty(longest, np.float32), np.empty(longest, np.float32)
    blurred = np.empty(longest, np.float64)
    growth = np.exp(np.arange(longest + 1).astype(np.float32) * cone)
    for r in range(start, stop):
        counts[r] = 0
        if not t_exit[r] > t_enter[r]:
            continue
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        ix = np.float32(1) / (dx if abs(dx) > tiny else tiny)
        iy = np.float32(1) / (dy if abs(dy) > tiny else tiny)
        iz = np.float32(1) / (dz if abs(dz) > tiny else tiny)
        s_first = _to_steps(t_enter[r], dt, cone, t_bend) + jitter[r]
        n_steps = min(np.int32(np.ceil(_to_steps(t_exit[r], dt, cone, t_bend) - s_first)), np.int32(longest))
        # The first step that is longer than dt, and its distance: those behind it follow by a table.
        k_bend = np.int32(longest)
        if cone > 0:
            k_bend = np.int32(min(max(np.floor(s_bend - s_first) + np.float32(1), np.float32(0)), np.float32(longest)))
        t_grown = _to_distance(s_first + np.float32(k_bend), dt, cone, t_bend, s_bend)
        k = np.int32(0)
        found = 0
        through = np.float32(1)  # transmittance, by the grid's opacities
        last = n_steps
        while k < last:
            t = (s_first + np.float32(k)) * dt if k < k_bend else t_grown * growth[k - k_bend]
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            size = max(abs(x), max(abs(y), abs(z)))
            level = 0
            scale = np.float32(1)
            while size > scale and level < n_cascades - 1:
                scale *= np.float32(2)
                level += 1
            per_scale = np.float32(1) / scale
            i, j, m = _cell(x * per_scale, half, top), _cell(y * per_scale, half, top), _cell(z * per_scale, half, top)
            in_block = blocks[level, i >> 3, j >> 3, m >> 3]
            candidate = grid[level, i, j, m] if in_block else np.uint8(0)
            if candidate:
                length = max(dt, t * cone)
                rest = through * np.exp(log_clear[candidate] * (length / (reference * scale)))
                steps[found], weights[found] = k, through - rest
                distances[found] = t
                cells[found] = ((np.int64(level) * n + i) * n + j) * n + m
                found += 1
                if through >= opaque and rest < opaque:
                    last = min(last, k + np.int32(blur) + np.int32(1))
                through = rest
                k += np.int32(1)
            else:
                # Skip to the wall of this empty cell or block, rounding down: a sample is never jumped over.
                width = one_cell if in_block else one_block
                wall = min(
                    _wall(i, dx > 0, width, per_half, scale, ox, ix),
                    _wall(j, dy > 0, width, per_half, scale, oy, iy),
                    _wall(m, dz > 0, width, per_half, scale, oz, iz),
                )
                ahead = _steps_to(wall, t, dt, cone) if wall > t else np.float32(0)
                k += max(np.int32(1), np.int32(min(ahead, np.float32(longest))))
        candidates[r] = found
        if found == 0:
            continue
        # Probability of each candidate: blurred weight, and a fraction of `explore` evenly spread.
        keep_all = found <= budget
        total = 0.0
        if not keep_all:
            for c in range(found):
                blurred[c] = _blurred(steps, weights, c, found, blur)
                total += blurred[c]
        taken = 0
        place = np.float64(offset[r])
        even = explore / found
        for c in range(found):
            p = 1.0
            if not keep_all:
                near = blurred[c] / total if total > 0 else 1.0 / found
                p = min(1.0, budget * ((1.0 - explore) * near + even))
            before = place
            place += p
            if keep_all or np.floor(place) > np.floor(before):
                t = distances[c]
                length = max(dt, t * cone)
                t_out[r, taken], cell_out[r, taken] = t, cells[c]
                dt_out[r, taken] = length / np.float32(p)
                taken += 1
        counts[r] = taken


@njit(**_OPTIONS)
@no_type_check
def pack(
    origins, directions, t_rows, dt_rows, cell_rows, ends, contracted, ray, t, dt, x, cell, start, stop
):  # fmt: skip
    """Pack the samples of rays start..stop; those of ray r end at ends[r]."""
    one, two = np.float32(1), np.float32(2)
    for r in range(start, stop):
        at = ends[r - 1] if r > 0 else 0
        for n in range(ends[r] - at):
            t_n = t_rows[r, n]
            ray[at + n] = r
            t[at + n], dt[at + n], cell[at + n] = t_n, dt_rows[r, n], cell_rows[r, n]
            px = origins[r, 0] + t_n * directions[r, 0]
            py = origins[r, 1] + t_n * directions[r, 1]
            pz = origins[r, 2] + t_n * directions[r, 2]
            factor = one
            if contracted:
                size = max(one, max(abs(px), max(abs(py), abs(pz))))
                factor = (two - one / size) / (two * size)
            x[at + n, 0], x[at + n, 1], x[at + n, 2] = px * factor, py * factor, pz * factor


@njit(**_OPTIONS)
@no_type_check
def move_towards(values, at, targets, rate):
    """values[at[i]] moves by `rate` towards targets[i], i ascending; below 0 it is not known and takes the target."""
    for i in range(len(at)):
        value = values[at[i]]
        values[at[i]] = targets[i] if value < 0 else value + rate * (targets[i] - value)
