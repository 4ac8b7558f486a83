"""Where points land in a picture: the two camera models of `Intrinsics`.

# x, y: image plane at distance 1, x right, y down; r: distance from its centre; theta: angle to the optical axis
"""

from __future__ import annotations

import numpy as np

from peak_nerf.photos.model import Intrinsics, SparseModel


def project(intrinsics: Intrinsics, pose: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 2) and depths (n,) along the optical axis of points (n, 3) in the camera with c2w `pose` (4, 4).

    OPENCV: x_d = x (1 + k1 r^2 + k2 r^4) + 2 p1 x y + p2 (r^2 + 2 x^2), y_d = y (...) + p1 (r^2 + 2 y^2) + 2 p2 x y.
    OPENCV_FISHEYE: x_d = x theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8) / r.

    Pixels of points behind an OPENCV camera are NaN.
    """
    values = {name: float(value) for name, value in intrinsics.parameters.items()}
    in_camera = (points - pose[:3, 3]) @ pose[:3, :3] * (1.0, -1.0, -1.0)
    depth = in_camera[:, 2]
    if intrinsics.model == "OPENCV_FISHEYE":
        distance = np.hypot(in_camera[:, 0], in_camera[:, 1])
        theta = np.arctan2(distance, depth)
        powers = sum(values.get(f"k{i}", 0.0) * theta ** (2 * i) for i in range(1, 5))
        scale = theta * (1 + powers) / np.where(distance > 0, distance, 1.0)
        distorted = in_camera[:, :2] * scale[:, None]
    else:
        distorted = _distort(in_camera[:, :2] / np.where(depth > 0, depth, np.nan)[:, None], values)
    focal, centre = (values["fl_x"], values["fl_y"]), (values["cx"], values["cy"])
    return distorted * focal + centre, depth


def _distort(plane: np.ndarray, values: dict[str, float]) -> np.ndarray:
    k1, k2, p1, p2 = (values.get(name, 0.0) for name in ("k1", "k2", "p1", "p2"))
    x, y = plane.T
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    x_d = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    y_d = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([x_d, y_d], axis=1)


def observed_projections(model: SparseModel) -> tuple[np.ndarray, np.ndarray]:
    """Of every observation: where its point should be, (n_observation, 2) pixels, and its depth (n_observation,)."""
    pixels, depths = np.zeros((len(model.image_index), 2)), np.zeros(len(model.image_index))
    for i, (intrinsics, pose) in enumerate(zip(model.intrinsics, model.poses, strict=True)):
        seen = model.image_index == i
        pixels[seen], depths[seen] = project(intrinsics, pose, model.points[model.point_index[seen]])
    return pixels, depths


def observed_errors(model: SparseModel) -> np.ndarray:
    """`pixel_errors` (n_observation,) of the model; computed where whoever made it gave none."""
    if len(model.pixel_errors) == len(model.pixels):
        return model.pixel_errors
    return np.linalg.norm(observed_projections(model)[0] - model.pixels, axis=1).astype(np.float32)


def corner_shift(intrinsics: Intrinsics) -> float:
    """How far distortion moves the corner of a picture, in pixels: the farthest of the four; positive outwards.

    0 for a fisheye, which has no undistorted picture to compare with.
    """
    if intrinsics.model == "OPENCV_FISHEYE":
        return 0.0
    values = {name: float(value) for name, value in intrinsics.parameters.items()}
    focal, centre = np.array([values["fl_x"], values["fl_y"]]), np.array([values["cx"], values["cy"]])
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * (intrinsics.width, intrinsics.height)
    plane = (corners - centre) / focal
    moved = (_distort(plane, values) - plane) * focal
    lengths = np.linalg.norm(moved, axis=1)
    worst = int(lengths.argmax())
    return float(lengths[worst] * (1 if moved[worst] @ (corners[worst] - centre) >= 0 else -1))
