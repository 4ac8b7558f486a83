"""A closed, smooth path for a camera that shows a trained scene, along the places where its pictures were taken.

# c2w: camera-to-world (3, 4), x right, y up, z backward; f: the point that the cameras look at
# azimuth, elevation: of a camera as seen from f, about the cameras' common up
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import BSpline  # type: ignore[import-untyped]
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from peak_nerf.nerf.data.scene_box import focus_point, look_inward

Array = npt.NDArray[np.float64]
Kind = Literal["orbit", "spiral", "walk"]

WIDEST_GAP = math.radians(110)
"""A ring of cameras leaves no wider gap between neighbours' azimuths."""
ORBIT_BANDWIDTH = math.radians(20)
"""An orbit's height and distance are those of the cameras within about this azimuth."""
PARALLEL = math.radians(25)
"""Nine of ten optical axes of a cluster are within this angle of their mean."""
FLATTEST_CLUSTER = 0.25
"""A cluster is at least this fraction as high as it is wide; flatter ones were taken in passing."""
DETOUR = 1.5
"""A path in the order of names may be so many times as long as one from neighbour to neighbour."""
TURN_WEIGHT = 0.5
"""Where a walk also turns, a radian counts as this fraction of the cameras' extent."""


@dataclass(frozen=True)
class CameraPath:
    """Where the camera is in each frame; the last frame is followed by the first."""

    kind: Kind
    poses: Array
    """(n_frames, 3, 4) c2w."""


def camera_path(poses: Array, n_frames: int, half_fov: float, subject: float | None = None) -> CameraPath:
    """A path near these cameras.

    - Cameras around one point, looking at it: a closed orbit at their height and distance, looking there.
    - Nearly parallel cameras side by side and one above another: a spiral within them.
    - Others: there and back along a spline through them, in their order or, where that runs zigzag, from neighbour to
      neighbour. It stays in the convex hull of the cameras.

    Args:
        poses: (n_cameras, 3 or 4, 4) c2w, in the order in which the pictures were taken.
        n_frames: at least 1.
        half_fov: half the wider angle of view, in radians.
        subject: what is seen from the middle of the cameras is so far away; a spiral looks there. None: straight on.

    Raises: ValueError without cameras or frames.
    """
    poses = np.asarray(poses, dtype=np.float64)[:, :3]
    if len(poses) < 1 or n_frames < 1:
        raise ValueError("a path needs at least one camera and one frame")
    given = torch.from_numpy(poses)
    focus = focus_point(given) if len(poses) > 2 else None
    if focus is not None and look_inward(given.float(), focus, half_fov):
        orbit = _orbit(poses, focus.double().numpy(), n_frames)
        if orbit is not None:
            return CameraPath("orbit", orbit)
    if _is_cluster(poses):
        return CameraPath("spiral", _spiral(poses, n_frames, subject))
    return CameraPath("walk", _walk(poses, n_frames))


def look_at(position: Array, target: Array, up: Array) -> Array:
    """c2w (3, 4) of a camera that looks from `position` at `target`, `up` being up in its picture; each (3,)."""
    back = _unit(position - target)
    right = _unit(np.cross(up, back))
    return np.stack([right, np.cross(back, right), back, position], axis=1)


def common_up(poses: Array) -> Array:
    """The direction (3,) that is up for cameras (n, 3, 4) as people hold them: level, so across all their x axes.

    Where the x axes leave it open, as those of parallel cameras do, the mean of the y axes.
    """
    mean = poses[:, :, 1].mean(0)
    spread, axes = np.linalg.eigh(np.einsum("ni,nj->ij", poses[:, :, 0], poses[:, :, 0]) / len(poses))
    if spread[1] < 0.05:
        return _unit(mean)
    up = axes[:, 0]
    return up if up @ mean >= 0 else -up


def mean_pose(poses: Array) -> Array:
    """c2w (3, 4) in the middle of cameras (n, 3, 4)."""
    return np.concatenate([_nearest_rotation(poses[:, :, :3].mean(0)), poses[:, :, 3:].mean(0)], axis=1)


# ---------------------------------------------------------------------------------------------------------- kinds


def _orbit(poses: Array, focus: Array, n_frames: int) -> Array | None:
    """Once around the focus, beginning at the first camera and in the cameras' sense; None where they leave a gap."""
    up = common_up(poses)
    first = _unit(np.cross(up, poses[0, :, 0]))  # level, whatever the first camera's height
    basis = np.stack([first, np.cross(up, first), up], axis=1)
    local = (poses[:, :, 3] - focus) @ basis
    level, distance = np.hypot(local[:, 0], local[:, 1]), np.linalg.norm(local, axis=1)
    azimuth, elevation = np.arctan2(local[:, 1], local[:, 0]), np.arctan2(local[:, 2], level)
    sure = np.sort(azimuth[level > 0.25 * distance])  # who looks straight down is nowhere around
    if len(sure) < 4:
        return None
    gap = float(np.diff(np.append(sure, sure[0] + 2 * math.pi)).max())
    if gap > WIDEST_GAP:
        return None
    steps = (np.diff(azimuth) + math.pi) % (2 * math.pi) - math.pi
    sense = 1.0 if steps.sum() >= 0 else -1.0
    t = azimuth[0] + sense * 2 * math.pi * np.arange(n_frames) / n_frames
    # Periodic kernel regression: exp(kappa cos) is a Gaussian on the circle.
    kappa = 1 / max(ORBIT_BANDWIDTH, 0.5 * gap) ** 2
    weights = np.exp(kappa * (np.cos(t[:, None] - azimuth) - 1)) * (level / distance)
    weights /= weights.sum(1, keepdims=True)
    height, radius = weights @ elevation, np.exp(weights @ np.log(distance))
    directions = np.stack([np.cos(height) * np.cos(t), np.cos(height) * np.sin(t), np.sin(height)], axis=1)
    positions = focus + radius[:, None] * directions @ basis.T
    return np.stack([look_at(position, focus, up) for position in positions])


