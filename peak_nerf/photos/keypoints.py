"""Keypoints moved to where pictures agree best, to a fraction of a pixel: SIFT places them to about half a pixel only.

Each track has a reference picture, the one that looks most as the others do on average. The patch around the point
there is warped into each other picture as if it faced the reference camera, and shifted until it fits (Lucas-Kanade,
with normalised brightness). What fits badly or moves far stays where it was. Source: the idea is that of Lindenberger
et al., "Pixel-Perfect Structure-from-Motion", ICCV 2021, here on brightness instead of learned features.

# p: offsets within a patch; q: (x, y) in pixels with the first pixel's centre at (0.5, 0.5); A: (2, 2) warp of a patch
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HALF = 5
"""A patch is 2 HALF + 1 pixels wide."""
ITERATIONS = 8
LONGEST_SHIFT = 2.0
LEAST_CORRELATION = 0.8
AT_ONCE = 20_000
MOST = 150_000
"""Observations beyond which nothing is moved: so many average half a pixel out by themselves."""


@dataclass(frozen=True)
class Sightings:
    """Observations with the reference of their track; n of them."""

    reference: np.ndarray
    """(n, 2) image id and keypoint of the reference."""
    other: np.ndarray
    """(n, 2) image id and keypoint of the observation."""
    xyz: np.ndarray
    """(n, 3) the point."""


def refine_keypoints(model: Any, images: Path) -> float:
    """Move the keypoints of the tracks of a pycolmap Reconstruction, in place; returns the fraction that was moved, 0
    where there are too many to be worth it.

    images: the folder of the pictures that the model names.
    """
    cv2 = _opencv()
    ids = list(model.reg_image_ids())
    posed = {i: model.image(i) for i in ids}
    sightings = _sightings(model, posed)
    if not 0 < len(sightings.xyz) <= MOST:
        return 0.0
    keypoints = {i: np.array([point.xy for point in posed[i].points2D], float).reshape(-1, 2) for i in ids}
    at = {name: np.zeros((len(sightings.xyz), 2)) for name in ("reference", "other")}
    for name, rows in (("reference", sightings.reference), ("other", sightings.other)):
        for i in ids:
            mine = rows[:, 0] == i
            at[name][mine] = keypoints[i][rows[mine, 1]]
    warps = _warps(model, posed, sightings)
    pictures = {i: cv2.GaussianBlur(_grey(images / posed[i].name), (0, 0), 0.6) for i in ids}
    shifted, correlation = np.zeros_like(at["other"]), np.zeros(len(warps))
    for begin in range(0, len(warps), AT_ONCE):
        some = slice(begin, begin + AT_ONCE)
        part = Sightings(sightings.reference[some], sightings.other[some], sightings.xyz[some])
        found = _fit(pictures, part, at["reference"][some], at["other"][some], warps[some])
        shifted[some], correlation[some] = found
    good = (correlation > LEAST_CORRELATION) & (np.linalg.norm(shifted - at["other"], axis=1) < LONGEST_SHIFT)
    for (i, keypoint), xy in zip(sightings.other[good], shifted[good], strict=True):
        posed[int(i)].points2D[int(keypoint)].xy = xy
    return float(good.mean())


def _opencv() -> Any:
    import cv2

    return cv2


def _grey(path: Path) -> np.ndarray:
    cv2 = _opencv()
    return np.asarray(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)).astype(np.float32)


def _sightings(model: Any, posed: dict[int, Any]) -> Sightings:
    centres = {i: np.asarray(image.projection_center()) for i, image in posed.items()}
    reference, other, xyz = [], [], []
    for _, point in sorted(model.points3D.items()):
        seen = [(element.image_id, element.point2D_idx) for element in point.track.elements]
        views = np.array([point.xyz - centres[i] for i, _ in seen])
        views /= np.linalg.norm(views, axis=1, keepdims=True)
        middle = int(np.argmax((views @ views.T).sum(1)))
        for k, element in enumerate(seen):
            if k != middle:
                reference.append(seen[middle])
                other.append(element)
                xyz.append(point.xyz)
    return Sightings(
        np.array(reference, int).reshape(-1, 2),
        np.array(other, int).reshape(-1, 2),
        np.array(xyz, float).reshape(-1, 3),
    )


def _warps(model: Any, posed: dict[int, Any], sightings: Sightings) -> np.ndarray:
    """A (n, 2, 2): how far a step of a pixel in the reference goes in the other picture, at the point's depth."""
    warps = np.zeros((len(sightings.xyz), 2, 2))
    pairs = np.stack([sightings.reference[:, 0], sightings.other[:, 0]], axis=1)
    for a, b in np.unique(pairs, axis=0):
        rows = np.flatnonzero((pairs == (a, b)).all(1))
        from_world, to = (np.asarray(posed[int(i)].cam_from_world().matrix()) for i in (a, b))
        f_a, f_b = (model.cameras[posed[int(i)].camera_id].mean_focal_length() for i in (a, b))
        local = sightings.xyz[rows] @ from_world[:, :3].T + from_world[:, 3]
        corners = np.stack([local, *(local + local[:, 2:] / f_a * axis for axis in np.eye(3)[:2])])
        world = (corners - from_world[:, 3]) @ from_world[:, :3]
        seen = world @ to[:, :3].T + to[:, 3]
        plane = f_b * seen[..., :2] / seen[..., 2:]
        warps[rows] = np.moveaxis(plane[1:] - plane[0], 0, 2)
    return warps


