"""The plots of an inpainting run, read back and compared with what they must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peak_nerf.core.fit import Progress
from peak_nerf.tasks.image_field import ImageField, pixel_coordinates
from peak_nerf.tasks.inpainting import inpaint
from peak_nerf.tasks.inpainting.figures import similarity, write_history, write_similarity
from tests.images.pictures import smooth_picture, some_missing


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")) / 255


def fitted_field(h: int, w: int, method: str = "peak", n_channels: int = 1) -> ImageField:
    field = inpaint(smooth_picture(h, w, n_channels), some_missing(h, w), method, steps=2).field
    assert field is not None
    return field


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
