r"""The power series of h = K^{-1} o K* at 0, by Cauchy's integral.

h is followed from h(0) along rays to the circle |z| = r, where K(h(z)) = K*(z) is solved by Newton's method, and
a_k = (1 / 2 pi i) int h(z) z^{-k-1} dz is a Fourier transform of h on the circle: exact to rounding for hundreds of
coefficients, where derivatives would give a dozen.
"""

# z: complex c   h: inner product of the encoded points   a_k: coefficients of h

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# h may be singular on |z| = 1, at c = 1 for ReLU kernels. Rounding in a_k is about 1e-15 RADIUS^-k.
RADIUS = 0.99
N_ANGLES = 2048
N_RAY = 80
N_NEWTON, N_POLISH = 2, 5
"""Newton steps at each of the N_RAY points of a ray, and at its end."""
MAX_DEGREE = 1000

Function = Callable[[Tensor], Tensor]


def inverse_series(
    kernel: Function, target: Function, start: float, scale: float, degree: int
) -> Float[Tensor, " degree_plus_1"]:
    r"""a_0 .. a_degree of h with kernel(h(c)) = target(c) and h(0) = start, in float64.

    kernel and target take complex tensors: analytic in the image of the unit disc under h, and in the unit disc. Where
    they are not, what comes back is not the series; compare it with h on the real line.

    Args:
        kernel: the kernel that h goes into.
        target: what kernel(h(c)) shall be.
        start: h(0).
        degree: of the last coefficient.
        scale: size of h, for the step of the numerical derivative.

    Raises: ValueError on a degree outside 0 to `MAX_DEGREE`.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be 0 to {MAX_DEGREE}, got {degree}")
    # h is real on the real line, so h at conjugate points is conjugate: half of the circle is enough.
    angle = torch.arange(N_ANGLES // 2 + 1, dtype=torch.float64) * (2 * math.pi / N_ANGLES)
    circle = torch.polar(torch.full_like(angle, RADIUS), angle)
    h = torch.full_like(circle, start)
    step = 1e-5 * scale
    for i in range(1, N_RAY + 1):
        value = target(circle * (i / N_RAY))
        for _ in range(N_NEWTON if i < N_RAY else N_POLISH):
            slope = (kernel(h + step) - kernel(h - step)) / (2 * step)
            h = h - (kernel(h) - value) / slope
    coefficients = torch.fft.hfft(h, n=N_ANGLES)[: degree + 1] / N_ANGLES
    return coefficients * RADIUS ** -torch.arange(degree + 1, dtype=torch.float64)


def evaluate_series(coefficients: Float[Tensor, " k"], c: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """sum_k a_k c^k, by Horner's rule."""
    result = torch.zeros_like(c)
    for a in coefficients.flip(0):
        result = result * c + a
    return result
