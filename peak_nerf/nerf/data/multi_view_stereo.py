r"""Dense depth of photos: which pixels of different photos show the same, found by comparing them at every depth.

Sparse points are where pictures have corners. With few photos a field explains what is between them by wrong surfaces;
stereo finds the right ones before the training.

Symbols:
    p, q       pixel of the reference picture, and inverse depth of a plane in front of it
    Z_j(p, q)  zero-mean normalised cross-correlation of the windows around p, and around where picture j has p by q
    C(p, q)    1 - mean of the better half of Z_j(p, q) of those pictures j that have it: one may hide what others show
    S(p, q)    cost along a path that ends at p: C(p, q) - m + min(S(p', q), S(p', q +- 1) + P1, m + P2), with p' the
               pixel before it, q +- 1 the planes beside, and m = min S(p', .)

The depth of p is that of the plane with the least sum of S over eight paths, and between planes by a parabola. It is
known where another picture's own depth leads back to within `AGREEMENT` pixels of p. What one picture alone shows,
beside something nearer, is guessed: where what is known lies on opposite sides of p, the second largest depth of it.

Source: plane sweep, Collins, CVPR 1996; the better half, Kang et al., CVPR 2001; S and the guess, Hirschmueller, PAMI
2008.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from peak_nerf.nerf.cameras import project
from peak_nerf.nerf.data.pinhole import PinholePicture, pinhole_picture
from peak_nerf.nerf.data.points import Guesses, Sightings, SparsePoints

MOST_PIXELS = 100_000
"""Larger pictures are shrunk to so many..."""
WHOLE = 16
"""... or to fewer where there are more than so many pictures: with r times the pixels, a picture takes r^1.5 times as
long, since there are more planes too."""
SOURCES = 4
"""Pictures that one is compared with, at most: those that share the most sparse points with it."""
SHARED = 20
"""Sparse points, at least."""
NEAREST, MARGIN = 0.01, 0.6
"""Planes begin at this part of the depth that this fraction of a picture's sparse points are nearer than..."""
FARTHEST = 1000.0
"""... and reach so many times as far."""
FEWEST_PLANES, MOST_PLANES = 32, 192
"""Within these, as many as put neighbours a pixel apart."""
WINDOW = 7
"""Pixels along a side."""
NOISE = 4.0
"""Variance of grey, of 0 to 255, that shows nothing."""
LEAST_SIMILARITY = 0.5
"""Mean of the better half of Z that may be of the same thing..."""
FLAT = 3 * NOISE
"""... or else windows of less variance."""
UNITS = 127
"""Costs are kept as bytes."""
STEP, JUMP, EDGE = 6, 76.0, 8.0
"""P1, and P2 where the picture is flat, in these units; the difference of two pixels' grey that halves it."""
AGREEMENT = 1.0
LEAST_ANGLE = np.radians(1.0)
"""Between the two rays that agree: less tells no depth."""
PRECISION = 0.5
"""Pixels of the shrunken pictures within which a match is right."""
SPACING, GUESS_SPACING = 3, 2
"""Pixels, in each direction, from one whose depth is known and used to the next; of guesses, which one picture has
alone, more are."""
REACH = 0.12
"""Of a picture's longer side, within which a guess looks for what is known."""
MOST_THREADS = 8
"""Each needs some hundred MB."""


class Shown(NamedTuple):
    """What one picture shows of depth, at some of its pixels."""

    known: np.ndarray
    """(m, 3): points that it and some of its sources agree on."""
    rgb: np.ndarray
    """(m, 3) uint8"""
    saw: dict[int, np.ndarray]
    """By picture, (m,) bool: whether it saw them."""
    guessed: np.ndarray
    """(k, 3): points at others of its pixels."""


class DenseDepth(NamedTuple):
    """At some of the pixels of pictures."""

    points: SparsePoints
    """Of the pixels whose depth is known."""
    seen: Sightings
    """Which picture saw which of them where."""
    guesses: Guesses


