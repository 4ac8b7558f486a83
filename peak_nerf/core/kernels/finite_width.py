"""Finite networks whose kernels approach those of `infinite_width`, to measure by how much."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.core.kernels.infinite_width import InfiniteNetwork


class FiniteNetwork(nn.Module):
    r"""The network of `infinite_width` at a finite width, in the NTK's own parameters.

        h_1 = s_w w_1 x + s_b beta_1,    h_{l+1} = s_w w_{l+1} phi(h_l) / sqrt(width) + s_b beta_{l+1}

    with all of w and beta from N(0, 1). Its empirical NTK at the start has the limit's as its mean up to O(1/width),
    and a standard deviation of O(1/sqrt(width)).

    Input: (n, in_dim). Output: (n, out_dim). Draws from the global generator.

    Args:
        limit: activation, number of hidden layers and variances.
        width: of every hidden layer, at least 1.

    Raises: ValueError on sizes below 1.
    """

    def __init__(self, limit: InfiniteNetwork, width: int, in_dim: int, out_dim: int = 1) -> None:
        super().__init__()
        if min(width, in_dim, out_dim) < 1:
            raise ValueError(f"width, in_dim and out_dim must be at least 1, got {width}, {in_dim}, {out_dim}")
        self.limit = limit
        # beta is one more column of w, for an input that is always 1.
        widths = [in_dim, *[width] * limit.n_hidden, out_dim]
        layers = [nn.Linear(a + 1, b, bias=False) for a, b in pairwise(widths)]
        for layer in layers:
            nn.init.normal_(layer.weight)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n out_dim"]:
        """The network's output in NTK parametrisation."""
        s_w, s_b = math.sqrt(self.limit.weight_variance), math.sqrt(self.limit.bias_variance)
        for i, layer in enumerate(self.layers):
            if i > 0:
                x = (x.relu() if self.limit.activation == "relu" else x.erf()) / math.sqrt(x.shape[1])
            x = layer(torch.cat([s_w * x, torch.full_like(x[:, :1], s_b)], dim=1))
        return x
