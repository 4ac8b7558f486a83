"""Pictures of results, read back and compared with what they must hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.images.figures import MISSING, as_rgb, input_picture, write_comparison, write_residual
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
