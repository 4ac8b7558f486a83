"""Missing pixels from patches that look alike: each group of patches has a Gaussian model of its own."""

from __future__ import annotations

import numpy as np

from peak_nerf.system.parallel import parallel_for

SIDE = 6
"""Of a patch, in pixels."""
STRIDE = 3
"""Pixels from one anchor to the next; a sweep's anchors lie between those of the sweep before."""
RADIUS = 12
"""Pixels around an anchor in which similar patches are looked for."""
N_GROUP = 40
"""Patches of a group."""
N_ESTIMATED = 8
"""Patches of a group whose missing pixels are estimated from its model, the anchor among them."""
STRENGTH = 20.0
"""Patches that the covariance of all groups together counts as."""
NOISE = (1 / 255) ** 2
"""Variance of what is in a single pixel alone."""
N_SWEEPS = 6
TRUST = (0.1, 0.3, 0.5)
"""How much an estimated pixel counts in the search for similar patches, sweep by sweep; the last from then on."""
PER_PRIOR = 8
"""Every so many anchors count for the covariance of all groups."""
STRIP = 32
"""Rows of anchors that are worked on at a time."""
SECONDS_PER_ANCHOR = 2e-4
"""Of a sweep on one core of 2026, roughly."""


def fill_by_patches(known: np.ndarray, observed: np.ndarray, start: np.ndarray, n_sweeps: int = N_SWEEPS) -> np.ndarray:
    r"""Missing pixels as conditional means under Gaussian models of groups of similar patches.

    For each anchor on a grid the patches y_1 .. y_n most like it are found nearby. They are taken as draws from
    N(mu, Sigma), with mu their mean and Sigma = (n S + nu s P) / (n + nu) + noise I: S their covariance, s its mean
    variance, P the mean shape of all groups' covariances. A patch's missing pixels m then are, given its observed k,

        E[y_m | y_k] = mu_m + Sigma_mk Sigma_kk^-1 (y_k - mu_k)

    and where patches overlap, the mean of these weighted by 1 / posterior variance. The next sweep finds its groups in
    the result. Channels share Sigma: of a covariance that is a product of one over pixels and one over channels, the
    second cancels, since a pixel is missing in all of them. The result is the same on any number of threads.

    Args:
        known: (h, w, c) float32 in [0, 1]; what stands at missing pixels is never looked at.
        observed: (h, w) bool.
        start: (h, w, c) a first estimate of the missing pixels.
        n_sweeps: 0 gives the start.
    Returns: (h, w, c) float32 in [0, 1], observed pixels as they are.

    Source: after Aguerrebere et al., A Bayesian hyperprior approach for joint image denoising and interpolation, 2017,
    and Yu, Sapiro and Mallat, Solving inverse problems with piecewise linear estimators, 2012; the sweeps, the pooled
    channels and the prior P are ours.
    """
    from peak_nerf.tasks.inpainting import patches_numba as kernels

    picture = np.where(observed[..., None], known, start).astype(np.float32)
    side = min(SIDE, *observed.shape)
    for sweep in range(n_sweeps):
        trust = np.where(observed, 1, TRUST[min(sweep, len(TRUST) - 1)]).astype(np.float32)
        anchors = _anchors(observed, side, sweep)
        prior = kernels.mean_covariance(picture, trust, anchors[::PER_PRIOR], side, RADIUS, N_GROUP)
        n_strips = -(-observed.shape[0] // STRIP)
        bounds = np.searchsorted(anchors[:, 0], STRIP * np.arange(n_strips + 1))
        tops = np.maximum(STRIP * np.arange(n_strips) - RADIUS, 0)
        weights = np.zeros((n_strips, STRIP + 2 * RADIUS + side, observed.shape[1]), dtype=np.float32)
        sums = np.zeros((*weights.shape, picture.shape[2]), dtype=np.float32)
        given = (picture, observed, trust, anchors, bounds, tops)
        model = (side, RADIUS, N_GROUP, N_ESTIMATED, np.float32(STRENGTH), np.float32(NOISE), prior, sums, weights)

        def work(first: int, last: int, given: tuple = given, model: tuple = model) -> None:
            kernels.sweep_strips(*given, first, last, *model)

        parallel_for(work, n_strips, chunks_per_thread=n_strips)
        total, weight = np.zeros_like(picture), np.zeros(observed.shape, dtype=np.float32)
        for strip, top in enumerate(tops):
            rows = slice(top, min(top + weights.shape[1], len(picture)))
            total[rows] += sums[strip, : rows.stop - top]
            weight[rows] += weights[strip, : rows.stop - top]
        estimated = ~observed & (weight > 0)
        picture[estimated] = np.clip(total[estimated] / weight[estimated][:, None], 0, 1)
    return picture


def seconds_per_sweep(observed: np.ndarray) -> float:
    """What a sweep takes on one core, roughly."""
    return SECONDS_PER_ANCHOR * len(_anchors(observed, min(SIDE, *observed.shape), 0))


def _anchors(observed: np.ndarray, side: int, sweep: int) -> np.ndarray:
    """(n, 2) upper left pixels of the patches on a grid that have a missing pixel, row by row."""
    from scipy.ndimage import maximum_filter  # type: ignore[import-untyped]

    ends = [n - side for n in observed.shape]
    rows, columns = (np.unique([0, *range(sweep % STRIDE, end + 1, STRIDE), end]) for end in ends)
    # At (r, c) the maximum over r .. r + side - 1 and c .. c + side - 1.
    lacking = maximum_filter(~observed, size=side, origin=-(side // 2), mode="constant")
    i, j = np.nonzero(lacking[np.ix_(rows, columns)])
    return np.stack([rows[i], columns[j]], axis=1)
