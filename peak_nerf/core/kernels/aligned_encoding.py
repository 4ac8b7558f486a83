r"""Theorem 3.3 made to work: an encoding gamma in front of a network with kernel K that gives it a wanted kernel K*.

    K(gamma(x), gamma(x')) = K*(x^T x'),    gamma(x)^T gamma(x') = h(x^T x'),    h = K^{-1} o K* = sum_k a_k c^k

Where the paper needs care:
- K sees |gamma(x)|^2 = h(1) too, which is 1 only if K*(1) = K(1). So K is taken on the sphere of squared radius q that
  solves K_q(q) = K*(1), and h = K_q^{-1} o K* then has h(1) = q by itself.
- h need not have a non-negative series, even for two positive definite kernels: a network whose kernel has a kink at
  c = 1, as every ReLU network's has, cannot be encoded into a smooth kernel. That is refused, not glossed over.
- K need not be one-to-one on all of [-q, q] (the NTK of a ReLU network without bias falls near -q); its increasing
  branch up to q is what can be inverted, and B is the range of that.
- The tail sum_{k > N} a_k is added to a_N, which keeps |gamma|^2 = q.

Source: Li et al., ICML 2025, Theorem 3.3 and remark 3.4.
"""

# c = x^T x'   t = gamma(x)^T gamma(x')   q = |gamma|^2   N: degree of gamma   B, B*: ranges of K_q and K*

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from peak_nerf.core.encodings import MAX_POLYNOMIAL_FEATURES, CoordinateMap, PolynomialEncoding
from peak_nerf.core.kernels.series import MAX_DEGREE, RADIUS, evaluate_series, inverse_series
from peak_nerf.errors import PeakError

BaseKernel = Callable[[Tensor, Tensor], Tensor]
"""K_q(t) from t and q, such as an `InfiniteNetwork`; takes complex t too."""
Target = Callable[[Tensor], Tensor]
"""K*(c), analytic in |c| < 1; takes complex c too."""

N_GRID = 4001
LARGEST_NORM = 1e6
NOISE = 1e-9
"""Of q: coefficients of this size are rounding (more so at high degree, where rounding grows as RADIUS^-k)."""
ZERO = 1e-30
"""Stands for a_k = 0, which `PolynomialEncoding` cannot hold."""


@dataclass(frozen=True)
class AlignedEncoding:
    """gamma and what it attains."""

    encoding: PolynomialEncoding
    """gamma, for points in [-1, 1]^d (or on the unit sphere, with coordinate_map "raw"); not frozen."""
    squared_norm: float
    """q = |gamma(x)|^2, the same for all x."""
    sup_error: float
    """sup over c in [-1, 1] of |K_q(gamma^T gamma') - K*(c)|, measured with the encoding's own coefficients."""
    series: Float[Tensor, " k"]
    """a_k of h as far as they were computed, float64; the encoding has the first N + 1, the tail added to the last."""
    dropped: float
    """Sum of |a_k| of negative coefficients that were dropped; 0 where the theorem holds."""


