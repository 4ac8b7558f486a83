"""The pictures of an inpainting run, read back and compared with what they must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peak_nerf.core.field import PeakField
from peak_nerf.core.fit import Progress
from peak_nerf.tasks.inpainting.figures import (
    MISSING,
    as_rgb,
    input_picture,
    similarity,
    write_comparison,
    write_history,
    write_residual,
    write_similarity,
)
from peak_nerf.tasks.inpainting.inpaint import inpaint, pixel_coordinates
from tests.images.pictures import smooth_picture, some_missing


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")) / 255


def fitted_field(h: int, w: int, method: str = "peak", n_channels: int = 1) -> PeakField:
    field = inpaint(smooth_picture(h, w, n_channels), some_missing(h, w), method, steps=2).field
    assert field is not None
    return field


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


@pytest.mark.parametrize("truth", [None, 21.0])
def test_history_is_drawn_with_and_without_a_truth(truth: float | None, tmp_path: Path) -> None:
    history = [Progress(i, 3, 0.5 * i, i / 3, 10.0 + i, truth) for i in range(1, 4)]
    write_history(tmp_path / "psnr.png", history, "peak on a $picture_name")
    assert read(tmp_path / "psnr.png").std() > 0.01


@pytest.mark.parametrize("pixel", [(5, 6), (0, 0), (9, 12)])
def test_similarity_is_a_over_the_pixels_around(pixel: tuple[int, int]) -> None:
    h, w, reach = 10, 13, 2
    field = fitted_field(h, w)
    weights = similarity(field, (h, w), pixel, reach)
    assert weights.shape == (5, 5)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert weights[reach, reach] == 0
    rows, columns = pixel_coordinates((h, w))
    assert field.kar is not None
    around = [(pixel[0] + i, pixel[1] + j) for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)]
    inside = [(i, j) for i, j in around if 0 <= i < h and 0 <= j < w]
    points = torch.tensor([[rows[i], columns[j]] for i, j in [pixel, *inside]])
    g = field.kar.similarity_features(points).detach()
    expected = (g[1:] @ g[0]).softmax(dim=0)
    for (i, j), weight in zip(inside, expected, strict=True):
        assert weights[i - pixel[0] + reach, j - pixel[1] + reach] == pytest.approx(float(weight), abs=1e-5)
    assert np.count_nonzero(weights) <= len(inside)


def test_a_field_without_a_regulariser_has_no_similarity() -> None:
    with pytest.raises(ValueError, match="no Kernel Alignment"):
        similarity(fitted_field(8, 8, "siren"), (8, 8), (4, 4), 2)


@pytest.mark.parametrize(("h", "w", "n_channels"), [(8, 8, 1), (8, 90, 3), (40, 30, 1)])
def test_similarity_picture_for_any_size(h: int, w: int, n_channels: int, tmp_path: Path) -> None:
    field = fitted_field(h, w, "peak", n_channels)
    write_similarity(tmp_path / "s.png", field, smooth_picture(h, w, n_channels))
    assert read(tmp_path / "s.png").std() > 0.05
