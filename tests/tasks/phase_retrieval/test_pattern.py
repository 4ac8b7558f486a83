"""Measured arrays to amplitudes: every convention with values worked out by hand, and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from peak_nerf.errors import PeakError
from peak_nerf.tasks.phase_retrieval.pattern import read_pattern

PICTURE = np.random.default_rng(0).random((16, 20)).astype(np.float32)


def magnitudes(shape: tuple[int, int] = (30, 37)) -> np.ndarray:
    return np.abs(np.fft.fft2(PICTURE, s=shape))


@pytest.mark.parametrize("shape", [(30, 30), (31, 31), (30, 37), (31, 40)])
def test_zero_frequency_is_found_by_its_energy(shape: tuple[int, int]) -> None:
    y = magnitudes(shape)
    corner, middle = read_pattern(y, "m"), read_pattern(np.fft.fftshift(y), "m")
    np.testing.assert_allclose(corner.amplitudes, y, rtol=1e-6)
    np.testing.assert_allclose(middle.amplitudes, y, rtol=1e-6)
    assert corner.notes == ["zero frequency is in the corner, by its energy"]
    assert middle.notes == ["zero frequency is in the middle, by its energy"]
    assert corner.known.all()
    said = read_pattern(np.fft.fftshift(y), "m", centred="no")
    assert said.amplitudes[0, 0] < y[0, 0] / 2
    assert np.allclose(read_pattern(np.fft.fftshift(y), "m", centred="yes").amplitudes, y)


def test_zero_frequency_is_found_around_a_beam_stop() -> None:
    y = np.fft.fftshift(magnitudes())
    y[14:17, 17:20] = np.nan
    assert read_pattern(y, "m").notes[1] == "zero frequency is in the middle, by its energy"


@pytest.mark.parametrize("m", [30, 31])
def test_a_half_plane_is_completed(m: int) -> None:
    half = np.abs(np.fft.rfft2(PICTURE[:, :16], s=(m, m)))
    pattern = read_pattern(half, "m")
    np.testing.assert_allclose(pattern.amplitudes, np.abs(np.fft.fft2(PICTURE[:, :16], s=(m, m))), rtol=1e-6)
    assert pattern.notes[-1] == f"a half plane of {m} x 16: completed to {m} x {m} by symmetry"
    rows = read_pattern(np.fft.fftshift(half, axes=0), "m")  # as a camera's rows are
    np.testing.assert_allclose(rows.amplitudes, pattern.amplitudes)
    assert read_pattern(half, "m", half_plane="no").amplitudes.shape == (m, 16)


def test_an_oblong_half_plane_is_completed_where_it_is_said() -> None:
    half = np.abs(np.fft.rfft2(PICTURE, s=(30, 40)))
    np.testing.assert_allclose(read_pattern(half, "m", half_plane="yes").amplitudes, magnitudes((30, 40)), rtol=1e-6)


def test_intensities_are_squares_of_amplitudes() -> None:
    pattern = read_pattern(magnitudes() ** 2, "m", quantity="intensity")
    np.testing.assert_allclose(pattern.amplitudes, magnitudes(), rtol=1e-6)
    assert "intensities: their square roots are the amplitudes" in pattern.notes


def test_complex_values_give_their_magnitudes() -> None:
    pattern = read_pattern(np.fft.fft2(PICTURE, s=(30, 37)), "m", quantity="intensity")
    np.testing.assert_allclose(pattern.amplitudes, magnitudes(), rtol=1e-6)
    assert pattern.notes[0] == "complex values: their magnitudes are taken"


def test_what_is_nan_is_unknown_and_its_mirror_image_says_it() -> None:
    y = magnitudes()
    y[3, 4] = np.nan
    y[5, 6] = np.inf
    y[25, 31] = np.nan  # the mirror image of [5, 6]
    pattern = read_pattern(y, "m")
    assert pattern.known.sum() == y.size - 2
    assert not pattern.known[5, 6]
    assert not pattern.known[25, 31]
    assert pattern.amplitudes[3, 4] == pytest.approx(magnitudes()[3, 4], rel=1e-5)
    assert pattern.amplitudes[5, 6] == 0
    assert pattern.notes[0] == "3 values are NaN or infinite: unknown"


def test_pairs_are_averaged_and_counts_as_counts() -> None:
    y = np.full((16, 16), 10.0)
    y[0, 0] = 100.0
    y[3, 4], y[13, 12] = 9.0, 16.0
    assert read_pattern(y, "m").amplitudes[3, 4] == pytest.approx(12.5)
    counts = read_pattern(y, "m", quantity="intensity", counts=True)
    assert counts.amplitudes[3, 4] == pytest.approx(np.sqrt(12.5))
    assert read_pattern(y, "m", quantity="intensity").amplitudes[3, 4] == pytest.approx(3.5)


def test_noise_below_zero_is_clipped_and_bad_pixels_are_unknown() -> None:
    y = magnitudes()
    y[3, 4] = y[27, 33] = -0.5
    clipped = read_pattern(y, "m")
    assert clipped.amplitudes[3, 4] == 0
    assert clipped.known.all()
    assert clipped.notes[0] == "2 values below 0 are noise and taken as 0"
    bad = read_pattern(np.where(y < 0, -1, 1000 * y).astype(np.int32), "m")
    assert bad.known.sum() == y.size - 2
    assert bad.notes[0] == "2 whole numbers below 0 mark bad pixels: unknown"


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_beam_stop_is_recognised(value: float) -> None:
    y = magnitudes()
    rows, columns = (np.minimum(np.arange(m), m - np.arange(m)) for m in y.shape)
    stop = (rows[:, None] < 3) & (columns < 3)
    y[stop] = value
    for pattern in (read_pattern(y, "m"), read_pattern(np.fft.fftshift(y), "m")):
        np.testing.assert_array_equal(pattern.known, ~stop)
    if value == 0:
        assert read_pattern(y, "m").notes[-1] == "a beam stop of 25 zeros at zero frequency: unknown"


def test_zeros_elsewhere_are_zeros() -> None:
    y = magnitudes()
    y[9:14, 9:14] = y[-13:-8, -13:-8] = 0
    assert read_pattern(y, "m").known.all()


def test_saturated_values_are_unknown() -> None:
    y = magnitudes()
    limit = np.sort(y.ravel())[-10]
    above = y >= limit
    given = read_pattern(y, "m", saturation=float(limit))
    np.testing.assert_array_equal(given.known, ~above)
    plateau = read_pattern(np.minimum(y, limit), "m")
    np.testing.assert_array_equal(plateau.known, ~above)
    assert "the largest value, or above are saturated: unknown" in plateau.notes[0]
    converter = np.minimum(y / limit * 65535, 65535).astype(np.uint16)
    assert not read_pattern(converter, "m").known[0, 0]
    twelve = np.minimum(y / limit * 4095, 4095).astype(np.uint16)
    np.testing.assert_array_equal(read_pattern(twelve, "m").known, ~above)


def test_few_counts_are_no_plateau() -> None:
    y = np.random.default_rng(0).poisson(np.full((32, 32), 2.0))
    y[0, 0] = y.max()
    assert read_pattern(y, "m").known.all()


def test_a_mask_says_what_is_measured() -> None:
    y = magnitudes()
    mask = np.full(y.shape, 255, dtype=np.uint8)
    mask[:2, :2] = 0
    mask[-1:, :2] = 0
    mask[:2, -1:] = 0
    mask[-1:, -1:] = 0
    pattern = read_pattern(y, "m", data_mask=mask)
    assert not pattern.known[0, 0]
    assert pattern.known.sum() == y.size - 9
    assert pattern.notes[0] == "the mask leaves 99.2 % measured"
    with pytest.raises(PeakError, match="m: the data mask is 8 x 8, the pattern 30 x 37"):
        read_pattern(y, "m", data_mask=np.ones((8, 8)))


def test_a_pattern_of_no_real_object_is_told() -> None:
    y = np.abs(np.fft.fft2(PICTURE * np.exp(3j * PICTURE[::-1]), s=(30, 37)))
    assert any("not symmetric" in note for note in read_pattern(y, "m", centred="no").notes)
    assert not any("not symmetric" in note for note in read_pattern(magnitudes(), "m").notes)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((30, 30)), "all magnitudes are 0"),
        (-np.ones((30, 30)), "all magnitudes are 0"),
        (np.full((30, 30), np.nan), "no magnitude is known"),
        (np.ones((30, 30, 3)), "two dimensions"),
        (np.ones((5, 30)), "the pattern is 5 x 30"),
        (np.full((30, 30), "a"), "they must be numbers"),
    ],
)
def test_what_cannot_be_a_pattern_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(PeakError, match=message) as raised:
        read_pattern(raw, "m.npy")
    assert str(raised.value).startswith("m.npy: ")
