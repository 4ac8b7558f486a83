"""Which parts are fitted, and how they become one picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.tasks.inpainting.crops import MAX_CROP, Crop, compose, plan_crops, whole_picture


def holes(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    fill = np.zeros(size, dtype=bool)
    for top, left, bottom, right in boxes:
        fill[top:bottom, left:right] = True
    return fill


def plan(fill: np.ndarray) -> list[Crop]:
    return plan_crops(fill, ~fill)


def test_a_small_hole_gets_its_surroundings() -> None:
    # 4 thick: 3 * 4 + 12 = 24 pixels of margin.
    assert plan(holes((400, 500), (200, 300, 204, 310))) == [Crop(176, 276, 52, 58)]
    assert plan(holes((400, 500), (0, 490, 4, 500))) == [Crop(0, 466, 28, 34)]  # cut off at the border


def test_holes_far_apart_are_fitted_apart_and_near_ones_together() -> None:
    assert len(plan(holes((900, 900), (100, 100, 104, 110), (700, 700, 704, 710)))) == 2
    assert len(plan(holes((900, 900), (100, 100, 104, 110), (112, 100, 116, 110)))) == 1
    # 52 x 58 pixels each, 152 x 58 together: 2,784 more than both, which costs less than a second fit.
    assert plan(holes((900, 900), (100, 100, 104, 110), (200, 100, 204, 110))) == [Crop(76, 76, 152, 58)]


def test_a_long_scratch_is_cut_into_tiles() -> None:
    fill = np.zeros((3000, 3000), dtype=bool)
    rows = np.arange(200, 2800)
    for shift in range(4):
        fill[rows, rows + shift] = True
    crops = plan(fill)
    assert all(crop.scale == 1 for crop in crops)
    assert sum(crop.area for crop in crops) < 0.15 * fill.size


def test_a_thick_hole_is_fitted_at_a_smaller_scale() -> None:
    (crop,) = plan(holes((2000, 2000), (500, 500, 1100, 1100)))
    assert crop == Crop(404, 404, 792, 792, 4)  # 96 pixels of margin; 792^2 / 2^16 = 9.6, so 4 x 4
    assert crop.fitted_size == (198, 198)
    assert crop.fitted_size[0] * crop.fitted_size[1] <= MAX_CROP


def test_a_hole_without_known_surroundings_looks_further() -> None:
    fill = holes((300, 300), (150, 150, 154, 154))
    observed = np.zeros_like(fill)
    observed[:, :40] = True  # the rest is transparent
    (crop,) = plan_crops(fill, observed)
    assert np.count_nonzero(observed[crop.box]) >= 64


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0.0005, 0.3))
def test_every_hole_is_covered_with_a_margin(seed: int, n_boxes: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(60, 700)), int(random.integers(60, 700)))
    fill = np.zeros(size, dtype=bool)
    for _ in range(n_boxes):
        h, w = (int(random.integers(1, max(2, spread * n))) for n in size)
        top, left = int(random.integers(0, size[0] - h)), int(random.integers(0, size[1] - w))
        fill[top : top + h, left : left + w] = True
    covered = np.zeros(size, dtype=bool)
    for crop in plan(fill):
        covered[crop.box] = True
        assert crop.fitted_size[0] * crop.fitted_size[1] <= 2.2 * MAX_CROP  # a thick one at its own scale
    assert covered[fill].all()


def test_composing_crops_of_one_picture_gives_it_back() -> None:
    picture = np.random.default_rng(0).random((200, 300, 3)).astype(np.float32)
    crops = [Crop(0, 0, 120, 300), Crop(90, 10, 110, 150), Crop(90, 100, 110, 200)]
    composed, filled = compose([(crop, picture[crop.box]) for crop in crops], np.zeros_like(picture))
    np.testing.assert_allclose(composed[filled], picture[filled], atol=1e-5)
    assert not filled[150, 5]
    assert (composed[~filled] == 0).all()


def test_overlapping_crops_blend_without_a_step() -> None:
    # Two that differ by 1: across their overlap of 48 the values go from one to the other, by less than 0.1 a pixel.
    left, right = Crop(0, 0, 60, 124), Crop(0, 76, 60, 124)
    zeros, ones = (np.full((60, 124, 1), v, np.float32) for v in (0, 1))
    composed, _ = compose([(left, zeros), (right, ones)], np.zeros((60, 200, 1), np.float32))
    row = composed[30, :, 0]
    assert row[75] == 0
    assert row[124] == 1
    assert np.abs(np.diff(row)).max() < 0.1


def test_whole_picture() -> None:
    assert whole_picture((3, 4)).box == (slice(0, 3), slice(0, 4))


def test_noise_is_planned_quickly_and_whole() -> None:
    fill = np.random.default_rng(0).random((1000, 1200)) < 0.3
    crops = plan(fill)
    assert sum(crop.area for crop in crops) < 2 * fill.size
    covered = np.zeros_like(fill)
    for crop in crops:
        covered[crop.box] = True
    assert covered[fill].all()


@pytest.mark.parametrize("n", [1, 2, 40])
def test_the_same_holes_give_the_same_crops(n: int) -> None:
    random = np.random.default_rng(n)
    fill = random.random((300, 300)) < n / 1000
    assert plan(fill) == plan(fill.copy())
