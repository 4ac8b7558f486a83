r"""The kernel that predicts best, and regression with any kernel.

    f(x) = K(x, X) K(X, X)^+ Y,    error(x) = E_{f*|D} (f(x) - f*(x))^2,    K*(x, x') = E_{f*|D} f*(x) f*(x')

Given the data, f*(X) = Y is certain, so K*(X, X) = Y Y^T has rank one and K*(x, X) = E[f*(x)] Y^T: regression with K*
returns E[f*(x)], which no other kernel can beat (Theorem 3.1).

Source: Li et al., ICML 2025, sections 3.1 and 3.2, eq. (3), (5) to (9), (21).
"""

# X, Y: training points and values, N of them   x: queries, n   D = (X, Y)   s: samples of f*

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from peak_nerf.core.kernels.checks import check_finite, check_kernel, check_spectrum


@dataclass(frozen=True)
class Regression:
    """Kernel regression through (X, Y): holds K(X, X)^+ Y."""

    weights: Float[Tensor, "n_train c"]
    """K(X, X)^+ Y."""
    rank: int
    """Eigenvalues of K(X, X) that were kept."""
    residual: float
    """Largest |f(X) - Y|: 0 up to rounding when Y lies in the range of K(X, X)."""

    def predict(self, k_query: Float[Tensor, "n n_train"]) -> Float[Tensor, "n c"]:
        """f(x) = K(x, X) K(X, X)^+ Y. Raises: ValueError on a kernel that is not finite or does not fit."""
        check_finite(k_query, "K(x, X)")
        if k_query.shape[1] != len(self.weights):
            raise ValueError(f"K(x, X) must have {len(self.weights)} columns, got {k_query.shape[1]}")
        return k_query @ self.weights


def kernel_regression(
    k_train: Float[Tensor, "n_train n_train"],
    y: Float[Tensor, "n_train c"],
    rank: int | None = None,
    tolerance: float | None = None,
) -> Regression:
    r"""Regression with the Moore-Penrose inverse K^+ = sum over kept eigenvalues of v v^T / lambda.

    Eigenvalues at most `tolerance` times the largest count as 0; what they would have explained of Y is left out, and
    shows in `residual`.

    Args:
        k_train: K(X, X).
        y: Y, one column per output.
        rank: keep at most this many of the largest eigenvalues; None for all above the tolerance.
        tolerance: in [0, 1); by default N times the rounding of the dtype.

    Raises: ValueError on a matrix that is not a kernel, targets that do not fit or are not finite, or a rank or
        tolerance out of range.
    Source: Li et al., ICML 2025, eq. (3), (21) and remark 3.2.
    """
    check_kernel(k_train, "K(X, X)")
    check_finite(y, "the targets Y")
    if len(y) != len(k_train):
        raise ValueError(f"there are {len(y)} targets for {len(k_train)} training points")
    if tolerance is None:
        tolerance = len(k_train) * torch.finfo(k_train.dtype).eps
    if not 0 <= tolerance < 1 or (rank is not None and rank < 1):
        raise ValueError(f"tolerance must be in [0, 1) and rank at least 1, got {tolerance} and {rank}")
    values, vectors = torch.linalg.eigh(k_train)
    check_spectrum(values, "K(X, X)")
    keep = values > tolerance * values[-1].clamp_min(0)
    if rank is not None:
        keep[: max(len(values) - rank, 0)] = False
    values, vectors = values[keep], vectors[:, keep]
    weights = vectors @ ((vectors.T @ y) / values[:, None])
    residual = float((k_train @ weights - y).abs().max())
    return Regression(weights, len(values), residual)


def optimal_kernel(f_samples: Float[Tensor, "s n"]) -> Float[Tensor, "n n"]:
    r"""K*(x, x') = E[f*(x) f*(x')], the mean over samples of f* given the data, each a row of values at n points.

    One row, the truth itself, gives the kernel of Figure 2; on the training set every row is Y, and K* = Y Y^T.

    Raises: ValueError on no samples, or values that are not finite. Source: Li et al., ICML 2025, eq. (6) and (9).
    """
    check_finite(f_samples, "the samples of f*")
    return f_samples.T @ f_samples / len(f_samples)


def expected_squared_error(prediction: Float[Tensor, " n"], f_samples: Float[Tensor, "s n"]) -> Float[Tensor, " n"]:
    r"""E (f(x) - f*(x))^2 at each point, as the mean over samples of f* given the data.

    Raises: ValueError on no samples, values that are not finite, or sizes that differ.
    Source: Li et al., ICML 2025, eq. (5).
    """
    check_finite(f_samples, "the samples of f*")
    check_finite(prediction, "the prediction")
    if f_samples.shape[1] != len(prediction):
        raise ValueError(f"predicted at {len(prediction)} points, sampled at {f_samples.shape[1]}")
    return (prediction - f_samples).square().mean(dim=0)


@dataclass(frozen=True)
class GaussianPosterior:
    """f* given the data, for a Gaussian-process prior: mean and covariance at n points."""

    mean: Float[Tensor, " n"]
    covariance: Float[Tensor, "n n"]

    def optimal_kernel(self) -> Float[Tensor, "n n"]:
        r"""K*(x, x') = Cov(f*(x), f*(x') | D) + E[f*(x) | D] E[f*(x') | D], eq. (6) in closed form."""
        return self.covariance + self.mean[:, None] * self.mean[None]

    def sample(self, n_samples: int, generator: torch.Generator | None = None) -> Float[Tensor, "s n"]:
        """Functions f* given the data, a row each."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors * values.clamp_min(0).sqrt()
        noise = torch.randn(n_samples, len(self.mean), generator=generator, dtype=root.dtype)
        return self.mean + noise.to(root.device) @ root.T


def gaussian_posterior(
    prior: Float[Tensor, "n n"], train: Int[Tensor, " n_train"], y: Float[Tensor, " n_train"]
) -> GaussianPosterior:
    r"""f* ~ GP(0, k) given f*(X) = Y without noise: mean k(x, X) k(X, X)^+ Y, covariance k - k(., X) k(X, X)^+ k(X, .).

    Args:
        prior: k at all n points, training points included.
        train: which of the points are the training points X, in Y's order.
        y: Y.

    Raises: ValueError on a prior that is not a kernel, or training points and values that do not fit it.
    Source: Rasmussen & Williams 2006, eq. (2.19).
    """
    check_kernel(prior, "the prior")
    if len(train) == 0 or int(train.min()) < 0 or int(train.max()) >= len(prior):
        raise ValueError(f"training points must be some of 0 to {len(prior) - 1}, got {train.tolist()}")
    regression = kernel_regression(prior[train][:, train], torch.cat([y[:, None], prior[train]], dim=1))
    prediction = regression.predict(prior[:, train])
    covariance = prior - prediction[:, 1:]
    return GaussianPosterior(prediction[:, 0], (covariance + covariance.T) / 2)
