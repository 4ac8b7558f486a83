"""What magnitudes cannot tell is undone exactly, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peak_nerf.tasks.phase_retrieval.align import align

TRUTH = np.random.default_rng(0).random((7, 9))


@given(sign=st.sampled_from([1, -1]), turned=st.booleans(), row=st.integers(-3, 3), column=st.integers(-4, 4))
def test_undoes_sign_turn_and_shift(sign: int, turned: bool, row: int, column: int) -> None:
    moved = sign * np.roll(TRUTH, (row, column), axis=(0, 1))
    moved = moved[::-1, ::-1] if turned else moved
    found = align(moved, TRUTH)
    np.testing.assert_allclose(found.picture, TRUTH, atol=1e-12)
    assert (found.sign, found.turned) == (sign, turned)


def test_is_the_nearest_of_all_movements() -> None:
    picture = np.random.default_rng(1).standard_normal(TRUTH.shape)
    every = [
        sign * np.roll(picture[::-1, ::-1] if turned else picture, (row, column), axis=(0, 1))
        for sign in (1, -1)
        for turned in (False, True)
        for row in range(7)
        for column in range(9)
    ]
    least = min(((candidate - TRUTH) ** 2).sum() for candidate in every)
    assert ((align(picture, TRUTH).picture - TRUTH) ** 2).sum() == pytest.approx(least)


def test_what_is_in_place_stays() -> None:
    found = align(np.full((4, 4), 0.5), np.full((4, 4), 0.5))
    assert (found.sign, found.turned, found.shift) == (1, False, (0, 0))


@pytest.mark.parametrize("picture", [np.zeros((3, 3)), np.full((7, 9), np.nan)])
def test_refuses_what_cannot_be_compared(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        align(picture, TRUTH)
