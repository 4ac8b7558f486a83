"""Where a scene's cube goes, and whether there is something beyond it; decided from what is known, said in a line.

An unbounded scene is one field over contracted space: nothing before or behind the cube is lost, and the cube only says
where resolution is spent. Half of the field's finest cells along each axis lie in it. It goes by the first of these:

1. sparse points: around those near ones that the cameras look at (`cube_of_points`);
2. LLFF's bounds, of cameras that face forward (`box_ahead`);
3. cameras that look at one point: around it, as wide as the pictures are there, so that a picture of n pixels has
   n / 2 .. n of n cells; of a file with `aabb_scale` not larger than instant-ngp's box;
4. the cameras' own cube.

A bounded scene ends at its box, which holds what several cameras see: instant-ngp's box of a file with `aabb_scale`,
else all points, all that lies between LLFF's bounds, or the width of the pictures where the cameras look at one point.

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
FORWARD = 0.5
"""Cameras face forward when their mean optical axis is at least this long: within some 60 degrees of each other."""
FRONT = 0.9
"""Where the box ahead of cameras that face forward begins, as a fraction of the nearest depth, as LLFF has it."""
DEPTH = 2.0
"""Half side of that box in near depths: most of what has parallax, and cells that are still fine."""
NEAR = 2.0
"""Points are near up to so many times the median depth of their picture's points, or the distance of the focus."""
HELD = 0.9
"""Fraction of the sightings of near points that an unbounded scene's cube holds along each axis."""
OUTLIERS = 0.005
"""Fraction of the points at either end of each axis that a bounded scene's box need not hold: mismatches."""
FEWEST_POINTS = 50
"""Sightings that say where a scene is."""


@dataclass(frozen=True)
class SceneSpace:
    """A cube, and what is meant by it."""

    centre: Tensor
    """(3,)"""
    half: float
    unbounded: bool
    """Whether there is something beyond the cube, to be seen in contracted space."""
    reason: str

    def line(self) -> str:
        """What the user is told."""
        x, y, z = (round(float(c), 2) + 0.0 for c in self.centre)
        kind = "unbounded scene, contracted beyond its box of" if self.unbounded else "bounded scene in a box of"
        return (
            f"{kind} +-{self.half:.3g} around ({x:g}, {y:g}, {z:g}): {self.reason}; --space and --scene-scale change it"
        )


@dataclass(frozen=True)
class Views:
    """Which camera sees which point, n times; the same point may be seen often, and counts as often."""

    camera: Tensor
    """(n,) int64"""
    xyz: Tensor
    """(n, 3)"""
    depth: Tensor
    """(n,) along the camera's optical axis."""


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
    middle = position.mean(0)  # about which it is exact, however far away the origin
    focus = middle + torch.linalg.solve(matrix, (across @ (position - middle)[:, :, None]).mean(0)[:, 0])
    return focus.to(poses.dtype)


def look_inward(poses: Tensor, focus: Tensor, half_fov: float) -> bool:
    """Whether nearly all cameras have the focus in front of them, within half_fov (radians) of their axes.

    Those that see to all sides look at nothing in particular.
    """
    if half_fov >= math.pi / 2:
        return False
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


def cube_of_points(views: Views, focus: Tensor | None, distance: float, half_fov: float) -> tuple[Tensor, float]:
    """Centre (3,) and half side of an unbounded scene's cube, which along each axis holds `HELD` of what is seen near.

    With a focus at `distance` from the cameras it is no larger than the pictures are wide there, so that what is behind
    the focus makes no cell coarser, at least half as large, and holds the focus in its inner half.
    """
    if focus is None:
        limit = torch.zeros(int(views.camera.max()) + 1, dtype=views.depth.dtype)
        for camera in views.camera.unique():
            limit[camera] = NEAR * views.depth[views.camera == camera].median()
        return middle_box(views.xyz[views.depth <= limit[views.camera]], (1 - HELD) / 2)
    wide = distance * math.tan(half_fov)
    near = views.xyz[views.depth <= NEAR * distance]
    if len(near) == 0:
        return focus, wide
    centre, half = middle_box(near, (1 - HELD) / 2)
    return focus + (centre - focus).clamp(-0.5 * wide, 0.5 * wide), min(max(half, 0.5 * wide), wide)


