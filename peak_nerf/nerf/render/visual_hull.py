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
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from peak_nerf.nerf.cameras import mask_border, project

COARSE = 64
"""Cells per side at which cameras are tested; coarser cells are carved more cautiously."""


def carve_occupancy(
    cameras: Cameras,
    silhouettes: Sequence[Bool[Tensor, "h w"]] | None,
    centre: Float[Tensor, " 3"],
    half_extent: float,
    resolution: int,
) -> Bool[Tensor, "x y z"]:
    """Cells of the box centre +- half_extent that some camera sees, and that none sees to be empty.

    Conservative: a cell is carved only when a window around its centre's pixel, at least as large as its own image,
    is transparent throughout, and never by a camera that is near. A cell wholly beside an image is carved when the
    silhouette keeps clear of the image's border: with few views, that is where floaters gather.

    Args:
        cameras: pinhole cameras without distortion, N of them.
        silhouettes: N masks, True where an image is not wholly transparent; None where images have no alpha channel.
        centre: of the box, in world units.
        half_extent: half the side of the box.
        resolution: cells per side of the answer.
    """
    n = min(COARSE, resolution)
    axis = ((torch.arange(n, device=centre.device) + 0.5) * (2 / n) - 1) * half_extent
    x = torch.cartesian_prod(axis, axis, axis) + centre
    reach = math.sqrt(3) * half_extent / n  # half the diagonal of a cell
    count = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    empty = torch.zeros_like(count, dtype=torch.bool)
    for i in range(len(cameras)):
        pose = cameras.camera_to_worlds[i]
        u, v, before = project(cameras, i, x)
        depth = before.clamp(min=1e-6)
        focal = float(torch.maximum(cameras.fx[i], cameras.fy[i]))
        width, height = int(cameras.width[i]), int(cameras.height[i])
        margin = focal * reach / depth
        in_image = (u > -margin) & (u < width + margin) & (v > -margin) & (v < height + margin)
        count += (before > -reach) & in_image
        if silhouettes is None:
            continue
        nearest = 0.5 * float((pose[:, 3] - centre).norm())
        window = math.ceil(focal * reach / max(nearest, 1e-6)) + 1
        if 8 * window > min(width, height):  # a camera inside the scene
            continue
        mask = silhouettes[i].to(x.device, torch.float32)[None, None]
        mask = F.max_pool2d(mask, (2 * window + 1, 1), 1, (window, 0))
        mask = F.max_pool2d(mask, (1, 2 * window + 1), 1, (0, window))[0, 0]
        if not bool(mask_border(silhouettes[i]).any()):
            empty |= ~in_image & (depth > nearest)
        inner = (u >= window) & (u < width - window) & (v >= window) & (v < height - window) & (depth > nearest)
        rows, columns = v[inner].long(), u[inner].long()
        empty[inner] |= mask[rows, columns] == 0
    import os
    seen = count >= int(os.environ.get('MINSEEN', '1'))
    possible = (seen & ~empty).reshape(1, 1, n, n, n).float()
    return F.interpolate(possible, size=(resolution,) * 3, mode="nearest")[0, 0] > 0
