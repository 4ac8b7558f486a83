r"""Input encodings gamma: R^d -> R^e that stand in front of a backbone.

Every encoding is an `nn.Module` with `in_dim` and `out_dim`, and takes (n, in_dim) to (n, out_dim).
The grid encoding has its own module, `hash_grid`; it wants positions in [0, 1]^d where the others take any range.
Theorem 3.3 of the paper assumes unit vectors: `UnitSphereMap` provides them, `RawCoordinates` leaves x alone.
"""

# a_k: coefficient of degree k, >= 0      N: highest degree      D: dimension after the coordinate map

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.errors import PeakError

CoordinateMap = Literal["unit_sphere", "raw"]
CoefficientInit = Literal["ones", "normalized"]

# 100,000 float32 features of one 1,000-point batch are 0.4 GB before any gradient.
MAX_POLYNOMIAL_FEATURES = 100_000


class UnitSphereMap(nn.Module):
    r"""F(x) = [cos x, sin x] / sqrt(d), so that ||F(x)||_2 = 1 for every x in R^d.

    The paper writes F without the 1/sqrt(d), which has norm sqrt(d). F is one-to-one on (-pi, pi]^d, so on [-1, 1]^d.

    Input: (n, in_dim), any real. Output: (n, 2 * in_dim), in [-1, 1] / sqrt(in_dim).

    Raises: ValueError when in_dim is below 1.
    Source: Li et al., ICML 2025, section 3.3.
    """

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        if in_dim < 1:
            raise ValueError(f"in_dim must be at least 1, got {in_dim}")
        self.in_dim, self.out_dim = in_dim, 2 * in_dim

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n two_d"]:
        """F(x)."""
        return torch.cat([x.cos(), x.sin()], dim=-1) / math.sqrt(self.in_dim)


