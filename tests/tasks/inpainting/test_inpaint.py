"""`inpaint`: what it promises whatever its settings are; fits are tiny."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from peak_nerf.core.fit import Progress
from peak_nerf.errors import PeakError
from peak_nerf.metrics import psnr
from peak_nerf.tasks.image_field import ImageField, pixel_coordinates, render
from peak_nerf.tasks.inpainting import Inpainting, classical, inpaint, problem
from peak_nerf.tasks.inpainting.problem import InpaintProblem
from peak_nerf.tasks.inpainting.settings import Method, settings_for, with_overrides
from tests.images.pictures import smooth_picture, some_missing

METHODS: tuple[str, ...] = get_args(Method)
FIELDS = [method for method in METHODS if method not in classical.CLASSICAL]
H, W = 20, 28


def picture(n_channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return smooth_picture(H, W, n_channels), some_missing(H, W)


def quick(values: np.ndarray, observed: np.ndarray | None, method: str = "peak", **options: Any) -> Inpainting:
    return inpaint(values, observed, method, **{"steps": 12, **options})


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_in_the_shape_of_the_values(method: str, n_channels: int) -> None:
    values, observed = picture(n_channels)
    result = quick(values, observed, method, steps=None if method in classical.CLASSICAL else 4)
    assert result.reconstruction.shape == values.shape
    assert result.reconstruction.dtype == np.float32
    assert 0 <= result.reconstruction.min() <= result.reconstruction.max() <= 1
    assert (result.field is None) == (method in classical.CLASSICAL) == (result.n_parameters == 0)
    assert not result.fit.partial


def test_grey_may_be_two_dimensional_and_pictures_tiny() -> None:
    values, observed = smooth_picture(8, 8)[..., 0], some_missing(8, 8)
    assert quick(values, observed).reconstruction.shape == (8, 8)
    assert quick(smooth_picture(2, 30), None).reconstruction.shape == (2, 30, 1)


def test_missing_pixels_are_filled_in() -> None:
    values, observed = picture()
    result = quick(values, observed, steps=150)
    by_mean = np.full_like(values, values[observed].mean())

    def missing(guess: np.ndarray) -> float:
        return psnr(float(((guess - values)[~observed] ** 2).mean()))

    assert missing(result.reconstruction) > missing(by_mean) + 8


@pytest.mark.parametrize("method", ["peak", "siren", "biharmonic", "linear"])
@pytest.mark.parametrize("hidden", [np.nan, np.inf, 1e9, -3.0])
def test_missing_pixels_are_never_looked_at(method: str, hidden: float) -> None:
    values, observed = picture(3)
    options: dict[str, Any] = {} if method in classical.CLASSICAL else {"steps": 5}
    plain = inpaint(values, observed, method, **options).reconstruction
    changed = np.where(observed[..., None], values, hidden)
    assert np.array_equal(inpaint(changed, observed, method, **options).reconstruction, plain)


@pytest.mark.parametrize("hidden", [np.nan, -np.inf])
def test_pixels_that_are_not_finite_count_as_missing(hidden: float) -> None:
    values, observed = picture(3)
    changed = values.copy()
    changed[~observed, 1] = hidden  # one channel is enough
    assert np.array_equal(quick(changed, None).reconstruction, quick(values, observed).reconstruction)


@pytest.mark.parametrize("method", ["peak", "fourier"])
def test_the_same_seed_gives_the_same_result_and_another_another(method: str) -> None:
    values, observed = picture()
    first = quick(values, observed, method, seed=3)
    assert np.array_equal(first.reconstruction, quick(values, observed, method, seed=3).reconstruction)
    assert not np.array_equal(first.reconstruction, quick(values, observed, method, seed=4).reconstruction)


def test_the_global_generators_are_left_as_they_were() -> None:
    values, observed = picture()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the legacy generator is what must not change
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    quick(values, observed)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002


@pytest.mark.parametrize("scored", [2**18, 40])
def test_the_truth_is_recorded_and_never_steers(scored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "SCORED_PIXELS", scored)
    values, observed = picture(3)
    masked = np.where(observed[..., None], values, np.nan)
    without = quick(masked, observed)
    with_truth = quick(masked, observed, truth=values)
    wrong_truth = quick(masked, observed, truth=1 - values)
    for other in (with_truth, wrong_truth):
        assert np.array_equal(other.reconstruction, without.reconstruction)
        assert other.fit.best_step == without.fit.best_step
    assert all(p.psnr is None for p in without.fit.history)
    last = with_truth.fit.history[-1].psnr
    assert last is not None
    end = psnr(float(((with_truth.field_picture - values) ** 2).mean()))
    assert last == pytest.approx(end, abs=1e-3 if scored > H * W else 3)
    assert wrong_truth.fit.history[-1].psnr != last


def test_where_there_is_no_truth_nothing_is_scored() -> None:
    values, observed = picture()
    half = values.copy()
    half[: H // 2] = np.nan
    result = quick(values, observed, truth=half)
    error = (result.field_picture - values)[H // 2 :]
    assert result.fit.history[-1].psnr == pytest.approx(psnr(float((error**2).mean())), abs=1e-3)
    nothing = quick(values, observed, truth=np.full_like(values, np.nan))
    assert all(p.psnr is None for p in nothing.fit.history)


class StopAfter:
    """Ctrl-C at the n-th report."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, progress: Progress) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["peak", "peak-siren", "hash"])
