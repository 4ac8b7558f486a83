"""The mean of several estimates: its weights worked out by hand, what is held out for them, when it is made."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from peak_nerf.images.masks import random_mask
from peak_nerf.tasks.inpainting import inpaint
from peak_nerf.tasks.inpainting.combine import (
    RIDGES,
    Estimate,
    Plan,
    combine_estimates,
    ridge_for,
    weights_by_error,
)
from peak_nerf.tasks.inpainting.patches import N_SWEEPS
from tests.tasks.inpainting.test_inpaint import picture


def test_unrelated_errors_weigh_by_one_over_their_square() -> None:
    errors = {"a": np.array([[0.1], [0.1]]), "b": np.array([[0.2], [-0.2]])}
    assert weights_by_error(errors, 0.0) == pytest.approx({"a": 0.8, "b": 0.2})


def test_an_estimate_that_errs_like_a_better_one_gets_no_weight() -> None:
    errors = {"a": np.array([[0.1], [0.0]]), "twice a": np.array([[0.2], [0.0]]), "b": np.array([[0.0], [0.1]])}
    assert weights_by_error(errors, 1e-6) == pytest.approx({"a": 0.5, "twice a": 0.0, "b": 0.5}, abs=1e-4)


def test_the_ridge_draws_weights_towards_equal_ones() -> None:
    """Second moments 0.01 and 0.04, mean 0.025: in its units 0.4 and 1.6, plus 0.05 each."""
    errors = {"a": np.array([[0.1], [0.1]]), "b": np.array([[0.2], [-0.2]])}
    assert weights_by_error(errors, 0.05) == pytest.approx({"a": 1.65 / 2.1, "b": 0.45 / 2.1})
    zero = {"a": np.zeros((3, 1)), "b": np.zeros((3, 1))}
    assert weights_by_error(zero, 0.05) == pytest.approx({"a": 0.5, "b": 0.5})


def test_thick_holes_draw_the_weights_towards_equal_ones() -> None:
    """Errors on single held-out pixels say all of holes like them, and little of the middle of a thick one."""
    errors = {"a": np.full((4, 1), 0.01), "b": np.array([[0.1], [-0.1], [0.1], [-0.1]])}
    random, text, patch = (ridge_for(depth) for depth in (0.98, 1.58, 5.6))
    assert random == text == RIDGES[0]
    assert patch == RIDGES[1]
    assert RIDGES[0] < ridge_for(2.4) < ridge_for(3.3) < RIDGES[1]
    assert weights_by_error(errors, random)["a"] > 0.9
    assert weights_by_error(errors, patch)["a"] < 0.7
    values, held_out = np.full((40, 40, 1), 0.5, np.float32), np.arange(4)
    worse = values.copy()
    worse.flat[held_out] += [0.1, -0.1, 0.1, -0.1]
    shares = []
    for side in (1, 20):
        observed = np.ones((40, 40), dtype=bool)
        observed[10 : 10 + side, 10 : 10 + side] = False
        own = np.full((4, 1), 0.51, np.float32)
        _, weights = combine_estimates(values, own, {"b": Estimate(values, worse)}, values, observed, held_out)
        shares.append(weights["field"])
    assert shares[0] > 0.9
    assert shares[1] < 0.8


def test_all_pixels_are_the_mean_of_the_estimates() -> None:
    values = np.full((4, 4, 1), 0.5, dtype=np.float32)
    observed = np.ones((4, 4), dtype=bool)
    observed[1, 1] = False
    own, classical = np.full_like(values, 0.6), np.where(observed[..., None], values, np.float32(0.2))
    held_out, without = np.array([0, 1]), classical.copy()
    without.reshape(-1)[held_out] = [0.7, 0.3]
    other = Estimate(classical, without)
    filled, weights = combine_estimates(
        own, np.array([[0.6], [0.6]], np.float32), {"b": other}, values, observed, held_out
    )
    assert weights == pytest.approx({"field": 1.65 / 2.1, "b": 0.45 / 2.1})
    assert filled[1, 1, 0] == pytest.approx((1.65 * 0.6 + 0.45 * 0.2) / 2.1)
    np.testing.assert_allclose(filled[observed], (1.65 * 0.6 + 0.45 * 0.5) / 2.1, rtol=1e-6)


def test_a_plan_fits_into_its_time() -> None:
    observed = random_mask((256, 256), 0.5, 0)
    without = Plan.of(observed, None)
    assert without.n_sweeps == N_SWEEPS
    for limit in (5.0, 20.0, 60.0):
        plan = Plan.of(observed, limit)
        assert plan.n_sweeps <= N_SWEEPS
        assert plan.left_of(limit) >= limit / 2
        assert plan.left_of(limit) + min(plan.seconds, limit / 2) <= limit + 1e-9
    assert Plan.of(observed, 0.1).n_sweeps == 0


def test_peak_is_combined_and_a_baseline_is_not() -> None:
    values, observed = picture(3)
    both = inpaint(values, observed, steps=12)
    alone = inpaint(values, observed, steps=12, combine=False)
    assert set(both.weights) == {"field", "biharmonic", "patches"}
    assert alone.weights == {"field": 1.0}
    assert not np.array_equal(both.field_picture, alone.field_picture)  # it had a guide
    np.testing.assert_array_equal(alone.reconstruction, alone.field_picture)
    # Classical estimates hold observed pixels as they are.
    share = both.weights["field"]
    by_hand = share * both.field_picture[observed] + (1 - share) * values[observed]
    assert share > 0
    np.testing.assert_allclose(both.reconstruction[observed], by_hand, atol=1e-6)
    assert not np.array_equal(both.reconstruction[~observed], both.field_picture[~observed])
    assert set(inpaint(values, observed, "hash", steps=3).weights) == {"field"}
    assert set(inpaint(values, observed, "telea").weights) == {"telea"}


def test_weights_are_of_the_stopping_point_which_never_saw_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last fifth of a run on all observed pixels the field is better at those that were held out before."""
    values, observed = picture(3)
    inpainting = importlib.import_module("peak_nerf.tasks.inpainting.inpaint")
    given: dict[str, np.ndarray] = {}

    def note(own: np.ndarray, own_held_out: np.ndarray, *rest: Any) -> tuple[np.ndarray, dict[str, float]]:
        given.update(end=own.reshape(-1, 3)[rest[-1]], stop=own_held_out, truth=values.reshape(-1, 3)[rest[-1]])
        return own, {}

    monkeypatch.setattr(inpainting, "combine_estimates", note)
    inpaint(values, observed, steps=150)
    at_end, at_stop = (np.square(given[name] - given["truth"]).mean() for name in ("end", "stop"))
    assert at_end < 0.8 * at_stop


