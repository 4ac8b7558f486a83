"""Masks: those of the paper to the pixel, the drawn one's share, and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.images.masks import check_mask, make_mask, mask_from_file, patch_mask, random_mask, textural_mask
from peak_nerf.images.strokes import FONT, WORDS, draw_polyline


def test_random_mask_is_the_papers() -> None:
    np.random.seed(88)  # noqa: NPY002
    expected = ~(np.random.rand(256, 256) <= 0.5)  # noqa: NPY002
    np.testing.assert_array_equal(random_mask((256, 256)), expected)


def test_random_mask_by_hand() -> None:
    # The legacy generator's first numbers after seed 0: 0.5488, 0.7152, 0.6028, 0.5449, 0.4237, 0.6459.
    mask = random_mask((2, 3), missing=0.6, seed=0)
    np.testing.assert_array_equal(mask, [[False, True, True], [False, False, True]])


def test_random_mask_leaves_the_global_generator_alone() -> None:
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    random_mask((8, 8), seed=5)
    assert np.random.rand() == expected  # noqa: NPY002


@pytest.mark.parametrize("missing", [0.1, 0.9])
def test_random_share(missing: float) -> None:
    assert 1 - random_mask((256, 256), missing).mean() == pytest.approx(missing, abs=0.006)  # five standard deviations


@pytest.mark.parametrize("missing", [0.0, 1.0, -0.1, 50.0, float("nan")])
def test_missing_out_of_range(missing: float) -> None:
    with pytest.raises(PeakError, match=f"--missing {missing}: give a fraction"):
        random_mask((8, 8), missing)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed: int) -> None:
    for mask in (lambda: random_mask((8, 8), seed=seed), lambda: textural_mask((64, 64), seed)):
        with pytest.raises(PeakError, match=f"--seed {seed}: out of range; give"):
            mask()


def test_patch_mask_is_the_papers() -> None:
    missing = np.zeros((256, 256), dtype=bool)
    missing[70:100, 150:190] = True
    missing[200:230, 200:230] = True
    np.testing.assert_array_equal(patch_mask((256, 256)), ~missing)


def test_patch_mask_in_proportion() -> None:
    missing = np.zeros((128, 512), dtype=bool)
    missing[35:50, 300:380] = True
    missing[100:115, 400:460] = True
    np.testing.assert_array_equal(patch_mask((128, 512)), ~missing)
    missing = np.zeros((64, 64), dtype=bool)
    missing[18:25, 38:48] = True  # 17.5, 25, 37.5, 47.5: halves go up
    missing[50:58, 50:58] = True  # 50, 57.5
    np.testing.assert_array_equal(patch_mask((64, 64)), ~missing)


@given(size=st.tuples(st.integers(8, 200), st.integers(8, 200)))
def test_both_patches_are_there_at_any_size(size: tuple[int, int]) -> None:
    h = size[0]
    missing = ~patch_mask(size)
    assert missing[: h * 150 // 256].any()
    assert missing[h * 190 // 256 :].any()


@settings(max_examples=25, deadline=None)
@given(size=st.tuples(st.integers(64, 400), st.integers(64, 400)), seed=st.integers(0, 2**32 - 1))
@example(size=(64, 64), seed=88)
@example(size=(64, 1500), seed=3)
@example(size=(1500, 64), seed=4)
@example(size=(1000, 1200), seed=5)
def test_textural_share(size: tuple[int, int], seed: int) -> None:
    mask = textural_mask(size, seed)
    assert mask.shape == size
    assert mask.dtype == bool
    assert 0.035 <= 1 - mask.mean() <= 0.055


def test_textural_mask_follows_its_seed() -> None:
    a = textural_mask((256, 256), 88)
    np.testing.assert_array_equal(a, textural_mask((256, 256), 88))
    assert (a != textural_mask((256, 256), 89)).any()


def test_textural_mask_is_spread() -> None:
    """Three lines of text with a curve from side to side: ink in every third of the rows, and no blots."""
    missing = ~textural_mask((256, 256), 88)
    assert all(third.mean() > 0.02 for third in np.array_split(missing, 3))
    assert missing[:, 10:30].any()
    assert missing[:, -30:-10].any()
    blot = np.lib.stride_tricks.sliding_window_view(missing, (9, 9)).all(axis=(2, 3))
    assert not blot.any()


def test_every_letter_can_be_written() -> None:
    assert set("".join(WORDS)) <= set(FONT)
    for glyph in FONT.values():
        assert all(0 <= x <= 4 and 0 <= y <= 6 for line in glyph for x, y in line)


def test_polyline_by_hand() -> None:
    ink = np.zeros((5, 6), dtype=bool)
    draw_polyline(ink, np.array([(1.0, 1.0), (4.0, 1.0), (4.0, 3.0)]), width=1)
    expected = np.zeros((5, 6), dtype=bool)
    expected[1, 1:5] = True
    expected[1:4, 4] = True
    np.testing.assert_array_equal(ink, expected)


def test_polyline_against_every_pixels_distance() -> None:
    a, b, width = np.array([-3.0, 2.2]), np.array([14.0, 9.7]), 3.0
    ink = np.zeros((10, 12), dtype=bool)
    draw_polyline(ink, np.stack([a, b]), width)
    steps = a + np.linspace(0, 1, 20001)[:, None] * (b - a)
    for i in range(10):
        for j in range(12):
            distance = np.hypot(*(steps - (j, i)).T).min()
            if abs(distance - width / 2) > 1e-3:
                assert ink[i, j] == (distance < width / 2)


def test_mask_from_file(tmp_path: Path) -> None:
    drawn = np.zeros((8, 12), dtype=bool)
    drawn[2:4, 3:9] = True
    Image.fromarray(np.where(drawn, 90, 200).astype(np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(mask_from_file(tmp_path / "a.png", (8, 12)), ~drawn)
    np.save(tmp_path / "c.npy", ~drawn)
    np.testing.assert_array_equal(make_mask(tmp_path / "c.npy", (8, 12)), ~drawn)


def test_make_mask_passes_its_options_on() -> None:
    np.testing.assert_array_equal(make_mask("random", (9, 8), 0.3, 7), random_mask((9, 8), 0.3, 7))
    np.testing.assert_array_equal(make_mask("patch", (90, 80), 0.3, 7), patch_mask((90, 80)))
    np.testing.assert_array_equal(make_mask("textural", (90, 80), 0.3, 7), textural_mask((90, 80), 7))


@pytest.mark.parametrize(
    ("name", "meant"), [("radnom", "random"), ("Patch", "patch"), ("texture", "textural"), ("holes.png", None)]
)
def test_no_such_mask(name: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PeakError, match=f"--mask {name}: no such mask, and no such file; ") as e:
        make_mask(name, (64, 64))
    assert str(e.value).endswith(f"did you mean {meant!r}?" if meant else "there are random, patch, textural")


def test_check_mask() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    with pytest.raises(PeakError, match=r"m\.png: no pixels observed, and 16 is the least; choose"):
        check_mask(mask, "m.png")
    mask.flat[:1] = True
    with pytest.raises(PeakError, match=r"m\.png: 1 pixel observed"):
        check_mask(mask, "m.png")
    mask.flat[:15] = True
    with pytest.raises(PeakError, match=r"m\.png: 15 pixels observed"):
        check_mask(mask, "m.png")
    mask.flat[:16] = True
    check_mask(mask, "m.png")
    mask.flat[:63] = True
    check_mask(mask, "m.png")
    with pytest.raises(PeakError, match=r"m\.png: no pixel is missing"):
        check_mask(np.ones((8, 8), dtype=bool), "m.png")