def dense_depth(
    read: Callable[[int], tuple[torch.Tensor, torch.Tensor | None]],
    cameras: Cameras,
    sparse: SparsePoints,
    seen: Sightings,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DenseDepth:
    """What pictures of known cameras tell of depth together.

    Args:
        read: gives a picture by its number, (h, w, 3 or 4) uint8, and its mask, (h, w) bool, False where it is not to
            be used; None for all of it.
        cameras: perspective ones.
        sparse: points that say which pictures show the same, and how near it may be.
        seen: which picture saw which of these.
        on_progress: is told how many of how many pictures are done.
    """
    most_pixels = round(MOST_PIXELS * min(1.0, WHOLE / len(cameras)) ** (2 / 3))
    pictures = [pinhole_picture(cameras, i, *read(i), most_pixels) for i in range(len(cameras))]
    sources = choose_sources(seen, len(pictures), len(sparse.xyz))
    depths: list[np.ndarray] = []

    def depth_of(i: int) -> np.ndarray:
        near = MARGIN * float(torch.quantile(seen.depth[seen.image == i], NEAREST)) if sources[i] else 1.0
        return depth_map(pictures[i], [pictures[j] for j in sources[i]], near)

    pool = ThreadPoolExecutor(min(max(1, torch.get_num_threads()), MOST_THREADS))
    try:
        for depth in pool.map(depth_of, range(len(pictures))):
            depths.append(depth)
            on_progress(len(depths), len(pictures))
    finally:
        pool.shutdown(cancel_futures=True)  # at once after Ctrl-C
    shown = [_shown(i, pictures, depths, sources[i]) for i in range(len(pictures))]
    cameras = cameras.to("cpu")
    return DenseDepth(*_sighted(shown, pictures, cameras), _guesses(shown, cameras))


def choose_sources(seen: Sightings, n_pictures: int, n_points: int) -> list[list[int]]:
    """For each picture those that it is compared with."""
    saw = torch.zeros(n_pictures, n_points)
    saw[seen.image, seen.point] = 1
    shared = saw @ saw.T
    shared.fill_diagonal_(0)
    order = shared.argsort(dim=1, descending=True, stable=True)[:, :SOURCES].tolist()
    return [[j for j in chosen if shared[i, j] >= SHARED] for i, chosen in enumerate(order)]


def depth_map(reference: PinholePicture, sources: Sequence[PinholePicture], near: float) -> np.ndarray:
    """z of each pixel, (h, w) float32; 0 where none is found.

    Args:
        reference: whose depth it is.
        sources: what it is compared with.
        near: depth of the nearest plane.
    """
    if not sources:
        return np.zeros(reference.used.shape, np.float32)
    from peak_nerf.nerf.data.multi_view_stereo_numba import aggregate, better_half

    inverse = inverse_depths(reference, sources, near)
    cost = np.empty((*reference.used.shape, len(inverse)), np.uint8)
    statistics = _statistics(reference.grey)
    for k, q in enumerate(inverse):
        scores = np.stack([_correlation(reference, statistics, source, q) for source in sources])
        cost[:, :, k] = better_half(scores, UNITS)
    total = aggregate(cost, reference.grey, STEP, JUMP, EDGE)
    best = total.argmin(-1)
    inner = best.clip(1, len(inverse) - 2)
    before, at, after = (
        np.take_along_axis(total, (inner + d)[..., None], -1)[..., 0].astype(np.float32) for d in (-1, 0, 1)
    )
    shift = ((before - after) / (2 * np.maximum(before - 2 * at + after, 1))).clip(-0.5, 0.5)
    alike = np.take_along_axis(cost, best[..., None], -1)[..., 0] <= UNITS * (1 - LEAST_SIMILARITY)
    flat = statistics[1] < FLAT  # its depth is what its surroundings say
    # The outermost planes stand for all beyond.
    found = (alike | flat) & (best == inner) & (reference.used > 0)
    return np.where(found, 1 / (inverse[0] + (inner + shift) * (inverse[1] - inverse[0])), 0).astype(np.float32)


def inverse_depths(reference: PinholePicture, sources: Sequence[PinholePicture], near: float) -> np.ndarray:
    """1 / z of the planes, evenly spaced, the farthest first."""
    h, w = reference.used.shape
    farthest = 0.0
    for source in sources:
        a, b = reference.to_other(source)
        first, last = (a @ (w / 2, h / 2, 1) + q * b for q in (0, 1 / near))
        if min(first[2], last[2]) > 0:
            farthest = max(farthest, float(np.linalg.norm(first[:2] / first[2] - last[:2] / last[2])))
    n = MOST_PLANES if farthest == 0 else min(max(int(np.ceil(farthest)), FEWEST_PLANES), MOST_PLANES)
    return np.linspace(1 / FARTHEST, 1, n) / near


def _statistics(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of windows, (h, w) each."""
    mean = cv2.blur(grey, (WINDOW, WINDOW))
    return mean, np.maximum(cv2.blur(grey * grey, (WINDOW, WINDOW)) - mean * mean, 0) + NOISE


def _correlation(
    reference: PinholePicture, statistics: tuple[np.ndarray, np.ndarray], source: PinholePicture, q: float
) -> np.ndarray:
    """Z, (h, w) float32; NaN where the source has nothing."""
    a, b = reference.to_other(source)
    homography = a.copy()
    homography[:, 2] += q * b
    size = reference.used.shape[::-1]
    warped = cv2.warpPerspective(
        source.grey, homography, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    used = cv2.warpPerspective(source.used, homography, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    mean, variance = statistics
    other_mean, other_variance = _statistics(warped)
    covariance = cv2.blur(reference.grey * warped, (WINDOW, WINDOW)) - mean * other_mean
    score = covariance / np.sqrt(variance * other_variance)
    score[used == 0] = np.nan
    return score


def _shown(i: int, pictures: Sequence[PinholePicture], depths: Sequence[np.ndarray], sources: Sequence[int]) -> Shown:
    """By the i-th picture."""
    from peak_nerf.nerf.data.multi_view_stereo_numba import between

    picture, depth = pictures[i], depths[i].astype(np.float64)
    v, u = np.nonzero(depth)
    x = picture.points_at(u, v, depth[v, u])
    saw = {j: _leads_back(picture, u, v, x, pictures[j], depths[j]) for j in sources}
    known = np.zeros(depth.shape, bool)
    known[v, u] = np.any([np.zeros(len(x), bool), *saw.values()], axis=0)
    row = np.flatnonzero((known & _every(SPACING, depth.shape))[v, u])
    saw = {i: np.ones(len(row), bool)} | {j: seen[row] for j, seen in saw.items()}
    # Specks are as likely wrong, and would be spread.
    sure = cv2.morphologyEx(known.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    inverse = np.where(sure, 1 / np.where(sure, depth, 1), 0)
    guess = between(inverse.astype(np.float32), round(REACH * max(depth.shape)))
    guess_v, guess_u = np.nonzero(_every(GUESS_SPACING, depth.shape) & (guess > 0) & (picture.used > 0) & ~known)
    guessed = picture.points_at(guess_u, guess_v, 1 / guess[guess_v, guess_u].astype(np.float64))
    return Shown(x[row], picture.rgb[v[row], u[row]], saw, guessed)


def _every(spacing: int, shape: tuple[int, ...]) -> np.ndarray:
    """Where every so many pixels in each direction are, (h, w) bool."""
    chosen = np.zeros(shape, bool)
    chosen[spacing // 2 :: spacing, spacing // 2 :: spacing] = True
    return chosen


def _leads_back(
    picture: PinholePicture, u: np.ndarray, v: np.ndarray, x: np.ndarray, other: PinholePicture, depth: np.ndarray
) -> np.ndarray:
    """Whether the other picture, at its own depth there, has the points x (m, 3) of the pixels too, (m,) bool."""
    other_u, other_v, z = other.place(x)
    inside = (z > 0) & other.inside(other_u, other_v)
    column, row = (np.rint(np.where(inside, place, 0)).astype(int) for place in (other_u, other_v))
    own = np.where(inside, depth[row, column], 0).astype(np.float64)
    back_u, back_v, _ = picture.place(other.points_at(other_u, other_v, own))
    rays = [toward / np.linalg.norm(toward, axis=1, keepdims=True) for toward in (x - picture.centre, x - other.centre)]
    angle = np.arccos((rays[0] * rays[1]).sum(1).clip(-1, 1))
    return (own > 0) & (np.hypot(back_u - u, back_v - v) < AGREEMENT) & (angle > LEAST_ANGLE)


def _sighted(
    shown: Sequence[Shown], pictures: Sequence[PinholePicture], cameras: Cameras
) -> tuple[SparsePoints, Sightings]:
    """What is known, with the pixels of the pictures as they are, distortion included."""
    first = np.cumsum([0, *(len(one.known) for one in shown)])
    pairs = [(j, first[i] + np.flatnonzero(saw)) for i, one in enumerate(shown) for j, saw in one.saw.items()]
    image = torch.from_numpy(np.concatenate([np.full(len(rows), j) for j, rows in pairs]))
    point = torch.from_numpy(np.concatenate([rows for _, rows in pairs]))
    xyz = torch.from_numpy(np.concatenate([one.known for one in shown])).float()
    u, v, depth = project(cameras, image, xyz[point])
    per_pixel = cameras.fx[:, 0] / torch.tensor([float(picture.k[0, 0]) for picture in pictures])
    error = (PRECISION * per_pixel)[image]
    count = torch.bincount(point, minlength=len(xyz))
    mean_error = torch.bincount(point, error.double(), len(xyz)) / count  # the picture itself always saw its point
    points = SparsePoints(xyz, torch.from_numpy(np.concatenate([one.rgb for one in shown])), mean_error.float())
    return points, Sightings(image, point, torch.stack((u, v), -1), depth, error)


def _guesses(shown: Sequence[Shown], cameras: Cameras) -> Guesses:
    image = torch.from_numpy(np.concatenate([np.full(len(one.guessed), i) for i, one in enumerate(shown)]))
    xyz = torch.from_numpy(np.concatenate([one.guessed for one in shown])).float()
    u, v, _ = project(cameras, image, xyz)
    return Guesses(image, torch.stack((u, v), -1), xyz)
