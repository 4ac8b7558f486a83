"""A field with the two methods that a form of KAR asks for, and rays through it, for tests that need no training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peak_nerf.nerf.losses.kar import KarStep
from peak_nerf.nerf.render.marcher import Steps
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.renderer import VolumeRenderer


class ToyField(nn.Module):
    """Density exp(a x + b) and colour sigmoid(x + d): smooth, with two parameters."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([slope, 0.0, 0.0])), nn.Parameter(torch.tensor(1.0))

    def density(self, x: Tensor, n_levels: int | None = None) -> tuple[Tensor, Tensor]:
        """And x for the colour."""
        return torch.exp(x @ self.a + self.b), x

    def colour(self, geometry: Tensor, directions: Tensor, ray: Tensor | None = None) -> Tensor:
        """Of a sample seen from its direction."""
        return torch.sigmoid(geometry + (directions if ray is None else directions[ray]))


def toy_renderer(field: ToyField) -> VolumeRenderer:
    """All of 8^3 cells occupied, 20 steps along a side."""
    return VolumeRenderer(field, OccupancyGrid(8), Steps(0.1, 0.0, 64), near=0.0, background=1.0)


def rays(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Origins and directions, each (n, 3), from a sphere around the box to points near its centre."""
    generator = torch.Generator().manual_seed(seed)
    origins = 3 * F.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    return origins, F.normalize(0.5 * torch.rand(n, 3, generator=generator) - origins, dim=-1)


def toy_step(renderer: VolumeRenderer, n_rays: int = 40, n_virtual: int = 0, progress: float = 1.0) -> KarStep:
    """A step of the training."""
    origins, directions = rays(n_rays)
    virtual_rays = rays(n_virtual, seed=1) if n_virtual else None
    return KarStep(renderer.training_rays(origins, directions), directions, virtual_rays, progress)
