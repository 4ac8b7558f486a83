"""Projections against their definitions; the solvers solve what they can."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from peak_nerf.tasks.phase_retrieval.measurements import simulate
from peak_nerf.tasks.phase_retrieval.projections import Projections, ProjectionSearch, padded, projections_for
from tests.tasks.phase_retrieval.pictures import aligned_psnr, scene

N = 16
TRUTH = scene(N)


@pytest.fixture
def projections() -> Projections:
    return projections_for(simulate(TRUTH, "fourier", 1.9))


def test_measured_projection_has_the_magnitudes_and_is_the_nearest(projections: Projections) -> None:
    v = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    p = projections.to_measured(v)
    z, before = torch.fft.fft2(p, norm="ortho"), torch.fft.fft2(v, norm="ortho")
    np.testing.assert_allclose(z.abs()[:, :16], projections.y, atol=1e-5)
    # The distance to the nearest point is that of the magnitudes, frequency by frequency.
    assert float((p - v).norm()) == pytest.approx(float((z.abs() - before.abs()).norm()), rel=1e-4)


def test_magnitudes_that_are_not_fitted_are_left_as_they_are() -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    fit_mask = torch.ones_like(measurements.magnitudes, dtype=torch.bool)
    fit_mask[3, 4] = False
    v = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    z = torch.fft.rfft2(projections_for(measurements, fit_mask).to_measured(v), norm="ortho")
    assert complex(z[3, 4]) == pytest.approx(complex(torch.fft.rfft2(v, norm="ortho")[3, 4]), abs=1e-5)
    assert abs(complex(z[3, 5])) == pytest.approx(float(measurements.magnitudes[3, 5]), abs=1e-5)


def test_hio_and_raar_are_as_written(projections: Projections) -> None:
    v = torch.rand(30, 30, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.3
    p, beta = projections.to_measured(v), projections.beta
    hio = torch.empty_like(v)
    for i in range(30):
        for j in range(30):
            obeys = i < N and j < N and 0 <= p[i, j] <= 1
            hio[i, j] = p[i, j] if obeys else v[i, j] - beta * p[i, j]
    np.testing.assert_allclose(projections.step(v, "hio"), hio, atol=1e-6)
    reflected = 2 * p - v
    supported = torch.zeros_like(v)
    supported[:N, :N] = reflected[:N, :N].clamp(0, 1)
    raar = beta / 2 * ((2 * supported - reflected) + v) + (1 - beta) * p
    np.testing.assert_allclose(projections.step(v, "raar"), raar, atol=1e-6)


def test_error_reduction_never_increases_the_residual() -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    projections = projections_for(measurements)
    v = padded(torch.rand(N, N, generator=torch.Generator().manual_seed(0)), 30)
    residuals = []
    for _ in range(40):
        v = projections.step(v, "error-reduction")
        residuals.append(measurements.relative_residual(v[:N, :N]))
    assert all(after <= before + 1e-6 for before, after in pairwise(residuals))
    assert residuals[-1] < residuals[0]


def test_the_truth_is_a_fixed_point_of_all(projections: Projections) -> None:
    v = padded(torch.from_numpy(TRUTH), 30)
    for solver in ("error-reduction", "hio", "raar"):
        np.testing.assert_allclose(projections.step(v, solver), v, atol=1e-5)  # type: ignore[arg-type]


def test_hio_solves_a_small_picture() -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    search = ProjectionSearch(measurements, "hio", restarts=3, seed=0)
    for i in range(200):
        search.round(i / 200)
    assert search.relative_residual == pytest.approx(measurements.relative_residual(search.picture), abs=1e-7)
    assert aligned_psnr(search.picture, TRUTH) > 60


def test_the_second_half_goes_on_with_the_best() -> None:
    search = ProjectionSearch(simulate(TRUTH, "fourier", 1.9), "hio", restarts=3, seed=0)
    for _ in range(3):
        search.round(0.0)
    best = int(np.argmin(search.residuals))
    before = [v.clone() for v in search.iterates]
    search.round(0.6)
    changed = [not torch.equal(a, b) for a, b in zip(before, search.iterates, strict=True)]
    assert changed == [i == best for i in range(3)]


def test_a_search_needs_a_start() -> None:
    with pytest.raises(ValueError, match="restarts"):
        ProjectionSearch(simulate(TRUTH, "fourier", 1.9), "hio", 0, 0)
