"""Triton kernel of the sampler; `marcher.sample_torch` is its reference and says what the symbols mean.

A program is a warp, each thread of which walks along a ray of its own, over empty cells and blocks in one go. There is
one kernel, which runs three times, or twice where every candidate is taken: to count a ray's candidates, to count
those taken, and to write them. Walking again costs less than room for all that might be found. The host has to know
how many there are, once, between counting and writing; unless it says how many there is room for.

A candidate is taken or not only when the two steps behind it are known (`BLUR`), so five steps are kept: number 0 is
the one that a thread has come to, number 2 the one that it decides on.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from peak_nerf.system.accelerator import block_size

COUNT, CHOOSE, WRITE = (tl.constexpr(mode) for mode in range(3))
"""What a run of the kernel does."""
RAYS = 32
"""Of a program: a warp."""
LIMIT = 1 << 20
"""No ray has so many candidates: with a budget of more all are taken."""


@triton.jit
def _march(
    origins_ptr, directions_ptr, enter_ptr, leave_ptr, jitter_ptr, offset_ptr,
    candidates_ptr, blocks_ptr, log_clear_ptr,
    found_ptr, total_ptr, taken_ptr, ends_ptr, ray_ptr, t_ptr, dt_ptr, x_ptr, cell_ptr,
    n_rays, n_rows, resolution, dt, cone, reference, opaque, explore, budget,
    K: tl.constexpr, GROWS: tl.constexpr, LIMITED: tl.constexpr, BLUR: tl.constexpr, MODE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Counts or writes the samples of a block of rays in an occupancy grid of K cascades.

    GROWS: steps grow with the distance. LIMITED: rays may have more candidates than the budget.
    """
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = ray < n_rays
    ox = tl.load(origins_ptr + ray * 3, mask=real, other=0.0)
    oy = tl.load(origins_ptr + ray * 3 + 1, mask=real, other=0.0)
    oz = tl.load(origins_ptr + ray * 3 + 2, mask=real, other=0.0)
    dx = tl.load(directions_ptr + ray * 3, mask=real, other=1.0)
    dy = tl.load(directions_ptr + ray * 3 + 1, mask=real, other=1.0)
    dz = tl.load(directions_ptr + ray * 3 + 2, mask=real, other=1.0)
    enter = tl.load(enter_ptr + ray, mask=real, other=0.0)
    leave = tl.load(leave_ptr + ray, mask=real, other=0.0)
    jitter = tl.load(jitter_ptr + ray, mask=real, other=0.0)
    ix = 1.0 / tl.where(tl.abs(dx) > 1e-9, dx, 1e-9)
    iy = 1.0 / tl.where(tl.abs(dy) > 1e-9, dy, 1e-9)
    iz = 1.0 / tl.where(tl.abs(dz) > 1e-9, dz, 1e-9)
    half = resolution * 0.5
    if GROWS:
        bend = dt / cone
        s_enter = tl.where(enter <= bend, enter / dt, (1 + tl.log(tl.maximum(enter, bend) / bend)) / cone)
        s_leave = tl.where(leave <= bend, leave / dt, (1 + tl.log(tl.maximum(leave, bend) / bend)) / cone)
    else:
        s_enter = enter / dt
        s_leave = leave / dt
    s_first = s_enter + jitter
    last = tl.where(real & (leave > enter), tl.maximum(tl.ceil(s_leave - s_first), 0.0), 0.0).to(tl.int32)
    k = tl.zeros((BLOCK,), tl.int32)
    found = tl.zeros((BLOCK,), tl.int32)
    depth = tl.zeros((BLOCK,), tl.float32)
    through = tl.zeros((BLOCK,), tl.float32) + 1  # transmittance, by the grid's opacities
    # Of the steps kept: weight, whether it is a candidate, distance, cell.
    w1 = tl.zeros((BLOCK,), tl.float32)
    w2 = tl.zeros((BLOCK,), tl.float32)
    w3 = tl.zeros((BLOCK,), tl.float32)
    w4 = tl.zeros((BLOCK,), tl.float32)
    a1 = tl.zeros((BLOCK,), tl.int32)
    a2 = tl.zeros((BLOCK,), tl.int32)
    t1 = tl.zeros((BLOCK,), tl.float32)
    t2 = tl.zeros((BLOCK,), tl.float32)
    c1 = tl.zeros((BLOCK,), tl.int64)
    c2 = tl.zeros((BLOCK,), tl.int64)
    total = tl.zeros((BLOCK,), tl.float64)
    taken = tl.zeros((BLOCK,), tl.int32)
    if MODE != COUNT:
        n_found = tl.load(found_ptr + ray, mask=real, other=0)
        keep_all = n_found <= budget
        if LIMITED:
            sum_of_all = tl.load(total_ptr + ray, mask=real, other=0.0)
            place = tl.load(offset_ptr + ray, mask=real, other=0.0).to(tl.float64)
            one_of = 1.0 / tl.maximum(n_found, 1).to(tl.float64)
        if MODE == CHOOSE:
            last = tl.where(keep_all, 0, last)  # it is known already
        else:
            at = tl.load(ends_ptr + ray, mask=real, other=0) - tl.load(taken_ptr + ray, mask=real, other=0)
    running = (last > 0).to(tl.int32)
    while tl.max(running, axis=0) > 0:
        here = k < last
        s = s_first + k.to(tl.float32)
        t = s * dt
        if GROWS:
            t = tl.where(s * cone <= 1, t, dt / cone * tl.exp(tl.maximum(s * cone - 1, 0.0)))
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        level = tl.zeros((BLOCK,), tl.int32)
        scale = tl.zeros((BLOCK,), tl.float32) + 1
        size = tl.maximum(tl.abs(x), tl.maximum(tl.abs(y), tl.abs(z)))
        for _ in tl.static_range(K - 1):
            beyond = (size > scale) & (level < K - 1)
            level += beyond.to(tl.int32)
            scale = tl.where(beyond, scale * 2, scale)
        i = tl.minimum(tl.maximum(((x / scale + 1) * half).to(tl.int32), 0), resolution - 1)
        j = tl.minimum(tl.maximum(((y / scale + 1) * half).to(tl.int32), 0), resolution - 1)
        m = tl.minimum(tl.maximum(((z / scale + 1) * half).to(tl.int32), 0), resolution - 1)
        n_blocks = resolution // 8
        block = ((level * n_blocks + i // 8) * n_blocks + j // 8) * n_blocks + m // 8
        in_block = tl.load(blocks_ptr + block, mask=here, other=0) != 0
        cell = ((level.to(tl.int64) * resolution + i) * resolution + j) * resolution + m
        code = tl.load(candidates_ptr + cell, mask=here & in_block, other=0).to(tl.int32)
        candidate = code > 0
        length = tl.maximum(t * cone, dt)
        log_clear = tl.load(log_clear_ptr + code, mask=candidate, other=0.0)
        depth -= log_clear * (length / (reference * scale))
        rest = tl.exp(-depth)
        w0 = tl.where(candidate, through - rest, 0.0)
        closes = candidate & (through >= opaque) & (rest < opaque)
        last = tl.where(closes, tl.minimum(last, k + BLUR + 1), last)
        through = rest
        a0 = candidate.to(tl.int32)
        found += a0
        # To the wall of an empty cell or block, rounding down: a sample is never jumped over.
        wide = tl.where(in_block, 1, 8)
        wall_x = ((i // wide + (dx > 0).to(tl.int32)) * wide).to(tl.float32) / half - 1
        wall_y = ((j // wide + (dy > 0).to(tl.int32)) * wide).to(tl.float32) / half - 1
        wall_z = ((m // wide + (dz > 0).to(tl.int32)) * wide).to(tl.float32) / half - 1
        wall = tl.minimum((wall_x * scale - ox) * ix, (wall_y * scale - oy) * iy)
        wall = tl.maximum(tl.minimum(wall, (wall_z * scale - oz) * iz), t)
        if GROWS:  # a few steps less, of ln(q) >= 2 (q - 1) / (q + 1) where they grow
            straight = (tl.minimum(wall, bend) - tl.minimum(t, bend)) / dt
            behind = tl.maximum(t, bend)
            ahead = straight + tl.where(wall > bend, 2 * (wall - behind) / ((wall + behind) * cone), 0.0)
        else:
            ahead = (wall - t) / dt
        skip = tl.maximum(tl.minimum(ahead, 1048576.0).to(tl.int32), 1)
        if LIMITED:
            emit, t_emit, c_emit = a2 > 0, t2, c2
            largest = tl.maximum(tl.maximum(tl.maximum(w0, w1), tl.maximum(w2, w3)), w4)
            blurred = tl.where(emit, largest, 0.0).to(tl.float64)
            skip = tl.where((a0 + a1) > 0, 1, skip)  # those that wait see each step that follows
        else:
            emit, t_emit, c_emit = candidate, t, cell
            skip = tl.where(candidate, 1, skip)
        if MODE == COUNT:
            if LIMITED:
                total += blurred
        else:
            chosen = emit
            p = tl.zeros((BLOCK,), tl.float64) + 1
            if LIMITED:
                near = tl.where(sum_of_all > 0, blurred / tl.maximum(sum_of_all, 1e-30), one_of)
                p = tl.where(keep_all, p, tl.minimum(budget * ((1 - explore) * near + explore * one_of), 1.0))
                before = place
                place = tl.where(emit, place + p, place)
                chosen = emit & (keep_all | (tl.floor(place) > tl.floor(before)))
            if MODE == CHOOSE:
                taken += chosen.to(tl.int32)
            else:
                fits = chosen & (at < n_rows)
                px, py, pz = ox + t_emit * dx, oy + t_emit * dy, oz + t_emit * dz
                if K > 1:  # contraction
                    far = tl.maximum(tl.maximum(tl.abs(px), tl.abs(py)), tl.maximum(tl.abs(pz), 1.0))
                    factor = (2 - 1 / far) / (2 * far)
                    px, py, pz = px * factor, py * factor, pz * factor
                tl.store(ray_ptr + at, ray.to(tl.int64), mask=fits)
                tl.store(t_ptr + at, t_emit, mask=fits)
                tl.store(dt_ptr + at, (tl.maximum(t_emit * cone, dt).to(tl.float64) / p).to(tl.float32), mask=fits)
                tl.store(x_ptr + at * 3, px, mask=fits)
                tl.store(x_ptr + at * 3 + 1, py, mask=fits)
                tl.store(x_ptr + at * 3 + 2, pz, mask=fits)
                tl.store(cell_ptr + at, c_emit, mask=fits)
                at += chosen.to(tl.int64)
        k = tl.where(running > 0, k + skip, k)
        running = (k < last).to(tl.int32)
        if LIMITED:
            w4, w3, w2, w1 = w3, w2, w1, w0
            a2, a1 = a1, a0
            t2, t1 = t1, t
            c2, c1 = c1, cell
            running = ((k < last) | ((a1 + a2) > 0)).to(tl.int32)
    if MODE == COUNT:
        tl.store(found_ptr + ray, found, mask=real)
        if LIMITED:
            tl.store(total_ptr + ray, total, mask=real)
    if MODE == CHOOSE:
        tl.store(taken_ptr + ray, tl.where(keep_all, n_found, taken), mask=real)


def sample(
    rays: tuple[Tensor, ...],
    grid: tuple[Tensor, Tensor, Tensor],
    step: tuple[float, float, float],
    rule: tuple[float, float, int, int],
    n_rows: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int | Tensor]:
    """Ray, t, dt, x and cell of the samples, and the number of candidates; all as in `PackedSamples`.

    The host waits for the device once, to know how many there are, or not at all where it gives `n_rows`.

    Args:
        rays: the fields of `March`.
        grid: an occupancy grid's `candidates`, `blocks` and `log_clear`.
        step: `dt` and `cone` of the steps; length of a step of the grid's opacities.
        rule: `opaque`, `EXPLORE`, `BLUR` and the budget.
        n_rows: of the result. Samples beyond are left out; rows behind the last sample are of ray r, which there is
            not, at distance, length and position 0.
    """
    given = [a.detach().float().contiguous() for a in rays]
    candidates, blocks, log_clear = grid
    opaque, explore, blur, budget = rule
    n, device = len(given[0]), given[0].device
    limited = budget < LIMIT
    found = torch.zeros(n, dtype=torch.int32, device=device)
    total = torch.zeros(n if limited else 1, dtype=torch.float64, device=device)
    taken = torch.zeros_like(found) if limited else found
    ends = torch.zeros(n, dtype=torch.int64, device=device)

    block = block_size(RAYS, n)

    def run(mode: tl.constexpr, ray: Tensor, t: Tensor, dt: Tensor, x: Tensor, cell: Tensor) -> None:
        with torch.cuda.device_of(found):
            _march[(triton.cdiv(n, block),)](
                *given, candidates, blocks.view(torch.uint8), log_clear, found, total, taken, ends, ray, t, dt, x, cell,
                n, len(ray), candidates.shape[1], *step, opaque, explore, min(budget, LIMIT), K=len(candidates),
                GROWS=step[1] > 0, LIMITED=limited, BLUR=blur, MODE=mode.value, BLOCK=block, num_warps=1,
            )  # fmt: skip

    def room(n_samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        if n_rows is None:
            numbers = torch.empty(n_samples, 5, device=device)
            whole = torch.empty(2, n_samples, dtype=torch.int64, device=device)
        else:
            numbers = torch.zeros(n_samples, 5, device=device)
            whole = torch.zeros(2, n_samples, dtype=torch.int64, device=device)
            whole[0] = n
        t, dt, x = numbers.view(-1).split((n_samples, n_samples, 3 * n_samples))
        return whole[0], t, dt, x.view(n_samples, 3), whole[1]

    if n == 0:
        return (*room(n_rows or 0), 0 if n_rows is None else found.sum())
    nowhere = room(1)
    run(COUNT, *nowhere)
    if limited:
        run(CHOOSE, *nowhere)
    torch.cumsum(taken, 0, out=ends)
    n_samples, n_candidates = n_rows, found.sum()
    if n_samples is None:
        n_samples, n_candidates = torch.stack((ends[-1], n_candidates)).tolist()
    samples = room(n_samples)
    if n_samples:
        run(WRITE, *samples)
    return (*samples, n_candidates)
