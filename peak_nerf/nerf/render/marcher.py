r"""Which samples a ray gets: few, and where the scene is; on CPUs and GPUs, without nerfacc's CUDA-only kernels.

A ray is cut into steps. Those in occupied cells are its candidates. The occupancy grid's opacities tell how much each
would weigh in the ray's colour; of candidates beyond a budget a random part is taken, each with a probability p that
grows with that weight, and stands for 1 / p steps: the optical depth that they add up to is right on average,
whatever the grid thinks. So fog, where nothing is known, costs as little as a surface.

Positions are normalised: the scene box is [-1, 1]^3. Samples are packed: one flat list for all rays of a batch,
ordered by ray and then by distance.

Symbols:
    t, s       distance along a ray (unit direction), and in steps: s = t / dt up to t_bend = dt / cone; beyond,
               steps grow with the distance from the camera, length cone t: s = t_bend / dt + ln(t / t_bend) / cone
    p          probability of a candidate
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from peak_nerf.nerf.render.contraction import contract
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.system.accelerator import triton_takes
from peak_nerf.system.parallel import parallel_for

OPAQUE = 1e-3
"""What `Steps.opaque` is by default."""
EXPLORE = 0.25
"""Fraction of a ray's samples that is spread over its candidates evenly, whatever the grid thinks."""
BLUR = 2
"""Steps within which a surface may lie from where the grid has it."""


Near = Float[Tensor, " r"] | float
"""Distance at which rays begin, of each or of all."""


@dataclass
class PackedSamples:
    """Samples of a batch of rays.

    Attributes:
        ray: (n,) index of each sample's ray, ascending.
        t: (n,) distance.
        dt: (n,) length of ray that it stands for.
        x: (n, 3) position in the field's cube [-1, 1]^3, contracted where space is unbounded; differentiable in the
            rays.
        cell: (n,) flat index of its cell in the occupancy grid.
        n_candidates: steps in occupied cells that they were chosen from, of all rays; on the device where the host has
            not waited for it.
    """

    ray: Int[Tensor, " n"]
    t: Float[Tensor, " n"]
    dt: Float[Tensor, " n"]
    x: Float[Tensor, "n 3"]
    cell: Int[Tensor, " n"]
    n_candidates: int | Tensor

    def __len__(self) -> int:
        return self.ray.shape[0]

    def select(self, chosen: Tensor) -> PackedSamples:
        """The samples picked by an index or a boolean mask."""
        ray, t, dt, x, cell = (a[chosen] for a in (self.ray, self.t, self.dt, self.x, self.cell))
        return PackedSamples(ray, t, dt, x, cell, self.n_candidates)


@dataclass(frozen=True)
class Steps:
    """The steps that rays are cut into, and how many of them are taken."""

    dt: float
    """Length of a step near the camera."""
    cone: float
    """Length over distance of the steps beyond dt / cone; 0 for steps of one length."""
    budget: int
    """Samples of a ray, one more at most."""
    opaque: float = OPAQUE
    """Transmittance, by the grid's opacities, behind which a ray has no candidates."""

    def longer(self, factor: float) -> Steps:
        """Steps so many times as long."""
        return replace(self, dt=self.dt * factor, cone=self.cone * factor)

    def count(self, t: Tensor) -> Tensor:
        """s: distances in steps."""
        if self.cone == 0:
            return t / self.dt
        bend = self.dt / self.cone
        return torch.where(t <= bend, t / self.dt, (1 + torch.log(t.clamp(min=bend) / bend)) / self.cone)

    def distance(self, s: Tensor) -> Tensor:
        """t: the inverse of `count`."""
        if self.cone == 0:
            return s * self.dt
        beyond = self.dt / self.cone * torch.exp((s * self.cone - 1).clamp(min=0))
        return torch.where(s * self.cone <= 1, s * self.dt, beyond)

    def length(self, t: Tensor) -> Tensor:
        """Of a step at these distances."""
        return (self.cone * t).clamp(min=self.dt)


