"""How lenses bend what they show, and the inverse of it.

Parameters are nerfstudio's k1, k2, k3, k4, p1, p2, or nine: these, and d1, d2, d3 of the denominator of OpenCV's
rational model, which it calls k4, k5, k6.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NEWTON_STEPS = 20
"""By which a lens is undone; nerfstudio takes 10 for its polynomial."""
SINGULAR = 1e-9
"""Determinants below which a step is not taken."""


def distort(plane: Float[Tensor, "n 2"], parameters: Float[Tensor, "*n p"]) -> Float[Tensor, "n 2"]:
    """Where a lens moves points (x, y) of the image plane, y down; of a fisheye, points at the angle to its axis.

    With r = x^2 + y^2 and d = (1 + k1 r + k2 r^2 + k3 r^3 + k4 r^4) / (1 + d1 r + d2 r^2 + d3 r^3):
    (d x + 2 p1 x y + p2 (r + 2 x^2), d y + 2 p2 x y + p1 (r + 2 y^2)).

    Source: the inverse of nerfstudio's `radial_and_tangential_undistort`, and OpenCV's camera model.
    """
    x, y = plane.unbind(-1)
    p1, p2 = parameters[..., 4], parameters[..., 5]
    r = x * x + y * y
    d, _ = _radial(r, parameters)
    return torch.stack(
        (d * x + 2 * p1 * x * y + p2 * (r + 2 * x * x), d * y + 2 * p2 * x * y + p1 * (r + 2 * y * y)), -1
    )


def undistort_by_newton(plane: Float[Tensor, "n 2"], parameters: Float[Tensor, "*n p"]) -> Float[Tensor, "n 2"]:
    """Where points were before `distort`."""
    moved, parameters = plane.double(), parameters.double()
    p1, p2 = parameters[..., 4], parameters[..., 5]
    x, y = moved.unbind(-1)
    for _ in range(NEWTON_STEPS):
        r = x * x + y * y
        d, d_r = _radial(r, parameters)
        error_x, error_y = (distort(torch.stack((x, y), -1), parameters) - moved).unbind(-1)
        x_x = d + 2 * x * x * d_r + 2 * p1 * y + 6 * p2 * x
        x_y = 2 * x * y * d_r + 2 * p1 * x + 2 * p2 * y  # also the change of y with x
        y_y = d + 2 * y * y * d_r + 2 * p2 * x + 6 * p1 * y
        determinant = x_x * y_y - x_y * x_y
        step = torch.where(determinant.abs() > SINGULAR, 1 / determinant, 0)
        x = x - step * (error_x * y_y - error_y * x_y)
        y = y - step * (error_y * x_x - error_x * x_y)
    return torch.stack((x, y), -1).to(plane.dtype)


def _radial(
    r: Float[Tensor, " n"], parameters: Float[Tensor, "*n p"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """d of `distort`, and its derivative."""
    k1, k2, k3, k4 = parameters[..., :4].unbind(-1)
    above = 1 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    above_r = k1 + r * (2 * k2 + r * (3 * k3 + r * 4 * k4))
    if parameters.shape[-1] == 6:
        return above, above_r
    d1, d2, d3 = parameters[..., 6:].unbind(-1)
    below = 1 + r * (d1 + r * (d2 + r * d3))
    below_r = d1 + r * (2 * d2 + r * 3 * d3)
    return above / below, (above_r * below - above * below_r) / below**2