def _fit(
    pictures: dict[int, np.ndarray], sightings: Sightings, start: np.ndarray, q: np.ndarray, warps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the patches around `start` in the references fit best in the others, begun at q, and how well (n,)."""
    side = np.arange(-HALF, HALF + 1, dtype=float)
    p = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    weight = np.exp(-(p**2).sum(1) / (2 * (0.6 * HALF) ** 2)).astype(np.float32)
    weight /= weight.sum()
    wanted, _ = _normalised(_sampled(pictures, sightings.reference[:, 0], start[:, None] + p), weight)
    offsets = np.einsum("nij,mj->nmi", warps, p)
    which, q = sightings.other[:, 0], q.copy()
    for _ in range(ITERATIONS):
        place = q[:, None] + offsets
        found, contrast = _normalised(_sampled(pictures, which, place), weight)
        slopes = [
            (_sampled(pictures, which, place + step) - _sampled(pictures, which, place - step)) / contrast
            for step in (np.array([0.5, 0.0]), np.array([0.0, 0.5]))
        ]
        gradient = np.stack(slopes, axis=-1)
        matrix = np.einsum("nma,nmb,m->nab", gradient, gradient, weight) + 1e-5 * np.eye(2)
        slope = np.einsum("nma,nm,m->na", gradient, wanted - found, weight)
        q += np.clip(np.linalg.solve(matrix, slope[..., None])[..., 0], -0.5, 0.5)
    found, _ = _normalised(_sampled(pictures, which, q[:, None] + offsets), weight)
    return q, (wanted * found * weight).sum(1)


def _normalised(patches: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patches (n, m) of mean 0 and variance 1, and the standard deviation (n, 1) that they had."""
    centred = patches - (patches * weight).sum(1, keepdims=True)
    contrast = np.sqrt((centred**2 * weight).sum(1, keepdims=True)) + 1e-3
    return centred / contrast, contrast


def _sampled(pictures: dict[int, np.ndarray], which: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Brightness (n, m) at q (n, m, 2) of the pictures `which` (n,)."""
    cv2 = _opencv()
    values = np.zeros(q.shape[:2], np.float32)
    for i, picture in pictures.items():
        rows = np.flatnonzero(which == i)
        if len(rows):
            x, y = np.moveaxis(q[rows] - 0.5, 2, 0).astype(np.float32)
            values[rows] = cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return values
