"""The occupancy grid: which cells of space are worth sampling, and how dense they are thought to be.

Positions x are normalised: the scene box is [-1, 1]^3. An unbounded scene has cascades: the grid of cascade k covers
[-2^k, 2^k]^3 and is used beyond the one before.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from peak_nerf.system.accelerator import runs_ahead

UNKNOWN = -1.0
"""Density of a cell that nothing has been seen of yet. It counts as occupied, and any observation exceeds it."""
RATE = 0.2
"""Weight of an observation in a cell's mean opacity."""
EXPECTED = 0.1
"""Mean opacity of a step beside a sparse point, before anything is seen."""
SIGHT = 64
"""Positions on the line of sight from a camera to a point."""
BLOCK = 8
"""Cells along a side of a block; an empty block is skipped in one go."""


def opacity_of(candidate: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Opacity of a step by what `OccupancyGrid.candidates` holds for its cell, ((c - 1) / 254)^2; 0 means empty."""
    return ((candidate - 1).clamp(min=0) / 254).square().clamp(max=0.9999)


def block_occupancy(occupied: Bool[Tensor, "k x y z"]) -> Bool[Tensor, "k bx by bz"]:
    """Which blocks of 8 x 8 x 8 cells hold an occupied cell."""
    k, n = occupied.shape[:2]
    b = n // BLOCK
    rows = occupied.contiguous().view(torch.int64)  # eight cells of one byte at a time
    return (rows.view(k, b, BLOCK, b, BLOCK, b) != 0).any(4).any(2)


class OccupancyGrid(nn.Module):
    r"""Where the scene may be: running estimates of density and of opacity per cell, and the cells worth sampling.

    Cells decay towards empty and rise to the largest density seen in them. Densities come for free from the samples
    of training rays, plus random probes of all cells, so that matter can appear where no sample goes any more.
    The mean opacity of a step tells where along a ray its colour comes from; the largest density would hide what is
    behind a cell that a surface only touches. A cell is occupied when the opacity of one step through it,
    1 - exp(-density dt), passes `threshold` or the mean opacity of visible cells, whichever is lower (Mueller et al.
    2022, appendix C).

    Args:
        resolution: cells per side of each cascade, a multiple of 32: then blocks do not straddle cascades.
        threshold: opacity of a step.
        n_cascades: K; 1 for a scene that fits its box.
        step: length of a step in the first cascade; one in cascade k is 2^k times as long.
        thin: density of cells that nothing has been seen of yet.
    """

    density: Tensor
    opacity: Tensor
    occupied: Tensor
    blocks: Tensor
    visible: Tensor
    candidates: Tensor
    log_clear: Tensor
    fraction: Tensor
    """Occupied fraction of all cells."""

    def __init__(
        self,
        resolution: int = 128,
        threshold: float = 0.01,
        decay: float = 0.95,
        n_cascades: int = 1,
        step: float = 0.01,
        thin: float = 0.1,
    ) -> None:
        super().__init__()
        if resolution % (4 * BLOCK) and (n_cascades > 1 or resolution % BLOCK):
            raise ValueError(f"resolution must be a multiple of {4 * BLOCK}, got {resolution}")
        self.resolution, self.threshold, self.decay, self.n_cascades = resolution, threshold, decay, n_cascades
        self.step, self.thin = step, thin
        shape = (n_cascades, *(resolution,) * 3)
        self.register_buffer("density", torch.full(shape, UNKNOWN))
        self.register_buffer("opacity", torch.full(shape, UNKNOWN))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("blocks", block_occupancy(self.occupied))
        self.register_buffer("visible", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("candidates", torch.empty(shape, dtype=torch.uint8))
        self.register_buffer("log_clear", torch.log1p(-opacity_of(torch.arange(256))), persistent=False)
        self.digest()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Checkpoints of before version 0.3 have no axis for cascades, and no mean opacities."""
        if prefix + "density" not in state_dict:  # a state of something else, as nerfstudio's pipelines load beside
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
            return
        for name in ("density", "occupied", "blocks", "visible"):
            value = state_dict.get(prefix + name)
            if value is not None and value.ndim == 3:
                state_dict[prefix + name] = value[None]
        if prefix + "opacity" not in state_dict:
            # Not to be had from the largest densities, by which a surface would hide itself.
            state_dict[prefix + "opacity"] = torch.full_like(self.opacity, UNKNOWN)
        digested = prefix + "candidates" in state_dict
        state_dict.setdefault(prefix + "candidates", self.candidates)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if digested:
            self._count()
        else:
            self.digest()

    @torch.no_grad()
    def digest(self) -> None:
        """Work out from the cells' occupancy and opacity what rays look at: a byte for each."""
        self.blocks.copy_(block_occupancy(self.occupied))
        self._count()
        for k in range(self.n_cascades):
            opacity, thin = self.opacity[k], -math.expm1(-self.thin * self.step * 2**k)
            level = torch.where(opacity < 0, thin, opacity).sqrt_().mul_(254).round_().add_(1)
            self.candidates[k] = level.to(torch.uint8).mul_(self.occupied[k])

    def _count(self) -> None:
        self.fraction = torch.count_nonzero(self.occupied) / self.occupied.numel()

    def cells(self, x: Float[Tensor, "n 3"]) -> Int[Tensor, " n"]:
        """Flat index of the cell of each position; what is outside all cascades gets the nearest cell of the last."""
        r = self.resolution
        size = x.abs().amax(-1)
        k = torch.ceil(torch.log2(size.clamp(min=1))).long().clamp(max=self.n_cascades - 1)
        c = ((x * torch.exp2(-k.to(x.dtype))[:, None] + 1) * (0.5 * r)).long().clamp_(0, r - 1)
        return ((k * r + c[:, 0]) * r + c[:, 1]) * r + c[:, 2]

    def points_in(self, cells: Int[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        """A random position in each of the cells (flat indices)."""
        r = self.resolution
        corner = torch.stack((cells // (r * r) % r, cells // r % r, cells % r), -1)
        x = (corner + torch.rand(corner.shape, device=cells.device)) * (2 / r) - 1
        return x * torch.exp2((cells // r**3).to(x.dtype))[:, None]

    def random_cells(self, n: int) -> Int[Tensor, " n"]:
        """n random visible cells at most, half of them from anywhere and half from occupied ones.

        On a GPU those that are not visible or not occupied stay among them, where there are too few others.
        """
        device, total = self.occupied.device, self.occupied.numel()
        anywhere = torch.randint(total, (n // 2,), device=device)
        # Occupied ones by rejection: a list of all would be made anew each time.
        chosen = torch.randint(total, (16 * n,), device=device)
        if runs_ahead(device):  # so many whatever is found, or the host would have to wait for their number
            empty_last = torch.argsort((~self.occupied.view(-1)[chosen]).to(torch.uint8), stable=True)
            return torch.cat((anywhere, chosen[empty_last[: n - n // 2]]))
        chosen = chosen[self.occupied.view(-1)[chosen]][: n - n // 2]
        cells = torch.cat((anywhere, chosen))
        return cells[self.visible.view(-1)[cells]]

    @torch.no_grad()
    def restrict(self, visible: Bool[Tensor, "k x y z"]) -> None:
        """Only these cells may be occupied from now on."""
        if torch.equal(self.visible, visible):
            return  # a run that goes on looks at what it looked at
        self.visible.copy_(visible)
        self.occupied &= self.visible
        self.digest()

    @torch.no_grad()
    def expect(self, points: Float[Tensor, "n 3"], cameras: Float[Tensor, "n 3"]) -> None:
        """Before training: matter is where points were seen, and none between each and the camera that saw it.

        Cells of which nothing is known begin with that for their mean opacity, from which they move on as others do:
        it says where samples go first, and forbids nothing.
        """
        cell = (2 / self.resolution) * torch.exp2((points.abs().amax(-1).clamp(min=1).log2()).ceil())[:, None]
        expected = torch.full_like(self.opacity.view(-1), UNKNOWN)
        # Denser near the point: cameras are far from what they see, and their lines of sight lie close together there.
        for fraction in 1 - torch.linspace(0, 1, SIGHT)[1:].square():
            expected[self.cells(torch.lerp(cameras, points, float(fraction)))] = 0.0
        for offset in torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3):
            expected[self.cells(points + cell * offset.to(points))] = EXPECTED
        news = (self.opacity < 0) & (expected.view_as(self.opacity) >= 0)
        if bool(news.any()):
            self.opacity.copy_(torch.where(news, expected.view_as(self.opacity), self.opacity))
            self.digest()

    @torch.no_grad()
    def observe(self, cells: Int[Tensor, " n"], density: Float[Tensor, " n"]) -> None:
        """Let the cells decay once, however often they are listed, then raise them to the densities seen in them.

        Their mean opacity moves towards each of those seen.
        """
        flat = self.density.view(-1)
        flat[cells] = flat[cells] * self.decay
        flat.scatter_reduce_(0, cells, density, "amax")
        flat = self.opacity.view(-1)
        seen = -torch.expm1(-density * (self.step * torch.exp2((cells // self.resolution**3).to(density.dtype))))
        if not runs_ahead(flat.device):
            from peak_nerf.nerf.render.marcher_numba import move_towards  # one by one, so that a seed repeats a run

            move_towards(flat.numpy(), cells.numpy(), seen.detach().numpy(), np.float32(RATE))
        else:  # of a cell that is listed twice, either observation
            before = flat[cells]
            flat[cells] = torch.where(before < 0, seen, torch.lerp(before, seen, RATE))

    @torch.no_grad()
    def refresh(self, coarseness: float = 1.0) -> None:
        """Decide anew which cells are occupied, for steps that are `coarseness` times as long."""
        for k in range(self.n_cascades):
            density, visible = self.density[k], self.visible[k]
            step = coarseness * self.step * 2**k
            # Opacity is below density * step: the exponential is for the mean alone, of every eighth cell.
            part = density.view(-1)[:: BLOCK + 1]
            counted = (part >= 0) & visible.view(-1)[:: BLOCK + 1]
            limit: Tensor | float
            if not runs_ahead(part.device):
                part = part[counted]
                mean = float(-torch.expm1(-part * step).mean()) if len(part) else 0.0
                limit = -math.log1p(-min(self.threshold, mean)) / step
            else:  # the same, without the host
                opacity = torch.where(counted, -torch.expm1(-part * step), 0.0).sum() / counted.sum().clamp(min=1)
                limit = -torch.log1p(-opacity.clamp(max=self.threshold)) / step
            occupied = (density > limit) | (density < 0)
            self.occupied[k] = occupied.logical_and_(visible)
        self.digest()
