r"""Sparse points of pictures whose cameras are known but come without points: features that match are triangulated.

Cameras are known, so a feature's match lies on its epipolar line: of what lies there the most similar one is taken,
which leaves few mistakes. All measures are angles between rays, so any lens will do.

Symbols:
    o, d       origin and unit direction of a feature's ray, in the world
    f          pixels per radian
    n          normal of the epipolar plane of a feature in another picture, (o' - o) x d
    X          a point; its error in a picture is the angle between d and X - o, times f
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from peak_nerf.nerf.data.pixel_rays import PixelRays
from peak_nerf.nerf.data.pixels import used_pixels
from peak_nerf.nerf.data.points import Sightings, SparsePoints

FEATURES = 8000
"""Of a picture, at most."""
CONTRAST = 0.005
"""Of a feature, at least; of SIFT, where 0.04 is usual."""
NEIGHBOURS = 10
"""Pictures that each is matched with, at most."""
TOLERANCE = 4.0
"""Pixels, of pictures `REFERENCE_SIDE` long: from the epipolar line, and error of a point; as COLMAP's, whose least is
ours as well."""
REFERENCE_SIDE, LEAST_TOLERANCE = 1600.0, 2.0
"""Larger pictures are shrunk to the former before they are looked at."""
ROUNDS = 6
"""In which a track may lose the picture that agrees with it least."""
RATIO = 0.8
"""Distance of a match from its feature, over that of the second best on the line, at most."""
LEAST_SIMILARITY = 0.7
"""Product of two unit descriptors that may show the same."""
LEAST_ANGLE = 1.0
"""Degrees between the two rays that are farthest apart of those that meet in a point."""


@dataclass(frozen=True)
class Features:
    """What SIFT found in a picture: m features."""

    xy: np.ndarray
    """(m, 2) float32 pixels; the centre of the upper left one is (0.5, 0.5)."""
    descriptors: np.ndarray
    """(m, 128) float32, unit vectors."""
    rgb: np.ndarray
    """(m, 3) uint8."""
    side: int
    """The longer one of the picture, in pixels."""


@dataclass(frozen=True)
class Rays:
    """The rays of a picture's features in the world."""

    origin: np.ndarray
    """(3,)"""
    direction: np.ndarray
    """(m, 3)"""
    f: float


class Seen(NamedTuple):
    """A picture."""

    features: Features
    rays: Rays


class Matches(NamedTuple):
    """Features of two pictures that look alike, k of them."""

    rows: np.ndarray
    """(k, 2) of the one in the one picture and of the other in the other."""
    doubt: np.ndarray
    """(k,) squared distance of the two, over that to the second best; below 1."""


