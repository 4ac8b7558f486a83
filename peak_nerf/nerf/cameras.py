"""Where points of the world are in the images of cameras, and which way a pixel looks.

Distortion parameters are nerfstudio's k1, k2, k3, k4, p1, p2, or nine: these, and d1, d2, d3 of the denominator of
OpenCV's rational model, which it calls k4, k5, k6. Cameras with nine are `nerf.data.lenses.RationalCameras`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.camera_utils import radial_and_tangential_undistort
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

NEWTON_STEPS = 20
"""By which a rational lens is undone; nerfstudio takes 10 for its polynomial."""
SINGULAR = 1e-9
"""Determinants below which a step is not taken."""


def project(
    cameras: Cameras, camera: int | Int[Tensor, " n"], x: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Column u and row v, in pixels, of points in the image of a perspective camera, and how far before it they are.

    Distortion is that of `distort`. Behind a camera u and v mean nothing, and far beside
    a distorted picture neither: its polynomials bend back. `camera` is one for all points, or one each.
    """
    local = in_camera_axes(cameras, camera, x)
    before = -local[:, 2]
    depth = before.clamp(min=1e-6)
    fx, fy, cx, cy = (getattr(cameras, name)[camera][..., 0] for name in ("fx", "fy", "cx", "cy"))
    plane = torch.stack((local[:, 0], -local[:, 1]), -1) / depth[:, None]  # y down
    if cameras.distortion_params is not None:
        plane = distort(plane, cameras.distortion_params[camera])
    return cx + fx * plane[:, 0], cy + fy * plane[:, 1], before


def in_camera_axes(cameras: Cameras, camera: int | Int[Tensor, " n"], x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Points of the world as a camera has them: x right, y up, z backward. `camera` is one for all, or one each."""
    pose = cameras.camera_to_worlds[camera]
    return ((x - pose[..., 3])[..., None] * pose[..., :3]).sum(-2)


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


def undistort(plane: Float[Tensor, "n 2"], parameters: Float[Tensor, "*n p"]) -> Float[Tensor, "n 2"]:
    """Where points were before `distort`; by nerfstudio's own code where there is no denominator."""
    if parameters.shape[-1] == 6:
        return radial_and_tangential_undistort(plane, parameters)
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


def local_directions(
    cameras: Cameras, camera: int, u: Float[Tensor, " n"], v: Float[Tensor, " n"]
) -> Float[Tensor, "n 3"]:
    """Which way the positions (column u, row v; in pixels) of a camera's image look, in its own axes, by nerfstudio.

    x is right, y up, z backward. Of a perspective camera z is -1, of others the length is 1.
    """
    if int(cameras.camera_type[camera]) == CameraType.PERSPECTIVE.value:  # a quarter of the time of generate_rays
        fx, fy, cx, cy = (getattr(cameras, name)[camera] for name in ("fx", "fy", "cx", "cy"))
        plane = torch.stack(((u - cx) / fx, (v - cy) / fy), -1)
        if cameras.distortion_params is not None:
            plane = undistort(plane, cameras.distortion_params[camera])
        x, y = plane.unbind(-1)
        return torch.stack((x, -y, -torch.ones_like(x)), -1)
    lens = type(cameras)(
        camera_to_worlds=torch.eye(4, device=cameras.device)[None, :3],
        **{name: getattr(cameras, name)[camera : camera + 1] for name in ("fx", "fy", "cx", "cy", "width", "height")},
        distortion_params=None if cameras.distortion_params is None else cameras.distortion_params[camera : camera + 1],
        camera_type=cameras.camera_type[camera : camera + 1],
    )
    rays = lens.generate_rays(torch.zeros(len(u), 1, dtype=torch.int64, device=u.device), torch.stack((v, u), -1))
    directions = rays.directions * rays.metadata["directions_norm"]
    # Of a fisheye, nerfstudio divides by the angle to the axis, which is 0 in the middle.
    return torch.where(directions.isfinite(), directions, directions.new_tensor([0.0, 0.0, -1.0]))


def mask_border(mask: Bool[Tensor, "h w"]) -> Bool[Tensor, " n"]:
    """The outermost pixels of a mask."""
    return torch.cat((mask[0], mask[-1], mask[:, 0], mask[:, -1]))