def test_interrupted_and_resumed_equals_never_interrupted(method: str, tmp_path: Path) -> None:
    values, observed = picture(3)
    whole = quick(values, observed, method, steps=40, truth=values)
    path = tmp_path / "checkpoint.pt"
    partial = quick(values, observed, method, steps=40, truth=values, on_progress=StopAfter(15), checkpoint=path)
    assert partial.fit.partial
    assert 0 < partial.fit.steps < 40
    assert np.isfinite(partial.reconstruction).all()
    resumed = quick(values, observed, method, steps=40, truth=values, checkpoint=path, resume=True)
    assert not resumed.fit.partial
    assert np.array_equal(resumed.reconstruction, whole.reconstruction)
    assert [(p.step, p.psnr) for p in resumed.fit.history] == [(p.step, p.psnr) for p in whole.fit.history]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    values, observed = picture()
    path = tmp_path / "checkpoint.pt"
    quick(values, observed, on_progress=StopAfter(3), checkpoint=path)
    before = path.read_bytes()
    again: dict[str, Any] = {"checkpoint": path, "resume": True}
    other_mask = observed.copy()
    other_mask[0, 0] ^= True
    for given, options in (
        ((values * 0.9, observed), {}),
        ((values, other_mask), {}),
        ((values, observed), {"seed": 89}),
        ((values, observed, "hash"), {}),
        ((values, observed), {"settings": with_overrides(settings_for("peak", (H, W)), kar_weight=0.5)}),
    ):
        with pytest.raises(PeakError, match=r"checkpoint\.pt: belongs to other data, another method") as error:
            quick(*given, **options, **again)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(PeakError, match="written with other settings"):
        quick(values, observed, steps=13, **again)
    assert path.read_bytes() == before
    assert not quick(values, observed, **again).fit.partial


def test_a_time_budget_ends_the_fit() -> None:
    values, observed = picture()
    result = inpaint(values, observed, "hash", budget_seconds=0.2)
    assert result.fit.seconds < 3
    assert result.fit.steps > 1
    assert result.fit.history[-1].fraction == 1


def test_the_default_number_of_steps_grows_with_the_fifth_root_of_the_picture() -> None:
    small, large = settings_for("peak", (256, 256)), settings_for("peak", (2048, 2048))
    assert settings_for("peak", (100, 50)).steps == small.steps
    assert large.steps == pytest.approx(64**0.2 * small.steps, abs=1)
    values, observed = picture()
    settings = dataclasses.replace(settings_for("hash", (H, W)), steps=3)
    assert inpaint(values, observed, settings=settings).fit.steps == 3