def box_intersection(
    origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"], near: Near, half: float = 1.0
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Distances at which rays enter and leave [-half, half]^3; a ray that misses has enter >= exit."""
    # A zero component divides to +-inf, which min and max handle, but 0 * inf would not.
    inverse = 1 / torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    a, b = (-half - origins) * inverse, (half - origins) * inverse
    enter = torch.minimum(a, b).amax(-1).clamp(min=near)
    return enter, torch.maximum(a, b).amin(-1)


class March(NamedTuple):
    """Rays as the samplers take them: r of them."""

    origins: Float[Tensor, "r 3"]
    directions: Float[Tensor, "r 3"]
    enter: Float[Tensor, " r"]
    """Where the first step begins."""
    leave: Float[Tensor, " r"]
    """Where the last one ends; not above `enter` for a ray without samples."""
    jitter: Float[Tensor, " r"]
    """Where in its step a sample lies, in [0, 1)."""
    offset: Float[Tensor, " r"]
    """Which of the candidates are taken, in [0, 1)."""


def sample_rays(
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    grid: OccupancyGrid,
    steps: Steps,
    near: Near = 0.0,
    jitter: Float[Tensor, " r"] | None = None,
    n_rows: int | None = None,
) -> PackedSamples:
    """The samples of rays between `near` and the end of the grid.

    jitter: (r,) in [0, 1), where in its step a sample lies and which of the candidates are taken; None for the middle.
    n_rows: of Triton's kernel alone, which then need not be waited for: rows of the result, whatever is found. Samples
        beyond are left out; rows behind the last sample are of ray r, which there is not, and of length 0.
    """
    enter, leave = box_intersection(origins, directions, near, 2.0 ** (grid.n_cascades - 1))
    jitter = torch.full_like(enter, 0.5) if jitter is None else jitter
    # Independent of where in its step a sample lies.
    offset = (jitter * 1021.0) % 1.0
    march = March(origins, directions, enter, leave, jitter, offset)
    if triton_takes(origins.device):
        return sample_triton(march, grid, steps, n_rows)
    return (sample_numba if origins.device.type == "cpu" else sample_torch)(march, grid, steps)


def sample_numba(march: March, grid: OccupancyGrid, steps: Steps) -> PackedSamples:
    """On the CPU, by the compiled kernel."""
    from peak_nerf.nerf.render.marcher_numba import pack, sample

    origins, directions, enter, leave, _, _ = march
    n_rays, longest = len(origins), _longest(enter, leave, steps)
    budget = min(steps.budget, longest)
    shape = (n_rays, budget + 1)
    rows = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.int64)
    counts, candidates = np.zeros(n_rays, np.int64), np.zeros(n_rays, np.int64)
    rays = [a.detach().contiguous().numpy() for a in march]
    state = (grid.candidates.numpy(), grid.blocks.numpy(), grid.log_clear.numpy())
    numbers = (np.float32(steps.dt), np.float32(steps.cone), np.float32(grid.step))
    rule = (np.float32(steps.opaque), EXPLORE, BLUR, budget, longest)
    parallel_for(
        lambda i, j: sample(*rays, *numbers, *state, *rule, *rows, counts, candidates, i, j),
        n_rays, min_chunk=64, chunks_per_thread=8,
    )  # fmt: skip
    ends = np.cumsum(counts)
    n = int(ends[-1]) if n_rays else 0
    ray, t, dt, x = torch.empty(n, dtype=torch.int64), torch.empty(n), torch.empty(n), torch.empty(n, 3)
    cell = torch.empty(n, dtype=torch.int64)
    packed = [a.numpy() for a in (ray, t, dt, x, cell)]
    contracted = grid.n_cascades > 1
    parallel_for(lambda i, j: pack(*rays[:2], *rows, ends, contracted, *packed, i, j), n_rays, min_chunk=64)
    if origins.requires_grad or directions.requires_grad:
        x = _positions(origins, directions, ray, t, contracted)
    return PackedSamples(ray, t, dt, x, cell, int(candidates.sum()))


def sample_triton(march: March, grid: OccupancyGrid, steps: Steps, n_rows: int | None = None) -> PackedSamples:
    """On a GPU, by Triton's kernel."""
    from peak_nerf.nerf.render.marcher_triton import sample

    state = grid.candidates, grid.blocks, grid.log_clear
    rule = steps.opaque, EXPLORE, BLUR, steps.budget
    ray, t, dt, x, cell, n_candidates = sample(march, state, (steps.dt, steps.cone, grid.step), rule, n_rows)
    if march.origins.requires_grad or march.directions.requires_grad:
        x = _positions(march.origins, march.directions, ray.clamp(max=len(march.origins) - 1), t, grid.n_cascades > 1)
    return PackedSamples(ray, t, dt, x, cell, n_candidates)


def _positions(origins: Tensor, directions: Tensor, ray: Tensor, t: Tensor, contracted: bool) -> Tensor:
    x = origins[ray] + t[:, None] * directions[ray]
    return contract(x) if contracted else x


def _longest(enter: Tensor, leave: Tensor, steps: Steps) -> int:
    """Most steps that any of the rays may have."""
    hit = leave > enter
    if not bool(hit.any()):
        return 1
    n = (steps.count(leave[hit]) - steps.count(enter[hit])).max()
    return math.ceil(float(n.detach())) + 2


def sample_torch(march: March, grid: OccupancyGrid, steps: Steps) -> PackedSamples:
    """Reference, for tests and where there is no kernel: every step of every ray at once, as (r, k) tensors."""
    origins, directions, enter, leave, jitter, offset = march
    first = steps.count(enter) + jitter
    n_steps = torch.ceil(steps.count(leave) - first).clamp(min=0)
    n_steps[leave <= enter] = 0
    k = torch.arange(max(1, int(n_steps.max())) if len(n_steps) else 1, device=origins.device)
    s = first[:, None] + k
    t = steps.distance(s)
    length = steps.length(t)
    x = origins[:, None] + t[..., None] * directions[:, None]
    cell = grid.cells(x.reshape(-1, 3)).reshape(t.shape)
    level = grid.candidates.view(-1)[cell].long()
    candidate = (level > 0) & (k < n_steps[:, None])
    reference = grid.step * torch.exp2((cell // grid.resolution**3).float())
    tau = torch.where(candidate, -grid.log_clear[level] * (length / reference), 0.0)
    before = torch.exp(tau - tau.cumsum(1))
    weight = before * -torch.expm1(-tau)
    # The last candidate is `BLUR` steps behind the first one that leaves the ray opaque.
    clear = torch.exp(-tau.cumsum(1)) >= steps.opaque
    clear = torch.cat((torch.ones_like(clear[:, :1]), clear[:, :-1]), 1)
    reach = F.pad(clear.float()[:, None], (BLUR, 0), value=1.0)
    candidate &= F.max_pool1d(reach, BLUR + 1, 1)[:, 0] > 0
    weight = torch.where(candidate, weight, 0.0)
    blurred = F.max_pool1d(weight[:, None], 2 * BLUR + 1, 1, BLUR)[:, 0].double() * candidate
    n_candidates = candidate.sum(1, keepdim=True)
    total = blurred.sum(1, keepdim=True)
    fraction = torch.where(total > 0, blurred / total.clamp(min=1e-30), candidate / n_candidates.clamp(min=1))
    p = steps.budget * ((1 - EXPLORE) * fraction + EXPLORE / n_candidates.clamp(min=1))
    p = torch.where(n_candidates <= steps.budget, 1.0, p.clamp(max=1.0)) * candidate
    place = offset.double()[:, None] + p.cumsum(1)
    taken = candidate & ((place.floor() > (place - p).floor()) | (n_candidates <= steps.budget))
    ray, index = taken.nonzero(as_tuple=True)
    t, dt, cell = t[ray, index], (length[ray, index] / p[ray, index]).to(t.dtype), cell[ray, index]
    x = _positions(origins, directions, ray, t, grid.n_cascades > 1)
    return PackedSamples(ray, t, dt, x, cell, int(n_candidates.sum()))
