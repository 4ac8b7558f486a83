"""The linear maps behind magnitude measurements y = |A x| of a picture x, each with its adjoint.

Every operator has `apply` (A x), `adjoint` (A^H v), `box` (the picture's height and width), `size` (the longer
of them), `support` and a string `name`; `apply` is differentiable by autograd.
"""

# n: side of a square picture, h, w: of any   m: sides of the padded picture (Fourier), rows (Gaussian)   y = |A x|

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from peak_nerf.system.memory import free_memory

Problem = Literal["fourier", "gaussian"]
CHUNK_BYTES = 2**26
"""Of a block of rows that is generated anew at each use: 64 MiB."""
DENSE_FRACTION = 0.5
"""Of the memory that is free, what a dense matrix may take."""


class FourierOperator:
    r"""A x = FFT2(P x) / sqrt(m_1 m_2), P zero padding of (h, w) to (m_1, m_2): unitary apart from P.

    x is real, so A x has A x(-k) = conj(A x(k)), and only the half with k_2 >= 0 is kept: (m_1, m_2 // 2 + 1).
    `weights` counts each kept frequency once or twice: <u, v> = Re sum weights conj(u) v is the inner product over all
    m_1 m_2. The adjoint is the inverse transform, cropped to h x w.

    The root only scales: a file of magnitudes |FFT2(P x)| is divided by it when it is read.

    Args:
        size: (h, w) of the picture, or the side of a square one.
        padded: (m_1, m_2), or the side of a square.
        support: (h, w), bool, where the picture may differ from 0; None for everywhere. Solvers keep to it, A does not.

    Raises: ValueError on sides below 1, m below h or w, or a support of another shape or without a pixel.
    Source: Li et al., ICML 2025, appendix B.2.
    """

    name: Literal["fourier"] = "fourier"

    def __init__(
        self, size: int | tuple[int, int], padded: int | tuple[int, int], support: Bool[Tensor, "h w"] | None = None
    ) -> None:
        self.box = (size, size) if isinstance(size, int) else size
        self.frame = (padded, padded) if isinstance(padded, int) else padded
        if min(self.box) < 1 or self.frame[0] < self.box[0] or self.frame[1] < self.box[1]:
            raise ValueError(
                f"the picture's side must be at least 1 and the padded side no smaller, got {size}, {padded}"
            )
        if support is not None and (tuple(support.shape) != self.box or not bool(support.any())):
            raise ValueError(f"the support must be {self.box} with a pixel in it, got {tuple(support.shape)}")
        self.support = support
        self.size, self.padded = max(self.box), max(self.frame)
        self.weights = torch.full((self.frame[1] // 2 + 1,), 2.0)
        self.weights[0] = 1.0
        if self.frame[1] % 2 == 0:
            self.weights[-1] = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of y."""
        return (self.frame[0], self.frame[1] // 2 + 1)

    def apply(self, x: Float[Tensor, "h w"]) -> Shaped[Tensor, "m half"]:
        """A x."""
        return torch.fft.rfft2(x, s=self.frame, norm="ortho")

    def adjoint(self, v: Shaped[Tensor, "m half"]) -> Float[Tensor, "h w"]:
        """A^H v."""
        return self.adjoint_padded(v)[: self.box[0], : self.box[1]]

    def adjoint_padded(self, v: Shaped[Tensor, "m half"]) -> Float[Tensor, "m m_2"]:
        """The inverse transform before it is cropped."""
        return torch.fft.irfft2(v, s=self.frame, norm="ortho")


class GaussianOperator:
    r"""A x = G vec(x), G of m rows with independent entries N(0, 1/m), or complex ones of the same variance.

    Rows are drawn in blocks, each from a generator of its own that is seeded by seed and block: a dense matrix and a
    chunked one, which draws a block whenever it is used and keeps none, are the same operator. Which it is, `auto`
    decides by the free memory.

    Args:
        size: side n of the picture; n^2 columns.
        n_rows: m, at least 1.
        seed: of G, at least 0.
        complex_valued: real and imaginary part N(0, 1/(2 m)) each.
        storage: dense, chunked, or auto.

    Raises: ValueError on sizes below 1, a seed below 0 or another storage.
    Source: Li et al., ICML 2025, appendix B.2.
    """

    name: Literal["gaussian"] = "gaussian"

    def __init__(
        self,
        size: int,
        n_rows: int,
        seed: int = 0,
        complex_valued: bool = False,
        storage: Literal["auto", "dense", "chunked"] = "auto",
    ) -> None:
        if min(size, n_rows) < 1 or seed < 0 or storage not in ("auto", "dense", "chunked"):
            raise ValueError(f"size and rows must be at least 1, the seed not negative, got {size}, {n_rows}, {seed}")
        self.size, self.n_rows, self.seed, self.complex_valued = size, n_rows, seed, complex_valued
        self.box, self.support = (size, size), None
        self.weights, self.given = torch.ones(1), False
        self.block = max(CHUNK_BYTES // (size * size * (8 if complex_valued else 4)), 1)
        self.storage = storage if storage != "auto" else ("dense" if self._fits() else "chunked")
        self.matrix: Tensor | None = None
        if self.storage == "dense":
            self.matrix = torch.empty(n_rows, size * size, dtype=torch.complex64 if complex_valued else torch.float32)
            for start in range(0, n_rows, self.block):
                self.matrix[start : start + self.block] = self._rows(start)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of y."""
        return (self.n_rows,)

    @classmethod
    def from_matrix(cls, matrix: Shaped[Tensor, "m pixels"], size: int) -> GaussianOperator:
        """The operator of a matrix of one's own, any real or complex numbers. Raises: ValueError unless n^2 columns."""
        if matrix.ndim != 2 or matrix.shape[1] != size * size:
            raise ValueError(f"the matrix must be (m, {size * size}), got {tuple(matrix.shape)}")
        operator = cls(size, len(matrix), complex_valued=matrix.is_complex(), storage="chunked")
        operator.matrix = matrix.to(torch.complex64 if matrix.is_complex() else torch.float32).contiguous()
        operator.storage, operator.given = "dense", True
        return operator

    @property
    def n_bytes(self) -> int:
        """Of the dense matrix."""
        return self.n_rows * self.size * self.size * (8 if self.complex_valued else 4)

    def apply(self, x: Float[Tensor, "n n"]) -> Shaped[Tensor, " m"]:
        """A x."""
        out: Tensor = _MatrixProduct.apply(x.reshape(-1), self)
        return out

    def adjoint(self, v: Shaped[Tensor, " m"]) -> Float[Tensor, "n n"]:
        """A^H v, its real part."""
        return self._adjoint(v).reshape(self.size, self.size)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The number of the first row, and the rows, of each block of G."""
        for start in range(0, self.n_rows, self.block):
            yield start, self._rows(start) if self.matrix is None else self.matrix[start : start + self.block]

    def _apply(self, x: Tensor) -> Tensor:
        x = x.to(torch.complex64 if self.complex_valued else torch.float32)
        if self.matrix is not None:
            return torch.mv(self.matrix, x)
        return torch.cat([torch.mv(rows, x) for _, rows in self.blocks()])

    def _adjoint(self, v: Tensor) -> Tensor:
        # G^H v = conj(conj(v) G): no transposed copy of G.
        if self.matrix is not None:
            return torch.mv(self.matrix.T, v.conj().resolve_conj()).real
        out = torch.zeros(self.size * self.size)
        for start, rows in self.blocks():
            out += torch.mv(rows.T, v[start : start + len(rows)].conj().resolve_conj()).real
        return out

    def _rows(self, start: int) -> Tensor:
        """Rows start to start + block of G."""
        n = min(self.block, self.n_rows - start)
        # torch's CPU generator takes 32 bits of a seed and drops the rest: mix both numbers into these.
        mixed = np.random.SeedSequence([self.seed, start // self.block]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        dtype = torch.complex64 if self.complex_valued else torch.float32
        rows = torch.randn(n, self.size * self.size, dtype=dtype, generator=generator)
        return rows.mul_(self.n_rows**-0.5)

    def _fits(self) -> bool:
        return self.n_bytes <= DENSE_FRACTION * free_memory()


class _MatrixProduct(torch.autograd.Function):
    """G x, whose gradient is the adjoint: autograd would keep, or could not see, the blocks of a chunked G."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: GaussianOperator) -> Tensor:
        ctx.operator = operator
        return operator._apply(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.operator._adjoint(grad), None


Operator = FourierOperator | GaussianOperator


def inner(operator: Operator, u: Tensor, v: Tensor) -> Tensor:
    """<u, v> = Re sum weights conj(u) v over all measurements."""
    product = (u.conj() * v).real if u.is_complex() or v.is_complex() else u * v
    return (product * operator.weights).sum()