class RawCoordinates(nn.Module):
    """F(x) = x. Input and output: (n, in_dim). Raises: ValueError when in_dim is below 1."""

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        if in_dim < 1:
            raise ValueError(f"in_dim must be at least 1, got {in_dim}")
        self.in_dim = self.out_dim = in_dim

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The input itself."""
        return x


class PolynomialEncoding(nn.Module):
    r"""gamma(x) = [sqrt(a_0), sqrt(a_1) x, sqrt(a_2) m_2(x), ..., sqrt(a_N) m_N(x)] with learnable a_k >= 0.

    m_k(x) holds the symmetric monomials of degree k, sqrt(k! / alpha!) x^alpha for |alpha| = k: C(D + k - 1, k) of them
    instead of the D^k entries of the tensor power, with the same inner product. Hence, exactly,

        gamma(x)^T gamma(x') = sum_k a_k (x^T x')^k,    x, x' after the coordinate map.

    Without `cross_terms`, m_k(x) = x^k element by element: D features a degree, sum_k a_k sum_i (x_i x'_i)^k instead,
    and high degrees within reach. That is what the authors' code does; at degree 1 both are the same.

    a_k = softplus(raw_k), so no step of an optimiser can make it negative.

    Input: (n, in_dim), any real (raw powers explode outside [-1, 1]). Output: (n, out_dim), out_dim = C(D + N, N), or
    1 + D N without cross terms, with D = in_dim for "raw" and 2 * in_dim for "unit_sphere".

    Args:
        in_dim: input dimension d, at least 1.
        degree: highest degree N, at least 0.
        coordinate_map: "unit_sphere" as in the theorem (`UnitSphereMap`), or "raw".
        init: starting a_k: "ones"; "normalized" for a_k = 1 / (N + 1), so that ||gamma|| = 1 on the sphere; or N + 1
            positive numbers.
        cross_terms: all monomials, or only the powers of single variables.

    Raises: ValueError on a bad in_dim, degree, map or init; PeakError above `MAX_POLYNOMIAL_FEATURES` features.
    Source: Li et al., ICML 2025, Theorem 3.3, Remark 3.4 and Algorithm 1.
    """

    _parent: Tensor
    _variable: Tensor
    _exponent: Tensor

    def __init__(
        self,
        in_dim: int,
        degree: int = 1,
        coordinate_map: CoordinateMap = "unit_sphere",
        init: CoefficientInit | Sequence[float] = "ones",
        cross_terms: bool = True,
    ) -> None:
        super().__init__()
        if degree < 0:
            raise ValueError(f"degree must be at least 0, got {degree}")
        if coordinate_map not in ("unit_sphere", "raw"):
            raise ValueError(f"coordinate_map must be 'unit_sphere' or 'raw', got {coordinate_map!r}")
        self.coordinates = UnitSphereMap(in_dim) if coordinate_map == "unit_sphere" else RawCoordinates(in_dim)
        self.in_dim, self.degree = in_dim, degree
        n_variables = self.coordinates.out_dim
        self.cross_terms = cross_terms
        self.out_dim = math.comb(n_variables + degree, degree) if cross_terms else 1 + n_variables * degree
        if self.out_dim > MAX_POLYNOMIAL_FEATURES:
            raise PeakError(
                f"polynomial encoding: degree {degree} in {n_variables} variables makes {self.out_dim:,} features, more"
                f" than {MAX_POLYNOMIAL_FEATURES:,}; lower the degree, or leave the cross terms out"
            )

        self.raw_coefficients = nn.Parameter(_softplus_inverse(_starting_coefficients(init, degree)))

        self._block_sizes, parents, variables, exponents = (
            _monomial_recursion(n_variables, degree) if cross_terms else _power_recursion(n_variables, degree)
        )
        self.register_buffer("_parent", torch.from_numpy(parents), persistent=False)
        self.register_buffer("_variable", torch.from_numpy(variables), persistent=False)
        self.register_buffer("_exponent", torch.from_numpy(exponents), persistent=False)

    @property
    def coefficients(self) -> Float[Tensor, " degree_plus_1"]:
        """The a_k, positive and differentiable, with shape (degree + 1,)."""
        # softplus underflows to 0 in the far tail, where the gradient of sqrt(a_k) would be inf * 0.
        return F.softplus(self.raw_coefficients).clamp_min(torch.finfo(self.raw_coefficients.dtype).tiny)

    @property
    def degree_slices(self) -> list[slice]:
        """For each degree k, where its block stands among the `out_dim` features."""
        n = self.coordinates.out_dim
        ends = [math.comb(n + k, k) if self.cross_terms else 1 + n * k for k in range(self.degree + 1)]
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def forward(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n out_dim"]:
        """gamma(x), the features of degree 0 first."""
        x = self.coordinates(x)
        roots = self.coefficients.sqrt()
        features = [roots[0].expand(len(x), 1)]
        if self.degree >= 1:
            features.append(roots[1] * x)
        block = x
        steps = zip(
            self._parent.split(self._block_sizes),
            self._variable.split(self._block_sizes),
            self._exponent.split(self._block_sizes),
            strict=True,
        )
        for k, (parent, variable, exponent) in enumerate(steps, start=2):
            # sqrt(k!/alpha!) x^alpha = sqrt(k/alpha_j) x_j * (the same for alpha - e_j): every factor stays moderate,
            # where the multinomials alone would overflow.
            step = x.index_select(1, variable) * (k / exponent.to(x.dtype)).sqrt()
            block = block.index_select(1, parent) * step
            features.append(roots[k] * block)
        return torch.cat(features, dim=1)


def _starting_coefficients(init: str | Sequence[float], degree: int) -> Float[Tensor, " degree_plus_1"]:
    if isinstance(init, str):
        if init not in ("ones", "normalized"):
            raise ValueError(f"init must be 'ones', 'normalized' or degree + 1 positive numbers, got {init!r}")
        start = torch.full((degree + 1,), 1.0 if init == "ones" else 1 / (degree + 1), dtype=torch.float64)
    else:
        start = torch.tensor(list(init), dtype=torch.float64)
    if start.shape != (degree + 1,) or not bool(((start > 0) & start.isfinite()).all()):
        raise ValueError(f"init must be {degree + 1} finite numbers above 0 (a_k = 0 could never learn), got {init}")
    return start


def _softplus_inverse(a: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    return (a + torch.log(-torch.expm1(-a))).to(torch.get_default_dtype())


def _monomial_recursion(n_variables: int, degree: int) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """How each monomial of degree k >= 2 arises from one of degree k - 1.

    A monomial is a non-decreasing word of variables, so each arises once, by appending a variable no smaller than the
    last. Returns the number of monomials of each degree 2..N and, concatenated over these degrees: the parent's
    position in its own degree, the appended variable, and that variable's exponent afterwards.
    """
    last = np.arange(n_variables)
    last_exponent = np.ones(n_variables, dtype=np.int64)
    sizes: list[int] = []
    empty = np.empty(0, dtype=np.int64)
    parents, variables, exponents = [empty], [empty], [empty]
    for _ in range(2, degree + 1):
        n_children = n_variables - last
        parent = np.repeat(np.arange(len(last)), n_children)
        first_child = np.repeat(np.cumsum(n_children) - n_children, n_children)
        variable = last[parent] + np.arange(len(parent)) - first_child
        exponent = np.where(variable == last[parent], last_exponent[parent] + 1, 1)
        sizes.append(len(parent))
        parents.append(parent)
        variables.append(variable)
        exponents.append(exponent)
        last, last_exponent = variable, exponent
    return sizes, np.concatenate(parents), np.concatenate(variables), np.concatenate(exponents)


def _power_recursion(n_variables: int, degree: int) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """As `_monomial_recursion`, of the powers x_i^k alone: x_i^(k - 1) by x_i."""
    n_degrees = max(degree - 1, 0)
    own = np.tile(np.arange(n_variables), n_degrees)
    return [n_variables] * n_degrees, own, own, np.repeat(np.arange(2, n_degrees + 2), n_variables)


class FourierEncoding(nn.Module):
    r"""gamma(x) = [sin(2 pi B x), cos(2 pi B x)] with the rows of B drawn once from N(0, scale^2 I).

    B is a persistent buffer drawn from its own generator: neither the global seed nor a reload changes it.

    Input: (n, in_dim), any real. Output: (n, 2 * n_frequencies), in [-1, 1].

    Args:
        in_dim: input dimension, at least 1.
        n_frequencies: rows of B, at least 1.
        scale: standard deviation of the frequencies, above 0; about 10 suits images on [0, 1]^2.
        seed: of B's generator.

    Raises: ValueError on sizes below 1 or a scale that is not above 0.
    Source: Tancik et al., NeurIPS 2020, section 4 ("Gaussian" mapping).
    """

    frequencies: Tensor

    def __init__(self, in_dim: int, n_frequencies: int = 128, scale: float = 10.0, seed: int = 0) -> None:
        super().__init__()
        if min(in_dim, n_frequencies) < 1 or not scale > 0:
            raise ValueError(
                f"in_dim and n_frequencies must be at least 1 and scale above 0, got {in_dim}, {n_frequencies}, {scale}"
            )
        self.in_dim, self.out_dim = in_dim, 2 * n_frequencies
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("frequencies", scale * torch.randn(n_frequencies, in_dim, generator=generator))

    def forward(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n out_dim"]:
        """gamma(x): all sines, then all cosines."""
        phase = (2 * math.pi) * (x @ self.frequencies.T)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class IdentityEncoding(nn.Module):
    """gamma(x) = x. Input and output: (n, in_dim). Raises: ValueError when in_dim is below 1."""

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        if in_dim < 1:
            raise ValueError(f"in_dim must be at least 1, got {in_dim}")
        self.in_dim = self.out_dim = in_dim

    def forward(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n in_dim"]:
        """x itself."""
        return x


class ConcatEncoding(nn.Module):
    r"""gamma(x) = gamma_1(x) ++ gamma_2(x) ++ ..., all on the same x.

    Input: (n, in_dim). Output: (n, sum of the parts' out_dim), in the order given.

    Raises: ValueError on no parts, or parts that differ in in_dim.
    """

    def __init__(self, encodings: Sequence[nn.Module]) -> None:
        super().__init__()
        in_dims = {cast(int, encoding.in_dim) for encoding in encodings}
        if len(in_dims) != 1:
            raise ValueError(f"the parts must exist and share one in_dim, got in_dim {sorted(in_dims)}")
        self.encodings = nn.ModuleList(encodings)
        self.in_dim = in_dims.pop()
        self.out_dim = sum(cast(int, encoding.out_dim) for encoding in encodings)

    def forward(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n out_dim"]:
        """The parts' features side by side."""
        return torch.cat([encoding(x) for encoding in self.encodings], dim=-1)
