"""An unknown support: the autocorrelation's extents, and shrink-wrap on a blob."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch

from peak_nerf.tasks.phase_retrieval import retrieve, simulate
from peak_nerf.tasks.phase_retrieval.measured import measurements_of
from peak_nerf.tasks.phase_retrieval.support import (
    autocorrelation,
    autocorrelation_box,
    find_support,
    kept_support,
)
from tests.tasks.phase_retrieval.pictures import scene


def blob(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An object of irregular outline with values from 0.3 to 1, and its support."""
    draw = np.random.default_rng(seed)
    rough = scipy.ndimage.gaussian_filter(draw.normal(size=(n, n)), n / 10)
    distance = np.hypot(*(np.mgrid[:n, :n] - (n - 1) / 2))
    inside = distance + rough / rough.std() * n / 16 < 0.32 * n
    labels, _ = scipy.ndimage.label(inside)
    inside = scipy.ndimage.binary_fill_holes(labels == labels[n // 2, n // 2])
    shading = scipy.ndimage.gaussian_filter(draw.random((n, n)), 1.5)
    low, high = shading[inside].min(), shading[inside].max()
    return np.where(inside, 0.3 + 0.7 * (shading - low) / (high - low), 0), inside


def test_the_autocorrelation_is_that_of_the_picture() -> None:
    x = np.zeros((8, 8))
    x[0, 0], x[2, 3] = 1.0, 2.0
    a = autocorrelation(np.abs(np.fft.fft2(x)), np.ones((8, 8), bool))
    expected = np.zeros((8, 8))
    expected[0, 0], expected[2, 3], expected[-2, -3] = 1, 0.4, 0.4  # 1 + 4, 1 x 2 twice, over 5
    np.testing.assert_allclose(a, expected, atol=1e-12)


def test_the_extents_of_the_autocorrelation_enclose_the_object() -> None:
    x = np.pad(scene(20)[:16], ((0, 44), (0, 44)))
    y = np.abs(np.fft.fft2(x))
    known = np.ones(y.shape, bool)
    assert autocorrelation_box(y, known) == (16, 20)
    assert autocorrelation_box(np.abs(np.fft.fft2(scene(20), s=(38, 38))), np.ones((38, 38), bool)) is None
    known[0, 0] = False
    assert autocorrelation_box(y, known) is None


@pytest.mark.parametrize("seed", [0, 1])
def test_shrink_wrap_finds_a_blob(seed: int) -> None:
    x, inside = blob(48, seed)
    measurements = measurements_of(40 * np.abs(np.fft.fft2(x, s=(96, 96))), support="auto")
    assert measurements.find_support
    found = find_support(measurements, seed=0, restarts=2)
    assert found.sum() == pytest.approx(inside.sum(), rel=0.05)


def test_a_run_that_goes_on_has_the_support_that_was_found(tmp_path: Path) -> None:
    x, _ = blob(24, 0)
    measurements = measurements_of(np.abs(np.fft.fft2(x, s=(48, 48))), support="auto")
    path = tmp_path / "support.pt"
    found = kept_support(measurements, 0, 1, None, path, resume=False)
    torch.save({**torch.load(path), "support": torch.ones(3, 5, dtype=torch.bool)}, path)
    assert kept_support(measurements, 0, 1, 1e-9, path, resume=True).shape == (3, 5)
    for seed, resume in ((1, True), (0, False)):  # of another run; not gone on with
        assert kept_support(measurements, seed, 1, None, path, resume).shape != (3, 5)
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(kept_support(measurements, 0, 1, None, path, resume=True), found)


def test_an_object_of_unknown_size_is_found_out() -> None:
    x, inside = blob(48, 0)
    y = np.abs(np.fft.fft2(x, s=(96, 96)))
    result = retrieve(y, "hio", restarts=2)
    assert result.support is not None
    assert result.support.sum() == pytest.approx(inside.sum(), rel=0.05)
    assert result.relative_residual < 0.05
    assert result.reconstruction.shape == result.support.shape


def test_a_support_is_found_from_fourier_magnitudes() -> None:
    with pytest.raises(ValueError, match="Fourier"):
        find_support(simulate(scene(16), "gaussian", 1.0), 0)
