r"""What the measurements say of a picture: the target that a current A x is pulled towards.

With z = A x + e, e N(0, sigma^2), the expectation of the true A x given z and its magnitude y is

    y tanh(y z / sigma^2)  (real),      y I_1(k) / I_0(k) z / |z|,  k = 2 y |z| / sigma^2  (complex).

sigma is how far off z is believed to be. As sigma falls to 0 the target becomes y z / |z|, and ||z - target||^2 the
amplitude loss || |z| - y ||^2; before, measurements whose sign or phase z cannot know yet pull little.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def expected_measurement(
    z: Shaped[Tensor, "*m"], y: Float[Tensor, "*m"], sigma: float, epsilon: float = 0.0
) -> Shaped[Tensor, "*m"]:
    """The target, without gradient.

    epsilon: z / |z| and y are smoothed as z / sqrt(|z|^2 + epsilon) and sqrt(y^2 + epsilon), so that at sigma = 0 half
        the squared distance has the gradient of B.2's 1/2 || sqrt(|z|^2 + epsilon) - sqrt(y^2 + epsilon) ||^2.
    Source: the smoothing, Li et al., ICML 2025, appendix B.2; the expectation is ours.
    """
    z = z.detach()
    size = (z.abs().square() + max(epsilon, 1e-20)).sqrt()
    smooth_y = (y.square() + epsilon).sqrt()
    target = z * (smooth_y / size)
    if sigma <= 0:
        return target
    k = y * z.abs() / sigma**2
    if z.is_complex():
        return target * (torch.special.i1e(2 * k) / torch.special.i0e(2 * k))
    return target * torch.tanh(k)


def data_error(
    z: Shaped[Tensor, "*m"], target: Shaped[Tensor, "*m"], weights: Float[Tensor, "*w"], n_pixels: int
) -> Float[Tensor, ""]:
    """Sum of weights |z - target|^2 over n^2: with a unitary A and right phases, the picture's mean squared error."""
    error = z - target
    squared = error.real.square() + error.imag.square() if error.is_complex() else error.square()
    return (squared * weights).sum() / n_pixels
