"""Where the coordinates of a scene's file go: centred, turned and scaled in float64, and cast only then.

Symbols:
    x    position in the file's coordinates
    y    position where it is used, y = s (R x + t)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.scene_box import SceneSpace, Space, Views, choose_space, focus_point, look_inward
from peak_nerf.nerf.data.transforms_file import SceneFile, number, number_array

BLENDER_HALF = 1.5
"""Half side of a Blender scene's box."""
DISTANCE = 4.0311
"""Of the cameras of a Blender scene from its origin. instant-ngp's tools scale captures to a mean of 4."""
NGP_SCALE, NGP_OFFSET = 0.33, 0.5
"""instant-ngp's defaults of its keys of these names."""
NGP_HALF = 0.5 / NGP_SCALE
"""Half side of its unit cube in units of its files."""
LARGEST_AABB = 1e4
"""Of `aabb_scale`, which in instant-ngp is 128 at most."""
SCALES = (1e-9, 1e9)
"""Of its `scale`; of `offset` the latter."""
SMALLEST = 0.1
"""Cameras of a capture may be so many times nearer than `DISTANCE`, as those that stand in their scene are."""


@dataclass(frozen=True)
class Placement:
    """y = scale (R x + t)."""

    transform: Tensor
    """(3, 4) float64: R, a rotation, and t."""
    scale: float

    def points(self, x: Tensor) -> Tensor:
        """(n, 3) float64 to (n, 3) float64."""
        return self.scale * (x @ self.transform[:, :3].T + self.transform[:, 3])

    def inverse(self, y: Tensor) -> Tensor:
        """(n, 3) float64, x of y."""
        return (y / self.scale - self.transform[:, 3]) @ self.transform[:, :3]

    def of_capture(self, scene_file: SceneFile) -> Placement:
        """Of the coordinates of the capture, of which the file's are x = applied_scale * applied_transform(x'), by its
        keys of these names, which `ns-process-data` writes.

        Here R may be any matrix, as `applied_transform` is.
        """
        scale = number(scene_file, None, "applied_scale", low=0.0) or 1.0
        shrunk = torch.cat([self.transform[:, :3], self.transform[:, 3:] / scale], dim=1)
        return Placement(shrunk @ applied_transform(scene_file), self.scale * scale)

    def poses(self, poses: Tensor) -> Tensor:
        """Camera-to-world matrices (n, 4, 4) float64 to (n, 3, 4) float64."""
        placed = self.transform @ poses
        return torch.cat([placed[:, :, :3], self.scale * placed[:, :, 3:]], dim=2)


def oriented(poses: Tensor, method: str, center_method: str, auto_scale: bool, scene_file: SceneFile) -> Placement:
    """nerfstudio's orientation, centre and scale of poses (n, 4, 4) float64, to any number of digits.

    Raises: PeakError when there is no such orientation or centre.
    """
    from nerfstudio.cameras import camera_utils  # the rest of this module does without

    centred, mean = poses.clone(), poses[:, :3, 3].mean(0)
    centred[:, :3, 3] -= mean
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # nerfstudio makes its constants in the default type
    try:
        # Of what it returns the transform alone: 'pca' flips the wrong axis of the poses.
        _, transform = camera_utils.auto_orient_and_center_poses(centred, method=method, center_method=center_method)
    finally:
        torch.set_default_dtype(before)
    if center_method == "none":
        transform = torch.cat([transform[:, :3], torch.zeros(3, 1, dtype=torch.float64)], dim=1)
    else:
        transform = torch.cat([transform[:, :3], transform[:, 3:] - transform[:, :3] @ mean[:, None]], dim=1)
    placed = Placement(transform, 1.0).poses(poses)
    if not torch.isfinite(placed).all():
        raise PeakError(
            f"{scene_file.path}: orientation '{method}' and centre '{center_method}' do not exist for these "
            f"poses; pass --orientation-method none --center-method none"
        )
    return Placement(transform, 1.0 / (float(placed[:, :, 3].abs().max()) or 1.0) if auto_scale else 1.0)


def in_own_frame(scene_file: SceneFile, poses: Tensor, half_fov: float, blender: bool) -> Placement:
    """A file in instant-ngp's frame, or a Blender scene: its own axes, and its own origin and unit where it can be so.

    By instant-ngp's keys `scale` and `offset` position x is at p = scale x + offset (then its axes are renamed), and
    its unit cube is [0, 1]^3: with either key, y = (p - 0.5) / 0.33, which is x for the defaults of both. Without them
    y = x, unless cameras show that the file means something else (`usual_frame`).

    Source: instant-ngp, nerf_loader.h, `nerf_matrix_to_ngp`, and nerf_loader.cu, `load_nerf`.
    """
    scale, offset = number(scene_file, None, "scale", *SCALES), _offset(scene_file)
    if scale is None and offset is None:
        centre, unit = usual_frame(poses, half_fov, 0.5 if blender else SMALLEST)
    else:
        scale = NGP_SCALE if scale is None else scale
        offset = torch.full((3,), NGP_OFFSET, dtype=torch.float64) if offset is None else offset
        centre, unit = (0.5 - offset) / scale, NGP_SCALE / scale
    return Placement(torch.cat([torch.eye(3, dtype=torch.float64), (0.0 - centre)[:, None]], dim=1), 1.0 / unit)