def middle_box(xyz: Tensor, skipped: float) -> tuple[Tensor, float]:
    """Centre (3,) and half side of the box around points (n, 3) without that fraction at either end of each axis."""
    ordered = xyz.sort(0).values
    n = math.floor(skipped * len(xyz))
    low, high = ordered[n], ordered[len(xyz) - 1 - n]
    return (low + high) / 2, float((high - low).max()) / 2


def choose_space(
    space: Space,
    poses: Tensor,
    half_fov: float,
    has_alpha: bool,
    half: float,
    bounds: Tensor | None = None,
    views: Views | None = None,
) -> SceneSpace:
    """The space of a capture whose cameras (n, 3 or 4, 4) lie in the cube of `half` around the origin.

    Pictures with an alpha channel are of an object, in a bounded box, if the cameras look at one point or it is known
    what they see; photos are unbounded. For the rest see the top of this module.

    Args:
        space: `auto` for the rule above; `box` and `unbounded` insist.
        poses: camera-to-world matrices, x right, y up, z backward.
        half_fov: half the wider angle of view, in radians.
        has_alpha: whether the pictures have an alpha channel.
        half: half the side of the cameras' own cube.
        bounds: (n, 2) depths near and far that each camera sees, where they are known.
        views: of sparse points, where there are some.
    """
    focus = focus_point(poses)
    if focus is not None and not look_inward(poses, focus, half_fov):
        focus = None
    if views is not None and len(views.depth) < FEWEST_POINTS:
        views = None
    what = "alpha" if has_alpha else "photos without alpha"
    given = "" if space == "auto" else f" (--space {space})"
    unbounded = space == "unbounded"
    if space == "auto":
        unbounded = not has_alpha or (focus is None and bounds is None and views is None)
    distances = None if focus is None else (poses[:, :3, 3] - focus).norm(dim=-1)

    if views is not None and unbounded:
        distance = 0.0 if distances is None else float(distances.median())
        cube = cube_of_points(views, focus, distance, half_fov)
        looks = "the cameras look at one point, " if focus is not None else ""
        return SceneSpace(*cube, unbounded, f"{what}, {looks}around the sparse points that they see near{given}")
    ahead = None if bounds is None else box_ahead(poses, bounds, half_fov, unbounded)
    if ahead is not None:
        return SceneSpace(*ahead, unbounded, f"{what}, the cameras face forward and their near depth is known{given}")
    if distances is None or focus is None:
        centre, why = torch.zeros_like(poses[0, :3, 3]), "the cameras do not look at one point"
    elif unbounded:
        centre, half, why = focus, float(distances.median()) * math.tan(half_fov), "the cameras look at one point"
    else:
        farthest = float(distances.max())
        seen = min(MARGIN * farthest * math.tan(half_fov), farthest)
        if has_alpha:
            centre, half, why = focus, seen, "the cameras look at one point"
        else:
            centre, half = torch.zeros_like(focus), max(half, float(focus.abs().max()) + seen)
            why = "the cube of the cameras"
    if views is not None:
        middle, reach = middle_box(views.xyz, OUTLIERS)
        centre, half = _around_both(centre, half, middle, MARGIN * reach)
        why += ", and all sparse points"
    return SceneSpace(centre, half, unbounded, f"{what}, {why}{given}")


def _around_both(centre: Tensor, half: float, other: Tensor, other_half: float) -> tuple[Tensor, float]:
    """The least cube around two."""
    low, high = torch.minimum(centre - half, other - other_half), torch.maximum(centre + half, other + other_half)
    return (low + high) / 2, float((high - low).max()) / 2
