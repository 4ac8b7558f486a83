"""Where a scene's box goes, and whether there is something behind it; decided from cameras and images, said in a line.
Of LLFF scenes the depths that each camera sees are known, too.

Symbols:
    f    focus: the point nearest to all optical axes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from peak_nerf.nerf.data.llff import FORWARD

Space = Literal["auto", "box", "unbounded"]
INWARD = 0.9
"""Fraction of cameras that must have the focus in their picture for it to be what they look at."""
MARGIN = 1.05
"""Of a box around what the cameras see."""
OUTSIDE = 0.5
"""Half side of a box that cameras stand outside of, as a fraction of the nearest one's distance; 0.58 touches it."""
FRONT = 0.9
"""Where the box ahead of cameras that face forward begins, as a fraction of the nearest depth, as LLFF has it."""
DEPTH = 2.0
"""Half side of that box in near depths: most of what has parallax, and cells that are still fine."""


@dataclass(frozen=True)
class SceneSpace:
    """A cube, and what is meant by it."""

    centre: Tensor
    """(3,)"""
    half: float
    unbounded: bool
    """Whether there is a background behind the cube, to be seen in contracted space."""
    reason: str

    def line(self) -> str:
        """What the user is told."""
        x, y, z = (round(float(c), 2) + 0.0 for c in self.centre)
        kind = "unbounded scene, contracted beyond its box of" if self.unbounded else "bounded scene in a box of"
        return (
            f"{kind} +-{self.half:.3g} around ({x:g}, {y:g}, {z:g}): {self.reason}; --space and --scene-scale change it"
        )


def focus_point(poses: Tensor) -> Tensor | None:
    """The point (3,) with the least sum of squared distances to the optical axes of cameras (n, 3 or 4, 4).

    None where there is none to speak of: parallel axes, or a single camera.
    """
    position, axis = poses[:, :3, 3].double(), -poses[:, :3, 2].double()
    axis = axis / axis.norm(dim=-1, keepdim=True)
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None, :]
    matrix = across.mean(0)
    if float(torch.linalg.eigvalsh(matrix)[0]) < 1e-4:
        return None
    return torch.linalg.solve(matrix, (across @ position[:, :, None]).mean(0)[:, 0]).float()


def look_inward(poses: Tensor, focus: Tensor, half_fov: float) -> bool:
    """Whether nearly all cameras have the focus in front of them, within half_fov (radians) of their axes."""
    to_focus = focus - poses[:, :3, 3]
    along = -(poses[:, :3, 2] * to_focus).sum(-1)
    angle = torch.acos((along / to_focus.norm(dim=-1).clamp(min=1e-9)).clamp(-1, 1))
    return float((angle <= half_fov).float().mean()) >= INWARD


def box_ahead(poses: Tensor, bounds: Tensor, half_fov: float, unbounded: bool) -> tuple[Tensor, float] | None:
    """Centre (3,) and half side of the box ahead of cameras (n, 3 or 4, 4) that face forward, parallel or not.

    It begins in front of the nearest thing seen and behind no camera, whichever way it is turned. A bounded scene's
    holds all that is seen; an unbounded one's is as deep as `DEPTH` says. None where cameras do not face one way.

    bounds: (n, 2) depths near and far along each camera's axis.
    """
    camera, axis = poses[:, :3, 3], -poses[:, :3, 2]
    forward = axis.mean(0)
    if float(forward.norm()) < FORWARD:
        return None
    forward = forward / forward.norm()
    along = axis @ forward
    depth = camera @ forward
    mean_depth = depth.mean()
    near, far = (depth[:, None] + bounds * along[:, None]).unbind(1)
    front = float(torch.maximum(mean_depth + FRONT * (near.min() - mean_depth), depth.max()))
    corner = float(forward.abs().sum())  # half the depth of a cube of half side 1
    half = DEPTH * float(bounds[:, 0].median())
    if not unbounded:
        across = (camera - camera.mean(0)).norm(dim=-1).max() + bounds.max() * math.tan(half_fov)
        half = MARGIN * max(0.5 * (float(far.max()) - front) / corner, float(across))
    middle = front + half * corner
    seen = camera + axis * ((middle - depth) / along.clamp(min=FORWARD))[:, None]
    return seen.mean(0), half


def choose_space(
    space: Space, poses: Tensor, half_fov: float, has_alpha: bool, half: float, bounds: Tensor | None = None
) -> SceneSpace:
    """The space of a capture whose cameras (n, 3 or 4, 4) lie in the cube of `half` around the origin.

    Pictures with an alpha channel are of an object: a box around what cameras that look inward see of it. Photos are
    unbounded, with contracted space behind the box: around what the cameras look at, where they do look at one thing,
    and small enough that they stand outside, so that no ray begins in fog; ahead of cameras that face forward, where
    the depths that they see are known; else the cameras' own cube.

    Args:
        space: `auto` for the rule above; `box` and `unbounded` insist.
        poses: camera-to-world matrices, x right, y up, z backward.
        half_fov: half the wider angle of view, in radians.
        has_alpha: whether the pictures have an alpha channel.
        half: half the side of the cameras' own cube.
        bounds: (n, 2) depths near and far that each camera sees, where they are known.
    """
    unbounded = not has_alpha if space == "auto" else space == "unbounded"
    given = "" if space == "auto" else f" (--space {space})"
    what = "alpha" if has_alpha else "photos without alpha"
    ahead = None if bounds is None else box_ahead(poses, bounds, half_fov, unbounded)
    if ahead is not None:
        return SceneSpace(*ahead, unbounded, f"{what}, the cameras face forward and their near depth is known{given}")
    focus = focus_point(poses)
    if focus is None or not look_inward(poses, focus, half_fov) or (space == "box" and not has_alpha):
        why = "the cube of the cameras" if space == "box" else "the cameras do not look at one point"
        return SceneSpace(torch.zeros(3), half, unbounded, f"{what}, {why}{given}")
    distance = (poses[:, :3, 3] - focus).norm(dim=-1)
    if unbounded:
        half = OUTSIDE * float(distance.min())
    else:
        half = min(MARGIN * float(distance.max()) * math.tan(half_fov), float(distance.max()))
    return SceneSpace(focus, half, unbounded, f"{what}, the cameras look at one point{given}")
