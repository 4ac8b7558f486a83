"""Marches rays through the occupied cells, on CPU and CUDA, without nerfacc's CUDA-only kernels.

All positions are normalised: the scene box is [-1, 1]^3. Samples are packed: one flat list for all rays of a batch,
ordered by ray and then by distance.

Symbols:
    t          distance along a ray, in units of its (unit-length or not) direction
    dt         step length, the same for every sample
    ray        for each sample, the index of its ray
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from peak_nerf.system.parallel import parallel_for


@dataclass
class PackedSamples:
    """Samples of a batch of rays.

    Attributes:
        ray: (n,) index of each sample's ray, ascending.
        t: (n,) distance of each sample's middle.
        x: (n, 3) position in [-1, 1]^3.
        dt: step length.
    """

    ray: Int[Tensor, " n"]
    t: Float[Tensor, " n"]
    x: Float[Tensor, "n 3"]
    dt: float

    def __len__(self) -> int:
        return self.ray.shape[0]

    def select(self, chosen: Tensor) -> PackedSamples:
        """The samples picked by an index or a boolean mask."""
        return PackedSamples(self.ray[chosen], self.t[chosen], self.x[chosen], self.dt)


def join_waves(waves: Sequence[PackedSamples], dt: float) -> PackedSamples:
    """The samples of successive calls of `RayMarcher.next`, in the order of rays and distances again.

    Raises: ValueError (torch's) without waves.
    """
    ray, order = torch.cat([wave.ray for wave in waves]).sort(stable=True)
    t, x = torch.cat([wave.t for wave in waves]), torch.cat([wave.x for wave in waves])
    return PackedSamples(ray, t[order], x[order], dt)


def box_intersection(
    origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"], near: float
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Distances at which rays enter and leave [-1, 1]^3; a ray that misses has enter >= exit."""
    # A zero component divides to +-inf, which min and max handle, but 0 * inf would not.
    inverse = 1 / torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    a, b = (-1 - origins) * inverse, (1 - origins) * inverse
    enter = torch.minimum(a, b).amax(-1).clamp(min=near)
    return enter, torch.maximum(a, b).amin(-1)


class RayMarcher:
    """State of a march: rays, where they are, and which cells are worth a visit.

    `next(limit)` returns up to `limit` further samples of every live ray, so that a renderer can stop rays early.
    """

    def __init__(
        self,
        origins: Float[Tensor, "r 3"],
        directions: Float[Tensor, "r 3"],
        occupied: Bool[Tensor, "x y z"],
        blocks: Bool[Tensor, "bx by bz"],
        dt: float,
        near: float = 0.0,
        jitter: Float[Tensor, " r"] | None = None,
    ) -> None:
        # Which samples there are has no gradient.
        self.origins, self.directions = origins.detach().contiguous(), directions.detach().contiguous()
        self.occupied, self.blocks, self.dt = occupied, blocks, dt
        self.t_enter, self.t_exit = box_intersection(self.origins, self.directions, near)
        self.jitter = torch.full_like(self.t_enter, 0.5) if jitter is None else jitter
        self.step = torch.zeros(origins.shape[0], dtype=torch.int64, device=origins.device)

    def stop(self, rays: Tensor) -> None:
        """Mark rays (a boolean mask or indices) as finished."""
        self.t_exit[rays] = -1.0

    def next(self, limit: int = 1 << 20) -> PackedSamples:
        """Up to `limit` further samples of each ray."""
        if self.origins.device.type == "cpu":
            return self._next_numba(limit)
        return march_torch(self, limit)

    def _next_numba(self, limit: int) -> PackedSamples:
        from peak_nerf.nerf.render.marcher_numba import fill, march

        n_rays = self.origins.shape[0]
        longest = int((self.t_exit - self.t_enter).max() / self.dt) + 1 if n_rays else 0
        steps = np.empty((n_rays, max(0, min(limit, longest))), np.int32)
        counts, dt = np.zeros(n_rays, np.int64), np.float32(self.dt)
        o, d, enter, leave, jitter = (
            a.numpy() for a in (self.origins, self.directions, self.t_enter, self.t_exit, self.jitter)
        )
        state = (self.occupied.numpy(), self.blocks.numpy(), self.step.numpy(), steps, counts)
        parallel_for(
            lambda i, j: march(o, d, enter, leave, jitter, dt, *state, i, j), n_rays, min_chunk=64, chunks_per_thread=8
        )
        ends = np.cumsum(counts)
        n = int(ends[-1]) if n_rays else 0
        samples = PackedSamples(torch.empty(n, dtype=torch.int64), torch.empty(n), torch.empty(n, 3), self.dt)
        packed = (samples.ray.numpy(), samples.t.numpy(), samples.x.numpy())
        parallel_for(lambda i, j: fill(o, d, enter, jitter, dt, steps, ends, *packed, i, j), n_rays, min_chunk=64)
        return samples


def march_torch(marcher: RayMarcher, limit: int) -> PackedSamples:
    """Reference marcher, for CUDA and for tests: visits every step of the box and masks by occupancy."""
    m = marcher
    resolution = m.occupied.shape[0]
    n_steps = torch.ceil((m.t_exit - m.t_enter) / m.dt - m.jitter).clamp(min=0).long()
    n_steps[m.t_exit <= m.t_enter] = 0
    longest = int(n_steps.max()) if n_steps.numel() else 0
    k = torch.arange(longest, device=m.origins.device)
    live = (k >= m.step[:, None]) & (k < n_steps[:, None])  # (r, k)
    ray, index = live.nonzero(as_tuple=True)
    t = (m.t_enter[ray] + m.jitter[ray] * m.dt) + index.float() * m.dt
    x = m.origins[ray] + t[:, None] * m.directions[ray]
    cell = torch.floor((x + 1) * (0.5 * resolution)).long().clamp(0, resolution - 1)
    hit = m.occupied[cell[:, 0], cell[:, 1], cell[:, 2]]
    ray, index, t, x = ray[hit], index[hit], t[hit], x[hit]
    # Rank of each sample within its ray, to cut at `limit`.
    counts = torch.bincount(ray, minlength=n_steps.shape[0])
    rank = torch.arange(ray.shape[0], device=ray.device) - (counts.cumsum(0) - counts)[ray]
    kept = rank < limit
    m.step = n_steps.clone()
    cut = counts > limit
    last = kept & (rank == limit - 1) & cut[ray]
    m.step[ray[last]] = index[last] + 1
    return PackedSamples(ray[kept], t[kept], x[kept], m.dt)
