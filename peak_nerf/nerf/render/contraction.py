"""How all of space fits into the field's cube [-1, 1]^3: Mip-NeRF 360's contraction with the maximum norm.

Symbols:
    x    position, normalised so that the scene box is [-1, 1]^3
    u    contracted position
    m    largest coordinate of x, |x|_inf
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def contract(x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """All of space into [-1, 1]^3: u = x / 2 in the box, (2 - 1 / m) x / (2 m) beyond.

    Source: Barron et al., CVPR 2022, equation (10), with the maximum norm as nerfacto has it.
    """
    size = x.abs().amax(-1, keepdim=True).clamp(min=1)
    return (2 - 1 / size) * (x / size) / 2


def uncontract(u: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """The inverse of `contract`; what is at infinity, |u|_inf = 1, comes back 10^6 away."""
    size = 2 * u.abs().amax(-1, keepdim=True)
    m = 1 / (2 - size).clamp(min=1e-6)
    return torch.where(size <= 1, 2 * u, 2 * u / size.clamp(min=1) * m)


def per_distance(u: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """1 / max(1, m): with densities counted so, a step that grows with the distance is as opaque anywhere."""
    return (2 - 2 * u.abs().amax(-1)).clamp(max=1.0)


def infinity(directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Where rays of these directions end: the limit of contract(o + t d) as t grows, on the cube's surface."""
    return directions / directions.abs().amax(-1, keepdim=True).clamp(min=1e-9)