def _is_cluster(poses: Array) -> bool:
    """Nearly parallel cameras side by side and one above another."""
    middle = mean_pose(poses)
    axes = poses[:, :, 2] @ middle[:, 2]
    if len(poses) < 4 or np.mean(axes >= math.cos(PARALLEL)) < 0.9:
        return False
    across = ((poses[:, :, 3] - middle[:, 3]) @ middle[:, :3])[:, :2]
    along = np.ptp(poses[:, :, 3] @ middle[:, 2])
    wide, high = np.linalg.svd(across - across.mean(0), compute_uv=False)
    return bool(high > FLATTEST_CLUSTER * wide and along < np.ptp(across, axis=0).max())


def _spiral(poses: Array, n_frames: int, subject: float | None) -> Array:
    """One turn of an ellipse within the cameras, a little forth and back, looking at the middle of the scene."""
    middle = mean_pose(poses)
    local = (poses[:, :, 3] - middle[:, 3]) @ middle[:, :3]
    # An ellipse a little within the box that holds four cameras of five.
    a, b, c = 0.9 * np.quantile(np.abs(local), 0.8, axis=0)
    t = 2 * math.pi * np.arange(n_frames) / n_frames
    offsets = np.stack([a * np.cos(t), b * np.sin(t), 0.5 * c * np.sin(2 * t)], axis=1)
    positions = middle[:, 3] + offsets @ middle[:, :3].T
    if subject is None:
        return np.stack([np.concatenate([middle[:, :3], position[:, None]], axis=1) for position in positions])
    target = middle[:, 3] - subject * middle[:, 2]
    return np.stack([look_at(position, target, middle[:, 1]) for position in positions])


def _walk(poses: Array, n_frames: int) -> Array:
    """There and back along a B-spline whose control points are the cameras: within their hull, and smooth."""
    n = len(poses)
    if n == 1:
        return np.repeat(poses, n_frames, axis=0)
    poses = poses[_walking_order(poses)]
    degree = min(3, n - 1)
    knots = np.concatenate([np.zeros(degree), np.linspace(0, 1, n - degree + 1), np.ones(degree)])
    spline = BSpline(knots, poses.reshape(n, 12), degree)
    fine = np.linspace(0, 1, 50 * n)
    travelled = np.concatenate([[0.0], np.cumsum(_steps(_rigid(spline(fine)), _extent(poses)))])
    # Slow where it turns back, even between: the middle frame is the far end, and the way back shows the same frames.
    share = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(n_frames) / n_frames)
    return _rigid(spline(np.interp(share * travelled[-1], travelled, fine)))


def _walking_order(poses: Array) -> npt.NDArray[np.int64]:
    """As given, unless going from neighbour to neighbour is much shorter: names may say nothing of the order."""
    given, extent = np.arange(len(poses)), _extent(poses)
    centred = poses[:, :, 3] - poses[:, :, 3].mean(0)
    current = int(np.argmin(centred @ np.linalg.svd(centred, full_matrices=False)[2][0]))
    order, left = [current], [int(i) for i in given if i != current]
    while left:
        lengths = [_steps(poses[[current, other]], extent)[0] for other in left]
        current = left.pop(int(np.argmin(lengths)))
        order.append(current)
    near = np.array(order)
    zigzag = _steps(poses, extent).sum() > DETOUR * _steps(poses[near], extent).sum()
    return near if zigzag else given


# ------------------------------------------------------------------------------------------------------- geometry


def _steps(poses: Array, extent: float) -> Array:
    """(n - 1) how far it is from each pose (n, 3, 4) to the next, turning included."""
    moved = np.linalg.norm(np.diff(poses[:, :, 3], axis=0), axis=1)
    turns = Rotation.from_matrix(poses[1:, :, :3]) * Rotation.from_matrix(poses[:-1, :, :3]).inv()
    return moved + TURN_WEIGHT * extent * np.atleast_1d(turns.magnitude())


def _extent(poses: Array) -> float:
    return float(np.linalg.norm(np.ptp(poses[:, :, 3], axis=0))) or 1.0


def _rigid(flat: Array) -> Array:
    """Blends of poses (n, 12) as poses (n, 3, 4): their matrices' nearest rotations."""
    blended = flat.reshape(-1, 3, 4)
    return np.concatenate([_nearest_rotation(blended[:, :, :3]), blended[:, :, 3:]], axis=2)


def _nearest_rotation(matrices: Array) -> Array:
    u, _, vt = np.linalg.svd(matrices)
    u[..., :, 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return u @ vt


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)
