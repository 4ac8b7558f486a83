"""Where points of the world are in the images of cameras, and which way a pixel looks.

Distortion parameters are those of `nerf.distortion`. Cameras with nine are `nerf.data.lenses.RationalCameras`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.camera_utils import radial_and_tangential_undistort
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from peak_nerf.nerf.distortion import distort, undistort_by_newton


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


def undistort(plane: Float[Tensor, "n 2"], parameters: Float[Tensor, "*n p"]) -> Float[Tensor, "n 2"]:
    """Where points were before `distort`; by nerfstudio's own code where there is no denominator."""
    if parameters.shape[-1] == 6:
        return radial_and_tangential_undistort(plane, parameters)
    return undistort_by_newton(plane, parameters)


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
