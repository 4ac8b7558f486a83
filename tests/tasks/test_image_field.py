"""`ImageField`: what it draws, its grid, and KAR on a window against the formula, pixel by pixel."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from peak_nerf.core.field import FieldConfig, PeakField
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.tasks import image_field
from peak_nerf.tasks.image_field import ImageField, ImageFieldSettings, KarSettings, pixel_coordinates, render

H, W = 9, 7
KAR = KarSettings(n_features=6, n_hidden=1, reach=1.5, kl_weight=0.3, blind_kl_weight=5.0)
SETTINGS = ImageFieldSettings(FieldConfig(hash_grid=None, hidden_dim=8, n_hidden=1), KAR, learning_rate=0.125)


def test_g_is_drawn_before_f_and_both_are_saved() -> None:
    torch.manual_seed(3)
    field = ImageField(SETTINGS, (H, W, 2))
    torch.manual_seed(3)
    g = KernelAlignmentRegularizer(2, n_features=6, hidden_dim=6, n_hidden=1, temperature=30.0)
    f = PeakField(2, 2, SETTINGS.field)
    expected = {**f.state_dict(), **{f"kar.{name}": value for name, value in g.state_dict().items()}}
    state = field.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert field.size == (H, W)


def test_f_and_g_have_rates_of_their_own_and_every_parameter_is_in_one_group() -> None:
    field = ImageField(SETTINGS, (H, W, 1))
    groups = field.parameter_groups()
    assert [group["lr"] for group in groups] == [0.125, KAR.learning_rate]
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in field.parameters()]
    plain = ImageField(replace(SETTINGS, kar=None), (H, W, 1))
    assert len(plain.parameter_groups()) == 1
    with pytest.raises(ValueError, match="no Kernel Alignment"):
        plain.window_kar(torch.zeros(4, 2), torch.zeros(2, 2, 1))


def by_hand(field: ImageField, x: torch.Tensor, f: torch.Tensor, measured: torch.Tensor | None) -> float:
    """The docstring's formula, one pixel, one pair at a time; the window is mirrored at its border."""
    kar = field.kar
    assert kar is not None
    h, w = f.shape[:2]
    g = kar.similarity_features(x).reshape(h, w, -1)
    pairs = [(0, 1), (1, -1), (1, 0), (1, 1)]
    prior = torch.tensor([math.exp(-KAR.locality * (i * i + j * j)) for i, j in pairs])
    prior = prior / prior.sum()

    def at(image: torch.Tensor, row: int, column: int) -> torch.Tensor:
        mirrored = [(n - 1) - abs((n - 1) - abs(i)) for i, n in ((row, h), (column, w))]
        return image[mirrored[0], mirrored[1]]

    total = 0.0
    for row, column in itertools.product(range(h), range(w)):
        mean = [
            [(at(image, row + i, column + j) + at(image, row - i, column - j)) / 2 for i, j in pairs]
            for image in (f, g)
        ]
        weights = torch.stack([g[row, column] @ m for m in mean[1]]).exp() * prior
        a = weights / weights.sum()
        residual = f[row, column] - sum(a[k] * mean[0][k] for k in range(len(pairs)))
        size = float(residual.square().sum())
        total += 2 * KAR.huber_delta * (math.sqrt(size + KAR.huber_delta**2) - KAR.huber_delta)
        near = True
        if measured is not None:  # twice the reach of 1.5, in whole pixels: 2
            near = bool(measured[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].any())
        total += KAR.kl_weight * (1 if near else KAR.blind_kl_weight) * float((a * (a / prior).log()).sum())
    return total / (h * w)


@pytest.mark.parametrize("holes", ["none", "partly measured", "nothing known of it"])
def test_kar_on_a_window_is_its_formula(holes: str) -> None:
    torch.manual_seed(0)
    field = ImageField(SETTINGS, (H, W, 2))
    x = torch.cartesian_prod(*pixel_coordinates((H, W)))
    f = torch.rand(H, W, 2)
    measured = {"none": None, "partly measured": torch.zeros(H, W, dtype=torch.bool)}.get(
        holes, torch.ones(H, W, dtype=torch.bool)
    )
    if holes == "partly measured":
        assert measured is not None
        measured[0, :2] = True  # the lower rows are out of reach
    with torch.no_grad():
        found = float(field.window_kar(x, f, measured))
        assert found == pytest.approx(by_hand(field, x, f, measured), rel=1e-4)
        if holes == "partly measured":
            assert found > float(field.window_kar(x, f)) + 1e-3


def test_a_picture_is_sampled_at_any_number_of_points() -> None:
    rows, columns = pixel_coordinates((3, 5), (5, 9))
    assert rows.tolist() == [-0.5, -0.25, 0, 0.25, 0.5]
    assert columns.tolist() == [i / 4 - 1 for i in range(9)]


def test_rendering_in_chunks_is_rendering_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    field = ImageField(SETTINGS, (H, W, 3))
    rows, columns = pixel_coordinates((H, W))
    whole = render(field, rows, columns)
    for chunk in (1, W, 3 * W + 1):
        monkeypatch.setattr(image_field, "CHUNK", chunk)
        assert np.allclose(render(field, rows, columns), whole, atol=1e-6)


def test_pixels_are_square_and_the_longer_side_goes_from_minus_one_to_one() -> None:
    rows, columns = pixel_coordinates((5, 5))
    assert torch.equal(rows, torch.linspace(-1, 1, 5))
    assert torch.equal(rows, columns)
    rows, columns = pixel_coordinates((3, 5))
    assert columns.tolist() == [-1, -0.5, 0, 0.5, 1]
    assert rows.tolist() == [-0.5, 0, 0.5]


def test_g_is_as_wide_as_it_has_features() -> None:
    field = ImageField(ImageFieldSettings(kar=KarSettings(n_features=8)), (H, W, 1))
    assert field.kar is not None
    weights = [p for p in field.kar.parameters() if p.ndim == 2]
    assert [tuple(p.shape) for p in weights] == [(8, 2), (8, 8), (8, 8)]
