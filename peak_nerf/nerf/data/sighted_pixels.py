"""Pixels that saw sparse points, to draw rays from whose depth is known, and how well.

Symbols:
    e      reprojection error of a point, an angle, at least that of `PRECISION`
    d_i    unit direction from the i-th camera that saw a point to the point
    D      distance of a point from a camera, along the ray
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from peak_nerf.nerf.data.pixel_rays import PixelRays
from peak_nerf.nerf.data.pixels import Drawn, PixelTable
from peak_nerf.nerf.data.points import Guesses, Sightings, SparsePoints

PRECISION = 0.5
"""Pixels, within which a feature's place is known at best: two views alone agree with any point."""

GUESS = 0.05
"""Standard deviation of a guess, over its distance. Wrong ones do no harm: nothing pulls what is far from them."""


@dataclass(frozen=True)
class SightedPoints:
    """Points on rays."""

    xyz: Tensor
    """(n, 3), in the units of the cameras."""
    deviation: Tensor
    """(n,) standard deviation of their distances, over the distance."""

    def __len__(self) -> int:
        return len(self.xyz)


class SightedPixels:
    r"""The pixels of training pictures that saw sparse points, less those that a mask leaves out.

    A point's distance D along the rays is as uncertain as the rays that met in it make it: the variance of the
    least-squares point along their mean direction a is (e D)^2 / sum_i |d_i x a|^2. So what neighbouring cameras saw,
    or with a large error, counts for little.
    """

    def __init__(
        self,
        sightings: Sightings,
        points: SparsePoints,
        table: PixelTable,
        rays: PixelRays,
        guesses: Guesses | None = None,
    ) -> None:
        device = table.colours.device
        image, point = sightings.image.to(device), sightings.point.to(device)
        xyz = points.xyz.to(device)
        # At the middle of the pixel, whose colour is known.
        u, v = (sightings.xy.to(device).floor() + 0.5).unbind(1)
        pixel = table.at(image, u, v)
        error = sightings.error.to(device).square() + PRECISION**2
        area = rays.bundle(image, u, v).pixel_area[:, 0]
        count = torch.bincount(point, minlength=len(xyz))[:, None]
        directions = F.normalize(xyz[point] - rays.poses[image, :, 3], dim=-1)
        along = F.normalize(_mean(directions, point, count), dim=-1)
        sine2 = torch.linalg.cross(directions, along[point]).square().sum(-1, keepdim=True)
        information = (_mean(sine2, point, count) * count).clamp(min=1e-12)
        variance = _mean((error * area)[:, None], point, count) / information
        xyz, deviation = xyz[point], variance.sqrt()[point, 0]
        if guesses is not None:
            guess_u, guess_v = (guesses.xy.to(device).floor() + 0.5).unbind(1)
            guess_image, guess_xyz = guesses.image.to(device), guesses.xyz.to(device)
            pixel = torch.cat((pixel, table.at(guess_image, guess_u, guess_v)))
            image, u, v = (torch.cat(pair) for pair in ((image, guess_image), (u, guess_u), (v, guess_v)))
            xyz = torch.cat((xyz, guess_xyz))
            deviation = torch.cat((deviation, deviation.new_full((len(guess_xyz),), GUESS)))
        inside = pixel >= 0
        self.pixel, self.camera, self.u, self.v = pixel[inside], image[inside], u[inside], v[inside]
        self.points = SightedPoints(xyz[inside], deviation[inside])
        self.origins = rays.poses[self.camera, :, 3]
        self.table = table

    def __len__(self) -> int:
        return len(self.pixel)

    def draw(self, n: int) -> tuple[Drawn, SightedPoints]:
        """`n` at random, and the points that they saw."""
        i = torch.randint(len(self), (n,), device=self.pixel.device)
        drawn = Drawn(self.camera[i], self.u[i], self.v[i], self.table.colours[self.pixel[i]])
        return drawn, SightedPoints(self.points.xyz[i], self.points.deviation[i])


def _mean(rows: Tensor, group: Tensor, count: Tensor) -> Tensor:
    """Of the rows (n, c) of each group, (m, c); count (m, 1) says how many it has."""
    return rows.new_zeros(len(count), rows.shape[1]).index_add(0, group, rows) / count.clamp(min=1)
