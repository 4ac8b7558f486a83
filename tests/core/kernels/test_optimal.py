import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peak_nerf.core.kernels.optimal import (
    GaussianPosterior,
    expected_squared_error,
    gaussian_posterior,
    kernel_regression,
    optimal_kernel,
)

N, TRAIN = 12, torch.tensor([1, 4, 6, 10])


def squared_exponential(length: float = 0.3) -> Tensor:
    x = torch.linspace(-1, 1, N, dtype=torch.float64)
    return (-((x[:, None] - x[None]) ** 2) / (2 * length**2)).exp()


def posterior_of_a_draw(seed: int) -> tuple[GaussianPosterior, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prior = squared_exponential()
    root = torch.linalg.cholesky(prior + 1e-10 * torch.eye(N, dtype=torch.float64))
    y = (root @ torch.randn(N, generator=generator, dtype=torch.float64))[TRAIN]
    return gaussian_posterior(prior, TRAIN, y), y


def random_kernel(seed: int) -> Tensor:
    """A kernel of random rank, smoothness and scale."""
    generator = torch.Generator().manual_seed(seed)
    rank = int(torch.randint(1, 2 * N, (1,), generator=generator))
    features = torch.randn(N, rank, generator=generator, dtype=torch.float64)
    mixed = squared_exponential(0.05 + float(torch.rand((), generator=generator))) @ features
    return mixed @ mixed.T + 0.1 * squared_exponential(0.1)


@settings(deadline=None, max_examples=40)
@given(draw=st.integers(0, 5), family=st.integers(0, 10_000))
def test_theorem_3_1_no_other_kernel_does_better_at_any_point(draw: int, family: int) -> None:
    posterior, y = posterior_of_a_draw(draw)
    f_samples = posterior.sample(4000, torch.Generator().manual_seed(draw))
    k_star = optimal_kernel(f_samples)

    def error_of(k: Tensor) -> Tensor:
        regression = kernel_regression(k[TRAIN][:, TRAIN], y[:, None], tolerance=1e-7)
        return expected_squared_error(regression.predict(k[:, TRAIN])[:, 0], f_samples)

    best, other = error_of(k_star), error_of(random_kernel(family))
    assert bool((best <= other + 1e-6).all())
    # And what it reaches is the variance of f*, which is the least that any prediction can.
    torch.testing.assert_close(best, f_samples.var(dim=0, correction=0), rtol=1e-4, atol=1e-6)
    # A multiple of K* is as good (remark 3.2).
    torch.testing.assert_close(error_of(3 * k_star), best, rtol=1e-6, atol=1e-9)


def test_on_the_training_set_the_optimal_kernel_is_y_y_transposed() -> None:
    posterior, y = posterior_of_a_draw(0)
    k = posterior.optimal_kernel()
    torch.testing.assert_close(k[TRAIN][:, TRAIN], y[:, None] * y[None], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(k[:, TRAIN], posterior.mean[:, None] * y[None], rtol=1e-6, atol=1e-8)
    sampled = optimal_kernel(posterior.sample(200_000, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(sampled, k, rtol=0.05, atol=0.01)


def test_optimal_kernel_and_error_by_hand() -> None:
    f = torch.tensor([[1.0, 2.0], [3.0, -2.0]])
    torch.testing.assert_close(optimal_kernel(f), torch.tensor([[5.0, -2.0], [-2.0, 4.0]]))
    torch.testing.assert_close(expected_squared_error(torch.tensor([1.0, 0.0]), f), torch.tensor([2.0, 4.0]))


def test_posterior_against_the_textbook_formula() -> None:
    posterior, y = posterior_of_a_draw(3)
    k = squared_exponential()
    inverse = torch.linalg.inv(k[TRAIN][:, TRAIN])
    torch.testing.assert_close(posterior.mean, k[:, TRAIN] @ inverse @ y, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(posterior.covariance, k - k[:, TRAIN] @ inverse @ k[TRAIN], rtol=1e-6, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(rank=st.integers(1, 6), seed=st.integers(0, 500))
def test_regression_is_the_moore_penrose_inverse(rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(6, rank, generator=generator, dtype=torch.float64)
    k, y = a @ a.T, torch.randn(6, 2, generator=generator, dtype=torch.float64)
    found = kernel_regression(k, y, tolerance=1e-10)
    assert found.rank == rank
    torch.testing.assert_close(
        found.weights, torch.linalg.pinv(k, rtol=1e-10, hermitian=True) @ y, rtol=1e-6, atol=1e-8
    )
    # Y in the range of K is met; what is outside shows.
    assert kernel_regression(k, k @ y, tolerance=1e-10).residual < 1e-8 * float(k.norm())
    assert (found.residual < 1e-8) == (rank == 6)


def test_rank_can_be_limited() -> None:
    k = torch.diag(torch.tensor([4.0, 1.0, 2.0]))
    found = kernel_regression(k, torch.tensor([[4.0], [4.0], [4.0]]), rank=2)
    torch.testing.assert_close(found.weights, torch.tensor([[1.0], [0.0], [2.0]]))
    assert (found.rank, found.residual) == (2, 4.0)
    torch.testing.assert_close(found.predict(torch.eye(3)[:1]), torch.tensor([[1.0]]))


def test_bad_input() -> None:
    k, y = torch.eye(3), torch.zeros(3, 1)
    cases = [
        ("not positive semi-definite", -k, y, {}),
        ("not symmetric", torch.tensor([[1.0, 1.0], [0.0, 1.0]]), y[:2], {}),
        ("is empty", torch.zeros(0, 0), torch.zeros(0, 1), {}),
        ("Y has 3 entries that are not finite", k, y + torch.nan, {}),
        ("rank at least 1", k, y, {"rank": 0}),
        (r"tolerance must be in \[0, 1\)", k, y, {"tolerance": 1.0}),
    ]
    for message, matrix, targets, options in cases:
        with pytest.raises(ValueError, match=message):
            kernel_regression(matrix, targets, **options)
    with pytest.raises(ValueError, match="must have 3 columns"):
        kernel_regression(k, y).predict(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"samples of f. is empty"):
        optimal_kernel(torch.zeros(0, 4))
    with pytest.raises(Exception, match=r"predicted at 2 points, sampled at 3|Type-check"):
        expected_squared_error(torch.zeros(2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="some of 0 to 2"):
        gaussian_posterior(k, torch.tensor([3]), torch.zeros(1))
