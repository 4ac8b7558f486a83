"""What no photo shows is filled in from beside it: pull-push, and how sure a rendering is, by hand."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from peak_nerf.nerf import unseen
from peak_nerf.nerf.unseen import confidence, fill, grid_step, pull_push


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 40), w=st.integers(1, 40), seed=st.integers(0, 100))
def test_known_pixels_stay_and_the_others_are_between_them(h: int, w: int, seed: int) -> None:
    """Whatever the sides, odd ones too, and whatever stands where the weight is 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(h, w, 3, generator=generator)
    known = torch.rand(h, w, 1, generator=generator) < 0.2
    known[h // 2, w // 2] = True
    filled = pull_push(torch.where(known, values, 100.0), known.float())
    assert torch.equal(filled[known[..., 0]], values[known[..., 0]])
    low, high = values[known[..., 0]].amin(0), values[known[..., 0]].amax(0)
    assert (filled >= low - 1e-5).all()
    assert (filled <= high + 1e-5).all()


def test_what_is_nearer_counts_more() -> None:
    values = torch.zeros(32, 32, 1)
    values[:, 16:] = 1.0
    known = torch.zeros(32, 32, 1)
    known[:, :8] = known[:, 24:] = 1.0
    filled = pull_push(values, known)[16, :, 0]
    assert float(filled[9]) < 0.25
    assert float(filled[22]) > 0.75
    assert (filled.diff() >= -1e-6).all()


def test_confidence_by_hand() -> None:
    """A grid point beside which all others are seen takes 1 / 25 from the mean, and twice that from c."""
    assert (confidence(torch.ones(7, 9), 70, 90) == 1).all()
    seen = torch.ones(9, 9)
    seen[4, 4] = 0
    sure = confidence(seen, 9, 9)
    assert float(sure[4, 4]) == pytest.approx(1 - (1 / 25) / (1 - unseen.UNSURE))
    assert float(sure[0, 0]) == 1
    assert (confidence(torch.full((5, 5), unseen.UNSURE), 20, 20) == 0).all()


def test_the_grid_has_about_as_many_points_whatever_the_size() -> None:
    assert grid_step(64, 64) == 1
    for h, w in ((540, 960), (1080, 1920), (3000, 4000)):
        step = grid_step(h, w)
        assert 0.6 < (h // step) * (w // step) / unseen.LOOKED_AT < 1.5


def test_filled_is_what_is_not_sure_alone() -> None:
    rgb = torch.rand(16, 16, 3)
    assert torch.equal(fill(rgb, torch.ones(16, 16, 1)), rgb)
    assert torch.equal(fill(rgb, torch.zeros(16, 16, 1)), rgb)  # nothing to fill it in from
    sure = torch.ones(16, 16, 1)
    sure[:, 8:] = 0
    rgb[:, :8] = 0.25
    assert torch.allclose(fill(rgb, sure), torch.full_like(rgb, 0.25))
