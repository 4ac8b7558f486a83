"""What fills the holes of a picture: the field's estimate and classical ones, each by its errors on held-out pixels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.crops import mean_depth
from peak_nerf.tasks.inpainting.patches import N_SWEEPS, fill_by_patches, seconds_per_sweep

FIELD = "field"
"""The name of the field's own estimate among the weights."""
COMBINED = ("peak", "peak-siren")
"""Methods whose fill is combined with classical ones; baselines stand for themselves."""
MAX_MISSING = 2**18
"""Missing pixels of a picture above which the classical methods would take too long, and the field is alone."""
SHARE = 0.4
"""Of the time limit of a fit that the sweeps of `patches` may take; there are as many as fit in."""
AGAIN = 2
"""Sweeps after which the estimate from all observed pixels has taken up what was held out before."""
BIHARMONIC_SECONDS = 1e-4
"""Per missing pixel, roughly."""
THIN = 1.6
"""Mean distance in pixels of missing pixels to the nearest observed one, below which holes are like single pixels."""
RIDGES = (0.05, 2.0)
"""Added to the errors' second moments, in units of the mean square error: draws the weights towards equal ones. The
thicker holes are, the more, since errors on single held-out pixels say less of them."""


def ridge_for(depth: float) -> float:
    """Of the errors' second moments, for holes of a mean depth in pixels."""
    least, most = RIDGES
    return min(max(least, least * (depth / THIN) ** 4), most)


@dataclass(frozen=True)
class Plan:
    """What classical estimates are made beside a fit, and how long they take, by a rough reckoning and no clock: the
    same limit always gives the same plan."""

    n_sweeps: int
    """Of `patches`, without the held-out pixels; 0 for no such estimate."""
    seconds: float

    @staticmethod
    def of(observed: np.ndarray, limit: float | None) -> Plan:
        """For a picture with (h, w) bool observed pixels, and a fit that ends within so many seconds."""
        per_sweep = seconds_per_sweep(observed)
        n_sweeps = N_SWEEPS if limit is None else min(N_SWEEPS, int(SHARE * limit / per_sweep) - AGAIN)
        seconds = 2 * BIHARMONIC_SECONDS * np.count_nonzero(~observed)
        return Plan(max(n_sweeps, 0), float(seconds + ((n_sweeps + AGAIN) * per_sweep if n_sweeps > 0 else 0)))

    def left_of(self, limit: float) -> float:
        """Of so many seconds for all, those for the fit: half of them at least."""
        return max(limit - self.seconds, limit / 2)


@dataclass(frozen=True, eq=False)
class Estimate:
    """One classical estimate of a picture."""

    filled: np.ndarray
    """(h, w, c) float32, from all observed pixels."""
    without: np.ndarray
    """(h, w, c) float32, from all but those that are held out."""


def classical_estimates(
    values: np.ndarray, observed: np.ndarray, held_out: np.ndarray, plan: Plan
) -> dict[str, Estimate]:
    """Biharmonic's and that of patches, each from all observed pixels and from all but the held-out.

    Args:
        values: (h, w, c) in [0, 1].
        observed: (h, w) bool.
        held_out: flat numbers of observed pixels.
        plan: what there is time for.
    """
    left = observed.copy()
    left.flat[held_out] = False

    with_less, with_all = (classical.fill("biharmonic", values, seen) for seen in (left, observed))
    estimates = {"biharmonic": Estimate(with_all, with_less)}
    if plan.n_sweeps > 0:
        known = np.where(observed[..., None], values, 0).astype(np.float32)
        with_less = fill_by_patches(known, left, with_less, plan.n_sweeps)
        with_all = fill_by_patches(known, observed, with_less, AGAIN)
        estimates["patches"] = Estimate(with_all, with_less)
    return estimates


def weights_by_error(errors: dict[str, np.ndarray], ridge: float) -> dict[str, float]:
    """Weights w >= 0 that sum to 1 and make the mean square of sum_k w_k e_k least, plus ridge s |w|^2.

    With s the mean square of all errors e_k. Unlike weights by each error's own size they know that two estimates may
    fail in the same way.

    Args:
        errors: (n, c) of each estimate, on the same held-out pixels.
        ridge: draws the weights towards equal ones.
    """
    names = list(errors)
    flat = np.stack([errors[name].reshape(-1).astype(np.float64) for name in names])
    moments = flat @ flat.T / max(flat.shape[1], 1)
    scale = max(float(np.trace(moments)) / len(names), 1e-12)
    moments = moments / scale + ridge * np.eye(len(names))
    best, least = np.full(len(names), 1 / len(names)), np.inf
    # So few that every set of weights above 0 can be tried.
    for n in range(1, len(names) + 1):
        for chosen in itertools.combinations(range(len(names)), n):
            solution = np.linalg.solve(moments[np.ix_(chosen, chosen)], np.ones(n))
            solution /= solution.sum()
            weights = np.zeros(len(names))
            weights[list(chosen)] = solution
            if solution.min() >= 0 and (value := float(weights @ moments @ weights)) < least:
                best, least = weights, value
    return dict(zip(names, best.tolist(), strict=True))


def combine_estimates(
    own: np.ndarray,
    own_held_out: np.ndarray,
    estimates: dict[str, Estimate],
    values: np.ndarray,
    observed: np.ndarray,
    held_out: np.ndarray,
) -> tuple[np.ndarray, dict[str, float]]:
    """The weighted mean of a field's picture and the classical estimates, which hold observed pixels as they are; and
    the weights.

    Args:
        own: (h, w, c) the field's picture.
        own_held_out: (n, c) the field's values at the held-out pixels, before it was shown them.
        estimates: the classical ones.
        values: (h, w, c) of the picture.
        observed: (h, w) bool.
        held_out: flat numbers of observed pixels.
    """
    truth = values.reshape(-1, values.shape[2])[held_out]
    errors = {FIELD: own_held_out - truth}
    errors |= {name: e.without.reshape(-1, values.shape[2])[held_out] - truth for name, e in estimates.items()}
    weights = weights_by_error(errors, ridge_for(mean_depth(observed)))
    mean = weights[FIELD] * own + sum(weights[name] * e.filled for name, e in estimates.items())
    return np.clip(mean, 0, 1).astype(np.float32), weights
