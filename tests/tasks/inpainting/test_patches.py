"""Patches that look alike: against conditional means worked out by numpy, and what they bring back that is periodic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peak_nerf.images.masks import random_mask
from peak_nerf.metrics import psnr
from peak_nerf.tasks.inpainting import patches, patches_numba
from peak_nerf.tasks.inpainting.classical import fill
from peak_nerf.tasks.inpainting.patches import fill_by_patches

i, j = np.mgrid[:48, :40]
STRIPES = (0.5 + 0.25 * np.sin(i * 1.3 + j * 0.4) + 0.2 * np.sin(j * 2.1))[..., None].astype(np.float32)


def missing_psnr(result: np.ndarray, truth: np.ndarray, observed: np.ndarray) -> float:
    return psnr(float(np.square(result - truth)[~observed].mean()))


@pytest.mark.parametrize("n_channels", [1, 3])
def test_what_repeats_is_brought_back(n_channels: int) -> None:
    values = np.concatenate([STRIPES, 1 - STRIPES, 0.5 * STRIPES], axis=2)[..., :n_channels]
    observed = random_mask(values.shape[:2], 0.5, 0)
    start = fill("biharmonic", values, observed)
    result = fill("patches", values, observed)
    assert missing_psnr(result, values, observed) > missing_psnr(start, values, observed) + 6


def test_one_estimate_is_the_conditional_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is one patch and its two neighbours' worth: a single group of known patches, by numpy."""
    rng = np.random.default_rng(1)
    picture = rng.random((8, 10, 2)).astype(np.float32)
    observed = np.ones((8, 10), dtype=bool)
    observed[3, 4] = observed[4, 6] = False
    for name, value in (("N_ESTIMATED", 1), ("SIDE", 8), ("STRIDE", 4), ("STRENGTH", 5.0), ("NOISE", 1e-3)):
        monkeypatch.setattr(patches, name, value)
    result = fill_by_patches(picture, observed, picture, n_sweeps=1)
    views = np.stack([picture[:, c : c + 8].reshape(64, 2) for c in range(3)]).astype(np.float64)
    mean = views.mean(axis=0)
    spread = (views - mean).transpose(0, 2, 1).reshape(-1, 64)
    own = spread.T @ spread / len(spread)
    prior = own / (np.trace(own) / 64)
    covariance = (3 * own + 5 * np.trace(own) / 64 * prior) / 8 + 1e-3 * np.eye(64)
    total, weight = np.zeros((8, 10, 2)), np.zeros((8, 10))
    for c in (0, 2):  # the anchors: a grid of 8 pixels, and the last one
        seen = observed[:, c : c + 8].reshape(64)
        gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        guess = mean[~seen] + gain @ (views[c] - mean)[seen]
        variance = np.diag(covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)])
        for pixel, value, precision in zip(np.flatnonzero(~seen), guess, 1 / variance, strict=True):
            total[pixel // 8, c + pixel % 8] += precision * value
            weight[pixel // 8, c + pixel % 8] += precision
    expected = total[~observed] / weight[~observed][:, None]
    np.testing.assert_allclose(result[~observed], np.clip(expected, 0, 1), atol=2e-3)
    np.testing.assert_array_equal(result[observed], picture[observed])


def test_most_alike_first_and_only_nearby() -> None:
    values = np.random.default_rng(0).random((20, 30, 1)).astype(np.float32)
    values[10:14, 20:24] = values[4:8, 5:9]  # a copy 6 rows and 15 columns away
    trust = np.ones((20, 30), dtype=np.float32)
    for radius, found in ((15, True), (14, False)):
        distances, positions = np.empty(5, np.float32), np.empty((5, 2), np.int64)
        assert patches_numba.find_similar(values, trust, 4, 5, 4, radius, distances, positions) == 5
        assert positions[0].tolist() == [4, 5]
        assert (positions[1].tolist() == [10, 20]) == found
        assert (np.diff(distances) >= 0).all()
        assert np.abs(positions - [4, 5]).max() <= radius


def test_the_number_of_threads_changes_nothing() -> None:
    values = np.random.default_rng(0).random((90, 40, 1)).astype(np.float32)
    observed = random_mask((90, 40), 0.4, 0)
    before, results = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(fill_by_patches(values, observed, np.full_like(values, 0.5), n_sweeps=2))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("size", [(2, 9), (5, 5), (8, 33)])
def test_pictures_that_are_smaller_than_a_patch(size: tuple[int, int]) -> None:
    values = np.full((*size, 1), 0.4, dtype=np.float32)
    observed = np.ones(size, dtype=bool)
    observed[0, 0] = observed[-1, 3] = False
    np.testing.assert_allclose(fill_by_patches(values, observed, values, 2), values, atol=1e-5)


def test_no_sweep_is_the_start() -> None:
    observed = random_mask((48, 40), 0.5, 0)
    start = np.zeros_like(STRIPES)
    expected = np.where(observed[..., None], STRIPES, 0)
    np.testing.assert_array_equal(fill_by_patches(STRIPES, observed, start, 0), expected)
