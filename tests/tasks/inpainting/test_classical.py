"""Classical methods: what each reproduces exactly, and that nobody touches observed pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.errors import PeakError
from peak_nerf.images.masks import random_mask
from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.classical import CLASSICAL, fill

i, j = np.mgrid[:24, :32] / 31
PLANE = np.stack([0.1 + 0.5 * i + 0.3 * j, 0.9 - 0.4 * i - 0.2 * j, 0.5 + 0 * i], axis=2).astype(np.float32)
HOLE = np.ones((24, 32), dtype=bool)
HOLE[8:13, 10:16] = False


@pytest.mark.parametrize("method", CLASSICAL)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), n_channels=st.sampled_from([1, 3]), missing=st.floats(0.1, 0.8))
def test_observed_pixels_come_back_as_they_are(method: str, seed: int, n_channels: int, missing: float) -> None:
    values = np.random.default_rng(seed).random((12, 14, n_channels)).astype(np.float32)
    observed = random_mask((12, 14), missing, seed)
    filled = fill(method, values, observed)
    assert filled.dtype == np.float32
    assert filled.shape == values.shape
    np.testing.assert_array_equal(filled[observed], values[observed])
    assert filled.min() >= 0
    assert filled.max() <= 1


@pytest.mark.parametrize("method", CLASSICAL)
def test_missing_pixels_are_never_looked_at(method: str) -> None:
    nonsense = PLANE.copy()
    nonsense[~HOLE] = np.nan
    np.testing.assert_array_equal(fill(method, nonsense, HOLE), fill(method, PLANE, HOLE))


@pytest.mark.parametrize("method", CLASSICAL)
def test_flat_pictures(method: str) -> None:
    flat = np.full((16, 16, 1), 0.3, np.float32)
    tolerance = 1e-4 if method in ("telea", "navier-stokes") else 1e-6  # 16 bits
    np.testing.assert_allclose(fill(method, flat, random_mask((16, 16))), flat, atol=tolerance)


@pytest.mark.parametrize("method", ["biharmonic", "linear"])
def test_planes_are_exact(method: str) -> None:
    """A plane has no Laplacian, and is what linear interpolation knows; three channels, each its own."""
    np.testing.assert_allclose(fill(method, PLANE, HOLE), PLANE, atol=1e-5)


@pytest.mark.parametrize("method", ["telea", "navier-stokes"])
def test_opencv_is_close_to_a_plane_channel_by_channel(method: str) -> None:
    assert np.abs(fill(method, PLANE, HOLE) - PLANE).max() < 0.05


def test_biharmonic_is_more_than_harmonic() -> None:
    """u = x^2 y has a Laplacian of 2 y, whose own Laplacian is 0: exact too."""
    cubic = (j**2 * i)[..., None].astype(np.float32)
    np.testing.assert_allclose(fill("biharmonic", cubic, HOLE), cubic, atol=1e-5)
    assert np.abs(fill("linear", cubic, HOLE) - cubic).max() > 1e-3


def test_biharmonic_by_regions_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((32, 40, 1)).astype(np.float32)
    observed = random_mask((32, 40), 0.15, 3)  # many regions, some two pixels apart
    together = fill("biharmonic", values, observed)
    monkeypatch.setattr(classical, "SPLIT_ABOVE", 0)
    np.testing.assert_allclose(fill("biharmonic", values, observed), together, atol=1e-6)


def test_opencv_works_in_16_bits() -> None:
    """In 8 bits a ramp over 2/255 would come back as two or three steps."""
    ramp = np.broadcast_to(np.linspace(0.5, 0.5 + 2 / 255, 32, dtype=np.float32)[None, :, None], (32, 32, 1))
    observed = np.ones((32, 32), dtype=bool)
    observed[10:14, 4:28] = False
    for method in ("telea", "navier-stokes"):
        assert len(np.unique(fill(method, ramp, observed)[11])) > 10


def test_linear_takes_the_nearest_outside_the_hull() -> None:
    values = np.zeros((9, 9, 1), np.float32)
    values[3:6, 3:6, 0] = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]]
    observed = np.zeros((9, 9), dtype=bool)
    observed[3:6, 3:6] = True
    filled = fill("linear", values, observed)[..., 0]
    assert filled[0, 0] == pytest.approx(0.1)
    assert filled[8, 8] == pytest.approx(0.9)
    assert filled[4, 0] == pytest.approx(0.4)


def test_linear_with_points_on_a_line() -> None:
    observed = np.zeros((6, 6), dtype=bool)
    observed[2] = True
    row = np.linspace(0, 1, 6, dtype=np.float32)
    values = np.broadcast_to(row[None, :, None], (6, 6, 1))
    np.testing.assert_allclose(fill("linear", values, observed), values, atol=1e-6)
    observed[2, 1:] = False  # a single point
    np.testing.assert_allclose(fill("linear", values, observed), 0)


def test_nothing_missing_is_a_copy() -> None:
    observed = np.ones((24, 32), dtype=bool)
    filled = fill("telea", PLANE, observed)
    np.testing.assert_array_equal(filled, PLANE)
    assert not np.shares_memory(filled, PLANE)


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeakError, match=r"--method tela: no such method; did you mean 'telea'\?"):
        fill("tela", PLANE, HOLE)
    with pytest.raises(PeakError, match="--method xyz: no such method; there are biharmonic, telea, navier-stokes, l"):
        fill("xyz", PLANE, HOLE)
    with pytest.raises(ValueError, match="no pixel is observed"):
        fill("telea", PLANE, np.zeros_like(HOLE))
    for observed in (HOLE[1:], HOLE.astype(np.uint8)):
        with pytest.raises(ValueError, match="observed"):
            fill("telea", PLANE, observed)

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(classical, "_biharmonic", out_of_memory)
    with pytest.raises(PeakError, match="--method biharmonic: out of memory; choose telea"):
        fill("biharmonic", PLANE, HOLE)
