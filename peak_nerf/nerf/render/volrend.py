"""Volume rendering of packed samples (emission-absorption model), as pure functions.

Symbols:
    tau      optical depth of a sample, density * dt
    T        transmittance in front of a sample, exp(-sum of tau before it on its ray)
    w        weight of a sample, T (1 - exp(-tau))
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from peak_nerf.system.accelerator import triton_takes


def ray_starts(ray: Int[Tensor, " n"], n_rays: int) -> Int[Tensor, " n_rays_plus_1"]:
    """Index of the first sample of each ray, and n behind the last. `bincount` would have the GPU wait for the host."""
    return torch.searchsorted(ray.contiguous(), torch.arange(n_rays + 1, device=ray.device))


def packed_weights(
    tau: Float[Tensor, " n"], ray: Int[Tensor, " n"], n_rays: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Weights w and transmittances T of samples that are ordered by ray and distance.

    By Triton's kernels on CUDA. Elsewhere the running sum is kept in float64: it goes over all rays, and each ray
    subtracts where it began.
    """
    if triton_takes(tau.device):
        from peak_nerf.nerf.render import volrend_triton

        return volrend_triton.packed_weights(tau, ray_starts(ray, n_rays))
    total = tau.double().cumsum(0)
    before = total - tau
    first = ray_starts(ray, n_rays)[:-1].clamp(max=max(tau.shape[0] - 1, 0))
    at_ray_start = before[first] if tau.shape[0] else before.new_zeros(n_rays)
    transmittance = torch.exp(at_ray_start[ray] - before).to(tau.dtype)
    return -torch.expm1(-tau) * transmittance, transmittance


def accumulate(
    weights: Float[Tensor, " n"], values: Float[Tensor, "n c"], ray: Int[Tensor, " n"], n_rays: int
) -> Float[Tensor, "r c"]:
    """Per ray, the sum of weights * values; samples are ordered by ray."""
    if triton_takes(values.device):
        from peak_nerf.nerf.render import volrend_triton

        return volrend_triton.accumulate(weights, values, ray, ray_starts(ray, n_rays))
    out = values.new_zeros(n_rays, values.shape[1])
    return out.index_add(0, ray, weights[:, None] * values)
