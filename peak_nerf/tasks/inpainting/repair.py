"""Filling a picture's holes: its crops are fitted side by side, and only holes are taken from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from peak_nerf.core.fit import FitResult, Progress
from peak_nerf.images.read import Picture
from peak_nerf.images.resize import resize_picture
from peak_nerf.metrics import psnr
from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.combine import COMBINED
from peak_nerf.tasks.inpainting.crops import Crop, compose, hole_thickness
from peak_nerf.tasks.inpainting.fits import Fit, Order, carry_out_all, n_cores, run_order, summary
from peak_nerf.tasks.inpainting.inpaint import Inpainting
from peak_nerf.tasks.inpainting.problem import within
from peak_nerf.tasks.inpainting.settings import InpaintSettings

REPAIR_SECONDS = 75.0
"""In which all fits of a repair end by default: with reading, starting and writing two minutes."""
LEAST_SECONDS = 4.0
"""For one crop: where there are more than the time allows, those with the smallest holes are biharmonic's alone."""
QUICK_PIXELS = 2**21
"""Below which a classical method is done before a process has started."""
WINDOWS = (32, 80)
"""Least and most side of KAR's windows in a repair; they have the thickest hole and as much again in them."""
REACH = 12
"""Pixels around a hole that are fitted, or as many as it is thick."""
PER_STEP = 4000
"""Pixels that take as long as what a step costs beside pixels."""
N_ENSEMBLE = 3
"""Fits whose spread is the uncertainty."""


@dataclass(eq=False)
class Repair:
    """What came of the fits of all crops."""

    picture: np.ndarray
    """(h, w, c) float32, the method's own where a crop is, else the picture as it was."""
    fill: np.ndarray
    """(h, w, c) float32, what holes get from it: the same, or its mean with classical estimates."""
    fits: list[tuple[Crop, Fit]]
    spread: np.ndarray | None = None
    """(h, w) float32, standard deviation of several fits, mean over channels; 0 outside crops."""
    whole: Inpainting | None = None
    """The one fit of a picture that is one crop."""
    settings: InpaintSettings | None = None
    """Of the first crop that is fitted; None for a classical method."""
    seconds: float = 0.0
    partial: bool = False
    history: list[Progress] = field(default_factory=list)

    @property
    def is_combined(self) -> bool:
        """Whether classical estimates have a part in it beside a field."""
        return any(len(fit.weights) > 1 for _, fit in self.fits)

    @property
    def psnr_validation(self) -> float | None:
        """In dB, over held-out pixels of all crops, each crop by its pixels."""
        scored = [
            (fit.psnr_validation, fit.picture[..., 0].size) for _, fit in self.fits if fit.psnr_validation is not None
        ]
        if not scored:
            return None
        errors, sizes = np.array([10 ** (-score / 10) for score, _ in scored]), np.array([n for _, n in scored])
        return psnr(float(errors @ sizes / sizes.sum()))

    @property
    def fit(self) -> FitResult:
        """Steps and stopping point of all together."""
        if self.whole is not None:
            return self.whole.fit
        steps, best = (sum(getattr(fit, name) for _, fit in self.fits) for name in ("steps", "best_step"))
        return FitResult(steps, self.seconds, self.history, best, self.partial)


@dataclass(frozen=True)
class Length:
    """How long all crops together are fitted."""

    steps: int | None = None
    """For each crop; by default its settings' own."""
    budget_seconds: float | None = None
    """Instead of steps, for all together."""
    most_seconds: float | None = None
    """Beside the settings' own steps, for all together."""

    def share(self, fractions: np.ndarray, n_workers: int) -> list[tuple[float | None, float | None]]:
        """Of each crop, budget_seconds and most_seconds, where `n_workers` are fitted at a time."""
        total = self.budget_seconds or (None if self.steps else self.most_seconds)
        if total is None:
            return [(None, None)] * len(fractions)
        shares = [min(total * n_workers * float(f), total) for f in fractions]
        return [(share, None) if self.budget_seconds else (None, share) for share in shares]

    def affords(self, n_workers: int) -> float:
        """Fits that end within `most_seconds`, where nothing else is said."""
        if self.most_seconds is None or self.steps or self.budget_seconds:
            return math.inf
        return self.most_seconds * n_workers / LEAST_SECONDS


