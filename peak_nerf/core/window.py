r"""KAR on a window of a pixel grid: f and g once per pixel, every pixel a query, its anchors found by shifting.

A query with k anchors would cost 1 + k evaluations of g. Here it costs one, and no gathering either.
"""

# x: query pixel   s: offset in pixels, k of them   f: (h, w, c)   g: (h, w, r)   m: largest offset

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor


def symmetric_offsets(dilations: Sequence[int]) -> Int[Tensor, "k 2"]:
    """One of each pair {s, -s} of the 8 grid neighbours, 4 per dilation, in pixels.

    Raises: ValueError on no dilations or one below 1.
    """
    if len(dilations) == 0 or min(dilations) < 1:
        raise ValueError(f"dilations must be at least 1, got {dilations}")
    half = [step for step in product((-1, 0, 1), repeat=2) if step > (0, 0)]
    return torch.cat([dilation * torch.tensor(half) for dilation in dilations])


def window_residual(
    f: Float[Tensor, "h w c"], g: Float[Tensor, "h w r"], offsets: Int[Tensor, "k 2"]
) -> Float[Tensor, "h w c"]:
    r"""Residual f(x) - A(x, X) f(X) at every pixel x, whose anchors are the pairs {x + s, x - s}.

    A pair is one anchor: f(X_s) = (f(x + s) + f(x - s)) / 2, g(X_s) likewise, and A = softmax(g(x)^T g(X)). A single
    neighbour's value is exact for constants; a pair's mean is for linear functions too, so a shading ramp costs
    nothing. With uniform A the squared residual is the biharmonic energy, which a learned A makes anisotropic. The
    window is mirrored at its border.

    Raises: ValueError on no offsets, or one that reaches past the window.
    Source: Li et al., ICML 2025, section 3.4; the pairs are ours.
    """
    h, w = f.shape[:2]
    if len(offsets) == 0 or bool((offsets.abs() >= torch.tensor([h, w])).any()):
        raise ValueError(f"offsets must exist and stay below the window's {h} x {w} pixels, got {offsets.tolist()}")
    m = int(offsets.abs().max())
    f_padded, g_padded = _mirrored(f, m), _mirrored(g, m)

    def shifted(image: Tensor, row: int, column: int) -> Tensor:
        """image(x + (row, column)) for the window's own pixels x."""
        return image[m + row : m + row + h, m + column : m + column + w]

    logits, values = [], []
    for row, column in offsets.tolist():
        # The mean over the pair inside the dot product: g(x)^T (g(x + s) + g(x - s)) / 2.
        logits.append(((shifted(g_padded, row, column) + shifted(g_padded, -row, -column)) * g).sum(dim=-1) / 2)
        values.append((shifted(f_padded, row, column) + shifted(f_padded, -row, -column)) / 2)
    attention = torch.stack(logits, dim=-1).softmax(dim=-1)
    return f - (torch.stack(values, dim=2) * attention[..., None]).sum(dim=2)


def _mirrored(image: Float[Tensor, "h w c"], m: int) -> Float[Tensor, "h_padded w_padded c"]:
    """m pixels more on each side, mirrored without repeating the border."""
    rows = _folded(image.shape[0], m)
    return image.index_select(0, rows).index_select(1, _folded(image.shape[1], m))


def _folded(n: int, m: int) -> Int[Tensor, " n_padded"]:
    return (n - 1) - ((n - 1) - torch.arange(-m, n + m).abs()).abs()
