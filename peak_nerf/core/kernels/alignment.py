r"""How alike two kernel matrices are, and what a kernel's eigenvalues say.

All values are computed in float64.
"""

# K, L: kernel matrices (n, n)   H = I - 1 1^T / n: centring   y: targets (n, c)

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from peak_nerf.core.kernels.checks import check_finite, check_kernel, check_spectrum


def kernel_alignment(k: Float[Tensor, "n n"], other: Float[Tensor, "n n"]) -> float:
    r"""<K, L>_F / (||K||_F ||L||_F), in [0, 1] for two kernels; 1 when one is a multiple of the other.

    Raises: ValueError on matrices that are not symmetric and finite, differ in size, or are 0.
    Source: Cristianini et al., NeurIPS 2001.
    """
    return _cosine(*_pair(k, other))


def kernel_target_alignment(k: Float[Tensor, "n n"], y: Float[Tensor, "n c"]) -> float:
    r"""`kernel_alignment` of K and y y^T. Raises: ValueError as there."""
    check_finite(y, "the targets y")
    return kernel_alignment(k.double(), y.double() @ y.double().T)


def centered_kernel_alignment(k: Float[Tensor, "n n"], other: Float[Tensor, "n n"]) -> float:
    r"""CKA(K, L) = <H K H, H L H>_F / (||H K H||_F ||H L H||_F), in [0, 1] for two kernels.

    Centring takes out what any constant function gets, which would make all kernels look alike.

    Raises: ValueError as `kernel_alignment`, and on a kernel that is constant, which centring leaves nothing of.
    Source: Cortes et al., JMLR 2012, definition 4.
    """
    return _cosine(*(centered(matrix) for matrix in _pair(k, other)))


def centered(k: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """H K H: every row and column sums to 0."""
    rows = k - k.mean(dim=0, keepdim=True)
    return rows - rows.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of a kernel matrix."""

    values: Float[Tensor, " n"]
    """Falling; rounding below 0 is set to 0."""
    vectors: Float[Tensor, "n n"]
    """Columns, in the same order."""

    @property
    def effective_rank(self) -> float:
        r"""exp(-sum p log p) with p = lambda / sum lambda: n for equal eigenvalues, 1 for a rank-one kernel."""
        p = self.values[self.values > 0] / self.values.sum()
        return float((-(p * p.log()).sum()).exp())

    def share_of(self, y: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Share of |y|^2 that the first i + 1 eigenvectors hold; rises to 1. Raises: ValueError when y is 0."""
        energy = (self.vectors.T @ y.double()).square().sum(dim=1).cumsum(dim=0)
        if not float(energy[-1]) > 0:
            raise ValueError("the targets y are 0 everywhere")
        return energy / energy[-1]


def spectrum(k: Float[Tensor, "n n"]) -> Spectrum:
    """The eigen-decomposition of a kernel matrix.

    Raises: ValueError on a matrix that is not finite, symmetric and positive semi-definite up to rounding, or is 0.
    """
    check_kernel(k)
    values, vectors = torch.linalg.eigh(k.double())
    check_spectrum(values.to(k.dtype))
    if not float(values[-1]) > 0:
        raise ValueError("the kernel matrix is 0")
    return Spectrum(values.flip(0).clamp_min(0), vectors.flip(1))


def _pair(k: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    check_kernel(k, "the first kernel")
    check_kernel(other, "the second kernel")
    if k.shape != other.shape:
        raise ValueError(f"the kernels must have one size, got {tuple(k.shape)} and {tuple(other.shape)}")
    return k.double(), other.double()


def _cosine(k: Tensor, other: Tensor) -> float:
    # The means of rows leave rounding of the size of the matrix where centring leaves nothing.
    norms = float(k.norm()), float(other.norm())
    if min(norms) <= 1e-300:
        raise ValueError("a kernel is 0 (for CKA: constant), so it is aligned with nothing")
    return float((k / norms[0] * (other / norms[1])).sum())
