"""Real spherical harmonics of directions; nerfstudio's, to the last bit, without nerfstudio."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_LEVELS = 4


class SphericalHarmonics(nn.Module):
    """The L^2 real spherical harmonics Y_lm of degrees l < L, m ascending; without gradient, in float32.

    Input: (n, 3), unit vectors. Output: (n, L^2).

    Args:
        levels: L, 1 to 4.

    Raises: ValueError on another number of levels.
    """

    def __init__(self, levels: int = MAX_LEVELS) -> None:
        super().__init__()
        if not 1 <= levels <= MAX_LEVELS:
            raise ValueError(f"levels must be from 1 to {MAX_LEVELS}, got {levels}")
        self.levels = levels
        self.out_dim = levels**2

    @torch.no_grad()
    def forward(self, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n out"]:
        """Y_lm of each direction."""
        x, y, z = directions.unbind(-1)
        parts = [torch.full_like(x, 0.28209479177387814)]
        if self.levels > 1:
            parts += [0.4886025119029199 * y, 0.4886025119029199 * z, 0.4886025119029199 * x]
        if self.levels > 2:
            xx, yy, zz = x**2, y**2, z**2
            parts += [
                1.0925484305920792 * x * y,
                1.0925484305920792 * y * z,
                0.9461746957575601 * zz - 0.31539156525251999,
                1.0925484305920792 * x * z,
                0.5462742152960396 * (xx - yy),
            ]
        if self.levels > 3:
            parts += [
                0.5900435899266435 * y * (3 * xx - yy),
                2.890611442640554 * x * y * z,
                0.4570457994644658 * y * (5 * zz - 1),
                0.3731763325901154 * z * (5 * zz - 3),
                0.4570457994644658 * x * (5 * zz - 1),
                1.445305721320277 * z * (xx - yy),
                0.5900435899266435 * x * (xx - 3 * yy),
            ]
        return torch.stack([part.float() for part in parts], -1)