def triangulate(
    read: Callable[[int], tuple[torch.Tensor, torch.Tensor | None]],
    rays: PixelRays,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[SparsePoints, Sightings]:
    """Points that at least two of the pictures saw, and who saw which of them where.

    Args:
        read: gives a picture by its number, (h, w, 3 or 4) uint8, and its mask, (h, w) bool, False where it is not to
            be used; None for all of it. Called from several threads.
        rays: of the pictures' cameras, on the CPU.
        on_progress: is told how many of how many pieces of work are done.
    """
    pairs = choose_pairs(rays.poses[:, :, 3].numpy(), -rays.poses[:, :, 2].numpy())
    total = len(rays.poses) + len(pairs)
    features: list[Features] = []
    matches: list[Matches] = []
    pool = ThreadPoolExecutor(max(1, torch.get_num_threads()))
    try:
        for found in pool.map(lambda i: _features(*read(i)), range(len(rays.poses))):
            features.append(found)
            on_progress(len(features), total)
        seen = [Seen(found, _rays(rays, i, found)) for i, found in enumerate(features)]
        tolerance = max(LEAST_TOLERANCE, TOLERANCE * max(found.side for found in features) / REFERENCE_SIDE)
        for match in pool.map(lambda ab: _match(seen[ab[0]], seen[ab[1]], tolerance), pairs):
            matches.append(match)
            on_progress(len(features) + len(matches), total)
    finally:
        pool.shutdown(cancel_futures=True)  # at once after Ctrl-C
    points, sightings = _points(_tracks(seen, pairs, matches), tolerance)
    axis = -rays.poses[sightings.image, :, 2]
    depth = ((points.xyz[sightings.point] - rays.poses[sightings.image, :, 3]) * axis).sum(-1)
    return points, replace(sightings, depth=depth)


def choose_pairs(positions: np.ndarray, axes: np.ndarray) -> list[tuple[int, int]]:
    """Pictures to match: each with those taken nearest to it, of those that look the same way within 75 degrees.

    Half of them are its nearest; the others every second of the following, since near ones know little of depth.

    Args:
        positions: (n, 3) of the cameras.
        axes: (n, 3) unit vectors along which they look.
    """
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    distance[(axes @ axes.T) < np.cos(np.radians(75))] = np.inf
    np.fill_diagonal(distance, np.inf)
    half = NEIGHBOURS // 2
    pairs = set()
    for i, row in enumerate(distance):
        order = np.argsort(row, kind="stable")
        order = order[np.isfinite(row[order])]
        for j in (*order[:half], *order[half : half + 2 * half : 2]):
            pairs.add((min(i, int(j)), max(i, int(j))))
    return sorted(pairs)


def _features(image: torch.Tensor, mask: torch.Tensor | None) -> Features:
    """Of the picture within `REFERENCE_SIDE`, but for what the mask leaves out and what is transparent."""
    rgb = np.ascontiguousarray(image[..., :3].numpy())
    h, w = rgb.shape[:2]
    used: Any = used_pixels(image, mask)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    ratio = max(1.0, max(h, w) / REFERENCE_SIDE)
    if ratio > 1:
        size = (max(1, round(w / ratio)), max(1, round(h / ratio)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        used = cv2.resize(used, size, interpolation=cv2.INTER_NEAREST)
    sift = cv2.SIFT.create(nfeatures=FEATURES, contrastThreshold=CONTRAST)
    keypoints, descriptors = sift.detectAndCompute(grey, used)
    # SIFT's first pixel has its centre at (0, 0).
    pixel = np.array([w / grey.shape[1], h / grey.shape[0]], np.float32)
    xy = (np.array([point.pt for point in keypoints], np.float32).reshape(-1, 2) + 0.5) * pixel
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    column, row = xy.astype(int).clip(0, [w - 1, h - 1]).T
    return Features(xy, descriptors.astype(np.float32), rgb[row, column], max(h, w))


def _rays(rays: PixelRays, i: int, features: Features) -> Rays:
    camera = torch.full((len(features.xy),), i, dtype=torch.int64)
    bundle = rays.bundle(camera, *torch.from_numpy(features.xy).unbind(1))
    d = torch.nn.functional.normalize(bundle.directions.double(), dim=-1).numpy()
    # A pixel's area is that of the solid angle that it sees.
    f = 1 / float(bundle.pixel_area.double().sqrt().mean()) if len(camera) else 1.0
    return Rays(rays.poses[i, :, 3].double().numpy(), d, f)


def _match(one: Seen, other: Seen, tolerance: float) -> Matches:
    """Features that are each other's best on their epipolar lines, and clearly so."""
    from peak_nerf.nerf.data.triangulation_numba import best_on_lines

    (a, a_rays), (b, b_rays) = one, other
    n = np.cross(b_rays.origin - a_rays.origin, a_rays.direction)
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-12)
    limit = np.float32(tolerance / b_rays.f)
    directions = b_rays.direction.astype(np.float32)
    best, first, second, back = best_on_lines(n.astype(np.float32), directions, limit, a.descriptors, b.descriptors)
    index = np.arange(len(best))
    # |p - q|^2 = 2 - 2 p.q of unit vectors.
    doubt = (1 - first) / np.maximum(1 - second, 1e-6)
    good = (best >= 0) & (first > LEAST_SIMILARITY) & (doubt < RATIO**2)
    good[good] = back[best[good]] == index[good]
    return Matches(np.stack([index[good], best[good]], axis=1), doubt[good])


@dataclass(frozen=True)
class Tracks:
    """Features that are thought to show the same point, n in all, of m points."""

    track: np.ndarray
    """(n,) which point."""
    picture: np.ndarray
    """(n,) whose feature."""
    xy: np.ndarray
    """(n, 2) its place there."""
    rgb: np.ndarray
    """(n, 3)"""
    o: np.ndarray
    """(n, 3)"""
    d: np.ndarray
    """(n, 3)"""
    f: np.ndarray
    """(n,)"""
    m: int

    def select(self, chosen: np.ndarray) -> Tracks:
        """Some of the features; the points keep their numbers."""
        rows = (field.name for field in fields(self) if field.name != "m")
        return replace(self, **{name: getattr(self, name)[chosen] for name in rows})

    def largest(self, value: np.ndarray) -> np.ndarray:
        """(m,): of a value (n,) that is at least 0, the largest of each point."""
        out = np.zeros(self.m)
        np.maximum.at(out, self.track, value)
        return out

    def sum(self, value: np.ndarray) -> np.ndarray:
        """(m, ...): the sums of values (n, ...)."""
        out = np.zeros((self.m, *value.shape[1:]))
        np.add.at(out, self.track, value)
        return out


def _tracks(seen: list[Seen], pairs: list[tuple[int, int]], matches: list[Matches]) -> Tracks:
    """What is joined by matches, the surest first; those that would put two features of one picture together do not."""
    from peak_nerf.nerf.data.triangulation_numba import join

    counts = [len(one.features.xy) for one in seen]
    first = np.cumsum([0, *counts])
    joined = [first[[a, b]] + match.rows for (a, b), match in zip(pairs, matches, strict=True)]
    order = np.argsort(np.concatenate([np.zeros(0), *(match.doubt for match in matches)]), kind="stable")
    edges = np.concatenate([np.zeros((0, 2), np.int64), *joined])[order]
    picture = np.repeat(np.arange(len(seen)), counts)
    _, track, size = np.unique(join(edges, picture, len(seen)), return_inverse=True, return_counts=True)
    chosen = np.flatnonzero(size[track] >= 2)
    numbers, track = np.unique(track[chosen], return_inverse=True)
    picture = picture[chosen]
    return Tracks(
        track=track,
        picture=picture,
        xy=np.concatenate([one.features.xy for one in seen])[chosen],
        rgb=np.concatenate([one.features.rgb for one in seen])[chosen],
        o=np.stack([one.rays.origin for one in seen])[picture],
        d=np.concatenate([one.rays.direction for one in seen])[chosen],
        f=np.array([one.rays.f for one in seen])[picture],
        m=len(numbers),
    )


def _points(tracks: Tracks, tolerance: float) -> tuple[SparsePoints, Sightings]:
    """Where the rays of each track meet, without those that pass by and without points that are then left unsure."""
    for _ in range(ROUNDS):
        x, error = _meet(tracks)
        kept = (error <= tolerance) | (error < tracks.largest(error)[tracks.track])
        if kept.all():
            break
        tracks = tracks.select(kept)
    x, error = _meet(tracks)
    count = np.bincount(tracks.track, minlength=tracks.m)
    good = (count >= 2) & (tracks.largest(error) <= tolerance) & (_spread(tracks, x) >= LEAST_ANGLE)
    mean_error, rgb = (tracks.sum(value)[good] for value in (error, tracks.rgb))
    count = count[good]
    points = SparsePoints(
        xyz=torch.from_numpy(x[good]).float(),
        rgb=torch.from_numpy(np.rint(rgb / count[:, None]).astype(np.uint8)),
        error=torch.from_numpy(mean_error / count).float(),
    )
    kept = good[tracks.track]
    tracks, error = tracks.select(kept), error[kept]
    return points, Sightings(
        image=torch.from_numpy(tracks.picture),
        point=torch.from_numpy((np.cumsum(good) - 1)[tracks.track]),
        xy=torch.from_numpy(tracks.xy).float(),
        depth=torch.from_numpy(((x[tracks.track] - tracks.o) * tracks.d).sum(1)).float(),
        error=torch.from_numpy(error).float(),
    )


def _meet(tracks: Tracks) -> tuple[np.ndarray, np.ndarray]:
    """The points (m, 3) that the rays of each track pass at the smallest angles, by least squares, and the rays' errors
    (n,)."""
    o, d = tracks.o, tracks.d
    weight = np.ones(len(o))
    x = np.zeros((tracks.m, 3))
    for _ in range(3):
        across = (np.eye(3) - d[:, :, None] * d[:, None]) * weight[:, None, None]
        a, b = tracks.sum(across), tracks.sum((across @ o[:, :, None])[:, :, 0])
        # Parallel rays meet nowhere, and a point without rays is nowhere.
        a += (1e-12 * np.trace(a, axis1=1, axis2=2)[:, None, None] + 1e-300) * np.eye(3)
        x = np.linalg.solve(a, b[:, :, None])[:, :, 0]
        weight = 1 / np.maximum(((x[tracks.track] - o) ** 2).sum(1), 1e-24)
    towards = x[tracks.track] - o
    along = (towards * d).sum(1)
    aside = np.linalg.norm(towards - along[:, None] * d, axis=1)
    return x, np.arctan2(aside, along) * tracks.f  # of a point behind, up to half a turn


def _spread(tracks: Tracks, x: np.ndarray) -> np.ndarray:
    """Degrees (m,): twice the largest angle between a ray of a point and their mean."""
    towards = x[tracks.track] - tracks.o
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-30)
    mean = tracks.sum(towards)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-30)
    return 2 * tracks.largest(np.degrees(np.arccos((towards * mean[tracks.track]).sum(1).clip(-1, 1))))