def test_above_so_many_missing_pixels_the_field_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values, observed = picture()
    inpainting = importlib.import_module("peak_nerf.tasks.inpainting.inpaint")
    monkeypatch.setattr(inpainting, "MAX_MISSING", int((~observed).sum()) - 1)
    assert inpaint(values, observed, steps=3).weights == {"field": 1.0}
    monkeypatch.setattr(inpainting, "MAX_MISSING", int((~observed).sum()))
    assert len(inpaint(values, observed, steps=3).weights) == 3


def test_the_guide_of_a_field_knows_no_held_out_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the field would know what chooses its stopping point and its weight."""
    values, observed = picture(3)
    inpainting = importlib.import_module("peak_nerf.tasks.inpainting.inpaint")
    given: dict[str, np.ndarray] = {}

    def note(problem: Any, guide: np.ndarray) -> None:
        given.update(guide=guide.reshape(-1, 3), held_out=problem.held_out.numpy())

    monkeypatch.setattr(inpainting.InpaintProblem, "draw_towards", note)
    inpaint(values, observed, steps=2)
    flat, kept = values.reshape(-1, 3), observed.reshape(-1).copy()
    kept[given["held_out"]] = False
    np.testing.assert_allclose(given["guide"][kept], flat[kept], atol=1e-6)
    assert (np.abs(given["guide"] - flat)[given["held_out"]].max(axis=1) > 1e-5).all()
