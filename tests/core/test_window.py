"""KAR by shifting a window, against loops over its pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peak_nerf.core.compiled import compiled_kernels_take
from peak_nerf.core.window import (
    kl_to_prior,
    locality_prior,
    symmetric_offsets,
    window_attention,
    window_residual,
    within_reach,
)


def mirrored(i: int, n: int) -> int:
    """..., 2, 1, 0, 1, ..., n - 1, n - 2, ..."""
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def pair_mean(image: Tensor, row: int, column: int, offset: Tensor) -> Tensor:
    h, w = image.shape[:2]
    up, left = (int(o) for o in offset)
    there = image[mirrored(row + up, h), mirrored(column + left, w)]
    return (there + image[mirrored(row - up, h), mirrored(column - left, w)]) / 2


def slow_attention(g: Tensor, offsets: Tensor, log_prior: Tensor) -> Tensor:
    out = torch.empty(*g.shape[:2], len(offsets), dtype=g.dtype)
    for row in range(g.shape[0]):
        for column in range(g.shape[1]):
            logits = [float(g[row, column] @ pair_mean(g, row, column, s)) for s in offsets]
            weights = [math.exp(a + float(b)) for a, b in zip(logits, log_prior, strict=True)]
            out[row, column] = torch.tensor([math.log(weight / sum(weights)) for weight in weights])
    return out


def slow_residual(f: Tensor, log_attention: Tensor, offsets: Tensor) -> Tensor:
    out = f.clone()
    for row in range(f.shape[0]):
        for column in range(f.shape[1]):
            for k, s in enumerate(offsets):
                out[row, column] -= math.exp(log_attention[row, column, k]) * pair_mean(f, row, column, s)
    return out


def test_offsets_are_one_of_each_pair_within_reach() -> None:
    eight = {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)} - {(0, 0)}
    for reach, expected in ((1.0, {(0, 1), (1, 0), (0, -1), (-1, 0)}), (1.5, eight)):
        offsets = symmetric_offsets(reach)
        assert len(offsets) == len(expected) // 2
        assert {tuple(s) for s in torch.cat([offsets, -offsets]).tolist()} == expected
    assert len(symmetric_offsets(3.0)) == 14
    assert symmetric_offsets(3.0).square().sum(dim=1).max() == 9


@pytest.mark.parametrize("reach", [0.0, 0.9, -2.0, math.inf, math.nan])
def test_a_reach_that_makes_no_sense_is_refused(reach: float) -> None:
    with pytest.raises(ValueError, match="reach"):
        symmetric_offsets(reach)


def test_the_prior_falls_with_the_squared_distance_and_sums_to_one() -> None:
    prior = locality_prior(torch.tensor([[0, 1], [1, 1], [0, 3]]), 0.2)
    assert prior.exp().sum().item() == pytest.approx(1)
    assert (prior[0] - prior[1]).item() == pytest.approx(0.2 * (2 - 1), abs=1e-6)
    assert (prior[0] - prior[2]).item() == pytest.approx(0.2 * (9 - 1), abs=1e-6)
    assert torch.allclose(locality_prior(torch.tensor([[0, 1], [5, 5]]), 0.0).exp(), torch.tensor([0.5, 0.5]))


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 7), st.integers(4, 7), st.sampled_from([1.0, 2.0, 3.0]), st.integers(0, 2**16))
def test_attention_and_residual_are_those_of_the_loops(h: int, w: int, reach: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(h, w, 5, generator=generator, dtype=torch.float64)
    f = torch.randn(h, w, 3, generator=generator, dtype=torch.float64)
    offsets = symmetric_offsets(reach)
    prior = locality_prior(offsets, 0.1).double()
    attention = window_attention(g, offsets, prior)
    assert torch.allclose(attention, slow_attention(g, offsets, prior), atol=1e-10)
    assert torch.allclose(window_residual(f, attention, offsets), slow_residual(f, attention, offsets), atol=1e-10)


def test_an_offset_may_be_longer_than_the_other_side_of_the_window() -> None:
    f = torch.randn(2, 9, 1, dtype=torch.float64)
    offsets = torch.tensor([[0, 5], [1, 1]])
    attention = torch.full((2, 9, 2), 0.5, dtype=torch.float64).log()
    assert torch.allclose(window_residual(f, attention, offsets), slow_residual(f, attention, offsets))


def test_a_linear_function_has_no_residual_inside_whatever_a_is() -> None:
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(8.0), indexing="ij")
    f = torch.stack([2 * rows - columns, torch.ones_like(rows)], dim=2)
    offsets = symmetric_offsets(2.0)
    attention = window_attention(torch.randn(9, 8, 4), offsets, locality_prior(offsets, 0.0))
    residual = window_residual(f, attention, offsets)
    assert residual[2:-2, 2:-2].abs().max() < 1e-5
    assert residual[..., 1].abs().max() < 1e-6  # constants at the border too


def test_gradients_reach_f_and_g() -> None:
    offsets = symmetric_offsets(1.5)
    prior = locality_prior(offsets, 0.3).double()

    def loss(f: Tensor, g: Tensor) -> Tensor:
        attention = window_attention(g, offsets, prior)
        return window_residual(f, attention, offsets).square().sum() + kl_to_prior(attention, prior)

    f, g = (torch.randn(3, 4, n, dtype=torch.float64, requires_grad=True) for n in (1, 2))
    assert torch.autograd.gradcheck(loss, (f, g))


def test_divergence_is_zero_at_the_prior_and_by_hand_elsewhere() -> None:
    prior = torch.tensor([0.5, 0.5]).log()
    at_prior = prior.expand(2, 3, 2)
    assert kl_to_prior(at_prior, prior).item() == pytest.approx(0, abs=1e-7)
    one_pixel = torch.tensor([[[0.9, 0.1]]]).log()
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert kl_to_prior(one_pixel, prior).item() == pytest.approx(expected, abs=1e-6)


def test_offsets_past_the_window_or_none_are_refused() -> None:
    f, g = torch.zeros(3, 8, 1), torch.zeros(3, 8, 2)
    far = torch.tensor([[3, 0]])
    with pytest.raises(ValueError, match="3 x 8"):
        window_attention(g, far, torch.zeros(1))
    with pytest.raises(ValueError, match="offsets"):
        window_residual(f, torch.zeros(3, 8, 1), far)
    with pytest.raises(ValueError, match="offsets must exist"):
        window_attention(g, far[:0], torch.zeros(0))


def test_divergence_weighs_pixels() -> None:
    prior = torch.log(torch.tensor([0.5, 0.5]))
    attention = torch.log(torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]))
    of_second = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert kl_to_prior(attention, prior, torch.tensor([[7.0, 3.0]])).item() == pytest.approx(1.5 * of_second, abs=1e-6)


def test_within_reach_by_hand() -> None:
    known = torch.zeros(6, 7, dtype=torch.bool)
    known[0, 1] = True
    reached = within_reach(known, torch.tensor([[0, 1], [2, -1]]))
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[:3, :3] = True
    assert torch.equal(reached, expected)


@pytest.mark.parametrize(
    ("h", "w", "r", "reach"), [(4, 4, 1, 3.0), (5, 23, 7, 3.0), (31, 12, 100, 2.0), (40, 40, 16, 1.0)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_kernels_agree_with_torch_and_its_gradient(h: int, w: int, r: int, reach: float, threads: int) -> None:
    generator = torch.Generator().manual_seed(h)
    exact = torch.randn(h, w, r, generator=generator, dtype=torch.float64)
    of_attention = torch.randn(h, w, len(symmetric_offsets(reach)), generator=generator, dtype=torch.float64)
    offsets, results = symmetric_offsets(reach), []
    before = torch.get_num_threads()
    for g, kernels in ((exact, False), (exact.float(), True), (exact.float().mT.contiguous().mT, True)):
        g = g.clone().requires_grad_()
        assert compiled_kernels_take(g) == kernels
        try:
            torch.set_num_threads(threads)
            attention = window_attention(g, offsets, locality_prior(offsets, 0.1).to(g))
            (attention * of_attention.to(g)).sum().backward()
        finally:
            torch.set_num_threads(before)
        assert g.grad is not None
        results.append((attention.detach().double(), g.grad.double()))
    for attention, gradient in results[1:]:
        assert torch.allclose(attention, results[0][0], atol=2e-5, rtol=1e-5)
        assert torch.allclose(gradient, results[0][1], atol=1e-4, rtol=1e-5)


def test_threads_change_no_digit_of_the_compiled_kernels() -> None:
    g, offsets = torch.randn(17, 9, 20), symmetric_offsets(3.0)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 5):
        leaf = g.clone().requires_grad_()
        try:
            torch.set_num_threads(threads)
            attention = window_attention(leaf, offsets, locality_prior(offsets, 0.1))
            attention.square().sum().backward()
        finally:
            torch.set_num_threads(before)
        results.append((attention.detach(), leaf.grad))
    for attention, gradient in results[1:]:
        assert torch.equal(attention, results[0][0])
        assert gradient is not None
        assert results[0][1] is not None
        assert torch.equal(gradient, results[0][1])
