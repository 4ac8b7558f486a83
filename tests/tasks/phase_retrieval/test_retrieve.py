"""`retrieve` from measurements alone: results, what it never sees, Ctrl-C and resume."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peak_nerf.core.fit import Progress
from peak_nerf.errors import PeakError
from peak_nerf.metrics import psnr
from peak_nerf.tasks.phase_retrieval.align import align
from peak_nerf.tasks.phase_retrieval.measurements import Measurements, read_measurements, simulate, write_measurements
from peak_nerf.tasks.phase_retrieval.projections import ProjectionSearch
from peak_nerf.tasks.phase_retrieval.retrieve import Retrieval, retrieve
from peak_nerf.tasks.phase_retrieval.settings import PhaseSettings, settings_for
from peak_nerf.tasks.phase_retrieval.solver_loop import run_search
from tests.tasks.phase_retrieval.pictures import scene

N = 24
TRUTH = scene(N)


def quick(method: str, problem: Any) -> PhaseSettings:
    return replace(settings_for(method, problem, N), steps=200, search_rounds=120, refinement_rounds=20)


def aligned_psnr(result: Retrieval) -> float:
    return psnr(float(((align(result.reconstruction, TRUTH).picture - TRUTH) ** 2).mean()))


@pytest.fixture(scope="module")
def fourier() -> Measurements:
    return simulate(TRUTH, "fourier", 1.9)


@pytest.fixture(scope="module")
def gaussian() -> Measurements:
    return simulate(TRUTH, "gaussian", 1.0)


def test_a_solver_is_handed_measurements_alone(fourier: Measurements, tmp_path: Path) -> None:
    """Through a file, so that nothing of the picture can come along; and there is no argument for it."""
    assert "truth" not in inspect.signature(retrieve).parameters
    write_measurements(tmp_path / "m.npz", fourier)
    measurements = read_measurements(tmp_path / "m.npz")
    assert {name for name, value in vars(measurements).items() if isinstance(value, torch.Tensor | np.ndarray)} == {
        "magnitudes"
    }
    assert measurements.operator.support is None
    assert not hasattr(measurements.operator, "matrix")
    result = retrieve(measurements, "peak", settings=quick("peak", "fourier"))
    assert aligned_psnr(result) > 60
    assert result.relative_residual < 1e-3
    assert result.reconstruction.shape == (N, N)
    assert 0 <= result.reconstruction.min() <= result.reconstruction.max() <= 1


def test_a_fit_that_is_too_short_does_not_lose_a_good_start(fourier: Measurements) -> None:
    settings = replace(quick("mlp", "fourier"), steps=2, refinement_rounds=1)
    assert aligned_psnr(retrieve(fourier, "mlp", settings=settings)) > 60


@pytest.mark.parametrize("method", ["peak", "mlp", "fourier", "siren", "hash"])
def test_every_field_explains_gaussian_magnitudes(method: str, gaussian: Measurements) -> None:
    result = retrieve(gaussian, method, settings=quick(method, "gaussian"))
    assert result.field is not None
    assert result.n_parameters > 1000
    start = retrieve(gaussian, "spectral")
    assert result.relative_residual < start.relative_residual * (0.7 if method in ("peak", "hash") else 1.6)
    assert {p.stage for p in result.history} == {"fit"}


def test_the_search_of_the_fields_is_a_method_too(fourier: Measurements) -> None:
    result = retrieve(fourier, "multiscale-hio", restarts=2, budget_seconds=0.5)
    assert result.field is None
    assert 0.4 < result.seconds < 5
    assert {point.stage for point in result.history} == {"search", "refinement"}
    assert result.relative_residual < result.history[0].relative_residual


@pytest.mark.parametrize("method", ["error-reduction", "hio", "raar"])
def test_classical_fourier_solvers_run_and_record(method: str, fourier: Measurements) -> None:
    told: list[Progress] = []
    result = retrieve(fourier, method, restarts=2, budget_seconds=0.5, on_progress=told.append)
    assert result.field is None
    assert result.n_parameters == 0
    assert 0.4 < result.seconds < 5
    residuals = [p.relative_residual for p in result.history]
    assert residuals == sorted(residuals, reverse=True)
    assert result.relative_residual == pytest.approx(residuals[-1], rel=1e-3)
    assert all(a.fraction <= b.fraction for a, b in pairwise(told))


def test_a_seed_gives_the_same_result(gaussian: Measurements) -> None:
    settings = replace(quick("peak", "gaussian"), steps=15)
    one, same, other = (retrieve(gaussian, "peak", settings=settings, seed=s).reconstruction for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_global_generator_is_left_alone(gaussian: Measurements) -> None:
    before = torch.get_rng_state()
    retrieve(gaussian, "hash", settings=replace(quick("hash", "gaussian"), steps=3))
    assert torch.equal(before, torch.get_rng_state())


def interrupt_when(condition: Callable[[Progress], bool]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if condition(progress):
            raise KeyboardInterrupt

    return report


def test_ctrl_c_in_the_search_keeps_the_best_and_resume_ends_as_if_nothing_had_been(
    fourier: Measurements, tmp_path: Path
) -> None:
    settings = quick("hash", "fourier")
    whole = retrieve(fourier, "hash", settings=settings)
    partial = retrieve(
        fourier, "hash", settings=settings, folder=tmp_path, on_progress=interrupt_when(lambda p: p.fraction > 0.2)
    )
    assert partial.partial
    assert partial.field is None
    assert partial.relative_residual < 0.5
    resumed = retrieve(fourier, "hash", settings=settings, folder=tmp_path, resume=True)
    assert not resumed.partial
    np.testing.assert_array_equal(resumed.reconstruction, whole.reconstruction)
    assert [p.relative_residual for p in resumed.history if p.stage == "search"] == [
        p.relative_residual for p in whole.history if p.stage == "search"
    ]


def test_ctrl_c_in_the_fit_keeps_the_best_and_resume_goes_on(gaussian: Measurements, tmp_path: Path) -> None:
    settings = quick("hash", "gaussian")
    partial = retrieve(
        gaussian, "hash", settings=settings, folder=tmp_path, on_progress=interrupt_when(lambda p: p.fraction > 0.85)
    )
    assert partial.partial
    assert partial.field is not None
    assert partial.relative_residual < retrieve(gaussian, "spectral").relative_residual
    resumed = retrieve(gaussian, "hash", settings=settings, folder=tmp_path, resume=True)
    assert not resumed.partial
    assert resumed.fit.steps == 200
    whole = retrieve(gaussian, "hash", settings=settings)
    np.testing.assert_allclose(resumed.reconstruction, whole.reconstruction, atol=1e-5)


def test_a_fit_within_a_budget_goes_on(gaussian: Measurements, tmp_path: Path) -> None:
    """Its start takes another time then, which is no other budget."""
    given = {"settings": quick("hash", "gaussian"), "folder": tmp_path, "budget_seconds": 2.0}
    assert retrieve(gaussian, "hash", on_progress=interrupt_when(lambda p: True), **given).partial
    assert (tmp_path / "checkpoint.pt").exists()
    assert not retrieve(gaussian, "hash", resume=True, **given).partial


def test_a_fit_of_other_magnitudes_is_not_gone_on_with(gaussian: Measurements, tmp_path: Path) -> None:
    settings = quick("hash", "gaussian")
    retrieve(gaussian, "hash", settings=settings, folder=tmp_path, on_progress=interrupt_when(lambda p: True))
    other = replace(gaussian, magnitudes=gaussian.magnitudes * 1.01)
    with pytest.raises(PeakError, match=r"checkpoint\.pt: belongs to other data"):
        retrieve(other, "hash", settings=settings, folder=tmp_path, resume=True)


def test_a_search_of_other_options_is_not_gone_on_with(fourier: Measurements, tmp_path: Path) -> None:
    interrupted = retrieve(
        fourier, "hio", folder=tmp_path, seed=1, on_progress=interrupt_when(lambda p: p.step > 200), budget_seconds=30
    )
    assert interrupted.partial
    with pytest.raises(PeakError, match="of another run"):
        retrieve(fourier, "hio", folder=tmp_path, seed=2, resume=True)
    (tmp_path / "search.pt").write_bytes(b"nothing")
    with pytest.raises(PeakError, match="cannot be resumed"):
        retrieve(fourier, "hio", folder=tmp_path, seed=1, resume=True)


def test_a_solved_search_ends_early(fourier: Measurements) -> None:
    search = ProjectionSearch(fourier, "hio", 1, seed=0)
    search.relative_residual = 1e-9
    run = run_search(search, budget_seconds=100, rounds=None)
    assert run.finished
    assert run.rounds == 0
    with pytest.raises(ValueError, match="either"):
        run_search(search, None, None)


def test_methods_and_numbers_are_checked(fourier: Measurements, gaussian: Measurements) -> None:
    with pytest.raises(PeakError, match="no such method for gaussian"):
        retrieve(gaussian, "hio")
    with pytest.raises(PeakError, match="no such method for fourier"):
        retrieve(fourier, "amplitude-flow")
    with pytest.raises(PeakError, match="did you mean 'peak'"):
        retrieve(fourier, "paek")
    with pytest.raises(ValueError, match="restarts"):
        retrieve(fourier, "hio", restarts=0)
