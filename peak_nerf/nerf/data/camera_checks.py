"""Cameras that cannot teach a field anything are refused before a training, with what is odd about them.

Symbols:
    f    focus: the point nearest to all optical axes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from peak_nerf.errors import PeakError
from peak_nerf.nerf.cameras import local_directions
from peak_nerf.nerf.data.scene_box import INWARD, Space, focus_point
from peak_nerf.nerf.data.transforms_file import Frame, SceneFile

ONE_POINT = 1e-9
"""Of the largest coordinate: cameras within it stand in one point, as far as float64 tells."""
MEET = 0.01
"""Distance of axes from a point, over that of their cameras, at which they are made to meet there."""
FEWEST = 4
"""Cameras whose axes meet by intention."""
ONE_WAY = 0.5
"""Length of the mean axis of cameras that look one way."""
PROBES = 9
"""Positions per side of a picture's frame that say how wide it is."""


def check_cameras(
    scene_file: SceneFile, poses: Tensor, half_fov: float, space: Space, say: Callable[[str], None]
) -> None:
    """Whether the cameras of a file see depth, and what they look at.

    Args:
        scene_file: that names the training views, or all.
        poses: (n, 4, 4) float64, of the file's frames.
        half_fov: half the wider angle of view, in radians.
        space: as the user asked for; cameras that look outwards exactly need `unbounded`.
        say: prints a line.

    Raises: PeakError when all stand in one point, or all look away from the point around which they stand.
    """
    position, axis = poses[:, :3, 3], -poses[:, :3, 2]
    n, path = len(poses), scene_file.path
    extent = float((position - position[0]).norm(dim=1).max())
    if n > 1 and extent <= ONE_POINT * max(1.0, float(position.abs().max())):
        x, y, z = (float(value) for value in position[0])
        raise PeakError(
            f"{path}: all {n} cameras stand in one point ({x:g}, {y:g}, {z:g}), so nothing tells how far away anything "
            f"is; export the poses again, with their positions"
        )
    focus = focus_point(poses)
    if focus is None or half_fov >= math.pi / 2 or n < FEWEST or float(axis.mean(0).norm()) > ONE_WAY:
        return
    to_focus = focus - position
    distance = to_focus.norm(dim=1).clamp(min=1e-12)
    behind = -(axis * to_focus).sum(1) / (distance * axis.norm(dim=1))
    away = behind >= math.cos(half_fov)
    if float(away.double().mean()) < INWARD:
        return
    x, y, z = (float(value) for value in focus)
    what = f"the cameras stand around ({x:.3g}, {y:.3g}, {z:.3g}) and look away from it"
    turned = "poses have x right, y up and z backward (OpenGL), not y down and z forward (OpenCV)"
    off = distance * (1 - behind.clamp(max=1) ** 2).clamp(min=0).sqrt()
    if space == "auto" and bool((off <= MEET * distance).all()):
        first = scene_file.frames[int(away.double().argmax())].name
        raise PeakError(
            f"{path}: {what}, frame {first} and all others exactly; {turned}; if they do look outwards, pass peak-data "
            f"--space unbounded"
        )
    say(f"{path}: {what}; should they look at it, mind that {turned}")


def check_views(cameras: Cameras, centre: Tensor, half: float, frames: Sequence[Frame], scene_file: SceneFile) -> None:
    """Whether every camera's picture shows some of a bounded scene's box, as far as a cone around it tells.

    Raises: PeakError, which names the first frame that does not.
    """
    radius = math.sqrt(3) * half
    towards = centre - cameras.camera_to_worlds[:, :, 3]
    distance = towards.norm(dim=1)
    axis = -cameras.camera_to_worlds[:, :, 2]
    angle = torch.acos(((axis * towards).sum(1) / (distance * axis.norm(dim=1)).clamp(min=1e-12)).clamp(-1, 1))
    widths: dict[tuple[float, ...], float] = {}
    beside = []
    for i in range(len(cameras)):
        if float(distance[i]) <= radius:
            continue
        values = [getattr(cameras, name)[i] for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_type")]
        values += [] if cameras.distortion_params is None else [cameras.distortion_params[i]]
        key = tuple(torch.cat([value.double() for value in values]).tolist())
        if key not in widths:
            widths[key] = _widest(cameras, i)
        if float(angle[i]) > widths[key] + math.asin(radius / float(distance[i])):
            beside.append(i)
    if beside:
        i = beside[0]
        x, y, z = (round(float(value), 2) + 0.0 for value in centre)
        raise PeakError(
            f"{scene_file.path}: frame {frames[i].index} ({frames[i].name}) looks past the scene, the box of "
            f"+-{half:.3g} around ({x:g}, {y:g}, {z:g}), by {math.degrees(float(angle[i])):.0f} degrees"
            f"{f' ({len(beside)} such frames)' if len(beside) > 1 else ''}; correct its transform_matrix (OpenGL axes: "
            f"z backward), or remove it"
        )


def _widest(cameras: Cameras, camera: int) -> float:
    """The largest angle of a picture's frame to its optical axis, in radians."""
    width, height = float(cameras.width[camera]), float(cameras.height[camera])
    along = torch.linspace(0, 1, PROBES, device=cameras.device)
    low, high = torch.zeros_like(along), torch.ones_like(along)
    u, v = torch.cat((along, along, low, high)) * width, torch.cat((low, high, along, along)) * height
    local = local_directions(cameras, camera, u, v)
    return float(torch.atan2(local[:, :2].norm(dim=-1), -local[:, 2]).max())