def test_queries_lie_around_missing_pixels() -> None:
    """The windows of a picture with one hole: it is in all of them, and not always in the same place."""
    values, observed = picture()
    observed[:] = True
    observed[3:5, 20:22] = False
    settings = settings_for("peak", (H, W))
    problem = InpaintProblem(ImageField(settings, (H, W, 1)), settings, values, observed, None, torch.Generator())
    generator, corners = torch.Generator().manual_seed(0), set()
    for _ in range(40):
        numbers, h, w = problem.window(8, generator)
        assert (h, w) == (8, 8)
        corners.add(int(numbers[0]))
        assert not torch.from_numpy(observed).reshape(-1)[numbers].all()
        rows, columns = numbers // W, numbers % W
        assert rows.max() - rows.min() == columns.max() - columns.min() == 7
    assert len(corners) > 10


def test_few_pixels_a_step_are_enough_to_fit() -> None:
    values, observed = picture()
    settings = dataclasses.replace(settings_for("hash", (H, W)), pixels_per_step=64)
    result = quick(values, observed, settings=settings, steps=150)
    assert psnr(float(((result.field_picture - values)[observed] ** 2).mean())) > 22


def test_the_regulariser_takes_part_unless_its_weight_is_zero() -> None:
    values, observed = picture()
    on = settings_for("peak", (H, W))
    off, stronger = with_overrides(on, kar_weight=0.0), with_overrides(on, kar_weight=50.0)
    results = [quick(values, observed, settings=s) for s in (on, off, stronger)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(results[a].field_picture, results[b].field_picture)
    # Same start, same pixels: without weight g is as it was drawn.
    torch.manual_seed(88)
    drawn = ImageField(off, (H, W, 1))
    assert results[1].field is not None
    assert results[1].field.kar is not None
    assert drawn.kar is not None
    assert all(
        torch.equal(a, b) for a, b in zip(results[1].field.kar.parameters(), drawn.kar.parameters(), strict=True)
    )


def test_observed_pixels_of_a_field_are_its_own_and_not_pasted_back() -> None:
    values, observed = picture()
    result = quick(values, observed, steps=2, combine=False)
    assert not np.array_equal(result.reconstruction[observed], values[observed])


def test_missing_pixels_are_drawn_to_the_guide_for_the_first_part_of_a_fit() -> None:
    values, observed = picture()
    settings = settings_for("peak", (H, W))
    problem = InpaintProblem(ImageField(settings, (H, W, 1)), settings, values, observed, None, torch.Generator())

    def loss(progress: float) -> float:
        return float(problem.loss(progress, False, torch.Generator().manual_seed(1)).detach())

    plain = [loss(progress) for progress in (0.0, 0.15, 0.3, 0.9)]
    with torch.no_grad():
        own = render(problem.field, problem.rows, problem.columns)
    problem.draw_towards(own + np.float32(0.5))
    more = [after - before for after, before in zip(map(loss, (0.0, 0.15, 0.3, 0.9)), plain, strict=True)]
    assert more[0] > 0.01
    assert more[1] == pytest.approx(more[0] / 2, rel=1e-3)
    assert more[2:] == [0, 0]


def test_a_field_that_is_combined_fills_the_middle_of_a_hole_from_the_start() -> None:
    values = np.repeat(np.linspace(0.1, 0.9, 64, dtype=np.float32)[:, None, None], 64, axis=1)
    observed = np.ones((64, 64), dtype=bool)
    observed[12:52, 12:52] = False
    middle = np.s_[24:40, 24:40]
    guided, alone = (inpaint(values, observed, steps=100, combine=combine).field_picture for combine in (True, False))
    errors = [float(np.square(picture_ - values)[middle].mean()) for picture_ in (guided, alone)]
    assert errors[0] < errors[1] / 4


def test_the_field_answers_between_pixels() -> None:
    values, observed = picture()
    result = quick(values, observed)
    assert result.field is not None
    rows, columns = pixel_coordinates((H, W))
    finer = torch.linspace(float(rows[0]), float(rows[-1]), 2 * H - 1)
    picture_ = render(result.field, finer, columns)
    assert picture_.shape == (2 * H - 1, W, 1)
    assert np.allclose(picture_[::2], result.field_picture, atol=1e-5)


def test_parameters_are_counted_with_those_of_g() -> None:
    values, observed = picture()
    result = quick(values, observed, "peak", steps=1)
    assert result.field is not None
    assert result.field.kar is not None
    parts = (result.field.encoding, result.field.backbone, result.field.kar)
    assert result.n_parameters == sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.parametrize("method", FIELDS)
def test_overrides_go_where_they_belong(method: str) -> None:
    settings = settings_for(method, (H, W))
    assert with_overrides(settings, kar_weight=None, hidden_dim=None) == settings
    changed = with_overrides(settings, hidden_dim=17, n_hidden=2, learning_rate=0.125)
    assert (changed.field.hidden_dim, changed.field.n_hidden, changed.learning_rate) == (17, 2, 0.125)
    if settings.field.hash_grid is None:
        with pytest.raises(PeakError, match="grid-resolution: this method has no grid"):
            with_overrides(settings, grid_resolution=24)
    else:
        grid = with_overrides(settings, grid_resolution=8).field.hash_grid
        assert grid is not None
        assert (grid.base_resolution, grid.finest_resolution) == (8, 8)
        assert settings.field.hash_grid.finest_resolution > 8
    if settings.kar is None:
        with pytest.raises(PeakError, match="kar-weight: this method has no KAR"):
            with_overrides(settings, kar_weight=1.0)
        with pytest.raises(PeakError, match="polynomial-degree: this method has no polynomial"):
            with_overrides(settings, polynomial_degree=2)
    else:
        changed = with_overrides(settings, kar_weight=0.25, kar_n_features=7, kar_similarity="dot", polynomial_degree=4)
        assert changed.kar is not None
        assert (changed.kar.weight, changed.kar.n_features, changed.kar.similarity) == (0.25, 7, "dot")
        assert changed.field.polynomial_degree == 4
        values, observed = picture()
        quick(values, observed, settings=changed, steps=2)


@pytest.mark.parametrize("method", ["peek", "telae"])
def test_an_unknown_method_is_refused_by_name(method: str) -> None:
    values, observed = picture()
    with pytest.raises(PeakError, match=f"method '{method}': not one of peak, "):
        quick(values, observed, method)


def test_callers_mistakes() -> None:
    values, observed = picture(3)
    for wrong, message in (
        ((values[None], None), "must be"),
        ((values[:0], None), "must be"),
        ((values, observed[:-1]), "observed must be"),
        ((values, observed[0]), "observed must be"),
        ((values * 255, None), r"in \[0, 1\], got .* to "),
        ((values - 0.5, None), r"in \[0, 1\]"),
        ((values, np.zeros_like(observed)), "at least 16 pixels"),
        ((np.full_like(values, np.nan), None), "at least 16 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            quick(*wrong)
    with pytest.raises(ValueError, match="truth must be"):
        quick(values, observed, truth=values[..., 0])
    with pytest.raises(ValueError, match="not both"):
        inpaint(values, observed, steps=3, budget_seconds=1.0)


@pytest.mark.parametrize(("side", "is_deep"), [(4, False), (12, False), (14, True)])
def test_only_deep_in_a_hole_is_the_prior_held_faster(side: int, is_deep: bool) -> None:
    """With a reach of 3, pixels more than 6 from any measured one: a hole of 14 x 14 has some, one of 12 x 12 none."""
    values = np.zeros((32, 32, 1), dtype=np.float32)
    observed = np.ones((32, 32), dtype=bool)
    observed[8 : 8 + side, 8 : 8 + side] = False
    settings = settings_for("peak", (32, 32))
    assert settings.kar is not None
    losses = []
    for factor in (1.0, 1000.0):
        torch.manual_seed(0)
        kar = dataclasses.replace(settings.kar, blind_kl_weight=factor, reach=3.0)
        chosen = dataclasses.replace(settings, kar=kar)
        field = ImageField(chosen, (32, 32, 1))
        generator = torch.Generator().manual_seed(0)
        problem = InpaintProblem(field, chosen, values, observed, None, generator)
        problem.measured[:] = torch.from_numpy(observed).reshape(-1)  # as when the held-out pixels have joined
        losses.append(problem.kar_loss(torch.zeros(32, 32, 1), torch.arange(32 * 32)).item())
    assert (losses[1] > losses[0]) == is_deep
