r"""KAR on a window of a pixel grid: f and g once per pixel, every pixel a query, its anchors found by shifting.

A query with k anchors would cost 1 + k evaluations of g. Here it costs one, and no gathering either.
"""

# x: query pixel   s: offset in pixels, k of them   P(s): prior of A   f: (h, w, c)   g: (h, w, r)

from __future__ import annotations

import math
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from peak_nerf.core.compiled import compiled_kernels_take
from peak_nerf.system.parallel import parallel_for


def symmetric_offsets(reach: float) -> Int[Tensor, "k 2"]:
    """One of each pair {s, -s} of the offsets with 0 < |s| <= reach, in pixels: 4 at reach 1.5, 14 at reach 3.

    Raises: ValueError on a reach below 1, within which no pixel lies.
    """
    if not 1 <= reach < math.inf:
        raise ValueError(f"reach must be finite and at least 1 pixel, got {reach}")
    span = range(-int(reach), int(reach) + 1)
    return torch.tensor([s for s in product(span, repeat=2) if s > (0, 0) and math.hypot(*s) <= reach])


def locality_prior(offsets: Int[Tensor, "k 2"], locality: float) -> Float[Tensor, " k"]:
    """log P(s) = -locality |s|^2 + const: the similarity that is assumed of a pair where g knows no better.

    locality: per square pixel, at least 0; 0 makes all pairs alike.
    """
    return (-locality * offsets.square().sum(dim=1)).float().log_softmax(dim=0)


def window_attention(
    g: Float[Tensor, "h w r"], offsets: Int[Tensor, "k 2"], log_prior: Float[Tensor, " k"]
) -> Float[Tensor, "h w k"]:
    r"""log A(x, X) at every pixel x, whose anchors are the pairs X_s = {x + s, x - s}.

    A pair is one anchor: g(X_s) = (g(x + s) + g(x - s)) / 2, and A = softmax(g(x)^T g(X_s) + log P(s)). The window is
    mirrored at its border. Compiled kernels do the work where `compiled_kernels_take` it.

    Raises: ValueError on no offsets, or one that reaches past the window.
    Source: Li et al., ICML 2025, section 3.4; the pairs and their prior are ours.
    """
    if compiled_kernels_take(g):
        similarities = cast(Tensor, _Similarities.apply(_padded(g, offsets), offsets))
    else:
        similarities = torch.stack([(pair * g).sum(dim=-1) for pair in _pair_means(g, offsets)], dim=-1)
    return (similarities + log_prior).log_softmax(dim=-1)


def window_residual(
    f: Float[Tensor, "h w c"], log_attention: Float[Tensor, "h w k"], offsets: Int[Tensor, "k 2"]
) -> Float[Tensor, "h w c"]:
    r"""Residual f(x) - A(x, X) f(X) at every pixel x, with f(X_s) = (f(x + s) + f(x - s)) / 2.

    A single neighbour's value is exact for constants; a pair's mean is for linear functions too, so a shading ramp
    costs nothing. With uniform A the squared residual is the biharmonic energy, which a learned A makes anisotropic.

    Raises: ValueError on no offsets, or one that reaches past the window.
    Source: Li et al., ICML 2025, section 3.4; the pairs are ours.
    """
    pairs = torch.stack(_pair_means(f, offsets), dim=-2)
    return f - (pairs * log_attention.exp()[..., None]).sum(dim=-2)


def kl_to_prior(
    log_attention: Float[Tensor, "h w k"], log_prior: Float[Tensor, " k"], weights: Float[Tensor, "h w"] | None = None
) -> Float[Tensor, ""]:
    """Mean over x of weights(x) KL(A(x, .) || P), in nats: keeps A from committing to one pair without evidence.

    weights: not negative; 1 for None.
    """
    of_each = (log_attention.exp() * (log_attention - log_prior)).sum(dim=-1)
    return (of_each if weights is None else of_each * weights).mean()


def within_reach(known: Bool[Tensor, "h w"], offsets: Int[Tensor, "k 2"]) -> Bool[Tensor, "h w"]:
    """Pixels that are known themselves, or have a known pixel no further in row and column than the offsets go."""
    rows, columns = _border(offsets)
    size = (2 * rows + 1, 2 * columns + 1)
    return F.max_pool2d(known.float()[None, None], size, stride=1, padding=(rows, columns))[0, 0] > 0


class _Similarities(torch.autograd.Function):
    """(h, w, k) similarities of a padded g, by compiled kernels."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, offsets: Tensor) -> Tensor:
        from peak_nerf.core import window_numba as kernels  # numba takes a second to import

        rows, columns = _border(offsets)
        out = torch.empty(padded.shape[0] - 2 * rows, padded.shape[1] - 2 * columns, len(offsets))
        ctx.save_for_backward(padded, offsets)
        call = (padded.detach().numpy(), offsets.numpy(), rows, columns, out.numpy())
        parallel_for(lambda i, j: kernels.similarities(*call, i, j), len(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None]:
        from peak_nerf.core import window_numba as kernels

        padded, offsets = ctx.saved_tensors
        gradient = torch.empty_like(padded)
        call = (padded.numpy(), offsets.numpy(), *_border(offsets), grad_out.contiguous().numpy(), gradient.numpy())
        parallel_for(lambda i, j: kernels.similarities_gradient(*call, i, j), len(padded))
        return gradient, None


def _pair_means(image: Float[Tensor, "h w c"], offsets: Int[Tensor, "k 2"]) -> list[Tensor]:
    """(image(x + s) + image(x - s)) / 2 for each offset s."""
    h, w = image.shape[:2]
    padded, (m_row, m_column) = _padded(image, offsets), _border(offsets)

    def shifted(row: int, column: int) -> Tensor:
        return padded[m_row + row : m_row + row + h, m_column + column : m_column + column + w]

    return [(shifted(row, column) + shifted(-row, -column)) / 2 for row, column in offsets.tolist()]


def _padded(image: Float[Tensor, "h w c"], offsets: Int[Tensor, "k 2"]) -> Tensor:
    """With as many rows and columns more on each side as the offsets reach. Raises: ValueError when they reach past it,
    or there are none."""
    h, w = image.shape[:2]
    if len(offsets) == 0 or bool((offsets.abs() >= torch.tensor([h, w])).any()):
        raise ValueError(f"offsets must exist and stay below the window's {h} x {w} pixels, got {offsets.tolist()}")
    m_row, m_column = _border(offsets)
    return image.index_select(0, _mirrored(h, m_row)).index_select(1, _mirrored(w, m_column))


def _border(offsets: Int[Tensor, "k 2"]) -> tuple[int, int]:
    """Rows and columns that the offsets reach."""
    rows, columns = offsets.abs().amax(dim=0).tolist()
    return rows, columns


def _mirrored(n: int, m: int) -> Int[Tensor, " n_padded"]:
    """Indices of n pixels and m < n more on each side, mirrored without repeating the border."""
    return (n - 1) - ((n - 1) - torch.arange(-m, n + m).abs()).abs()
