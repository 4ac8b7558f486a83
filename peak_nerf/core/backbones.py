"""Backbones: the network between the encoding and f(x). Both take (..., in_dim) to (..., out_dim)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.core.relu_mlp import relu_mlp

ReluInit = Literal["torch", "he"]


class ReluMLP(nn.Module):
    r"""f(x) = W_L relu(... relu(W_1 x + b_1) ...) + b_L with `n_hidden` hidden layers of width `hidden_dim`.

    n_hidden = 0 is one linear layer.
    Without `bias` a layer is somewhat faster; behind an encoding with a constant feature, as the polynomial one has,
    the first misses nothing.

    Args:
        init: "torch": PyTorch's default, W and b in U(+-1/sqrt(fan_in)). "he": W in U(+-sqrt(6/fan_in)), 2.4 times as
            wide, which keeps the size of what goes through; biases as before.

    Raises: ValueError on dimensions below 1, n_hidden below 0, or another `init`.
    Source of "he": He et al., ICCV 2015, eq. (10).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 64,
        n_hidden: int = 2,
        bias: bool = True,
        init: ReluInit = "torch",
    ) -> None:
        super().__init__()
        if init not in get_args(ReluInit):
            raise ValueError(f"init must be one of {get_args(ReluInit)}, got {init!r}")
        if min(in_dim, out_dim, hidden_dim) < 1 or n_hidden < 0:
            raise ValueError(
                "dimensions must be at least 1 and n_hidden at least 0, got"
                f" {in_dim}, {out_dim}, {hidden_dim}, {n_hidden}"
            )
        self.in_dim, self.out_dim = in_dim, out_dim
        widths = [in_dim, *[hidden_dim] * n_hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], out_dim, bias=bias)
        if init == "he":
            for layer in [*self.hidden, self.output]:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def forward(self, x: Float[Tensor, "... in_dim"]) -> Float[Tensor, "... out_dim"]:
        """The network's output, before any activation."""
        return relu_mlp(x, [*self.hidden, self.output])


class Siren(nn.Module):
    r"""Sinusoidal network: x <- sin(omega_0 (W x + b)) in `n_hidden` layers of width `hidden_dim`, then a linear one.

    Sitzmann's initialisation: W of the first layer U(+-1/in_dim), of every later one (the last included)
    U(+-sqrt(6/hidden_dim)/omega_0), which keeps the pre-activations' distribution the same at every depth; biases as in
    the authors' code, U(+-1/sqrt(fan_in)).

    Args:
        in_dim, out_dim, hidden_dim: dimensions, at least 1.
        n_hidden: number of sine layers, at least 1.
        omega_0: frequency factor, above 0; 30 suits natural images on [-1, 1]^2.

    Raises: ValueError outside these ranges.
    Source: Sitzmann et al., NeurIPS 2020, section 3.2 and supplement 1.5.
    """

    def __init__(
        self, in_dim: int, out_dim: int, hidden_dim: int = 64, n_hidden: int = 2, omega_0: float = 30.0
    ) -> None:
        super().__init__()
        if min(in_dim, out_dim, hidden_dim, n_hidden) < 1 or not omega_0 > 0:
            raise ValueError(
                "dimensions and n_hidden must be at least 1 and omega_0 above 0, got"
                f" {in_dim}, {out_dim}, {hidden_dim}, {n_hidden}, {omega_0}"
            )
        self.in_dim, self.out_dim, self.omega_0 = in_dim, out_dim, omega_0
        widths = [in_dim, *[hidden_dim] * n_hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(hidden_dim, out_dim)
        later = math.sqrt(6 / hidden_dim) / omega_0
        for i, layer in enumerate([*self.hidden, self.output]):
            bound = 1 / in_dim if i == 0 else later
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "... in_dim"]) -> Float[Tensor, "... out_dim"]:
        """The network's output, before any activation."""
        for layer in self.hidden:
            x = torch.sin(layer(x).mul_(self.omega_0))
        return self.output(x)
