"""Where matter can be at all, judged by cameras and silhouettes before training.

A cell that no training camera sees can never be learned, only imagined; what a camera sees through a transparent pixel
of its image is empty (the visual hull, Laurentini 1994); and where an image shows the scene whole, with transparent
pixels all around it, nothing lies beside the image either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from peak_nerf.nerf.cameras import in_camera_axes, local_directions, mask_border, project

COARSE = 64
"""Cells per side at which cameras are tested; coarser cells are carved more cautiously."""
PROBES = 33
"""Positions per side of a picture at which its lens is looked at."""


def carve_occupancy(
    cameras: Cameras,
    silhouettes: Sequence[Bool[Tensor, "h w"]] | None,
    centre: Float[Tensor, " 3"],
    half_extent: float,
    resolution: int,
    min_cameras: int = 1,
) -> Bool[Tensor, "x y z"]:
    """Cells of the box centre +- half_extent that enough cameras see, and that none sees to be empty.

    Conservative: a cell is carved only when a window around its centre's pixel, at least as large as its own image,
    is transparent throughout, and never by a camera that is near. A cell wholly beside an image is carved when the
    silhouette keeps clear of the image's border: with few views, that is where floaters gather. A lens's distortion is
    taken into account, and that of a fisheye too, but its silhouettes are not.

    Args:
        cameras: N of them, of any kind whose rays begin at one point.
        silhouettes: N masks, True where an image is not wholly transparent; None where images have no alpha channel.
        centre: of the box, in world units.
        half_extent: half the side of the box.
        resolution: cells per side of the answer.
        min_cameras: that must see a cell: what fewer see has no depth, and becomes fog before them.
    """
    n = min(COARSE, resolution)
    axis = ((torch.arange(n, device=centre.device) + 0.5) * (2 / n) - 1) * half_extent
    x = torch.cartesian_prod(axis, axis, axis) + centre
    reach = math.sqrt(3) * half_extent / n  # half the diagonal of a cell
    count = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    empty = torch.zeros_like(count, dtype=torch.bool)
    for i in range(len(cameras)):
        local, picture = in_camera_axes(cameras, i, x), _picture(cameras, i)
        if int(cameras.camera_type[i]) != CameraType.PERSPECTIVE.value:
            count += _in_cone(local, picture, reach)
            continue
        in_image = _in_frustum(local, picture, reach)
        count += (local[:, 2] < reach) & in_image
        if silhouettes is None:
            continue
        width, height = int(cameras.width[i]), int(cameras.height[i])
        nearest = 0.5 * float((cameras.camera_to_worlds[i, :, 3] - centre).norm())
        window = math.ceil(_pixels_per_unit(cameras, i, picture) * reach / max(nearest, 1e-6)) + 1
        if 8 * window > min(width, height):  # a camera inside the scene
            continue
        mask = silhouettes[i].to(x.device, torch.float32)[None, None]
        mask = F.max_pool2d(mask, (2 * window + 1, 1), 1, (window, 0))
        mask = F.max_pool2d(mask, (1, 2 * window + 1), 1, (0, window))[0, 0]
        u, v, before = project(cameras, i, x)
        if not bool(mask_border(silhouettes[i]).any()):
            empty |= ~in_image & (before > nearest)
        inner = in_image & (before > nearest)
        inner &= (u >= window) & (u < width - window) & (v >= window) & (v < height - window)
        rows, columns = v[inner].long(), u[inner].long()
        empty[inner] |= mask[rows, columns] == 0
    possible = ((count >= min_cameras) & ~empty).reshape(1, 1, n, n, n).float()
    return F.interpolate(possible, size=(resolution,) * 3, mode="nearest")[0, 0] > 0


def _picture(cameras: Cameras, camera: int) -> Float[Tensor, "rows columns 3"]:
    """Which way positions from border to border of a camera's picture look, in its own axes."""
    u, v = (
        torch.linspace(0, int(size[camera]), PROBES, device=cameras.device) for size in (cameras.width, cameras.height)
    )
    rows, columns = torch.meshgrid(v, u, indexing="ij")
    return local_directions(cameras, camera, columns.flatten(), rows.flatten()).reshape(PROBES, PROBES, 3)


def _in_frustum(local: Float[Tensor, "n 3"], picture: Float[Tensor, "p q 3"], reach: float) -> Bool[Tensor, " n"]:
    """Whether balls of radius `reach` touch the pyramid that holds a perspective picture, or the one behind it."""
    low, high = picture[..., :2].amin((0, 1)), picture[..., :2].amax((0, 1))
    left = (local[:, :2] + low * local[:, 2:]) / (1 + low**2).sqrt()  # signed distances to the pyramid's faces
    right = (local[:, :2] + high * local[:, 2:]) / (1 + high**2).sqrt()
    return ((left > -reach) & (right < reach)).all(-1)


def _in_cone(local: Float[Tensor, "n 3"], picture: Float[Tensor, "p q 3"], reach: float) -> Bool[Tensor, " n"]:
    """Whether balls of radius `reach` touch the narrowest cone around the optical axis that holds the picture."""
    distance = local.norm(dim=-1)
    opening = _angle(picture).max() + torch.asin(reach / distance.clamp(min=reach))
    return (distance <= reach) | (_angle(local) <= opening)


def _angle(local: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Between directions and the optical axis, in radians."""
    return torch.atan2(local[..., :2].norm(dim=-1), -local[..., 2])


def _pixels_per_unit(cameras: Cameras, camera: int, picture: Float[Tensor, "p q 3"]) -> float:
    """The most pixels that a unit of the plane at distance 1 has in a picture: the focal length, but for distortion."""
    across, down = picture.diff(dim=1).norm(dim=-1).min(), picture.diff(dim=0).norm(dim=-1).min()
    width, height = (int(size[camera]) / (PROBES - 1) for size in (cameras.width, cameras.height))
    return max(width / float(across), height / float(down))
