"""Where a scene's box goes, and whether there is something behind it; decided from cameras and images, said in a line.

Symbols:
    f    focus: the point nearest to all optical axes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Space = Literal["auto", "box", "unbounded"]
INWARD = 0.9
"""Fraction of cameras that must have the focus in their picture for it to be what they look at."""
MARGIN = 1.05
"""Of a box around what the cameras see."""
OUTSIDE = 0.5
"""Half side of a box that cameras stand outside of, as a fraction of the nearest one's distance; 0.58 touches it."""


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


def choose_space(space: Space, poses: Tensor, half_fov: float, has_alpha: bool, half: float) -> SceneSpace:
    """The space of a capture whose cameras (n, 3 or 4, 4) lie in the cube of `half` around the origin.

    Pictures with an alpha channel are of an object: a box around what cameras that look inward see of it. Photos are
    unbounded, with contracted space behind the box: around what the cameras look at, where they do look at one thing,
    and small enough that they stand outside, so that no ray begins in fog; else the cameras' own cube.

    Args:
        space: `auto` for the rule above; `box` and `unbounded` insist.
        poses: camera-to-world matrices, x right, y up, z backward.
        half_fov: half the wider angle of view, in radians.
        has_alpha: whether the pictures have an alpha channel.
        half: half the side of the cameras' own cube.
    """
    unbounded = not has_alpha if space == "auto" else space == "unbounded"
    given = "" if space == "auto" else f" (--space {space})"
    what = "alpha" if has_alpha else "photos without alpha"
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
