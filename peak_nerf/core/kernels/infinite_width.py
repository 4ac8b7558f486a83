r"""Fully connected networks of infinite width: the kernel of their outputs (NNGP) and their neural tangent kernel.

For the network h_1 = W_1 x + b_1, h_{l+1} = W_{l+1} phi(h_l) + b_{l+1}, f = h_{L+1}, with W_1 ~ N(0, s_w^2), later
W_l ~ N(0, s_w^2 / width) and b_l ~ N(0, s_b^2),

    S_1 = s_w^2 x^T x' + s_b^2,    S_{l+1} = s_w^2 E[phi(u) phi(v)] + s_b^2,    (u, v) ~ N(0, [[S_l(x, x), S_l(x, x')],
    T_1 = S_1,                     T_{l+1} = S_{l+1} + s_w^2 E[phi'(u) phi'(v)] T_l             [., S_l(x', x')]])

S_{L+1} is the NNGP kernel and T_{L+1} the NTK, for training W = s_w w / sqrt(width), b = s_b beta in w and beta.

The paper's eq. (17) lacks S_{l+1} on the right, and its eq. (25) is not the arc-cosine kernel; these are the standard
ones. The first layer is not divided by d, as in eq. (24): K depends on x^T x' alone.

Source: Cho & Saul, NeurIPS 2009 (ReLU); Williams, NeurIPS 1997 (erf); Jacot et al., NeurIPS 2018, Theorem 1.
"""

# S: NNGP kernel   T: NTK   L: hidden layers   t = x^T x'   q = |x|^2

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from peak_nerf.core.kernels.checks import check_finite

Activation = Literal["relu", "erf"]
Kind = Literal["ntk", "nngp"]
Moment = Callable[[Tensor, Tensor, Tensor], Tensor]


def relu_moment(k12: Tensor, k11: Tensor, k22: Tensor) -> Tensor:
    r"""E[relu u relu v] = sqrt(k11 k22) (sqrt(1 - rho^2) + rho (pi - arccos rho)) / (2 pi), rho = k12/sqrt(k11 k22)."""
    scale = (k11 * k22).sqrt()
    rho = _correlation(k12, scale)
    return scale * ((1 - rho * rho).sqrt() + rho * (math.pi - rho.arccos())) / (2 * math.pi)


def relu_slope_moment(k12: Tensor, k11: Tensor, k22: Tensor) -> Tensor:
    r"""E[relu' u relu' v] = (pi - arccos rho) / (2 pi)."""
    return (math.pi - _correlation(k12, (k11 * k22).sqrt()).arccos()) / (2 * math.pi)


def erf_moment(k12: Tensor, k11: Tensor, k22: Tensor) -> Tensor:
    r"""E[erf u erf v] = (2 / pi) arcsin(2 k12 / sqrt((1 + 2 k11)(1 + 2 k22)))."""
    return (2 / math.pi) * (2 * k12 / ((1 + 2 * k11) * (1 + 2 * k22)).sqrt()).arcsin()


def erf_slope_moment(k12: Tensor, k11: Tensor, k22: Tensor) -> Tensor:
    r"""E[erf' u erf' v] = (4 / pi) / sqrt((1 + 2 k11)(1 + 2 k22) - 4 k12^2)."""
    return (4 / math.pi) / ((1 + 2 * k11) * (1 + 2 * k22) - 4 * k12 * k12).sqrt()


def _correlation(k12: Tensor, scale: Tensor) -> Tensor:
    """k12 / scale, in [-1, 1] whatever rounding does; complex arguments stand for analytic continuation."""
    rho = k12 / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    return rho if rho.is_complex() else rho.clamp(-1, 1)


_MOMENTS: dict[str, tuple[Moment, Moment]] = {
    "relu": (relu_moment, relu_slope_moment),
    "erf": (erf_moment, erf_slope_moment),
}


@dataclass(frozen=True)
class InfiniteNetwork:
    """A fully connected network of infinite width. Raises: ValueError on values outside the ranges below."""

    activation: Activation = "relu"
    """relu or erf."""
    n_hidden: int = 1
    """Hidden layers L, at least 1."""
    weight_variance: float = 2.0
    """s_w^2, above 0; 2 keeps a ReLU network's scale from layer to layer."""
    bias_variance: float = 0.0
    """s_b^2, at least 0."""
    kind: Kind = "ntk"
    """Which kernel a call returns."""

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation) or self.kind not in get_args(Kind):
            raise ValueError(
                f"activation must be of {get_args(Activation)} and kind of {get_args(Kind)}, got"
                f" {self.activation!r}, {self.kind!r}"
            )
        if self.n_hidden < 1 or not 0 < self.weight_variance < math.inf or not 0 <= self.bias_variance < math.inf:
            raise ValueError(
                "n_hidden must be at least 1, weight_variance above 0 and bias_variance at least 0, got"
                f" {self.n_hidden}, {self.weight_variance}, {self.bias_variance}"
            )

    def kernels(self, t: Tensor, q1: Tensor, q2: Tensor) -> tuple[Tensor, Tensor]:
        """NNGP and NTK of pairs with inner product t and squared norms q1, q2 (broadcast together)."""
        moment, slope_moment = _MOMENTS[self.activation]
        w, b = self.weight_variance, self.bias_variance
        s12, s11, s22 = w * t + b, w * q1 + b, w * q2 + b
        ntk = s12
        for _ in range(self.n_hidden):
            slope = w * slope_moment(s12, s11, s22)
            s12, s11, s22 = (
                w * moment(s12, s11, s22) + b,
                w * moment(s11, s11, s11) + b,
                w * moment(s22, s22, s22) + b,
            )
            ntk = s12 + slope * ntk
        return s12, ntk

    def __call__(self, t: Tensor, q: Tensor | float = 1.0) -> Tensor:
        """The kernel on the sphere of squared radius q, as a function of the inner product t in [-q, q].

        t may be complex: the analytic continuation. Raises: ValueError on a real t outside [-q, q] or not finite.
        """
        q = torch.as_tensor(q, dtype=torch.float64 if t.is_complex() else t.dtype, device=t.device)
        if not t.is_complex():
            check_finite(t, "the inner product t")
            if bool((t.abs() > q * (1 + 1e-6)).any()):
                raise ValueError(f"inner products must lie in [-{float(q):g}, {float(q):g}], got {t.abs().max():g}")
        nngp, ntk = self.kernels(t, q, q)
        return ntk if self.kind == "ntk" else nngp

    def matrix(self, x1: Float[Tensor, "n d"], x2: Float[Tensor, "m d"] | None = None) -> Float[Tensor, "n m"]:
        """K(x1, x2) for points of any norm; x2 None for x1. Raises: ValueError on no points or ones not finite."""
        check_finite(x1, "x1")
        if x2 is not None:
            check_finite(x2, "x2")
        other = x1 if x2 is None else x2
        t, q1, q2 = x1 @ other.T, x1.square().sum(dim=1)[:, None], other.square().sum(dim=1)[None]
        if x2 is None:
            t.diagonal().copy_(q1[:, 0])  # else rounding makes a point differ from itself, where arccos is steep
        nngp, ntk = self.kernels(t, q1, q2)
        return ntk if self.kind == "ntk" else nngp