def aligned_encoding(
    base: BaseKernel,
    target: Target,
    eps: float,
    in_dim: int = 1,
    coordinate_map: CoordinateMap = "unit_sphere",
    max_degree: int | None = None,
    drop_negative: bool = False,
) -> AlignedEncoding:
    r"""gamma_eps with sup_c |K(gamma_eps(x), gamma_eps(x')) - K*(c)| < eps, of the lowest degree that attains it.

    Args:
        base: kernel K of the network that will stand behind gamma.
        target: the kernel K* wanted, as a function of c = x^T x'.
        eps: largest error, above 0, in the units of K*.
        in_dim: dimension of x before the coordinate map.
        coordinate_map: of the encoding.
        max_degree: give up above this degree; None for what the encoding's size allows.
        drop_negative: leave negative a_k out (the others keep their ratio, and q) instead of refusing; the error is
            measured, and must be below eps, all the same.

    Raises: PeakError where K* is not finite and real on [-1, 1], B* is not in B, h has no power series, or one with
        negative coefficients, or no degree allowed attains eps; ValueError on eps, in_dim or max_degree out of range.
    """
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be above 0, got {eps}")
    if in_dim < 1 or (max_degree is not None and max_degree < 0):
        raise ValueError(f"in_dim must be at least 1 and max_degree at least 0, got {in_dim} and {max_degree}")
    dimension = in_dim * (2 if coordinate_map == "unit_sphere" else 1)
    allowed = _largest_degree(dimension) if max_degree is None else min(max_degree, _largest_degree(dimension))
    c = torch.linspace(math.pi, 0, N_GRID, dtype=torch.float64).cos()  # dense at both ends, where kernels are steep
    wanted = target(c)
    if wanted.is_complex() or wanted.shape != c.shape or not bool(wanted.isfinite().all()):
        raise PeakError("target kernel: it is not finite and real on all of [-1, 1]; choose another target")
    q = _squared_norm(base, float(wanted[-1]))
    h = _inverse(base, wanted, q)
    series = inverse_series(
        lambda t: base(t, q), target, float(h[N_GRID // 2]), float(q), min(MAX_DEGREE, 2 * allowed + 100)
    )
    _check_series(series, h, c, float(q))
    noise = NOISE * float(q) * RADIUS ** -torch.arange(len(series), dtype=torch.float64)
    negative = series < -noise
    kept = torch.where(series > noise, series, 0.0)
    dropped = float(-series[negative].sum())
    first = int(negative.double().argmax()) if dropped else 0

    def attained(degree: int) -> float:
        a = _truncated(kept, degree, float(q))
        return float((base(evaluate_series(a, c).clamp(-a.sum(), a.sum()), a.sum()) - wanted).abs().max())

    degree = _lowest(attained, eps, allowed)
    if dropped and not drop_negative:
        raise PeakError(
            f"target kernel: the series of K^-1 o K* has negative coefficients (first a_{first} ="
            f" {float(series[first]):.3g}), so Theorem 3.3 gives no encoding for this base; without them the error is"
            f" {attained(allowed if degree is None else degree):.2g}. Choose a smoother base, another or a smaller"
            " target, or drop them (drop_negative; --drop-negative of the command) with an eps above that"
        )
    if degree is None:
        raise PeakError(
            f"eps {eps:g}: degree {allowed} reaches an error of {attained(allowed):.3g} only; raise eps"
            + (", or keep to a target whose series has no negative coefficients" if dropped else "")
        )
    init = _truncated(kept, degree, float(q)).clamp_min(ZERO).tolist()
    encoding = PolynomialEncoding(in_dim, degree, coordinate_map, init)
    a = encoding.coefficients.detach().double()
    sup_error = float((base(evaluate_series(a, c).clamp(-a.sum(), a.sum()), a.sum()) - wanted).abs().max())
    if sup_error >= eps:
        raise PeakError(f"eps {eps:g}: float32 coefficients reach {sup_error:.3g} only; raise eps")
    return AlignedEncoding(encoding, float(a.sum()), sup_error, series, dropped)


def _squared_norm(base: BaseKernel, top: float) -> Float[Tensor, ""]:
    """q with K_q(q) = K*(1), by bisection: K_q(q) grows with q."""

    def value(q: float) -> float:
        return float(base(torch.tensor(q, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)))

    low, high = 0.0, LARGEST_NORM
    floor, ceiling = value(1e-12), value(high)
    if not floor < top < ceiling:
        raise PeakError(
            f"target kernel: K*(1) = {top:.4g}, and the base kernel's diagonal goes from {floor:.4g} to {ceiling:.4g}"
            " (B* is not in B); scale the target, or choose another base"
        )
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < top else (low, middle)
    return torch.tensor(high, dtype=torch.float64)


def _inverse(base: BaseKernel, wanted: Float[Tensor, " n"], q: Float[Tensor, ""]) -> Float[Tensor, " n"]:
    """h = K_q^{-1}(K*) on the increasing branch of K_q that ends in q, by bisection."""
    t = torch.linspace(math.pi, 0, N_GRID, dtype=torch.float64).cos() * q
    values = base(t, q)
    start = int(values.argmin())
    if bool((values[start:].diff() < -1e-12 * values.abs().max()).any()):
        raise PeakError("base kernel: it is not one-to-one, not even next to t = q; choose another base")
    slack = 1e-9 * float(values.abs().max())
    lowest, highest = float(wanted.min()), float(wanted.max())
    if lowest < float(values[start]) - slack or highest > float(values[-1]) + slack:
        raise PeakError(
            f"target kernel: it takes values from {lowest:.4g} to {highest:.4g}, the base kernel from"
            f" {float(values[start]):.4g} to {float(values[-1]):.4g} (B* is not in B); scale or shift the target, or"
            " choose another base"
        )
    low, high = t[start].expand_as(wanted).clone(), q.expand_as(wanted).clone()
    for _ in range(60):
        middle = (low + high) / 2
        below = base(middle, q) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def _check_series(series: Tensor, h: Tensor, c: Tensor, q: float) -> None:
    """Raises: PeakError unless the series is h where it has converged, away from |c| = 1."""
    inside = c.abs() <= 0.8
    error = float((evaluate_series(series, c[inside]) - h[inside]).abs().max())
    if not error <= 1e-5 * q:
        raise PeakError(
            "target kernel: K^-1 o K* has no power series that holds on [-1, 1] (K* or the base's inverse is singular"
            " in |c| < 1); choose another target or base"
        )


def _truncated(series: Tensor, degree: int, q: float) -> Tensor:
    """a_0 .. a_N, non-negative, the tail's mass added to a_N, and scaled to the sum q where terms were dropped."""
    a = series[: degree + 1].clone()
    missing = q - float(a.sum())
    if missing >= 0:
        a[-1] += missing
        return a
    return a * (q / float(a.sum()))


def _lowest(attained: Callable[[int], float], eps: float, allowed: int) -> int | None:
    """A degree with error below eps, the lowest as far as the error falls with the degree; None without one."""
    high = min(1, allowed)
    while attained(high) >= eps:
        if high == allowed:
            return None
        high = min(2 * high, allowed)
    low = 0
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if attained(middle) >= eps else (low, middle)
    return high


def _largest_degree(dimension: int) -> int:
    """The highest degree whose encoding has at most `MAX_POLYNOMIAL_FEATURES` features."""
    degree = 0
    while degree < MAX_DEGREE and math.comb(dimension + degree + 1, degree + 1) <= MAX_POLYNOMIAL_FEATURES:
        degree += 1
    return degree