def own_space(
    scene_file: SceneFile,
    space: Space,
    placement: Placement,
    poses: Tensor,
    half_fov: float,
    has_alpha: bool,
    views: Views | None,
    blender: bool,
) -> SceneSpace:
    """The space of a file that `in_own_frame` has placed; `poses` are (n, 3, 4) float64, placed.

    - A Blender scene: the box of +-1.5; where its origin or unit could not be the file's own, what cameras see, too.
    - Bounded, with `aabb_scale`: instant-ngp's box, that many unit cubes wide.
    - Unbounded, with `aabb_scale`: as of other captures, but no larger than instant-ngp's box.
    """
    origin = torch.zeros(3, dtype=torch.float64)
    aabb_scale = number(scene_file, None, "aabb_scale", 0.0, LARGEST_AABB)
    keys = scene_file.values
    if blender and all(keys.get(key) is None for key in ("aabb_scale", "scale", "offset")):
        half = BLENDER_HALF
        if placement.scale != 1 or bool(placement.transform[:, 3].any()):
            half = max(half, float(poses[:, :, 3].norm(dim=1).median()) * math.tan(half_fov))
        return SceneSpace(origin, half, False, "a Blender scene")
    aabb_scale = 1.0 if aabb_scale is None else aabb_scale
    whole = NGP_HALF * aabb_scale
    says = f"{scene_file.path.name} has aabb_scale {aabb_scale:g}"
    unbounded = not blender and (not has_alpha if space == "auto" else space == "unbounded")
    if not unbounded:
        return SceneSpace(origin, whole, False, says)
    own_cube = max(NGP_HALF, float(poses[:, :, 3].abs().max()))
    chosen = choose_space("unbounded", poses, half_fov, has_alpha, own_cube, None, views)
    given = "" if space == "auto" else f" (--space {space})"
    reason = f"{says}, {chosen.reason.removesuffix(' (--space unbounded)')}{given}"
    return SceneSpace(chosen.centre, min(chosen.half, whole), True, reason)


def usual_frame(poses: Tensor, half_fov: float, smallest: float) -> tuple[Tensor, float]:
    """Origin (3,) and unit by which cameras (n, 4, 4) stand as those of Blender scenes do: around the origin, about
    `DISTANCE` from what they look at.

    The file's own origin wherever it is in the middle; its own unit wherever it puts the cameras at `smallest` to 2
    times that distance, else a power of ten (millimetres, kilometres), else what gives exactly that distance.

    half_fov: half the wider angle of view, in radians.
    """
    position = poses[:, :3, 3]
    focus = focus_point(poses)
    inward = focus is not None and look_inward(poses, focus, half_fov)
    middle = focus if inward and focus is not None else position.mean(0)
    ratio = float((position - middle).norm(dim=-1).median()) / DISTANCE
    # Who does not look inward may stand as close together as he likes.
    low = smallest if inward else 0.0
    power = 10.0 ** round(math.log10(ratio)) if ratio > 0 else 1.0
    unit = next((unit for unit in (1.0, power) if low <= ratio / unit <= 2), ratio)
    reach = BLENDER_HALF if inward else 2 * DISTANCE
    origin_is_there = float(middle.abs().max()) <= reach * unit
    return (torch.zeros_like(middle) if origin_is_there else middle), unit


def _offset(scene_file: SceneFile) -> Tensor | None:
    """instant-ngp's `offset`, one number or three."""
    value = scene_file.values.get("offset")
    if value is None:
        return None
    array = number_array(value)
    if array is None or array.shape not in ((), (3,)) or not (abs(array) <= SCALES[1]).all():
        raise PeakError(f"{scene_file.path}: offset is {value!r}; give one number or three, as instant-ngp has it")
    return torch.from_numpy(array).expand(3).clone()


def applied_transform(scene_file: SceneFile) -> Tensor:
    """(4, 4) float64: what ns-process-data did to the capture's own coordinates."""
    value = scene_file.values.get("applied_transform")
    applied = np.eye(4)[:3] if value is None else number_array(value)
    if applied is None or applied.shape not in ((3, 4), (4, 4)) or not np.isfinite(applied).all():
        raise PeakError(f"{scene_file.path}: applied_transform is not 3x4 numbers; correct or remove it")
    return torch.from_numpy(np.vstack([applied[:3], np.eye(4)[3:]]))


def depth_bounds(scene_file: SceneFile, scale: float) -> Tensor:
    """Depths near and far of all frames, (n_frames, 2) float64, in units of the poses where they are used."""
    bounds = [[frame.values["near"], frame.values["far"]] for frame in scene_file.frames]
    return scale * torch.tensor(bounds, dtype=torch.float64)
