"""Where points of the world are in the images of pinhole cameras."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor


def project(
    cameras: Cameras, camera: int | Int[Tensor, " n"], x: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Column u and row v, in pixels, of points in the image of a pinhole camera, and how far before it they are.

    Behind a camera u and v mean nothing. `camera` is one for all points, or one each.
    """
    pose = cameras.camera_to_worlds[camera]
    local = ((x - pose[..., 3])[..., None] * pose[..., :3]).sum(-2)  # x right, y up, z backward
    before = -local[:, 2]
    depth = before.clamp(min=1e-6)
    fx, fy, cx, cy = (getattr(cameras, name)[camera][..., 0] for name in ("fx", "fy", "cx", "cy"))
    return cx + fx * local[:, 0] / depth, cy - fy * local[:, 1] / depth, before


def mask_border(mask: Bool[Tensor, "h w"]) -> Bool[Tensor, " n"]:
    """The outermost pixels of a mask."""
    return torch.cat((mask[0], mask[-1], mask[:, 0], mask[:, -1]))
