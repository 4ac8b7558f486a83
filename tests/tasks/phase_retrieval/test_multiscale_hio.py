"""Multiscale HIO: its levels, the averaged phases, the refinement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peak_nerf.tasks.phase_retrieval.measurements import simulate
from peak_nerf.tasks.phase_retrieval.multiscale_hio import (
    COARSE_STARTS,
    KEPT,
    RESTART,
    CoarseToFine,
    PhaseAverage,
    Refinement,
)
from tests.tasks.phase_retrieval.pictures import aligned_psnr, scene

N = 16
TRUTH = scene(N)


def test_a_search_needs_a_start() -> None:
    with pytest.raises(ValueError, match="restarts"):
        CoarseToFine(simulate(TRUTH, "fourier", 1.9), 0, 0)


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
    assert search.relative_residual == min(search.relative_residual, *search.residuals)


def test_the_averaged_phases_of_what_has_settled_is_the_picture_itself() -> None:
    truth = torch.from_numpy(TRUTH)
    search = CoarseToFine(simulate(TRUTH, "fourier", 1.9), 1, seed=0)
    search.residuals = [1.0] * len(search.residuals)
    search._consider(1 - truth)  # while several take turns, none is averaged
    search._drop_all_but_the_best(1)
    search.residuals = [1.0]
    search._consider(truth)
    search._consider(truth)
    np.testing.assert_allclose(search.candidates()[1], truth, atol=1e-5)


def test_a_search_that_is_restored_has_its_averaged_phases() -> None:
    measurements = simulate(scene(32), "fourier", 1.9)
    search, again = (CoarseToFine(measurements, 1, seed=seed) for seed in (0, 1))
    for fraction in (0.5, 0.7, 0.8):
        search.round(fraction)
    again.restore(search.state())
    for one, other in zip(search.candidates(), again.candidates(), strict=True):
        assert torch.equal(one, other)
    assert len(search.candidates()) == 2


def test_the_mean_phase_is_small_where_they_differ() -> None:
    measurements = simulate(TRUTH, "fourier", 1.9)
    one, other = torch.from_numpy(TRUTH), torch.from_numpy(TRUTH[::-1, ::-1].copy())
    everything = torch.ones_like(measurements.magnitudes, dtype=torch.bool)
    average = PhaseAverage(measurements, measurements.magnitudes, everything)
    average.add(one, 0.1)
    average.add(other, 0.2)
    phases = [(z := measurements.operator.apply(x)) / z.abs() for x in (one, other)]
    np.testing.assert_allclose(average.sum / average.total, (4 * phases[0] + phases[1]) / 5, atol=1e-4)
    average.clear()
    average.add(other, 0.2)
    np.testing.assert_allclose(average.picture(one), other, atol=1e-5)  # turned, it has the same magnitudes


def test_a_refinement_begins_anew_from_the_averaged_phases() -> None:
    truth = scene(48)
    measurements = simulate(truth, "fourier", 1.9)
    fit_mask = torch.rand(measurements.magnitudes.shape, generator=torch.Generator().manual_seed(0)) > 0.02
    search = Refinement(measurements, [torch.from_numpy(truth) * 0.9, torch.rand(48, 48)], fit_mask)
    start = search.relative_residual
    for _ in range(RESTART - 1):
        search.round(0.0)
    assert search.v[48:].abs().max() > 0  # HIO keeps something outside of the picture
    search.round(0.0)
    assert search.v[48:].abs().max() == 0
    assert search.v[:, 48:].abs().max() == 0
    assert search.phase_average.total == 0
    assert search.relative_residual == measurements.relative_residual(search.picture, ~fit_mask) < start
