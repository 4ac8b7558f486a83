"""Pictures averaged by hand-computed areas, grown, and the sizes that users ask for."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.errors import PeakError
from peak_nerf.images.read import Picture
from peak_nerf.images.resize import parse_size, resize_picture

random = np.random.default_rng(0)


def full(values: np.ndarray) -> Picture:
    return Picture(values.astype(np.float32), np.ones(values.shape[:2], dtype=bool))


def test_the_right_size_is_the_same_picture() -> None:
    picture = full(random.random((9, 11, 3)))
    assert resize_picture(picture, (9, 11)) is picture


def test_shrinking_by_hand() -> None:
    # 2 x 3 -> 1 x 2: each target is 1.5 columns wide, (1 * a + 0.5 * b) / 1.5 over both rows.
    picture = full(np.array([[0.0, 0.3, 0.6], [0.2, 0.5, 1.0]])[..., None])
    expected = [[(0.1 + 0.5 * 0.4) / 1.5, (0.5 * 0.4 + 0.8) / 1.5]]
    np.testing.assert_allclose(resize_picture(picture, (1, 2)).values[..., 0], expected, atol=1e-6)


def test_missing_pixels_do_not_bleed() -> None:
    values = np.array([[0.4, 0.0, 0.0, 0.0], [0.8, 0.6, 0.9, 0.0]], np.float32)[..., None]
    observed = np.array([[True, False, False, False], [True, True, True, False]])
    small = resize_picture(Picture(values, observed), (1, 2))
    np.testing.assert_array_equal(small.observed, [[True, False]])  # 3 of 4 and 1 of 4
    np.testing.assert_allclose(small.values[..., 0], [[0.6, 0.0]], atol=1e-6)


def test_exactly_half_is_observed() -> None:
    observed = np.array([[True, False], [False, True]])
    small = resize_picture(Picture(np.full((2, 2, 1), 0.7, np.float32) * observed[..., None], observed), (1, 1))
    assert small.observed.all()
    assert small.values[0, 0, 0] == pytest.approx(0.7, abs=1e-6)


def test_growing_is_cubic() -> None:
    picture = full(random.random((8, 9, 3)))
    expected = np.clip(cv2.resize(picture.values, (20, 17), interpolation=cv2.INTER_CUBIC), 0, 1)
    np.testing.assert_allclose(resize_picture(picture, (17, 20)).values, expected, atol=1e-6)


def test_growing_keeps_holes_where_they_are() -> None:
    observed = np.ones((8, 8), dtype=bool)
    observed[2:4, 5] = False
    big = resize_picture(Picture(np.full((8, 8, 1), 0.7, np.float32) * observed[..., None], observed), (24, 16))
    np.testing.assert_array_equal(big.observed, observed.repeat(3, axis=0).repeat(2, axis=1))
    np.testing.assert_allclose(big.values[big.observed], 0.7, atol=1e-5)
    assert (big.values[~big.observed] == 0).all()


@settings(max_examples=40, deadline=None)
@given(
    old=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    new=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    value=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_flat_picture_stays_flat(old: tuple[int, int], new: tuple[int, int], value: float, seed: int) -> None:
    """Whatever is missing: the property that bleeding breaks."""
    observed = np.random.default_rng(seed).random(old) < 0.7
    result = resize_picture(Picture(np.full((*old, 1), value, np.float32) * observed[..., None], observed), new)
    assert result.size == new
    np.testing.assert_allclose(result.values[result.observed], value, atol=2e-4)
    assert (result.values[~result.observed] == 0).all()


@settings(max_examples=30, deadline=None)
@given(old=st.tuples(st.integers(8, 40), st.integers(8, 40)), cut=st.tuples(st.integers(0, 7), st.integers(0, 7)))
def test_shrinking_keeps_the_mean(old: tuple[int, int], cut: tuple[int, int]) -> None:
    picture = full(np.random.default_rng(1).random((*old, 3)))
    small = resize_picture(picture, (old[0] - cut[0], old[1] - cut[1]))
    assert small.values.mean() == pytest.approx(picture.values.mean(), abs=1e-5)


def test_resize_needs_a_size() -> None:
    with pytest.raises(ValueError, match="at least"):
        resize_picture(full(np.zeros((8, 8, 1))), (0, 8))


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("256", (512, 512), (256, 256)),
        ("256", (480, 640), (192, 256)),
        ("256", (640, 480), (256, 192)),
        ("256", (1001, 333), (256, 85)),  # 85.16
        ("256", (64, 64), (256, 256)),
        ("640x480", (100, 200), (480, 640)),
        ("640X480", (100, 200), (480, 640)),
        ("original", (123, 45), (123, 45)),
        ("8x8", (9, 9), (8, 8)),
        ("4000x3000", (9, 9), (3000, 4000)),
    ],
)
def test_parse_size(text: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert parse_size(text, size) == expected


@pytest.mark.parametrize("text", ["", "big", "-5", "12.5", "1x2x3", "64x", "x64", "6 4", "²"])
def test_not_a_size(text: str) -> None:
    with pytest.raises(PeakError, match=f"--size {text}: not a size; give 256 .*640x480 .*original"):
        parse_size(text, (64, 64))


@pytest.mark.parametrize(
    ("text", "message"),
    [("7", "gives 7 x 7 pixels, and 8 a side"), ("20", "20 x 2 pixels"), ("4000x3001", "12 megapixels is the most")],
)
def test_sizes_out_of_range(text: str, message: str) -> None:
    with pytest.raises(PeakError, match=message):
        parse_size(text, (10, 100) if text == "20" else (64, 64))
