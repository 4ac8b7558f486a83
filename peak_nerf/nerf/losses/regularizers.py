r"""Regularisers of other few-view methods, as pure functions: what KAR is compared with, or combined with.

Symbols:
    w, t     weight and distance of a sample; dt the length of ray that it stands for, in units of the half box
    alpha    opacity of a sample, 1 - exp(-density dt)
    ray      for each sample, the index of its ray; samples are ordered by ray, then by distance
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.nerf.options import LossOptions
from peak_nerf.nerf.render.renderer import RenderedRays
from peak_nerf.nerf.render.volrend import ray_starts

TV_VERTICES = 4096
"""Vertices per level and step at which total variation is measured."""
FAINT = 1e-3
"""Opacity of a ray below which its distortion fades out."""


def distortion_loss(
    weights: Float[Tensor, " n"],
    t: Float[Tensor, " n"],
    dt: Float[Tensor, " n"],
    ray: Int[Tensor, " n"],
    n_rays: int,
) -> Float[Tensor, ""]:
    r"""Mean over rays of W (sum_ij p_i p_j |t_i - t_j| + 1/3 sum_i p_i^2 dt): what a ray hits is in one short stretch.

    p = w / W are the samples' fractions of W = sum_i w_i, the ray's opacity. The factor W has no gradient: what counts
    is where the weight is, not how much there is. On w itself the loss is least where nothing is, and empties the box
    of an unbounded scene, whose colours what is behind the box can take over.
    In O(n): with t ascending the double sum is 2 sum_i p_i (t_i P_i - S_i), where P_i and S_i are the sums of p and of
    p t over the samples before i on its ray. 0 without rays.

    Source: Barron et al., Mip-NeRF 360, CVPR 2022, eq. (15), there on w, whose sum the far background makes 1.
    """
    total = weights.new_zeros(n_rays).index_add(0, ray, weights)
    p = weights / total.clamp(min=FAINT)[ray]
    before = _sum_before(p, ray, n_rays)
    t_before = _sum_before(p * t, ray, n_rays)
    between = 2 * p * (t * before - t_before)
    within = p.square() * (dt / 3)
    return (total.detach()[ray] * (between + within)).sum() / max(n_rays, 1)


def _sum_before(values: Float[Tensor, " n"], ray: Int[Tensor, " n"], n_rays: int) -> Float[Tensor, " n"]:
    """Per sample, the sum over the samples before it on its ray. In float64 inside: the running sum spans all rays."""
    if len(values) == 0:
        return values
    before = values.double().cumsum(0) - values
    first = ray_starts(ray, n_rays)[:-1].clamp(max=len(values) - 1)
    return (before - before[first][ray]).to(values.dtype)


def grid_total_variation(grid: HashGridEncoding, n_vertices: int) -> Float[Tensor, ""]:
    r"""Mean over dense levels and random vertices v of sum_i ||T_l[v + e_i] - T_l[v]||^2, T_l the table of level l.

    Hashed levels are left out: neighbouring rows of theirs are shared with places far away. The difference is per
    cell, so that finer levels are not told to be flatter than coarse ones. 0 without dense levels.

    Args:
        grid: the hash grid, whose table gets the gradient.
        n_vertices: vertices drawn per level, at least 1.

    Source: Fridovich-Keil et al., Plenoxels, CVPR 2022, eq. (3), there with a square root.
    """
    terms = []
    for first_row, resolution in grid.dense_levels:
        n = resolution + 1  # vertices per side
        strides = n ** torch.arange(grid.in_dim, device=grid.table.device)
        v = torch.randint(resolution, (n_vertices, grid.in_dim), device=grid.table.device)
        row = first_row + (v * strides).sum(1)
        neighbours = row[:, None] + strides
        terms.append((grid.table[neighbours] - grid.table[row, None]).square().sum() / n_vertices)
    return torch.stack(terms).mean() if terms else grid.table.new_zeros(())


def occlusion_loss(
    alpha: Float[Tensor, " n"], t_from_start: Float[Tensor, " n"], reach: float, n_rays: int
) -> Float[Tensor, ""]:
    r"""Sum of alpha over samples nearer than `reach` to where their ray begins, per ray: no fog in front of a camera.

    Args:
        alpha: opacity of each sample.
        t_from_start: distance of each sample from where its ray enters the box (or from its camera inside the box).
        reach: how far the penalty goes.
        n_rays: rays of the batch, those without samples included.

    Source: Yang, Pavone, Wang, FreeNeRF, CVPR 2023, eq. (6), there on densities of the first samples.
    """
    return torch.where(t_from_start < reach, alpha, 0.0).sum() / max(n_rays, 1)


def opacity_entropy(
    alpha: Float[Tensor, " n"], ray: Int[Tensor, " n"], n_rays: int, threshold: float = 0.1
) -> Float[Tensor, ""]:
    r"""Mean over rays of -sum_i p_i log p_i with p_i = alpha_i / sum_j alpha_j: a ray should hit one thing, sharply.

    Rays whose alphas sum to at most `threshold` hit nothing and count 0. In nats. 0 without rays.

    Source: Kim, Seo, Han, InfoNeRF, CVPR 2022, eqs. (6) to (8).
    """
    total = alpha.new_zeros(n_rays).index_add(0, ray, alpha)
    p = torch.where((total > threshold)[ray], alpha, 0.0) / total.clamp(min=threshold)[ray]
    # xlogy is 0 at p = 0, and so is its gradient once p is held away from 0.
    return -torch.xlogy(p, p.clamp_min(1e-12)).sum() / max(n_rays, 1)


def regularization_losses(
    options: LossOptions, grid: HashGridEncoding, rendered: RenderedRays, progress: float
) -> dict[str, Tensor]:
    """The weighted losses that the options ask for, by name: `distortion`, `tv`, `occlusion`, `entropy`.

    Args:
        options: weights, and the reach of `occlusion`.
        grid: the field's, for `tv`.
        rendered: the batch's rays.
        progress: finished fraction of the training, over which `distortion` gains its weight.
    """
    samples, n_rays, losses = rendered.samples, len(rendered.t_enter), {}
    tau = rendered.density * samples.dt
    if options.distortion_weight:
        distortion = distortion_loss(rendered.weights, rendered.distance, rendered.length, samples.ray, n_rays)
        risen = min(1.0, progress / options.distortion_warmup) if options.distortion_warmup else 1.0
        losses["distortion"] = options.distortion_weight * risen * distortion
    if options.tv_weight > 0:
        losses["tv"] = options.tv_weight * grid_total_variation(grid, TV_VERTICES)
    alpha = -torch.expm1(-tau)
    if options.occlusion_weight > 0:
        t_from_start = samples.t - rendered.t_enter[samples.ray]
        occlusion = occlusion_loss(alpha, t_from_start, options.occlusion_reach, n_rays)
        losses["occlusion"] = options.occlusion_weight * occlusion
    if options.entropy_weight > 0:
        losses["entropy"] = options.entropy_weight * opacity_entropy(alpha, samples.ray, n_rays)
    return losses
