r"""Sparse points say how far rays see.

Symbols:
    w_i, y_i   weight and distance of a ray's i-th sample, distance in the measure in which steps have one length
    y, s       distance of the point that the ray's pixel saw, and its standard deviation
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from peak_nerf.nerf.render.renderer import RenderedRays, VolumeRenderer

OUTLIERS = 0.02
"""Density of wrong points beside the likelihood of right ones, at its peak: what no weight is near pulls no more."""


def depth_loss(
    weights: Float[Tensor, " n"],
    y: Float[Tensor, " n"],
    ray: Int[Tensor, " n"],
    y_point: Float[Tensor, " r"],
    deviation: Float[Tensor, " r"],
) -> Float[Tensor, ""]:
    r"""Mean over rays of -log((E + sum_i w_i exp(-(y_i - y)^2 / (2 s^2))) / (E + 1)), E = `OUTLIERS`.

    The ray's weights are the probabilities of where it ends; the sum is the likelihood of a point that was measured
    with that deviation, over its largest value: 0 where all weight is at the point. Weight before the point lowers it,
    as does weight that is missing. A wide deviation asks for little.

    Args:
        weights: of samples, in the order of rays.
        y: distances of samples.
        ray: for each sample the index of its ray, below r.
        y_point: distance of each ray's point.
        deviation: standard deviation of that.

    Source: Deng et al., DS-NeRF, CVPR 2022, equations (5) to (8), whose -sum_i log(w_i) exp(.) dt_i is by Jensen's
    inequality a bound of this, without outliers. It takes the logarithm of single weights, which samples at random
    places and of unequal lengths have no use for.
    """
    near = torch.exp(-0.5 * ((y - y_point[ray]) / deviation[ray]).square())
    likelihood = weights.new_zeros(len(y_point)).index_add(0, ray, weights * near)
    return -torch.log((OUTLIERS + likelihood) / (OUTLIERS + 1)).sum() / max(len(y_point), 1)


def loss_at_points(
    renderer: VolumeRenderer,
    rendered: RenderedRays,
    origins: Float[Tensor, "n 3"],
    points: Float[Tensor, "r 3"],
    deviation: Float[Tensor, " r"],
) -> Float[Tensor, ""]:
    """`depth_loss` of the last r of a batch's n rays, whose pixels saw these points.

    Args:
        renderer: of the rays, whose measure of distance it is.
        rendered: the batch's rays.
        origins: of all of them, normalised.
        points: normalised.
        deviation: standard deviation of the points' distances, over the distance.
    """
    first = len(origins) - len(points)
    y, deviation = renderer.measured((points - origins[first:].detach()).norm(dim=-1), deviation)
    # All samples, not only those of the last rays: a GPU's host would have to wait for their number.
    ray = rendered.samples.ray - first
    weights = torch.where(ray >= 0, rendered.weights, 0.0)
    return depth_loss(weights, rendered.distance, ray.clamp(min=0), y, deviation)
