"""Volume rendering of the field: which samples a batch of rays gets, and what the rays then look like.

Symbols:
    x          position, normalised so that the scene box's longest side is [-1, 1]
    u          position in the field's cube: x, or contracted where space is unbounded
    t, dt      distance and length of ray that a sample stands for, in normalised units
    tau        optical depth of a sample, density * dt
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from peak_nerf.nerf.render.contraction import contract, infinity, per_distance, uncontract
from peak_nerf.nerf.render.marcher import Near, PackedSamples, Steps, box_intersection, sample_rays
from peak_nerf.nerf.render.marked import marked, random_marked
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.volrend import accumulate, packed_weights
from peak_nerf.system.accelerator import runs_ahead, triton_takes

CANDIDATES = 128
"""Steps of a training ray in occupied cells, on average over a batch: while there are more, steps are longer."""
MAX_COARSENESS = 16.0
"""At most so many times; training begins with half of it."""
OPAQUE = 1e-3
"""A ray whose transmittance has fallen below this shows nothing of what is behind."""
EVERY = 2**31 - 1
"""The budget of a ray that gets all of its candidates."""
SKY_LEVELS = 2
"""Of the hash grid, that colour at infinity depends on: in `peak-lite` as fine as 3 degrees."""
FEWEST_STEPS = 16
"""Of the longest of rays that begin and end somewhere."""
SPARE = 1.25
"""Room for candidates on a GPU, over as many a ray as the last batch had."""
FAINT = 1e-4
"""A sample of a smaller weight has no colour in rendering."""


@runtime_checkable
class Field(Protocol):
    """What is rendered: see `PeakRadianceField`."""

    def density(self, u: Float[Tensor, "n 3"], /, n_levels: int | None = None) -> tuple[Float[Tensor, " n"], Tensor]:
        """Density at positions, and what the colour needs of it; by its coarsest levels alone, or all."""

    def colour(
        self, geometry: Tensor, directions: Float[Tensor, "r 3"], ray: Int[Tensor, " n"] | None = None, /
    ) -> Float[Tensor, "n 3"]:
        """Colour in [0, 1]; `ray` says which direction each sample has, None when there is one each."""


class Crop(NamedTuple):
    """What is to be seen of rays."""

    near: Float[Tensor, " r"]
    """Where it begins; in the units of the rays' origins."""
    far: Float[Tensor, " r"]
    """Where it ends; at the beginning, for rays that miss the box."""
    background: Tensor | None
    """(3,) behind it, where somebody has chosen one."""


@dataclass
class RenderedRays:
    """A batch of r rays with n samples in training: what the losses are made of, differentiable in the field."""

    samples: PackedSamples
    density: Float[Tensor, " n"]
    weights: Float[Tensor, " n"]
    transmittance: Float[Tensor, " n"]
    """In front of each sample."""
    distance: Float[Tensor, " n"]
    """Of each sample, in steps times the length of the first: nearly logarithmic where steps grow."""
    length: Float[Tensor, " n"]
    """That it stands for, likewise."""
    t_enter: Float[Tensor, " r"]
    """Distance at which each ray enters the box, or at least `near`."""
    foreground: Float[Tensor, "r 3"]
    """Colour without the background."""
    accumulation: Float[Tensor, "r 1"]


def scale_gradient(value: Tensor, factor: Tensor) -> Tensor:
    """The value itself, its gradient times `factor`.

    Source: Philip, Deschaintre, Floaters No More, EGSR 2023.
    """
    return value * factor + (value * (1 - factor)).detach()


