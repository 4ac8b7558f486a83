import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from peak_nerf.core.encodings import (
    ConcatEncoding,
    FourierEncoding,
    IdentityEncoding,
    PolynomialEncoding,
    RawCoordinates,
    UnitSphereMap,
)
from peak_nerf.errors import PeakError


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def tensor_power(x: Tensor, k: int) -> Tensor:
    """x^{(x)k} with all d^k entries, one Kronecker product at a time."""
    power = torch.ones(len(x), 1, dtype=x.dtype)
    for _ in range(k):
        power = (power[:, :, None] * x[:, None, :]).flatten(1)
    return power


@settings(deadline=None, max_examples=40)
@given(
    d=st.integers(1, 4),
    degree=st.integers(0, 6),
    coordinate_map=st.sampled_from(["unit_sphere", "raw"]),
    seed=st.integers(0, 100),
)
def test_inner_product_is_the_power_series(d: int, degree: int, coordinate_map: str, seed: int) -> None:
    a = [0.3 + 0.7 * ((seed + 3 * k) % 5) for k in range(degree + 1)]
    encoding = PolynomialEncoding(d, degree, coordinate_map, init=a).double()
    x, y = points(5, d, seed), points(6, d, seed + 1)
    u, v = encoding.coordinates(x), encoding.coordinates(y)
    expected = sum(a_k * (u @ v.T) ** k for k, a_k in enumerate(encoding.coefficients))
    assert encoding(x).shape == (5, encoding.out_dim)
    torch.testing.assert_close(encoding(x) @ encoding(y).T, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(encoding.coefficients, torch.tensor(a).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("d", "degree"), [(1, 4), (2, 3), (3, 4)])
def test_blocks_agree_with_the_plain_tensor_power(d: int, degree: int) -> None:
    encoding = PolynomialEncoding(d, degree, "raw").double()
    x, y = points(4, d), points(5, d, 1)
    roots = encoding.coefficients.sqrt()
    for k, block in enumerate(encoding.degree_slices):
        gram = encoding(x)[:, block] @ encoding(y)[:, block].T
        torch.testing.assert_close(gram, roots[k] ** 2 * tensor_power(x, k) @ tensor_power(y, k).T)
        assert block.stop - block.start == math.comb(d + k - 1, k)
    assert encoding.degree_slices[-1].stop == encoding.out_dim


def test_degree_two_by_hand() -> None:
    encoding = PolynomialEncoding(2, 2, "raw", init=[4.0, 9.0, 16.0]).double()
    expected = [[2, 3 * 0.5, 3 * -1, 4 * 0.25, 4 * math.sqrt(2) * -0.5, 4 * 1]]
    found = encoding(torch.tensor([[0.5, -1.0]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_high_degree_neither_overflows_nor_loses_the_identity() -> None:
    encoding = PolynomialEncoding(2, 400, "raw")  # C(400, 200) alone is 1e119, far outside float32
    x = torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    torch.testing.assert_close(
        encoding(x) @ encoding(x).T, torch.tensor([[401.0, 1.0], [1.0, 401.0]]), rtol=1e-4, atol=0
    )


def test_normalized_init_has_norm_one_on_the_sphere() -> None:
    encoding = PolynomialEncoding(3, 4, "unit_sphere", init="normalized").double()
    torch.testing.assert_close(encoding(points(5, 3)).norm(dim=1), torch.ones(5).double(), rtol=1e-6, atol=1e-6)


def test_gradients_reach_coefficients_and_positions() -> None:
    encoding = PolynomialEncoding(2, 3, "unit_sphere").double()
    x = points(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(encoding, x)
    encoding(x).sum().backward()
    assert encoding.raw_coefficients.grad is not None
    assert bool((encoding.raw_coefficients.grad != 0).all())


def test_coefficients_stay_non_negative_and_finite_gradient_under_any_step() -> None:
    encoding = PolynomialEncoding(2, 2, "raw")
    with torch.no_grad():
        encoding.raw_coefficients.copy_(torch.tensor([-200.0, -3.0, 50.0]))
    encoding(points(3, 2).float()).sum().backward()
    assert bool((encoding.coefficients > 0).all())
    assert encoding.raw_coefficients.grad is not None
    assert bool(encoding.raw_coefficients.grad.isfinite().all())


def test_too_many_features_is_a_clear_error_before_any_memory_is_taken() -> None:
    with pytest.raises(PeakError, match="12,082,785 features"):
        PolynomialEncoding(2, 128, "unit_sphere")
    assert PolynomialEncoding(2, 128, "raw").out_dim == math.comb(130, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"in_dim": 0},
        {"degree": -1},
        {"init": [1.0]},
        {"init": [1.0, 0.0]},
        {"init": [1.0, float("nan")]},
    ],
)
def test_polynomial_rejects(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"at least|init must be"):
        PolynomialEncoding(**{"in_dim": 2, "degree": 1, **arguments})


def test_only_the_coefficients_are_saved() -> None:
    assert list(PolynomialEncoding(2, 3).state_dict()) == ["raw_coefficients"]


def test_fourier_by_hand() -> None:
    encoding = FourierEncoding(2, 2)
    encoding.frequencies.copy_(torch.tensor([[1.0, 0.0], [0.25, 0.5]]))
    # Phases 2 pi (0.25, 0.0625 + 0.25).
    phase = 2 * math.pi * 0.3125
    expected = torch.tensor([[1.0, math.sin(phase), 0.0, math.cos(phase)]])
    torch.testing.assert_close(encoding(torch.tensor([[0.25, 0.5]])), expected, atol=1e-6, rtol=0)


def test_fourier_kernel_is_the_gaussian_it_samples() -> None:
    """E[gamma(x)^T gamma(x')] / n = E[cos 2 pi b (x - x')] = exp(-2 pi^2 scale^2 ||x - x'||^2)."""
    encoding = FourierEncoding(2, 20_000, scale=2.0)
    x, y = torch.tensor([[0.1, -0.2]]), torch.tensor([[0.15, -0.12]])
    expected = math.exp(-2 * math.pi**2 * 4 * float((x - y).square().sum()))
    assert float(encoding(x) @ encoding(y).T) / 20_000 == pytest.approx(expected, abs=0.02)


def test_fourier_frequencies_depend_on_the_seed_alone_and_are_saved() -> None:
    torch.manual_seed(1)
    first = FourierEncoding(3, 4, seed=7)
    before = torch.random.get_rng_state()
    second = FourierEncoding(3, 4, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.frequencies, second.frequencies)
    other = FourierEncoding(3, 4, seed=8)
    assert not torch.equal(first.frequencies, other.frequencies)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.frequencies, first.frequencies)


def test_concat_puts_the_parts_side_by_side() -> None:
    parts = [IdentityEncoding(2), PolynomialEncoding(2, 2), FourierEncoding(2, 3)]
    x = points(4, 2).float()
    encoding = ConcatEncoding(parts)
    assert encoding.out_dim == sum(part.out_dim for part in parts) == encoding(x).shape[1]
    assert torch.equal(encoding(x), torch.cat([part(x) for part in parts], dim=1))
    assert torch.equal(encoding(x)[:, :2], x)
    assert any(parameter is parts[1].raw_coefficients for parameter in encoding.parameters())


@pytest.mark.parametrize("parts", [[], [IdentityEncoding(2), IdentityEncoding(3)]])
def test_concat_needs_parts_of_one_input(parts: list[nn.Module]) -> None:
    with pytest.raises(ValueError, match="share one in_dim"):
        ConcatEncoding(parts)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(0, 9), st.sampled_from(["unit_sphere", "raw"]), st.integers(0, 2**16))
def test_without_cross_terms_the_kernel_is_that_of_each_variable(d: int, degree: int, map_: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (2 * torch.rand(2, 5, d, generator=generator, dtype=torch.float64) - 1).unbind()
    encoding = PolynomialEncoding(d, degree, map_, "ones", cross_terms=False).double()  # type: ignore[arg-type]
    with torch.no_grad():
        encoding.raw_coefficients.copy_(torch.randn(degree + 1, generator=generator))
    a = encoding.coefficients
    u, v = encoding.coordinates(x), encoding.coordinates(y)
    expected = a[0] + sum(a[k] * (u * v).pow(k).sum(dim=1) for k in range(1, degree + 1))
    assert torch.allclose((encoding(x) * encoding(y)).sum(dim=1), expected, atol=1e-9)
    assert encoding(x).shape == (5, encoding.out_dim) == (5, 1 + u.shape[1] * degree)
    for k, part in enumerate(encoding.degree_slices):
        block = a[k].sqrt() * (u.pow(k) if k else torch.ones(5, 1, dtype=torch.float64))
        assert torch.allclose(encoding(x)[:, part], block, atol=1e-9)


def test_degree_128_without_cross_terms_stays_finite() -> None:
    encoding = PolynomialEncoding(2, 128, cross_terms=False)
    x = (2 * torch.rand(64, 2) - 1).requires_grad_()
    encoding(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert encoding.out_dim == 513


# --- coordinate maps


@settings(deadline=None)
@given(d=st.integers(1, 12), seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 1.0, 50.0]))
def test_unit_sphere_has_norm_one_in_any_dimension(d: int, seed: int, scale: float) -> None:
    x = scale * torch.randn(7, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mapped = UnitSphereMap(d)(x)
    assert mapped.shape == (7, 2 * d)
    torch.testing.assert_close(mapped.norm(dim=-1), torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-14)


def test_unit_sphere_by_hand() -> None:
    expected = torch.tensor([[1.0, 0.0, 0.0, 1.0]]) / math.sqrt(2)
    torch.testing.assert_close(UnitSphereMap(2)(torch.tensor([[0.0, math.pi / 2]])), expected, atol=1e-7, rtol=0)


def test_raw_coordinates_are_the_input() -> None:
    x = torch.tensor([[0.3, -7.0, 2.0]])
    assert RawCoordinates(3)(x) is x
    assert RawCoordinates(3).out_dim == 3


@pytest.mark.parametrize("kind", [UnitSphereMap, RawCoordinates])
def test_a_coordinate_map_of_no_dimension_is_an_error(kind: type) -> None:
    with pytest.raises(ValueError, match="in_dim"):
        kind(0)
