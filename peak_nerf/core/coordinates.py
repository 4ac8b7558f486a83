"""Coordinate maps: what happens to x before the polynomial encoding sees it.

Theorem 3.3 of the paper assumes unit vectors; `UnitSphereMap` provides them, `RawCoordinates` leaves x alone.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class UnitSphereMap(nn.Module):
    r"""F(x) = [cos x, sin x] / sqrt(d), so that ||F(x)||_2 = 1 for every x in R^d.

    The paper writes F without the 1/sqrt(d), which has norm sqrt(d). F is one-to-one on (-pi, pi]^d, so on [-1, 1]^d.

    Input: (n, in_dim), any real. Output: (n, 2 * in_dim), in [-1, 1] / sqrt(in_dim).

    Raises: ValueError when in_dim is below 1.
    Source: Li et al., ICML 2025, section 3.3.
    """

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        if in_dim < 1:
            raise ValueError(f"in_dim must be at least 1, got {in_dim}")
        self.in_dim, self.out_dim = in_dim, 2 * in_dim

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n two_d"]:
        return torch.cat([x.cos(), x.sin()], dim=-1) / math.sqrt(self.in_dim)


class RawCoordinates(nn.Module):
    """F(x) = x. Input and output: (n, in_dim). Raises: ValueError when in_dim is below 1."""

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        if in_dim < 1:
            raise ValueError(f"in_dim must be at least 1, got {in_dim}")
        self.in_dim = self.out_dim = in_dim

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return x
