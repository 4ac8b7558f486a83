"""Rays of which a box cuts a part out, as `ns-render camera-path` and the viewer's crop want it."""

from __future__ import annotations

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components import renderers
from nerfstudio.utils.math import intersect_obb

from peak_nerf.nerf.render.renderer import Crop


def cropped(rays: RayBundle, box: OrientedBox, near_plane: float = 0.0) -> RayBundle:
    """The rays with the distances at which they enter and leave the box, beyond `near_plane`; nothing lies between,
    where they miss it."""
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    box = OrientedBox(*(part.to(origins) for part in (box.R, box.T, box.S)))
    near, far = intersect_obb(origins, directions, box)
    near = near.clamp(min=near_plane)
    far = torch.where(near < far, far, near)
    rays.nears, rays.fars = (t.reshape(*rays.shape, 1) for t in (near, far))
    return rays


def crop_of(rays: RayBundle, unit: float) -> Crop | None:
    """What `cropped` says of rays; distances are divided by `unit`. None for rays that are whole."""
    if rays.nears is None or rays.fars is None:
        return None
    near, far = (t.reshape(-1) / unit for t in (rays.nears, rays.fars))
    return Crop(near, far, renderers.BACKGROUND_COLOR_OVERRIDE)
