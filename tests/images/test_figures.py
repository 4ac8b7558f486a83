"""Pictures of results, read back and compared with what they must hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.images.figures import (
    MISSING,
    as_rgb,
    compare,
    compose_grid,
    depth_picture,
    input_picture,
    on_white,
    save_gif,
    save_grid,
    write_comparison,
    write_residual,
)
from tests.images.pictures import smooth_picture, some_missing


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")) / 255


@pytest.mark.parametrize("n_channels", [1, 3])
def test_missing_pixels_are_marked(n_channels: int) -> None:
    values, observed = smooth_picture(6, 7, n_channels), some_missing(6, 7)
    shown = input_picture(values, observed)
    assert shown.shape == (6, 7, 3)
    assert (shown[~observed] == MISSING).all()
    assert np.array_equal(shown[observed], as_rgb(values)[observed])


def test_comparison_is_the_panels_side_by_side(tmp_path: Path) -> None:
    a, b, c = smooth_picture(20, 30), smooth_picture(20, 30, 3), 1 - smooth_picture(20, 30)
    write_comparison(tmp_path / "two.png", [a, b])
    write_comparison(tmp_path / "three.png", [a, b, c])
    two, three = read(tmp_path / "two.png"), read(tmp_path / "three.png")
    assert two.shape == (20, 62, 3)
    assert three.shape == (20, 94, 3)
    assert np.array_equal(two, three[:, :62])
    for start, panel in ((0, a), (32, b), (64, c)):
        assert np.abs(three[:, start : start + 30] - as_rgb(panel)).max() <= 0.5 / 255 + 1e-6
    assert (three[:, 30:32] == 1).all()


def test_residual_is_four_times_the_error_and_black_where_nobody_knows(tmp_path: Path) -> None:
    truth = np.full((5, 6, 3), 0.5, dtype=np.float32)
    guess = truth.copy()
    guess[0, 0] += [0.03, -0.06, 0.0]  # mean of |.|: 0.03
    guess[1, 1] += 0.4  # past white
    guess[2, 2] += 0.4
    known = np.ones((5, 6), dtype=bool)
    known[2, 2] = False
    write_residual(tmp_path / "r.png", guess, truth, known)
    shown = np.asarray(Image.open(tmp_path / "r.png"))
    assert shown.shape == (5, 6)
    assert shown[0, 0] == round(4 * 0.03 * 255)
    assert shown[1, 1] == 255
    assert shown[2, 2] == 0
    assert np.count_nonzero(shown) == 2


def test_pictures_do_without_torch_and_matplotlib() -> None:
    code = (
        "import sys, peak_nerf.images.figures, peak_nerf.images.masks; print({'torch', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_depth_picture_is_white_where_nothing_is_and_brighter_when_nearer():
    depth, accumulation = np.array([[2.0, 4.0, 6.0, 9.0]]), np.array([[1.0, 1.0, 1.0, 0.0]])
    picture = depth_picture(depth, accumulation)
    np.testing.assert_array_equal(picture[0, 3], 1)
    brightness = picture[0, :3].sum(-1)
    assert brightness[0] > brightness[1] > brightness[2]
    np.testing.assert_allclose(picture[0, 1], np.array([33, 145, 140]) / 255, atol=0.01)  # in the middle
    assert depth_picture(depth, 0 * accumulation).min() == 1


def test_depth_before_a_far_background_keeps_its_colours():
    """Halfway between 1 and 1000 by inverse depth is 2."""
    depth = np.array([[1.0] * 10 + [2.0] * 10 + [1000.0] * 10])
    picture = depth_picture(depth, np.ones_like(depth))
    np.testing.assert_allclose(picture[0, [0, 15, 29]] * 255, [[253, 231, 37], [33, 145, 140], [48, 18, 59]], atol=1)


def test_on_white_by_hand():
    rgba = np.array([[[1.0, 0.0, 0.0, 0.25]]])
    np.testing.assert_allclose(on_white(rgba), [[[1.0, 0.75, 0.75]]])
    np.testing.assert_array_equal(on_white(rgba[..., :3]), rgba[..., :3])


def test_grid_places_every_picture_and_amplifies_the_difference():
    truth, rendering = np.full((10, 12, 3), 0.5), np.full((10, 12, 3), 0.6)
    row = compare(truth, rendering, np.zeros((10, 12, 3)))
    sheet = np.asarray(compose_grid([row, row, row], ["a", "b", "c", "d"], gap=2, band=14))
    assert sheet.shape == (14 + 3 * 12 - 2, 4 * 14 - 2, 3)
    for i in range(3):
        centres = [sheet[14 + 12 * i + 5, 14 * j + 6, 0] for j in range(4)]
        assert centres == [128, 153, 102, 0]
    assert (sheet[:14] < 255).any()  # the captions


def test_rows_of_a_grid_may_differ_in_size(tmp_path: Path) -> None:
    wide, tall = [np.full((4, 8, 3), 0.2)] * 2, [np.full((6, 4, 3), 0.6)] * 2
    save_grid(tmp_path / "grid.png", [wide, tall], ["a", "b"])
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (20 + 4 + 4 + 6, 2 * 8 + 4, 3)
    np.testing.assert_array_equal(sheet[20:24, 12:], 51)
    np.testing.assert_array_equal(sheet[28:, 14:18], 153)  # in the middle of its column
    np.testing.assert_array_equal(sheet[28:, 12:14], 255)


def test_gif_loops_over_all_frames(tmp_path):
    frames = [np.full((8, 8, 3), level) for level in (0.1, 0.5, 0.9)]
    save_gif(frames, tmp_path / "orbit.gif")
    with Image.open(tmp_path / "orbit.gif") as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0
        for i, frame in enumerate(frames):
            gif.seek(i)
            np.testing.assert_allclose(np.asarray(gif.convert("RGB")) / 255, frame, atol=0.02)


def test_gif_keeps_a_white_background_pure(tmp_path):
    rng = np.random.default_rng(0)
    frames = [np.where(np.arange(24)[:, None, None] < 12, 1.0, rng.random((24, 24, 3))) for _ in range(3)]
    save_gif(frames, tmp_path / "orbit.gif")
    with Image.open(tmp_path / "orbit.gif") as gif:
        assert np.asarray(gif.convert("RGB"))[:10].min() == 255