def fit_crops(
    values: np.ndarray,
    observed: np.ndarray,
    crops: list[Crop],
    method: str,
    settings_for_size: Callable[[tuple[int, int]], InpaintSettings | None],
    length: Length,
    seeds: tuple[int, ...],
    *,
    fill: np.ndarray | None = None,
    combine: bool = True,
    truth: np.ndarray | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    keep: Path | None = None,
    resume: bool = False,
) -> Repair:
    """Fit each crop with each seed, side by side where there are several, and put them together.

    Args:
        values: (h, w, c) in [0, 1], the picture.
        observed: (h, w) bool.
        crops: what is fitted.
        method: of `settings.Method`.
        settings_for_size: of a crop of (h, w), None for a classical method.
        length: of all fits.
        seeds: several give the mean of their pictures, and its spread.
        fill: (h, w) bool, in a repair what is to be filled, all that is fitted being near it; else None.
        combine: whether classical estimates have a part in what holes get, with methods of `combine.COMBINED`.
        truth: (h, w, c), NaN where nobody knows, for the history of a single fit of the whole picture.
        on_progress: called now and then with how far all are.
        checkpoint: where the state of a single fit is kept.
        keep: the folder in which fits of several crops are kept.
        resume: go on from what is kept.

    Raises: PeakError as `inpaint` does.
    """
    orders, n_workers = _orders(values, observed, crops, method, settings_for_size, length, seeds, fill, combine)
    if len(orders) == 1:
        crop = crops[0]
        whole = crop.size == values.shape[:2] and crop.scale == 1
        result = run_order(orders[0], on_progress, truth if whole else None, checkpoint, resume)
        fit = summary(orders[0], result)
        picture, filled = (
            part if whole else compose([(crop, _full_scale(crop, part))], values)[0] for part in (fit.picture, fit.fill)
        )
        return Repair(
            picture, filled, [(crop, fit)], None, result, result.settings, fit.seconds, fit.partial, result.fit.history
        )
    done: dict[int, Fit] = {}
    for i, fit in carry_out_all(orders, on_progress, keep, n_workers, resume):
        done[i] = fit
    fits = [(crops[i // len(seeds)], done[i]) for i in sorted(done)]
    partial = len(done) < len(orders) or any(fit.partial for _, fit in fits)
    seconds = sum(fit.seconds for _, fit in fits) / max(n_workers, 1)
    by_crop: dict[int, list[np.ndarray]] = {}
    fills: dict[int, list[np.ndarray]] = {}
    for i in sorted(done):
        k = i // len(seeds)
        by_crop.setdefault(k, []).append(_full_scale(crops[k], done[i].picture))
        fills.setdefault(k, []).append(_full_scale(crops[k], done[i].fill))
    picture, filled = (
        compose([(crops[k], np.mean(found, axis=0)) for k, found in parts.items()], values)[0]
        for parts in (by_crop, fills)
    )
    spread = None
    if len(seeds) > 1:
        spreads = [(crops[k], np.std(found, axis=0)) for k, found in by_crop.items()]
        spread = compose(spreads, np.zeros_like(values))[0].mean(axis=2)
    settings = next((order.settings for order in orders if order.settings is not None), None)
    return Repair(_near(picture, values, fill), filled, fits, spread, None, settings, seconds, partial)


def _orders(
    values: np.ndarray,
    observed: np.ndarray,
    crops: list[Crop],
    method: str,
    settings_for_size: Callable[[tuple[int, int]], InpaintSettings | None],
    length: Length,
    seeds: tuple[int, ...],
    fill: np.ndarray | None,
    combine: bool,
) -> tuple[list[Order], int]:
    """One for each crop and seed, and how many are carried out at a time."""
    parts = []
    for crop in crops:
        part = Picture(values[crop.box], observed[crop.box])
        if fill is not None:
            part = _continued(part, fill[crop.box])
        parts.append(part if crop.scale == 1 else resize_picture(part, crop.fitted_size))
    n_orders = len(crops) * len(seeds)
    quick = method in classical.CLASSICAL and sum(part.observed.size for part in parts) < QUICK_PIXELS
    n_workers = 1 if quick else min(n_cores(), n_orders)
    settings = [settings_for_size(part.size) for part in parts]
    if fill is not None:
        settings = [adapted(one, part.observed) for one, part in zip(settings, parts, strict=True)]
    combine = combine and method in COMBINED
    costs = np.array([_pixels_per_step(one, part) for one, part in zip(settings, parts, strict=True)])
    if fill is not None and combine and n_orders > (most_fits := length.affords(n_workers)):
        by_hole = np.argsort([np.count_nonzero(part.observed) - part.observed.size for part in parts], kind="stable")
        costs[by_hole[max(int(most_fits) // len(seeds), 1) :]] = 0
    shares = length.share(np.repeat(costs / (costs.sum() * len(seeds)), len(seeds)), n_workers)
    orders = []
    for i, part in enumerate(parts):
        for j, seed in enumerate(seeds):
            if costs[i] == 0:
                order = Order(part.values, part.observed, "biharmonic", None, None, None, None, seed)
            else:
                budget, most = shares[i * len(seeds) + j]
                order = Order(
                    part.values, part.observed, method, settings[i], length.steps, budget, most, seed, combine
                )
            orders.append(order)
    return orders, n_workers


def _continued(part: Picture, fill: np.ndarray) -> Picture:
    """With what is neither known nor to be filled, such as transparent pixels, as the nearest known pixel is."""
    unseen = ~part.observed & ~fill
    if not unseen.any() or not part.observed.any():
        return part
    from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

    rows, columns = distance_transform_edt(~part.observed, return_distances=False, return_indices=True)
    values = part.values.copy()
    values[unseen] = part.values[rows[unseen], columns[unseen]]
    return Picture(values, ~fill)


def adapted(settings: InpaintSettings | None, observed: np.ndarray) -> InpaintSettings | None:
    """Settings for a picture that is known but for holes: what is far from them costs nothing."""
    if settings is None or observed.all():
        return settings
    thickness = hole_thickness(observed)
    reach = max(REACH, math.ceil(thickness))
    window = int(np.clip(2 * thickness + WINDOWS[0] - 8, *WINDOWS))
    kar = settings.kar if settings.kar is None else replace(settings.kar, window=min(settings.kar.window, window))
    return replace(settings, kar=kar, reach=reach)


def _pixels_per_step(settings: InpaintSettings | None, part: Picture) -> float:
    """What a step of its fit costs, in pixels."""
    if settings is None:
        return float(part.observed.size)
    fitted = min(np.count_nonzero(part.observed & within(settings.reach, part.observed)), settings.pixels_per_step)
    return fitted + PER_STEP + (0 if settings.kar is None else settings.kar.window**2)


def _near(picture: np.ndarray, values: np.ndarray, fill: np.ndarray | None) -> np.ndarray:
    """A fit where it is one, in a repair near what is filled, and the picture elsewhere."""
    return picture if fill is None else np.where(within(REACH, ~fill)[..., None], picture, values)


def _full_scale(crop: Crop, picture: np.ndarray) -> np.ndarray:
    """A crop's picture at the size of the crop."""
    if picture.shape[:2] == crop.size:
        return picture
    import cv2

    large = np.asarray(cv2.resize(picture, crop.size[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    return np.clip(large.reshape(*crop.size, picture.shape[2]), 0, 1)
