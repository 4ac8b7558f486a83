import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from peak_nerf.core.encodings import PolynomialEncoding, UnitSphereMap
from peak_nerf.core.kernels.aligned_encoding import aligned_encoding
from peak_nerf.core.kernels.finite_width import FiniteNetwork
from peak_nerf.core.kernels.infinite_width import InfiniteNetwork
from peak_nerf.core.kernels.ntk import empirical_ntk
from peak_nerf.core.kernels.series import evaluate_series, inverse_series
from peak_nerf.errors import PeakError

RELU = InfiniteNetwork("relu", 1, 2.0, 0.0)
ERF = InfiniteNetwork("erf", 1, 1.0, 0.0)
C = torch.cat([torch.linspace(-1, 1, 2001), 1 - torch.logspace(-8, -2, 50)]).double()


def laplace(width: float) -> Callable[[Tensor], Tensor]:
    return lambda c: (-width * (2 - 2 * c).sqrt()).exp()


# Target, eps, and what is expected of the bases (relu, erf): a number is the highest degree it may take, words are of
# the refusal. A kink at c = 1 is in every ReLU kernel, so smooth targets are out of its reach; kinked targets are in
# the reach of both, at the price of a high degree.
NEGATIVE, OUTSIDE = "negative coefficients", "not in B"
TARGETS: dict[str, tuple[Callable[[Tensor], Tensor], float, int | str, int | str]] = {
    "exp(-|x - x'|)": (laplace(1.0), 3e-2, 60, 300),
    "0.05 exp(-|x - x'|)": (lambda c: 0.05 * laplace(1.0)(c), 3e-3, 40, 250),
    "exp(-2 |x - x'|)": (laplace(2.0), 7e-2, NEGATIVE, 400),
    "1 - |x - x'| / 2": (lambda c: 1 - ((1 - c) / 2).sqrt(), 2e-2, 20, 150),
    "three-layer ReLU NTK": (lambda c: InfiniteNetwork("relu", 3, 2.0, 0.0)(c) / 8, 2e-2, 30, 200),
    "0.05 / (2 - c)": (lambda c: 0.05 / (2 - c), 1e-4, NEGATIVE, 12),
    "two-layer ReLU NNGP / 200": (
        lambda c: InfiniteNetwork("relu", 2, 2.0, 0.0, "nngp")(c) / 200, 1e-4, NEGATIVE, 12,
    ),
    "exp(c - 1)": (lambda c: (c - 1).exp(), 1e-3, NEGATIVE, NEGATIVE),
    "(1 + c) / 2": (lambda c: (1 + c) / 2, 1e-3, NEGATIVE, NEGATIVE),
    "c^3": (lambda c: c**3, 1e-3, OUTSIDE, NEGATIVE),
    "5 erf NTK, scaled inside": (lambda c: ERF(0.4 * c, 0.4), 1e-4, OUTSIDE, 3),
}  # fmt: skip


@pytest.mark.parametrize("base", ["relu", "erf"])
@pytest.mark.parametrize("name", TARGETS)
def test_the_sup_error_is_below_eps_wherever_the_theorem_holds(name: str, base: str) -> None:
    target, eps, *expected = TARGETS[name]
    network, outcome = (RELU, expected[0]) if base == "relu" else (ERF, expected[1])
    if isinstance(outcome, str):
        with pytest.raises(PeakError, match=outcome):
            aligned_encoding(network, target, eps)
        return
    result = aligned_encoding(network, target, eps)
    assert result.encoding.degree <= outcome
    assert result.dropped == 0
    assert result.sup_error < eps
    # Measured anew, on other points, with K at the norm that the encoded points really have.
    a = result.encoding.coefficients.detach().double()
    attained = network(evaluate_series(a, C).clamp(-a.sum(), a.sum()), a.sum())
    assert float((attained - target(C)).abs().max()) < eps
    assert result.squared_norm == pytest.approx(float(a.sum()))


def test_the_encoding_itself_gives_the_kernel() -> None:
    """gamma(x) through the network's kernel of points, not of inner products; x in [-1, 1]^2, c from its own map."""
    target = laplace(1.0)
    result = aligned_encoding(RELU, target, 5e-2, in_dim=2)
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    sphere = UnitSphereMap(2)(x)
    c = (sphere @ sphere.T).clamp(-1, 1).fill_diagonal_(1)
    encoding = result.encoding.double()
    with torch.no_grad():
        gamma = encoding(x)
    torch.testing.assert_close(gamma.square().sum(dim=1), torch.full((30,), result.squared_norm, dtype=torch.float64))
    assert float((RELU.matrix(gamma) - target(c)).abs().max()) < 5e-2


