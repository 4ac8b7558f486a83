"""Gaussian magnitudes: the spectral start, and amplitude flow from it."""

from __future__ import annotations

import pytest

from peak_nerf.metrics import psnr
from peak_nerf.tasks.phase_retrieval.measurements import simulate
from peak_nerf.tasks.phase_retrieval.spectral import AmplitudeFlow, gaussian_start
from tests.tasks.phase_retrieval.pictures import aligned_psnr, scene

N = 16
TRUTH = scene(N)


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
