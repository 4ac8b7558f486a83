"""Triton kernels of the multi-resolution grid: forward, table gradient and input gradient, in one to four dimensions.

Table layout and values are those of the numba kernels. A program takes a block of points of one level; levels are the
outer dimension of the launch, so that one level's table at a time is in the GPU's L2 cache. Features go from and to
memory level by level, (L, n, F): neighbouring threads write neighbouring numbers.

The table's gradient is summed by atomic additions in float32, those of a point's features by neighbouring threads: they
fall into one sector of memory. There are no private copies of coarse levels, and no sorting: simple, and to be measured
first.
The order of additions, and with it the last bit of a gradient, is not the same in every run.

Symbols:
    c, d         corner of the cell, its bit d the upper or lower vertex along dimension d
    l0 .. l3     lower vertex along each dimension, w0 .. w3 the position above it in cells
    D, F         dimensions, features per level
    number       index of one feature of one point, F * point + f: what a thread works on
    ACC          what is computed in: float32, or float64 for a table of that
"""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from peak_nerf.system.accelerator import block_size

BLOCK = 512
"""Numbers or points of a program, over 4 warps."""

# As `hash_grid.PRIMES`; that of the first dimension is 1.
PRIME_1, PRIME_2, PRIME_3 = tl.constexpr(2654435761), tl.constexpr(805459861), tl.constexpr(3674653429)


@triton.jit
def _axis(x_ptr, point, inside, d: tl.constexpr, D: tl.constexpr, resolution, ACC: tl.constexpr):
    """Lower vertex and position above it along one dimension; NaN counts as 0."""
    x = tl.load(x_ptr + point * D + d, mask=inside, other=0.0)
    x = tl.where(x > 0, tl.where(x < 1, x, 1.0), 0.0)
    position = x * resolution.to(ACC)
    lower = tl.minimum(position.to(tl.int32), resolution.to(tl.int32) - 1)
    return lower, position - lower.to(ACC)


@triton.jit
def _axes(x_ptr, point, inside, D: tl.constexpr, levels_ptr, level, ACC: tl.constexpr):
    """`_axis` of all dimensions; those beyond D repeat the first."""
    resolution = tl.load(levels_ptr + level * 4 + 1)
    l0, w0 = _axis(x_ptr, point, inside, 0, D, resolution, ACC)
    l1, w1, l2, w2, l3, w3 = l0, w0, l0, w0, l0, w0
    if D > 1:
        l1, w1 = _axis(x_ptr, point, inside, 1, D, resolution, ACC)
    if D > 2:
        l2, w2 = _axis(x_ptr, point, inside, 2, D, resolution, ACC)
    if D > 3:
        l3, w3 = _axis(x_ptr, point, inside, 3, D, resolution, ACC)
    return l0, w0, l1, w1, l2, w2, l3, w3


@triton.jit
def _weight(c: tl.constexpr, without: tl.constexpr, D: tl.constexpr, w0, w1, w2, w3):
    """Interpolation weight of a corner, without the factor of one dimension; -1 for with all."""
    weight = w0 * 0 + 1
    if without != 0:
        weight = w0 if c & 1 else 1 - w0
    if D > 1 and without != 1:
        weight = weight * (w1 if (c >> 1) & 1 else 1 - w1)
    if D > 2 and without != 2:
        weight = weight * (w2 if (c >> 2) & 1 else 1 - w2)
    if D > 3 and without != 3:
        weight = weight * (w3 if (c >> 3) & 1 else 1 - w3)
    return weight


