"""Packed rendering against the rendering sum written out ray by ray."""

import pytest
import torch

from peak_nerf.nerf.render.volrend import accumulate, packed_weights


def weights_written_out(tau: list[list[float]]) -> tuple[list[float], list[float]]:
    weights, transmittances = [], []
    for ray in tau:
        left = 1.0
        for depth in ray:
            alpha = 1 - torch.exp(torch.tensor(-depth, dtype=torch.float64)).item()
            weights.append(left * alpha)
            transmittances.append(left)
            left *= 1 - alpha
    return weights, transmittances


def test_weights_equal_the_sum_written_out() -> None:
    tau = [[0.1, 2.0, 0.5], [], [1e-4], [30.0, 1.0], []]
    ray = torch.tensor([i for i, samples in enumerate(tau) for _ in samples])
    weights, transmittance = packed_weights(
        torch.tensor([depth for samples in tau for depth in samples]), ray, len(tau)
    )
    expected_weights, expected_transmittance = weights_written_out(tau)
    assert weights.tolist() == pytest.approx(expected_weights, abs=1e-6)
    assert transmittance.tolist() == pytest.approx(expected_transmittance, abs=1e-6)


def test_long_batches_keep_their_precision() -> None:
    """100,000 opaque samples in front must not blur the last ray."""
    tau = torch.full((100_002,), 20.0)
    tau[-2:] = torch.tensor([0.5, 0.25])
    ray = torch.arange(100_002).clamp(max=100_000)
    weights, _ = packed_weights(tau, ray, 100_001)
    assert weights[-2:].tolist() == pytest.approx(weights_written_out([[0.5, 0.25]])[0], abs=1e-6)


def test_gradient_equals_autograd_of_the_sum() -> None:
    torch.manual_seed(0)
    tau = torch.rand(6, dtype=torch.float64, requires_grad=True)
    ray = torch.tensor([0, 0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda t: packed_weights(t, ray, 4)[0], (tau,))


def test_no_samples() -> None:
    weights, transmittance = packed_weights(torch.empty(0), torch.empty(0, dtype=torch.int64), 3)
    assert weights.shape == transmittance.shape == (0,)
    assert accumulate(weights, torch.empty(0, 3), torch.empty(0, dtype=torch.int64), 3).tolist() == [[0.0] * 3] * 3


def test_accumulate() -> None:
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    out = accumulate(torch.tensor([0.5, 1.0, 2.0]), values, torch.tensor([0, 2, 2]), 3)
    assert out.tolist() == [[0.5, 5.0], [0.0, 0.0], [8.0, 80.0]]
