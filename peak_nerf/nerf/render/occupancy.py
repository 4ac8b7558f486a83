"""The occupancy grid: which cells of the scene box are worth sampling.

Positions are normalised: the scene box is [-1, 1]^3.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

UNKNOWN = -1.0
"""Density of a cell that nothing has been seen of yet. It counts as occupied, and any observation exceeds it."""


def block_occupancy(occupied: Bool[Tensor, "x y z"]) -> Bool[Tensor, "bx by bz"]:
    """Which blocks of 8 x 8 x 8 cells hold an occupied cell."""
    pooled = nn.functional.max_pool3d(occupied[None, None].to(torch.uint8).float(), 8, ceil_mode=True)
    return pooled[0, 0] > 0


class OccupancyGrid(nn.Module):
    r"""Where the scene may be: a running estimate of density per cell, and the cells worth sampling.

    Cells decay towards empty and rise to the largest density seen in them. Densities come for free from the samples
    of training rays, plus random probes of all cells, so that matter can appear where no sample goes any more.
    A cell is occupied when the opacity of one step through it, 1 - exp(-density dt), passes `threshold` or the mean
    opacity of visible cells, whichever is lower (Mueller et al. 2022, appendix C).
    """

    density: Tensor
    occupied: Tensor
    blocks: Tensor
    visible: Tensor

    def __init__(self, resolution: int = 128, threshold: float = 0.01, decay: float = 0.95) -> None:
        super().__init__()
        self.resolution, self.threshold, self.decay = resolution, threshold, decay
        shape = (resolution,) * 3
        self.register_buffer("density", torch.full(shape, UNKNOWN))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("blocks", block_occupancy(self.occupied))
        self.register_buffer("visible", torch.ones(shape, dtype=torch.bool))

    def cells(self, x: Float[Tensor, "n 3"]) -> Int[Tensor, " n"]:
        """Flat index of the cell of each position in [-1, 1]^3."""
        r = self.resolution
        c = ((x + 1) * (0.5 * r)).long().clamp_(0, r - 1)
        return (c[:, 0] * r + c[:, 1]) * r + c[:, 2]

    def points_in(self, cells: Int[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        """A random position in each of the cells (flat indices)."""
        r = self.resolution
        corner = torch.stack((cells // (r * r), cells // r % r, cells % r), -1)
        return (corner + torch.rand(corner.shape, device=cells.device)) * (2 / r) - 1

    def random_cells(self, n: int) -> Int[Tensor, " n"]:
        """n random visible cells, half of them from anywhere and half from occupied ones."""
        occupied = (self.occupied & self.visible).view(-1).nonzero()[:, 0]
        cells = torch.randint(self.resolution**3, (n if len(occupied) == 0 else n // 2,), device=occupied.device)
        if len(occupied):
            chosen = torch.randint(len(occupied), (n - n // 2,), device=occupied.device)
            cells = torch.cat((cells, occupied[chosen]))
        return cells[self.visible.view(-1)[cells]]

    @torch.no_grad()
    def restrict(self, visible: Bool[Tensor, "x y z"]) -> None:
        """Only these cells may be occupied from now on."""
        self.visible.copy_(visible)
        self.occupied &= self.visible
        self.blocks.copy_(block_occupancy(self.occupied))

    @torch.no_grad()
    def observe(self, cells: Int[Tensor, " n"], density: Float[Tensor, " n"]) -> None:
        """Let the cells decay once, however often they are listed, then raise them to the densities seen in them."""
        flat = self.density.view(-1)
        flat[cells] = flat[cells] * self.decay
        flat.scatter_reduce_(0, cells, density, "amax")

    @property
    def fraction(self) -> Tensor:
        """Occupied fraction of all cells."""
        return self.occupied.float().mean()

    @torch.no_grad()
    def refresh(self, dt: float) -> None:
        """Decide anew which cells are occupied, for steps of length dt."""
        opacity = -torch.expm1(-self.density * dt)
        known = self.density >= 0
        mean = opacity[known & self.visible].mean().nan_to_num(0.0)
        threshold = min(self.threshold, float(mean))
        self.occupied.copy_((~known | (opacity > threshold)) & self.visible)
        self.blocks.copy_(block_occupancy(self.occupied))