@triton.jit
def _row(c: tl.constexpr, D: tl.constexpr, l0, l1, l2, l3, levels_ptr, level):
    """Row of a corner in the table: dense or hashed within its level's part."""
    first, side = tl.load(levels_ptr + level * 4), tl.load(levels_ptr + level * 4 + 1).to(tl.uint32) + 1
    mask, dense = (tl.load(levels_ptr + level * 4 + 2) - 1).to(tl.uint32), tl.load(levels_ptr + level * 4 + 3)
    stride = side
    v = (l0 + (c & 1)).to(tl.uint32)
    plain, hashed = v, v
    if D > 1:
        v = (l1 + ((c >> 1) & 1)).to(tl.uint32)
        plain += v * stride
        stride = stride * side
        hashed ^= v * PRIME_1
    if D > 2:
        v = (l2 + ((c >> 2) & 1)).to(tl.uint32)
        plain += v * stride
        stride = stride * side
        hashed ^= v * PRIME_2
    if D > 3:
        v = (l3 + ((c >> 3) & 1)).to(tl.uint32)
        plain += v * stride
        hashed ^= v * PRIME_3
    return first + tl.where(dense != 0, plain, hashed & mask).to(tl.int64)


@triton.jit
def _forward(
    x_ptr, table_ptr, levels_ptr, out_ptr, n,
    D: tl.constexpr, F: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Features of a block of points in one level, into out (L, n, F)."""
    level = tl.program_id(1)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    point, f, inside = number // F, number % F, number < n * F
    l0, w0, l1, w1, l2, w2, l3, w3 = _axes(x_ptr, point, inside, D, levels_ptr, level, ACC)
    total = tl.zeros((BLOCK,), ACC)
    for c in tl.static_range(1 << D):
        row = _row(c, D, l0, l1, l2, l3, levels_ptr, level)
        value = tl.load(table_ptr + row * F + f, mask=inside, other=0.0).to(ACC)
        total += _weight(c, -1, D, w0, w1, w2, w3) * value
    tl.store(out_ptr + level.to(tl.int64) * n * F + number, total, mask=inside)


@triton.jit
def _table_gradient(
    x_ptr, slope_ptr, levels_ptr, grad_ptr, n,
    D: tl.constexpr, F: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds to the table's gradient what a block of points gives one level; slope is (L, n, F)."""
    level = tl.program_id(1)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    point, f, inside = number // F, number % F, number < n * F
    slope = tl.load(slope_ptr + level.to(tl.int64) * n * F + number, mask=inside, other=0.0)
    inside = inside & (slope != 0)  # what stands behind a surface has none
    l0, w0, l1, w1, l2, w2, l3, w3 = _axes(x_ptr, point, inside, D, levels_ptr, level, ACC)
    for c in tl.static_range(1 << D):
        row = _row(c, D, l0, l1, l2, l3, levels_ptr, level)
        part = _weight(c, -1, D, w0, w1, w2, w3) * slope
        tl.atomic_add(grad_ptr + row * F + f, part, mask=inside, sem="relaxed")


@triton.jit
def _input_gradient(
    x_ptr, table_ptr, slope_ptr, levels_ptr, grad_ptr, n, n_levels,
    D: tl.constexpr, F: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of the positions of a block of points, over all levels; 0 outside the box, where the clamp is flat."""
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = point < n
    g0 = tl.zeros((BLOCK,), ACC)
    g1 = tl.zeros((BLOCK,), ACC)
    g2 = tl.zeros((BLOCK,), ACC)
    g3 = tl.zeros((BLOCK,), ACC)
    at = slope_ptr + point * F
    for level in range(n_levels):
        l0, w0, l1, w1, l2, w2, l3, w3 = _axes(x_ptr, point, inside, D, levels_ptr, level, ACC)
        scale = tl.load(levels_ptr + level * 4 + 1).to(ACC)
        for c in tl.static_range(1 << D):
            row = _row(c, D, l0, l1, l2, l3, levels_ptr, level)
            dot = tl.zeros((BLOCK,), ACC)
            for f in tl.static_range(F):
                value = tl.load(table_ptr + row * F + f, mask=inside, other=0.0).to(ACC)
                dot += value * tl.load(at + f, mask=inside, other=0.0)
            # Along each edge of the cell: the difference of its ends, weighted by the other coordinates.
            dot = dot * scale
            g0 += (dot if c & 1 else -dot) * _weight(c, 0, D, w0, w1, w2, w3)
            if D > 1:
                g1 += (dot if (c >> 1) & 1 else -dot) * _weight(c, 1, D, w0, w1, w2, w3)
            if D > 2:
                g2 += (dot if (c >> 2) & 1 else -dot) * _weight(c, 2, D, w0, w1, w2, w3)
            if D > 3:
                g3 += (dot if (c >> 3) & 1 else -dot) * _weight(c, 3, D, w0, w1, w2, w3)
        at += n * F
    _store_axis(grad_ptr, x_ptr, g0, point, inside, 0, D)
    if D > 1:
        _store_axis(grad_ptr, x_ptr, g1, point, inside, 1, D)
    if D > 2:
        _store_axis(grad_ptr, x_ptr, g2, point, inside, 2, D)
    if D > 3:
        _store_axis(grad_ptr, x_ptr, g3, point, inside, 3, D)


@triton.jit
def _store_axis(grad_ptr, x_ptr, value, point, inside, d: tl.constexpr, D: tl.constexpr):
    x = tl.load(x_ptr + point * D + d, mask=inside, other=0.0)
    tl.store(grad_ptr + point * D + d, tl.where((x >= 0) & (x <= 1), value, 0.0), mask=inside)


def look_up(x: Tensor, table: Tensor, levels: Tensor, half_precision: bool = False) -> Tensor:
    """Features (n, L * F) of positions x in [0, 1]^d, in the dtype of x; differentiable once, in x and the table.

    Args:
        x: (n, d), d from 1 to 4; values outside are clamped, NaN counts as 0.
        table: (rows, F), float32 or float64.
        levels: (L, 4) int64 on the same device: first row, cells per side, rows, whether it is dense.
        half_precision: read the table in float16; sums and gradients stay in the table's own dtype.

    Raises: ValueError on 2^31 numbers per level or more.
    """
    if x.shape[0] * table.shape[1] >= 2**31:
        raise ValueError(f"{len(x)} points of {table.shape[1]} features: look up fewer at a time")
    return cast(Tensor, _LookUp.apply(x, table, levels, half_precision))


class _LookUp(torch.autograd.Function):
    """The kernels as one autograd node; gradients for the table and, where asked for, the positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, levels: Tensor, half_precision: bool) -> Tensor:
        n, n_levels, n_features = len(x), len(levels), table.shape[1]
        points = x.detach().to(table.dtype).contiguous()
        read = table.detach().half() if half_precision else table.detach()
        out = torch.empty(n_levels, n, n_features, dtype=table.dtype, device=x.device)
        if n:
            block, options = _options(points, table, n * n_features)
            with torch.cuda.device_of(x):
                _forward[(triton.cdiv(n * n_features, block), n_levels)](points, read, levels, out, n, **options)
        ctx.save_for_backward(x, table, levels)
        ctx.half_precision = half_precision
        return out.transpose(0, 1).reshape(n, n_levels * n_features).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, table, levels = ctx.saved_tensors
        n, n_levels, n_features = len(x), len(levels), table.shape[1]
        points = x.detach().to(table.dtype).contiguous()
        slope = grad_out.reshape(n, n_levels, n_features).transpose(0, 1).to(table.dtype).contiguous()
        grad_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        gradient = torch.empty_like(points) if ctx.needs_input_grad[0] else None
        with torch.cuda.device_of(x):
            if n and grad_table is not None:
                block, options = _options(points, table, n * n_features)
                _table_gradient[(triton.cdiv(n * n_features, block), n_levels)](
                    points, slope, levels, grad_table, n, **options
                )
            if n and gradient is not None:
                read = table.half() if ctx.half_precision else table
                block, options = _options(points, table, n)
                _input_gradient[(triton.cdiv(n, block),)](points, read, slope, levels, gradient, n, n_levels, **options)
        return None if gradient is None else gradient.to(x.dtype), grad_table, None, None


def _options(points: Tensor, table: Tensor, n_items: int) -> tuple[int, dict[str, Any]]:
    """Items of a program, and what the kernels are specialised on."""
    block = block_size(BLOCK, n_items, 1 << 14)
    accumulator = tl.float64 if table.dtype == torch.float64 else tl.float32
    return block, {"D": points.shape[1], "F": table.shape[1], "ACC": accumulator, "BLOCK": block}
