"""How good a capture's sparse model is, picture by picture and on the whole, and what its photographer can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peak_nerf.photos.model import Photo, SparseModel
from peak_nerf.photos.projection import observed_errors

CELLS = 8  # coverage counts the cells of an 8 x 8 grid
FEW_PHOTOS = 8
FEW_POINTS = 60  # that one picture saw; fewer than some 30 make its pose uncertain
LOW_COVERAGE = 0.25
LARGE_ERROR = 1.5  # pixels, of a whole model
SMALL_ANGLE = 4.0  # degrees between the rays that meet in a point
NAMED = 6  # pictures that a warning names

# What a reason holds, and what helps; the first that fits.
REMEDIES = (
    ("blur", "take them again with a steadier hand or more light"),
    (
        "overlap",
        "take more pictures between them and the others, so that neighbours share two thirds of what they show",
    ),
    (
        "no pose",
        "take more pictures between them and the others, so that neighbours share two thirds of what they show",
    ),
    ("scene", "run peak photos on them alone, or take pictures that lead from one scene to the other"),
    ("resolution", "if they belong to it, pass --camera per-image"),
    ("broken", "copy them again from the camera"),
    ("too small", "give them at their full size"),
    ("masked", "look at their masks: white is what is used"),
)


@dataclass(frozen=True)
class View:
    """What one posed picture saw."""

    n_points: int
    mean_error: float
    """Pixels; 0 where it saw nothing."""
    coverage: float
    """Fraction of the cells of an 8 x 8 grid over the picture that hold a point."""
    n_shared: int
    """Points that it has in common with the picture that shares most with it."""


@dataclass(frozen=True)
class Review:
    """Of a whole model."""

    views: tuple[View, ...]
    """In the order of `model.files`."""
    shared: np.ndarray
    """(n_image, n_image) how many points two pictures share; on the diagonal, how many each saw."""
    mean_error: float
    """Pixels, over points."""
    mean_track: float
    """Pictures that saw a point."""
    angle: float
    """Median over points of `ray_angles`, in degrees."""


def coverage(pixels: np.ndarray, width: int, height: int) -> float:
    """Fraction of the cells of an 8 x 8 grid over a picture that hold one of the pixels (n, 2)."""
    cells = np.floor(pixels / (width, height) * CELLS).astype(int).clip(0, CELLS - 1)
    return len(np.unique(cells, axis=0)) / CELLS**2 if len(cells) else 0.0


def shared_points(model: SparseModel) -> np.ndarray:
    """(n_image, n_image) how many points two pictures share."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]

    n_image, n_point = len(model.files), len(model.points)
    ones = np.ones(len(model.image_index), dtype=np.int64)
    sees = coo_array((ones, (model.image_index, model.point_index)), shape=(n_image, n_point)).tocsr()
    sees.data[:] = 1  # a picture that saw a point twice shares it once
    return np.asarray((sees @ sees.T).toarray())


def ray_angles(model: SparseModel) -> np.ndarray:
    """(n_point,) twice the largest angle, in degrees, between a point's rays to its cameras and their mean.

    Of two rays that is the angle between them; NaN for a point that nothing saw.
    """
    rays = model.poses[model.image_index, :3, 3] - model.points[model.point_index]
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True).clip(1e-12)
    n_point = len(model.points)
    mean = np.stack([np.bincount(model.point_index, rays[:, i], minlength=n_point) for i in range(3)], axis=1)
    mean = mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-12)
    half = np.degrees(np.arccos((rays * mean[model.point_index]).sum(axis=1).clip(-1, 1)))
    largest = np.full(n_point, -np.inf)
    np.maximum.at(largest, model.point_index, half)
    return np.where(np.isfinite(largest), 2 * largest, np.nan)


def review(model: SparseModel) -> Review:
    """Look at a model. Takes a model without points, too."""
    errors, shared = observed_errors(model), shared_points(model)
    views = []
    for i, intrinsics in enumerate(model.intrinsics):
        seen = model.image_index == i
        others = np.delete(shared[i], i)
        views.append(
            View(
                n_points=int(shared[i, i]),
                mean_error=float(np.nanmean(errors[seen])) if np.isfinite(errors[seen]).any() else 0.0,
                coverage=coverage(model.pixels[seen], intrinsics.width, intrinsics.height),
                n_shared=int(others.max(initial=0)),
            )
        )
    angles = ray_angles(model)
    return Review(
        views=tuple(views),
        shared=shared,
        mean_error=float(model.errors.mean()) if len(model.errors) else 0.0,
        mean_track=float(model.track_lengths.mean()) if len(model.points) else 0.0,
        angle=float(np.nanmedian(angles)) if np.isfinite(angles).any() else 0.0,
    )


def warnings(photos: Sequence[Photo], model: SparseModel, found: Review) -> list[str]:
    """Lines for the photographer: what is weak, and what to do about it; most important first."""
    lines = [*_left_out(photos, model)]
    if len(model.files) < FEW_PHOTOS:
        lines.append(
            f"Only {len(model.files)} photos: new views will look right near them only. Twenty to sixty, taken while "
            "walking around the subject, show it from all sides."
        )
    by_file = {photo.file: photo for photo in photos}
    taken = [by_file[file] for file in model.files]
    few = [photo for photo, view in zip(taken, found.views, strict=True) if view.n_points < FEW_POINTS]
    if few:
        lines.append(
            f"Fewer than {FEW_POINTS} points in {_names(few)}: the pose is uncertain. Take more pictures near by, or "
            "remove it and run again."
        )
    bare = [
        photo
        for photo, view in zip(taken, found.views, strict=True)
        if view.coverage < LOW_COVERAGE and photo not in few and not photo.mask
    ]
    if bare:
        lines.append(
            f"Points in less than {LOW_COVERAGE:.0%} of {_names(bare)}: what has no texture (walls, sky, glass) or was "
            "seen once only has no points. Let neighbouring pictures overlap more."
        )
    if len(model.points) and found.angle < SMALL_ANGLE:
        lines.append(
            f"Small baseline: rays meet at {found.angle:.1f} degrees (median), so depth is uncertain. Take pictures "
            "from places that are farther apart; turning on the spot does not help."
        )
    if found.mean_error > LARGE_ERROR:
        lines.append(
            f"The mean reprojection error is {found.mean_error:.1f} pixels, where 0.3 to 1 is usual: something moved, "
            "or several cameras were taken for one (--camera per-image)."
        )
    return lines


def _left_out(photos: Sequence[Photo], model: SparseModel) -> list[str]:
    out = [photo for photo in photos if photo.file not in model.files]
    lines, told = [], set()
    for fragment, remedy in REMEDIES:
        these = [p for p in out if p.name not in told and fragment in left_out_reason(p).lower()]
        if these:
            told |= {p.name for p in these}
            what = left_out_reason(these[0]).split(" (")[0] if len({*map(left_out_reason, these)}) == 1 else fragment
            lines.append(f"Left out, {what}: {_names(these)}. What helps: {remedy}.")
    return lines


def left_out_reason(photo: Photo) -> str:
    """Why it has no pose."""
    return photo.reason or "no pose was found"


def _names(photos: Sequence[Photo]) -> str:
    shown = ", ".join(photo.name for photo in photos[:NAMED])
    return f"{shown} and {len(photos) - NAMED} more" if len(photos) > NAMED else shown
