"""Which pictures are compared with which."""

from __future__ import annotations

from typing import Literal, NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peak_nerf.photos import pairs
from peak_nerf.photos.pairs import all_pairs, choose_pairs, look_vectors, sequential_pairs, similar_pairs


def not_needed() -> NoReturn:
    raise AssertionError("descriptors are read although no pair depends on them")


def sift(n: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (n, 128)).astype(np.uint8)


def test_all_pairs_by_hand() -> None:
    assert all_pairs(0) == all_pairs(1) == []
    assert all_pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_sequential_pairs_by_hand() -> None:
    assert sequential_pairs(3) == [(0, 1), (0, 2), (1, 2)]
    assert [a for a, b in sequential_pairs(40) if b == 37] == [5, 21, *range(27, 37)]


@given(st.integers(2, 150))
def test_sequential_pairs_are_sorted_and_join_every_picture_to_the_one_before(n: int) -> None:
    found = sequential_pairs(n)
    assert found == sorted(set(found))
    assert all(0 <= a < b < n for a, b in found)
    assert {(i - 1, i) for i in range(1, n)} <= set(found)
    assert all(b - a <= 10 or b - a in (16, 32, 64, 128) for a, b in found)
    assert all((i - 16, i) in found for i in range(16, n))


@given(st.integers(1, 12), st.integers(1, 15))
def test_similar_pairs_give_each_picture_its_nearest(n: int, n_similar: int) -> None:
    vectors = np.random.RandomState(n).randn(n, 5)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = set()
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -float(vectors[i] @ vectors[j]))
        wanted |= {(min(i, j), max(i, j)) for j in others[:n_similar]}
    assert similar_pairs(vectors, n_similar) == sorted(wanted)


def test_pictures_of_the_same_descriptors_look_most_alike() -> None:
    scenes = [sift(200, seed) for seed in range(4)]
    # Half of a scene's descriptors in each of two pictures, in another order and slightly changed.
    looks = [scene[part] for part in (slice(0, 150), slice(149, 49, -1)) for scene in scenes]
    vectors = look_vectors(looks)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert similar_pairs(vectors, 1) == [(0, 4), (1, 5), (2, 6), (3, 7)]


def test_look_vectors_repeat_and_follow_the_pictures() -> None:
    looks = [sift(100, seed) for seed in range(3)]
    vectors = look_vectors(looks)
    assert vectors.shape == (3, 64 * 128)
    np.testing.assert_array_equal(vectors, look_vectors(looks))
    assert np.abs(vectors[0] - look_vectors(looks, seed=1)[0]).max() > 0.01


def test_a_vlad_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "N_WORDS", 1)  # the word is the mean of all: (3, 6)
    looks = [np.zeros((2, 128), np.uint8), np.zeros((2, 128), np.uint8)]
    looks[0][:, 0], looks[1][:, 0] = (2, 1), (4, 5)
    looks[0][:, 1] = 14, 10
    first = look_vectors(looks)[0]
    # Sums of differences: 2 + 1 - 6 = -3 and 24 - 12 = 12; by square root and normalised: (-1, 2) / sqrt(5).
    np.testing.assert_allclose(first[:2], [-(0.2**0.5), 2 * 0.2**0.5], atol=1e-6)


def test_without_enough_descriptors_nothing_is_alike() -> None:
    np.testing.assert_array_equal(look_vectors([sift(20, 0), sift(20, 1), sift(0, 2)]), np.zeros((3, 64 * 128)))
    with_empty = look_vectors([sift(100, 0), sift(0, 1), sift(100, 2)])
    np.testing.assert_array_equal(with_empty[1], 0)
    assert np.linalg.norm(with_empty[0]) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("matching", "n", "in_time", "wanted"),
    [
        ("auto", 80, False, all_pairs(80)),
        ("auto", 10, True, all_pairs(10)),
        ("auto", 12, True, sequential_pairs(12)),
        ("auto", 90, True, sequential_pairs(90)),
        ("sequential", 30, False, sequential_pairs(30)),
        ("exhaustive", 81, False, all_pairs(81)),
        ("exhaustive", 30, True, all_pairs(30)),
    ],
)
def test_pairs_by_number_and_kind(
    matching: Literal["auto", "exhaustive", "sequential"], n: int, in_time: bool, wanted: list[tuple[int, int]]
) -> None:
    found, how = choose_pairs(matching, n, in_time, not_needed)
    assert found == wanted
    assert ("every other" in how) == (wanted == all_pairs(n))


def test_of_many_pictures_those_that_look_alike_and_neighbours() -> None:
    # 45 pictures of each of two scenes, in turns: neighbours are never alike.
    looks = [sift(100, seed % 2) for seed in range(90)]
    found, how = choose_pairs("auto", 90, False, lambda: looks)
    assert found == sorted(set(found))
    steps = np.array([b - a for a, b in found])
    assert (steps % 2 == 1).sum() == 89  # the neighbours
    assert (steps[steps % 2 == 1] == 1).all()
    assert all(sum(i in pair and (pair[1] - pair[0]) % 2 == 0 for pair in found) >= 30 for i in range(90))
    assert "30 that look most like it" in how