class VolumeRenderer:
    """Renders rays, given as origins and unit directions (r, 3) in normalised space.

    Args:
        field: density and colour.
        occupancy: where samples are worth taking; with more than one cascade space is unbounded.
        steps: of training, once fog has cleared.
        near: rays begin no nearer to the camera than this.
        background: grey value behind a bounded scene, 0 to 1.
        substeps: rendering of a bounded scene divides a step into so many.
        render_budget: samples of a ray in rendering.
        gradient_reach: nearer to the camera than this, gradients of a sample are scaled by (t / gradient_reach)^2; 0
            leaves them as they are.
    """

    def __init__(
        self,
        field: Field,
        occupancy: OccupancyGrid,
        steps: Steps,
        near: float,
        background: float,
        substeps: int = 1,
        render_budget: int = 32,
        gradient_reach: float = 0.0,
    ) -> None:
        self.field, self.occupancy, self.steps = field, occupancy, steps
        self.gradient_reach = gradient_reach
        self.coarseness = MAX_COARSENESS / 2
        self.candidates_per_ray = float(CANDIDATES)
        self.least_coarseness = 1.0
        self.withheld = 0.0
        self.near, self.background, self.substeps, self.render_budget = near, background, substeps, render_budget

    @property
    def unbounded(self) -> bool:
        """Whether space is contracted, and rays end at infinity."""
        return self.occupancy.n_cascades > 1

    @property
    def end(self) -> float:
        """Half side of the last cascade."""
        return 2.0 ** (self.occupancy.n_cascades - 1)

    def to_field(self, x: Tensor) -> Tensor:
        """Positions (n, 3) in the field's cube."""
        return contract(x) if self.unbounded else x

    def density(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The field's density (n,) per unit of normalised space, and what the colour needs of it.

        In unbounded space the field's own is per distance from the middle: optical depth of what is far stays finite.
        """
        density, geometry = self.field.density(u)
        return (density * per_distance(u) if self.unbounded else density), geometry

    def cells(self, u: Tensor) -> Tensor:
        """Flat index (n,) of the occupancy grid's cell of each position in the field's cube."""
        return self.occupancy.cells(uncontract(u) if self.unbounded else u)

    def training_samples(self, origins: Tensor, directions: Tensor) -> PackedSamples:
        """At random places within their steps, which are longer in fog: see `CANDIDATES`.

        In a bounded scene all candidates are looked at, and those dropped in front of which the field, not the grid,
        says that a ray is opaque: at silhouettes the grid is too coarse for that, and thin things would be lost.
        """
        n = len(origins)
        jitter = torch.rand(n, device=origins.device)
        if self.unbounded or not triton_takes(origins.device):
            samples = self._march(origins, directions, jitter)
            return samples if self.unbounded else samples.select(self._reached(samples, n).nonzero()[:, 0])
        # The host waits once, for both numbers; a second time where it has left too little room.
        n_rows, found = 0, self._room(n)
        while found > n_rows:
            n_rows = found
            samples = self._march(origins, directions, jitter, n_rows)
            reached = self._reached(samples, n)
            n_reached, found = torch.stack((reached.sum(), cast(Tensor, samples.n_candidates))).tolist()
        self.candidates_per_ray = found / max(1, n)
        return replace(samples, n_candidates=found).select(marked(reached, n_reached))

    def random_samples(
        self, origins: Tensor, directions: Tensor, n: int
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Positions of n of the rays' candidates, drawn at random, and the directions of their rays.

        In a bounded scene those behind a surface are among them: what no camera sees must be probed as well. Fewer
        where the rays have fewer. On a GPU, where the host would have to wait for their number, there are always n, all
        in the middle of the field's cube where rays have none; and rays at the end of an unusual batch, for which
        there is no room, have none.
        """
        n_rays = len(origins)
        jitter = torch.rand(n_rays, device=origins.device)
        if not triton_takes(origins.device):
            samples = self._march(origins, directions, jitter)
            chosen = torch.randint(max(1, len(samples)), (min(n, len(samples)),), device=origins.device)
            return samples.x[chosen].detach(), directions[samples.ray[chosen]]
        n_rows = n_rays * (self.steps.budget + 1) if self.unbounded else self._room(n_rays)
        samples = self._march(origins, directions, jitter, n_rows)
        chosen = random_marked(samples.ray < n_rays, n)
        return samples.x[chosen].detach(), directions[samples.ray[chosen].clamp(max=n_rays - 1)]

    def _room(self, n_rays: int) -> int:
        """Rows for the candidates of so many rays, of a bounded scene; few different numbers, as allocators like."""
        return 1024 * (1 + int(SPARE * self.candidates_per_ray * n_rays / 1024))

    def _march(self, origins: Tensor, directions: Tensor, jitter: Tensor, n_rows: int | None = None) -> PackedSamples:
        steps, near = self.steps.longer(self.coarseness), self.beginnings(origins)
        if not self.unbounded:
            steps = replace(steps, budget=EVERY, opaque=0.0)
        return sample_rays(origins, directions, self.occupancy, steps, near, jitter, n_rows)

    @torch.no_grad()
    def _reached(self, samples: PackedSamples, n_rays: int) -> Bool[Tensor, " n"]:
        """Which of the samples have a ray that is not opaque in front of them, by the field."""
        tau = self.density(samples.x)[0] * samples.dt
        return (packed_weights(tau, samples.ray, n_rays)[1] > OPAQUE) & (samples.ray < n_rays)

    def beginnings(self, origins: Tensor) -> Near:
        """Distance at which training rays begin: `near`, or in unbounded space of each, (r,).

        `withheld` is the part of the way to the scene box that they leave out: what is there has to wait until the box
        explains what cameras see, or fog before each camera would.

        Source: after Niemeyer et al., RegNeRF, CVPR 2022, who anneal both ends of the space that is sampled.
        """
        if not self.unbounded:
            return self.near
        to_box = (origins.abs() - 1).clamp(min=0).norm(dim=-1)
        return (self.withheld * to_box).clamp(min=self.near)

    def render_samples(
        self, origins: Tensor, directions: Tensor, crop: Crop | None = None, near: float | None = None
    ) -> PackedSamples:
        """In the middle of their steps, which in a bounded scene are shorter than in training; only of what is cropped
        out."""
        if self.unbounded:
            steps = replace(self.steps, budget=self.render_budget)
        else:
            steps = replace(self.steps.longer(1 / self.substeps), budget=EVERY)
        if crop is None:
            return sample_rays(origins, directions, self.occupancy, steps, self.near if near is None else near)
        # Rays that texture a mesh are short, and begin at their surface.
        length = float((crop.far - crop.near).max()) if len(origins) else 0.0
        if length > 0:
            steps = steps.longer(min(1.0, length / (FEWEST_STEPS * steps.dt)))
        samples = sample_rays(origins, directions, self.occupancy, steps, crop.near)
        return samples.select((samples.t < crop.far[samples.ray]).nonzero()[:, 0])

    def training_rays(self, origins: Tensor, directions: Tensor) -> RenderedRays:
        """The rays by samples that are worth a gradient."""
        samples = self.training_samples(origins, directions)
        n = len(directions)
        wanted = self.coarseness * int(samples.n_candidates) / (CANDIDATES * max(1, n))
        steps = self.steps.longer(self.coarseness)
        self.coarseness = min(max(self.least_coarseness, 0.8 * self.coarseness + 0.2 * wanted), MAX_COARSENESS)
        density, geometry = self.density(samples.x)
        if self.gradient_reach > 0:  # near a camera many rays share few cells
            factor = (samples.t / self.gradient_reach).square().clamp(max=1.0)
            density = scale_gradient(density, factor)
            geometry = scale_gradient(geometry, factor[:, None])
        weights, transmittance = packed_weights(density * samples.dt, samples.ray, n)
        colour = self.field.colour(geometry, directions, samples.ray)
        foreground = accumulate(weights, colour, samples.ray, n)
        accumulation = accumulate(weights, torch.ones_like(weights)[:, None], samples.ray, n)
        distance = steps.count(samples.t) * steps.dt
        length = samples.dt / steps.length(samples.t) * steps.dt
        t_enter, _ = box_intersection(origins, directions, self.near)
        return RenderedRays(
            samples, density, weights, transmittance, distance, length, t_enter, foreground, accumulation
        )

    def measured(self, t: Tensor, relative: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (r,) in the measure of `RenderedRays.distance`, and there a relative deviation of t.

        Samples stand for steps: none says where within its own something is, so that is added to the variance.
        """
        step = self.steps.dt * self.coarseness
        rate = self.steps.dt / self.steps.length(t)
        return self.steps.count(t) * self.steps.dt, ((relative * t * rate).square() + step**2).sqrt()

    def sky(self, directions: Tensor) -> Tensor:
        """Colour (r, 3) at the end of rays in unbounded space: of the field, at infinity, without detail.

        With few views anything may be painted there, where it needs no shape; what has detail must be somewhere.
        """
        _, geometry = self.field.density(infinity(directions), SKY_LEVELS)
        return self.field.colour(geometry, directions)

    def background_of(self, directions: Tensor, accumulation: Tensor) -> Tensor:
        """Colour (r, 3) behind everything in unbounded space; 0 where a ray is opaque.

        On the CPU it is evaluated only where a ray is not; a GPU would have to wait until the host knows how many.
        """
        seen = accumulation.detach()[:, 0] < 1 - OPAQUE
        if runs_ahead(seen.device):
            return torch.where(seen[:, None], self.sky(directions), 0.0)
        through = seen.nonzero()[:, 0]
        colour = self.sky(directions[through])
        return directions.new_zeros(len(directions), 3).index_put((through,), colour)

    @torch.no_grad()
    def render(
        self, origins: Tensor, directions: Tensor, crop: Crop | None = None, near: float | None = None
    ) -> dict[str, Tensor]:
        """`rgb` over the background, `accumulation` and `depth`.

        Where nothing is hit, depth is that of the end of the grid, as far as a ray can see. What is cropped out has
        none of the scene behind it, but the crop's background or that of a bounded scene. Rays that are whole begin at
        `near`, or where training's do.
        """
        n = len(origins)
        samples = self.render_samples(origins, directions, crop, near)
        density, geometry = self.density(samples.x)
        weights, _ = packed_weights(density * samples.dt, samples.ray, n)
        shown = (weights > FAINT).nonzero()[:, 0]
        colour = self.field.colour(geometry[shown], directions, samples.ray[shown])
        rgb = accumulate(weights[shown], colour, samples.ray[shown], n)
        both = accumulate(weights, torch.stack((torch.ones_like(weights), samples.t), -1), samples.ray, n)
        accumulation, t_sum = both[:, :1], both[:, 1:]
        if crop is not None and crop.background is not None:
            behind = crop.background.to(rgb)[None]
        elif self.unbounded and crop is None:
            behind = self.background_of(directions, accumulation)
        else:
            behind = rgb.new_full((1, 3), self.background)
        _, t_far = box_intersection(origins, directions, self.near, self.end)
        outputs = {
            "rgb": rgb + (1 - accumulation) * behind,
            "accumulation": accumulation,
            "depth": torch.where(
                accumulation > 0.01, t_sum / accumulation.clamp(min=1e-6), t_far[:, None].clamp(min=0)
            ),
        }
        return {**outputs, "background": behind.expand_as(rgb)} if self.unbounded else outputs

    @torch.enable_grad()
    def normals(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Direction in which density falls, averaged along the ray as colour is; in [0, 1], as ns-export wants it."""
        samples = self.render_samples(origins, directions)
        x = (origins[samples.ray] + samples.t[:, None] * directions[samples.ray]).requires_grad_(True)
        density, _ = self.density(self.to_field(x))
        (slope,) = torch.autograd.grad(density.sum(), x)
        weights, _ = packed_weights(density.detach() * samples.dt, samples.ray, len(origins))
        normal = accumulate(weights, -F.normalize(slope, dim=-1), samples.ray, len(origins))
        return ((F.normalize(normal, dim=-1) + 1) / 2).clamp(0, 1)
