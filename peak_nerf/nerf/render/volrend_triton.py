"""Triton kernels of volume rendering; `volrend` is their reference and says what the symbols mean.

A program takes a few rays; it walks along them a tile of samples at a time, each ray's sums running in a tile's row.
Sums start anew for each ray, so float32 is enough. The gradient walks the same way from the far end.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from peak_nerf.system.accelerator import block_size

RAYS = 4
"""Of a program, one for each of its warps."""
SAMPLES = 32
"""Of a tile's row, one for each of a warp's threads."""


@triton.jit
def _opacity(tau):
    """1 - exp(-tau); by its series where the difference would lose digits."""
    series = tau / 7
    for k in tl.static_range(6, 1, -1):
        series = tau / k * (1 - series)
    return tl.where(tau < 0.25, tau * (1 - series), 1 - tl.exp(-tau))


@triton.jit
def _rays(starts_ptr, n_rays, R: tl.constexpr):
    """First sample and number of samples of a program's rays."""
    ray = tl.program_id(0) * R + tl.arange(0, R)
    first = tl.load(starts_ptr + ray, mask=ray < n_rays, other=0)
    return ray, first, tl.load(starts_ptr + ray + 1, mask=ray < n_rays, other=0) - first


@triton.jit
def _weights(tau_ptr, starts_ptr, w_ptr, T_ptr, n_rays, R: tl.constexpr, S: tl.constexpr):
    """w and T of all samples."""
    _, first, count = _rays(starts_ptr, n_rays, R)
    depth = tl.zeros((R,), tau_ptr.dtype.element_ty)
    for start in range(0, tl.max(count, axis=0), S):
        s = start + tl.arange(0, S)[None, :]
        here = s < count[:, None]
        at = first[:, None] + s
        tau = tl.load(tau_ptr + at, mask=here, other=0.0)
        # The sum up to the sample before: taking tau from the sum with it would lose digits.
        before = tl.load(tau_ptr + at - 1, mask=here & (s > 0), other=0.0)
        T = tl.exp(-(depth[:, None] + tl.cumsum(before, axis=1)))
        tl.store(w_ptr + at, T * _opacity(tau), mask=here)
        tl.store(T_ptr + at, T, mask=here)
        depth += tl.sum(before, axis=1)


@triton.jit
def _weights_gradient(
    tau_ptr, w_ptr, T_ptr, grad_w_ptr, grad_T_ptr, starts_ptr, grad_ptr, n_rays, R: tl.constexpr, S: tl.constexpr
):
    """d/d tau_k = grad_w_k T_k exp(-tau_k) - sum over i > k of (grad_w_i w_i + grad_T_i T_i)."""
    _, first, count = _rays(starts_ptr, n_rays, R)
    behind = tl.zeros((R,), tau_ptr.dtype.element_ty)
    for start in range(0, tl.max(count, axis=0), S):
        s = start + tl.arange(0, S)[None, :]  # from the far end
        here = s < count[:, None]
        at = first[:, None] + count[:, None] - 1 - s
        tau = tl.load(tau_ptr + at, mask=here, other=0.0)
        slope = tl.load(grad_w_ptr + at, mask=here, other=0.0) * tl.load(T_ptr + at, mask=here, other=0.0)
        later = here & (s > 0)
        part = tl.load(grad_w_ptr + at + 1, mask=later, other=0.0) * tl.load(w_ptr + at + 1, mask=later, other=0.0)
        part += tl.load(grad_T_ptr + at + 1, mask=later, other=0.0) * tl.load(T_ptr + at + 1, mask=later, other=0.0)
        total = behind[:, None] + tl.cumsum(part, axis=1)
        tl.store(grad_ptr + at, slope * tl.exp(-tau) - total, mask=here)
        behind += tl.sum(part, axis=1)


@triton.jit
def _accumulate(w_ptr, values_ptr, starts_ptr, out_ptr, n_rays, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr):
    """Per ray and channel, the sum of weights * values."""
    ray, first, count = _rays(starts_ptr, n_rays, R)
    longest = tl.max(count, axis=0)
    for c in tl.static_range(C):
        total = tl.zeros((R,), w_ptr.dtype.element_ty)
        for start in range(0, longest, S):
            s = start + tl.arange(0, S)[None, :]
            here = s < count[:, None]
            at = first[:, None] + s
            w = tl.load(w_ptr + at, mask=here, other=0.0)
            total += tl.sum(w * tl.load(values_ptr + at * C + c, mask=here, other=0.0), axis=1)
        tl.store(out_ptr + ray * C + c, total, mask=ray < n_rays)


def packed_weights(tau: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """`volrend.packed_weights`, with `volrend.ray_starts` in place of the rays' indices; differentiable once."""
    return cast(tuple[Tensor, Tensor], _PackedWeights.apply(tau, starts))


def accumulate(weights: Tensor, values: Tensor, ray: Tensor, starts: Tensor) -> Tensor:
    """`volrend.accumulate`, which says what the arguments are; differentiable once."""
    return cast(Tensor, _Accumulated.apply(weights, values, ray, starts))


def _launch(starts: Tensor) -> tuple[dict[str, int], tuple[int]]:
    """Size of a program's tile, and the number of programs."""
    n_rays = len(starts) - 1
    rays = block_size(RAYS, n_rays)
    return {"R": rays, "S": SAMPLES}, (triton.cdiv(n_rays, rays),)


class _PackedWeights(torch.autograd.Function):
    """w and T as one autograd node."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        tau = tau.detach().contiguous()
        weights, transmittance = torch.empty_like(tau), torch.empty_like(tau)
        if len(tau):
            tile, grid = _launch(starts)
            with torch.cuda.device_of(tau):
                _weights[grid](tau, starts, weights, transmittance, len(starts) - 1, **tile)
        ctx.save_for_backward(tau, weights, transmittance, starts)
        return weights, transmittance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_w: Tensor, grad_T: Tensor) -> tuple[Tensor, None]:
        tau, weights, transmittance, starts = ctx.saved_tensors
        gradient = torch.empty_like(tau)
        if len(tau):
            tile, grid = _launch(starts)
            given = weights, transmittance, grad_w.contiguous(), grad_T.contiguous(), starts
            with torch.cuda.device_of(tau):
                _weights_gradient[grid](tau, *given, gradient, len(starts) - 1, **tile)
        return gradient, None


class _Accumulated(torch.autograd.Function):
    """Sums along rays as one autograd node."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, ray: Tensor, starts: Tensor) -> Tensor:
        weights, values = weights.detach().contiguous(), values.detach().contiguous()
        n_rays, n_channels = len(starts) - 1, values.shape[1]
        out = values.new_zeros(n_rays, n_channels)
        if len(weights):
            tile, grid = _launch(starts)
            with torch.cuda.device_of(values):
                _accumulate[grid](weights, values, starts, out, n_rays, C=n_channels, **tile)
        ctx.save_for_backward(weights, values, ray)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, values, ray = ctx.saved_tensors
        slope = grad_out[ray]
        grad_w = (slope * values).sum(1) if ctx.needs_input_grad[0] else None
        return grad_w, (weights[:, None] * slope if ctx.needs_input_grad[1] else None), None, None
