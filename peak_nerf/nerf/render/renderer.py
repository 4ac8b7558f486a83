"""Volume rendering of the field: which samples a batch of rays gets, and what the rays then look like.

Symbols:
    x          position, normalised so that the scene box's longest side is [-1, 1]
    t, dt      distance and step length along a ray in normalised units
    tau        optical depth of a sample, density * dt
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from peak_nerf.nerf.render.marcher import PackedSamples, RayMarcher, join_waves
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.volrend import accumulate, packed_weights

FIRST_WAVE, LAST_WAVE = 4, 64
"""When rendering, a ray takes this many samples first, then twice as many each time up to the last."""
FIRST_SCOUT = 8
"""Samples of a ray that training looks at first, to find out where it becomes opaque."""
OPAQUE = 1e-3
"""A ray whose transmittance has fallen below this is finished, and a sample whose weight is below it has no colour."""


@runtime_checkable
class Field(Protocol):
    """What is rendered: see `PeakRadianceField`."""

    def density(self, x: Float[Tensor, "n 3"], /) -> tuple[Float[Tensor, " n"], Tensor]:
        """Density at positions, and what the colour needs of it."""

    def colour(
        self, geometry: Tensor, directions: Float[Tensor, "r 3"], ray: Int[Tensor, " n"] | None = None, /
    ) -> Float[Tensor, "n 3"]:
        """Colour in [0, 1]; `ray` says which direction each sample has, None when there is one each."""


@dataclass
class RenderedRays:
    """A batch of r rays with n samples in training: what the losses are made of, differentiable in the field."""

    samples: PackedSamples
    density: Float[Tensor, " n"]
    transmittance: Float[Tensor, " n"]
    """In front of each sample."""
    t_enter: Float[Tensor, " r"]
    """Distance at which each ray enters the box, or at least `near`."""
    foreground: Float[Tensor, "r 3"]
    """Colour without the background."""
    accumulation: Float[Tensor, "r 1"]


class VolumeRenderer:
    """Renders rays, given as origins and unit directions (r, 3) in normalised space.

    Args:
        field: density and colour.
        occupancy: where samples are worth taking.
        dt: step length once training is past its coarse steps; `self.dt` is the present one.
        near: rays begin no nearer to the camera than this.
        substeps: rendering divides a step into so many.
        background: grey value behind the scene, 0 to 1.
    """

    def __init__(
        self,
        field: Field,
        occupancy: OccupancyGrid,
        dt: float,
        near: float,
        background: float,
        substeps: int = 1,
    ) -> None:
        self.field, self.occupancy = field, occupancy
        self.final_dt = self.dt = dt
        self.near, self.background, self.substeps = near, background, substeps

    def marcher(
        self, origins: Tensor, directions: Tensor, jitter: Tensor | None = None, substeps: int = 1
    ) -> RayMarcher:
        """A march through the occupied cells; `jitter` (r,) in [0, 1) is where in its step a sample lies."""
        grid, dt = self.occupancy, self.dt / substeps
        return RayMarcher(origins, directions, grid.occupied, grid.blocks, dt, near=self.near, jitter=jitter)

    def training_rays(self, origins: Tensor, directions: Tensor) -> RenderedRays:
        """The rays by the samples that are worth a gradient, at random places within their steps."""
        marcher = self.marcher(origins, directions, torch.rand(len(origins), device=origins.device))
        # In the fog of the first, coarse steps nothing is hidden.
        samples = marcher.next() if self.dt > self.final_dt else self._unhidden(marcher)
        x = None
        if origins.requires_grad:  # of cameras that are refined; what regularisers see of the samples has no gradient
            x = origins[samples.ray] + samples.t[:, None] * directions[samples.ray]
        return self.composite(samples, directions, marcher.t_enter, x)

    @torch.no_grad()
    def _unhidden(self, marcher: RayMarcher) -> PackedSamples:
        """The samples in front of which a ray has not become opaque: those behind have neither weight nor gradient.

        Looking costs a forward pass of the density alone, and saves more than half of all samples of a solid scene.
        """
        n = len(marcher.origins)
        depth = marcher.t_exit.new_zeros(n)  # optical depth so far
        parts = []
        for samples in _waves(marcher, FIRST_SCOUT):
            tau = self.field.density(samples.x)[0] * self.dt
            transmittance = packed_weights(tau, samples.ray, n)[1] * torch.exp(-depth)[samples.ray]
            parts.append(samples.select((transmittance > OPAQUE).nonzero()[:, 0]))
            depth.index_add_(0, samples.ray, tau)
            marcher.stop(depth > -math.log(OPAQUE))
        return join_waves(parts, self.dt) if parts else marcher.next()

    def composite(
        self, samples: PackedSamples, directions: Tensor, t_enter: Tensor, x: Tensor | None = None
    ) -> RenderedRays:
        """The rays of these directions (r, 3), which enter the box at t_enter (r,), by these samples.

        x: the samples' positions, where they have a gradient.
        """
        n = len(directions)
        density, geometry = self.field.density(samples.x if x is None else x)
        weights, transmittance = packed_weights(density * samples.dt, samples.ray, n)
        colour = self.field.colour(geometry, directions, samples.ray)
        foreground = accumulate(weights, colour, samples.ray, n)
        accumulation = accumulate(weights, torch.ones_like(weights)[:, None], samples.ray, n)
        return RenderedRays(samples, density, transmittance, t_enter, foreground, accumulation)

    @torch.no_grad()
    def render(self, origins: Tensor, directions: Tensor) -> dict[str, Tensor]:
        """`rgb` over the background, `accumulation` and `depth`, in waves from front to back; opaque rays drop out.

        Where nothing is hit, depth is that of the far wall of the box, as far as a ray can see.
        """
        n = len(origins)
        marcher = self.marcher(origins, directions, substeps=self.substeps)
        t_far = marcher.t_exit.clone()
        transmittance = origins.new_ones(n)
        rgb, t_sum = origins.new_zeros(n, 3), origins.new_zeros(n, 1)
        for samples in _waves(marcher, FIRST_WAVE):
            density, geometry = self.field.density(samples.x)
            tau = density * marcher.dt
            weights = packed_weights(tau, samples.ray, n)[0] * transmittance[samples.ray]
            shown = (weights > OPAQUE).nonzero()[:, 0]
            colour = self.field.colour(geometry[shown], directions, samples.ray[shown])
            rgb += accumulate(weights[shown], colour, samples.ray[shown], n)
            t_sum += accumulate(weights, samples.t[:, None], samples.ray, n)
            passed = accumulate(tau, torch.ones_like(tau)[:, None], samples.ray, n)[:, 0]
            transmittance = transmittance * torch.exp(-passed)
            marcher.stop(transmittance < OPAQUE)
        accumulation = 1 - transmittance[:, None]
        depth = t_sum / accumulation.clamp(min=1e-6)
        return {
            "rgb": rgb + transmittance[:, None] * self.background,
            "accumulation": accumulation,
            "depth": torch.where(accumulation > 0.01, depth, t_far[:, None].clamp(min=0)),
        }

    @torch.enable_grad()
    def normals(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Direction in which density falls, averaged along the ray as colour is; in [0, 1], as ns-export wants it."""
        samples = self.marcher(origins, directions).next()
        x = samples.x.clamp(-1, 1).requires_grad_(True)
        density, _ = self.field.density(x)
        (slope,) = torch.autograd.grad(density.sum(), x)
        weights, _ = packed_weights(density.detach() * self.dt, samples.ray, len(origins))
        normal = accumulate(weights, -F.normalize(slope, dim=-1), samples.ray, len(origins))
        return (F.normalize(normal, dim=-1) + 1) / 2


def _waves(marcher: RayMarcher, limit: int) -> Iterator[PackedSamples]:
    """Samples of all live rays, `limit` at first, then twice as many each time, until no ray has any left."""
    while len(samples := marcher.next(limit)):
        yield samples
        limit = min(2 * limit, LAST_WAVE)