def test_a_wide_network_behind_the_encoding_has_the_kernel() -> None:
    target = lambda c: 0.05 / (2 - c)  # noqa: E731
    encoding = aligned_encoding(ERF, target, 1e-3).encoding.double().requires_grad_(False)
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    with torch.no_grad():
        gamma = encoding(x)
    torch.manual_seed(0)
    k = empirical_ntk(FiniteNetwork(ERF, 8192, encoding.out_dim).double(), gamma)
    assert float((k - target((x - x.T).cos())).abs().max()) < 0.003


def test_series_of_the_identity_and_of_a_composition() -> None:
    kernel = lambda t: (t + 1) ** 2  # noqa: E731
    series = inverse_series(kernel, kernel, 0.0, 1.0, 20)
    torch.testing.assert_close(series, torch.eye(21, dtype=torch.float64)[1], rtol=0, atol=1e-9)
    # h = K^{-1}(K*) with K = exp and K* = exp(exp(c)): h = exp(c), a_k = 1 / k!.
    series = inverse_series(torch.exp, lambda c: c.exp().exp(), 1.0, 1.0, 12)
    expected = torch.tensor([1 / math.factorial(k) for k in range(13)], dtype=torch.float64)
    torch.testing.assert_close(series, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        evaluate_series(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0])), torch.tensor([17.0])
    )


def test_the_same_kernel_needs_degree_one() -> None:
    nngp = InfiniteNetwork("relu", 1, 2.0, 0.0, "nngp")
    result = aligned_encoding(nngp, lambda c: nngp(c), 1e-6)
    assert result.encoding.degree == 1
    torch.testing.assert_close(result.series[:3], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-8)


def test_smaller_eps_takes_a_higher_degree_and_too_small_is_refused() -> None:
    degrees = [aligned_encoding(RELU, laplace(1.0), eps).encoding.degree for eps in (0.1, 0.03, 0.01)]
    assert degrees == sorted(degrees)
    assert degrees[0] < degrees[2]
    with pytest.raises(PeakError, match=r"eps 1e-05: degree 445 reaches an error of .* only; raise eps"):
        aligned_encoding(RELU, laplace(1.0), 1e-5)
    with pytest.raises(PeakError, match="degree 3 reaches"):
        aligned_encoding(RELU, laplace(1.0), 0.01, max_degree=3)


def test_negative_coefficients_can_be_dropped_where_the_error_allows() -> None:
    target = lambda c: 0.05 * (c - 1).exp()  # noqa: E731
    with pytest.raises(PeakError, match=r"first a_9 = -"):
        aligned_encoding(ERF, target, 1e-4)
    result = aligned_encoding(ERF, target, 1e-4, drop_negative=True)
    assert 0 < result.dropped < 1e-7
    assert result.sup_error < 1e-4
    with pytest.raises(PeakError, match="only; raise eps"):
        aligned_encoding(RELU, lambda c: (c - 1).exp(), 1e-3, drop_negative=True)


def test_points_on_the_sphere_themselves() -> None:
    result = aligned_encoding(RELU, laplace(1.0), 0.1, in_dim=3, coordinate_map="raw")
    assert isinstance(result.encoding, PolynomialEncoding)
    x = torch.nn.functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    torch.testing.assert_close(
        result.encoding(x).square().sum(dim=1), torch.full((5,), result.squared_norm), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda c: 1 / (1 - c), "not finite and real"),
        (lambda c: c.log(), "not finite and real"),
        (lambda c: 0 * c, "not in B"),
        (lambda c: -1 + 0 * c, "not in B"),
        (lambda c: 1 / (1 + 9 * c**2), "not in B"),
        (lambda c: 0.5 + 0.5 * c + 0.4 / (1 + 9 * c**2), "no power series"),
    ],
)
def test_other_targets_are_refused(target: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(PeakError, match=message):
        aligned_encoding(RELU, target, 1e-2)


def test_bad_options() -> None:
    for options in ({"eps": 0.0}, {"eps": math.inf}, {"eps": 0.1, "in_dim": 0}, {"eps": 0.1, "max_degree": -1}):
        with pytest.raises(ValueError, match="must be"):
            aligned_encoding(RELU, laplace(1.0), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="degree must be"):
        inverse_series(torch.exp, torch.exp, 0.0, 1.0, 10_000)
    falling = lambda t, q: -t + 2 * q + 0 * t  # noqa: E731
    with pytest.raises(PeakError, match=r"one-to-one|not in B"):
        aligned_encoding(falling, lambda c: c + 2, 0.1)
