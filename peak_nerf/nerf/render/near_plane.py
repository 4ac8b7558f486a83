"""How near to a camera rays begin, by the sparse points before it.

Floaters grow right before cameras, where training rays are few, and a flight would pass through them. Training rays
begin at half the depth of the nearest sparse points; so do those of a view that is as far away. One that is nearer, as
where somebody looks closer in the viewer, begins at half the distance of the points that are before it.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NEAREST = 0.01
"""Fraction of the points that is taken for mistakes: wrong matches are often right before the cameras."""
BEFORE_POINTS = 0.5
"""Where rays begin, over the distance of the nearest points."""


def before_points(distances: Float[Tensor, " n"]) -> float:
    """Where rays begin before points at these distances, at least one."""
    rank = int(NEAREST * (len(distances) - 1)) + 1
    return BEFORE_POINTS * float(distances.kthvalue(rank).values)


def near_of_view(
    near: float, points: Float[Tensor, "m 3"] | None, origins: Float[Tensor, "*n 3"], directions: Float[Tensor, "*n 3"]
) -> float:
    """Where the rays of a picture begin.

    Args:
        near: of training rays; no view begins farther away.
        points: the sparse points, where `near` comes from them; None for `near`.
        origins: of the picture's rays, one and the same; in the units of the points.
        directions: of unit length.
    """
    if points is None:
        return near
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    axis = F.normalize(directions.mean(0), dim=0)
    way = points - origins[0]
    distance = way.norm(dim=-1)
    before = way @ axis >= (directions @ axis).min() * distance  # in the cone around the picture
    return min(near, before_points(distance[before])) if bool(before.any()) else near
