"""Projections against their definitions; the solvers solve what they can."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from peak_nerf.metrics import psnr
from peak_nerf.tasks.phase_retrieval.align import align
from peak_nerf.tasks.phase_retrieval.measurements import simulate
from peak_nerf.tasks.phase_retrieval.multiscale_hio import COARSE_STARTS, KEPT, CoarseToFine, Vote, gaussian_start
from peak_nerf.tasks.phase_retrieval.polish import RESTART, Polish, held_out_misfit
from peak_nerf.tasks.phase_retrieval.projections import (
    AmplitudeFlow,
    Projections,
    ProjectionSearch,
    padded,
    projections_for,
)
from tests.tasks.phase_retrieval.pictures import scene

N = 16
TRUTH = scene(N)


def aligned_psnr(picture: torch.Tensor, truth: np.ndarray) -> float:
    return psnr(float(((align(picture.numpy(), truth).picture - truth) ** 2).mean()))


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


def test_unknown_magnitudes_are_left_as_they_are() -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    known = torch.ones_like(measurements.magnitudes, dtype=torch.bool)
    known[3, 4] = False
    v = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    z = torch.fft.rfft2(projections_for(measurements, known).to_measured(v), norm="ortho")
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


def test_error_reduction_never_increases_the_misfit() -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    projections = projections_for(measurements)
    v = padded(torch.rand(N, N, generator=torch.Generator().manual_seed(0)), 30)
    misfits = []
    for _ in range(40):
        v = projections.step(v, "error-reduction")
        misfits.append(measurements.misfit(v[:N, :N]))
    assert all(after <= before + 1e-6 for before, after in pairwise(misfits))
    assert misfits[-1] < misfits[0]


def test_the_truth_is_a_fixed_point_of_all(projections: Projections) -> None:
    v = padded(torch.from_numpy(TRUTH), 30)
    for solver in ("error-reduction", "hio", "raar"):
        np.testing.assert_allclose(projections.step(v, solver), v, atol=1e-5)  # type: ignore[arg-type]


def test_hio_solves_a_small_picture() -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    search = ProjectionSearch(measurements, "hio", restarts=3, seed=0)
    for i in range(200):
        search.round(i / 200)
    assert search.misfit == pytest.approx(measurements.misfit(search.picture), abs=1e-7)
    assert aligned_psnr(search.picture, TRUTH) > 60


def test_the_second_half_goes_on_with_the_best() -> None:
    search = ProjectionSearch(simulate(TRUTH, "fourier", 1.9), "hio", restarts=3, seed=0)
    for _ in range(3):
        search.round(0.0)
    best = int(np.argmin(search.misfits))
    before = [v.clone() for v in search.iterates]
    search.round(0.6)
    changed = [not torch.equal(a, b) for a, b in zip(before, search.iterates, strict=True)]
    assert changed == [i == best for i in range(3)]


@pytest.mark.parametrize("make", [ProjectionSearch, CoarseToFine])
def test_a_search_needs_a_start(make: type) -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    arguments = (measurements, "hio", 0, 0) if make is ProjectionSearch else (measurements, 0, 0)
    with pytest.raises(ValueError, match="restarts"):
        make(*arguments)


def test_coarse_levels_know_the_blurred_picture_up_to_ringing() -> None:
    """The truth, blurred, has a coarse level's magnitudes, and all but obeys its constraint."""
    truth = scene(96)
    search = CoarseToFine(simulate(truth, "fourier", 1.9), restarts=1, seed=0)
    full = np.fft.fft2(truth, s=(182, 182)) / 182
    assert len(search.levels) == 3
    for level in search.levels[:-1]:
        k = np.rint(np.fft.fftfreq(level.side) * level.side).astype(int)
        low = full[np.ix_(k % 182, k % 182)]
        blur = 20.0 ** -((k[:, None] ** 2 + k**2) / (level.side / 2) ** 2)
        blur[level.side // 2] = blur[:, level.side // 2] = 0
        v = np.fft.ifft2(low * blur * (level.side / 182), norm="ortho").real
        measured = np.abs(np.fft.rfft2(v, norm="ortho"))
        np.testing.assert_allclose(measured, level.y, atol=1e-4)
        excess = np.maximum(v - level.ceiling.numpy(), 0) + np.maximum(-v, 0)
        assert np.sqrt((excess**2).mean()) < 0.005


def test_coarse_to_fine_finds_the_picture() -> None:
    """One of four seeds at least: whether a single one does hangs on the machine's rounding (5 of 6 did here). What
    does not find it stays near 15 dB."""
    truth = scene(64)
    measurements = simulate(truth, "fourier", 1.9)

    def found(seed: int) -> bool:
        search = CoarseToFine(measurements, 3, seed=seed)
        for i in range(60):
            search.round(i / 60)
        assert search.level == len(search.levels) - 1
        return max(aligned_psnr(picture, truth) for picture in search.candidates()) > 23

    assert any(found(seed) for seed in range(4))


def test_several_go_on_to_all_frequencies_and_one_stays() -> None:
    search = CoarseToFine(simulate(scene(96), "fourier", 1.9), restarts=2, seed=0)
    alive, levels = [], []
    for fraction in np.linspace(0, 1, 40, endpoint=False):
        search.round(float(fraction))
        alive.append(len(search.iterates))
        levels.append(search.level)
    assert alive[0] == 2 * COARSE_STARTS
    assert {n for n, level in zip(alive, levels, strict=True) if level == 1} == {2 * KEPT}
    assert [n for n, level in zip(alive, levels, strict=True) if level == 2] == sorted(alive[levels.index(2) :])[::-1]
    assert (alive[levels.index(2)], alive[-1]) == (2 * KEPT, 1)
    assert search.misfit == min(search.misfit, *search.misfits)


def test_a_vote_of_what_has_settled_is_the_picture_itself() -> None:
    truth = torch.from_numpy(TRUTH)
    search = CoarseToFine(simulate(TRUTH, "fourier", 1.9), 1, seed=0)
    search.misfits = [1.0] * len(search.misfits)
    search._look(1 - truth)  # while several take turns, none votes
    search._drop_all_but_the_best(1)
    search.misfits = [1.0]
    search._look(truth)
    search._look(truth)
    np.testing.assert_allclose(search.candidates()[1], truth, atol=1e-5)


def test_a_search_that_is_restored_has_its_votes() -> None:
    measurements = simulate(scene(32), "fourier", 1.9)
    search, again = (CoarseToFine(measurements, 1, seed=seed) for seed in (0, 1))
    for fraction in (0.5, 0.7, 0.8):
        search.round(fraction)
    again.restore(search.state())
    for one, other in zip(search.candidates(), again.candidates(), strict=True):
        assert torch.equal(one, other)
    assert len(search.candidates()) == 2


def test_the_mean_of_votes_is_small_where_they_differ() -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    one, other = torch.from_numpy(TRUTH), torch.from_numpy(TRUTH[::-1, ::-1].copy())
    vote = Vote(measurements, measurements.magnitudes, torch.ones_like(measurements.magnitudes, dtype=torch.bool))
    vote.add(one, 0.1)
    vote.add(other, 0.2)
    phases = [(z := measurements.operator.apply(x)) / z.abs() for x in (one, other)]
    np.testing.assert_allclose(vote.sum / vote.total, (4 * phases[0] + phases[1]) / 5, atol=1e-4)
    vote.clear()
    vote.add(other, 0.2)
    np.testing.assert_allclose(vote.picture(one), other, atol=1e-5)  # turned, it has the same magnitudes


def test_a_polish_begins_anew_from_the_vote() -> None:
    truth = scene(48)
    measurements = simulate(truth, "fourier", 1.9)
    known = torch.rand(measurements.magnitudes.shape, generator=torch.Generator().manual_seed(0)) > 0.02
    search = Polish(measurements, [torch.from_numpy(truth) * 0.9, torch.rand(48, 48)], known)
    start = search.misfit
    for _ in range(RESTART - 1):
        search.round(0.0)
    assert search.v[48:].abs().max() > 0  # HIO keeps something outside of the picture
    search.round(0.0)
    assert search.v[48:].abs().max() == 0
    assert search.v[:, 48:].abs().max() == 0
    assert search.vote.total == 0
    assert search.misfit == held_out_misfit(measurements, search.picture, known) < start


@pytest.mark.parametrize("complex_matrix", [False, True])
def test_gaussian_start_is_near_and_of_the_right_sign(complex_matrix: bool) -> None:
    picture = scene(32)
    measurements = simulate(picture, "gaussian", 1.0, complex_matrix=complex_matrix)
    start = gaussian_start(measurements)
    assert psnr(float(((start.numpy() - picture) ** 2).mean())) > 19
    with pytest.raises(ValueError, match="Gaussian"):
        gaussian_start(simulate(picture, "fourier", 1.9))


def test_amplitude_flow_solves_where_there_are_many_magnitudes() -> None:
    measurements = simulate(TRUTH, "gaussian", 5.0)
    flow = AmplitudeFlow(measurements, gaussian_start(measurements))
    for _ in range(8):
        flow.round(0.0)
    assert flow.iterations == 200
    assert aligned_psnr(flow.picture, TRUTH) > 60
