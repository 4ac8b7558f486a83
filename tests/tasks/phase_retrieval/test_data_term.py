"""The expected measurement against its definition, by sampling and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import i0e, i1e  # type: ignore[import-untyped]

from peak_nerf.tasks.phase_retrieval.data_term import data_error, expected_measurement


def test_real_target_is_the_mean_over_both_signs() -> None:
    z, y, sigma = torch.tensor([0.3, -0.2, 0.0]), torch.tensor([0.5, 0.1, 0.4]), 0.4
    plus = torch.exp(-((z - y) ** 2) / (2 * sigma**2))
    minus = torch.exp(-((z + y) ** 2) / (2 * sigma**2))
    expected = (y * plus - y * minus) / (plus + minus)
    torch.testing.assert_close(expected_measurement(z, y, sigma), expected)


def test_complex_target_is_the_mean_over_all_phases() -> None:
    z, y, sigma = torch.tensor([0.3 + 0.1j, -0.05j]), torch.tensor([0.4, 0.3]), 0.35
    truth = y[:, None] * torch.polar(torch.ones(3600), torch.linspace(0, 2 * math.pi, 3601)[:-1])
    # Complex noise of variance sigma^2: sigma^2 / 2 in each part.
    likelihood = torch.exp(-((z[:, None] - truth).abs() ** 2) / sigma**2)
    expected = (truth * likelihood).sum(dim=1) / likelihood.sum(dim=1)
    torch.testing.assert_close(expected_measurement(z, y, sigma), expected, atol=1e-4, rtol=1e-4)
    k = 2 * 0.3 * 0.05 / sigma**2
    assert abs(complex(expected_measurement(z, y, sigma)[1])) == pytest.approx(0.3 * i1e(k) / i0e(k), rel=1e-4)


def test_without_sigma_it_is_the_measured_magnitude_with_the_present_phase() -> None:
    z, y = torch.tensor([3 + 4j, -2j]), torch.tensor([10.0, 1.0])
    torch.testing.assert_close(expected_measurement(z, y, 0.0), torch.tensor([6 + 8j, -1j]))


def test_gradient_is_that_of_the_smoothed_amplitude_loss() -> None:
    epsilon = 0.3
    y = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.complex128).requires_grad_()
    target = expected_measurement(z, y, 0.0, epsilon)
    (ours,) = torch.autograd.grad(data_error(z, target, torch.ones(1), 1) / 2, z)
    loss = ((z.abs() ** 2 + epsilon).sqrt() - (y**2 + epsilon).sqrt()).square().sum() / 2
    (theirs,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(ours, theirs)


def test_error_counts_weights() -> None:
    z, target = torch.tensor([[1.0 + 1j, 2.0]]), torch.tensor([[0.0, 0j]])
    assert float(data_error(z, target, torch.tensor([1.0, 2.0]), 5)) == pytest.approx((2 + 2 * 4) / 5)
