r"""The empirical neural tangent kernel of a module at its present parameters, in bounded memory.

    K(x, x') = <df(x)/dtheta, df(x')/dtheta>

over the parameters that require a gradient.

Source: Li et al., ICML 2025, eq. (4) and (15); Novak et al., ICML 2022, for contracting it layer by layer.
"""

# n, m: points   c: outputs of f   theta: parameters that train

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.core.kernels.checks import check_finite
from peak_nerf.core.kernels.layers import layer_jacobians

Outputs = Literal["trace", "full"]
Method = Literal["layers", "jacobian"]


def empirical_ntk(
    module: nn.Module,
    x1: Float[Tensor, "n d"],
    x2: Float[Tensor, "m d"] | None = None,
    outputs: Outputs = "trace",
    chunk_size: int = 1024,
    method: Method = "layers",
    on_progress: Callable[[float], None] | None = None,
) -> Float[Tensor, "n m ..."]:
    r"""K(x, x') = sum_k <df_k(x)/dtheta, df_k(x')/dtheta> as (n, m), or all pairs of outputs as (n, m, c, c).

    Beside the result, memory holds the activations and cotangents of 2 * chunk_size points: nothing grows with the
    number of parameters, except for a layer of a kind that `core.kernels.layers` does not know.

    Args:
        module: takes (n, d) to (n, ...), row by row. Any grid implementation of the CPU will do.
        x1: points of the rows.
        x2: points of the columns; None for x1, which makes K symmetric to the last bit.
        outputs: "trace" sums over outputs; "full" returns K_kl(x, x').
        chunk_size: points at a time.
        method: "layers", or "jacobian" for modules whose parameters work outside their layers' forward; that one holds
            chunk_size * n_parameters * c numbers, and cannot differentiate a numba grid.
        on_progress: called with the fraction done.

    Raises: ValueError on no points, points or outputs that are not finite, a chunk_size below 1, rows that mix, or
        parameters for which "layers" would be wrong.
    """
    if outputs not in get_args(Outputs) or method not in get_args(Method):
        raise ValueError(
            f"outputs must be of {get_args(Outputs)} and method of {get_args(Method)}, got {outputs!r}, {method!r}"
        )
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    check_finite(x1, "x1")
    if x2 is not None:
        check_finite(x2, "x2")
    trace, whole = outputs == "trace", method == "jacobian"
    symmetric = x2 is None
    rows, columns = x1.split(chunk_size), (x1 if x2 is None else x2).split(chunk_size)
    result: Tensor | None = None
    done, total = 0, len(rows) * (len(rows) + 1) // 2 if symmetric else len(rows) * len(columns)
    for i, row in enumerate(rows):
        f, left = layer_jacobians(module, row, check=i == 0, whole=whole)
        if result is None:
            c = f.shape[1]
            shape = (len(x1), sum(map(len, columns)), *(() if trace else (c, c)))
            result = torch.zeros(shape, dtype=f.dtype, device=f.device)
        for j in range(i if symmetric else 0, len(columns)):
            right = left if symmetric and j == i else layer_jacobians(module, columns[j], whole=whole)[1]
            top, side = i * chunk_size, j * chunk_size
            block = result[top : top + len(row), side : side + len(columns[j])]
            for name, jacobian in left.items():
                block += jacobian.gram(right[name], trace)
            done += 1
            if on_progress is not None:
                on_progress(done / total)
    assert result is not None  # check_finite has seen a point
    return _mirrored(result) if symmetric else result


def _mirrored(k: Float[Tensor, "n n ..."]) -> Float[Tensor, "n n ..."]:
    """The upper triangle (blocks on the diagonal are whole), and its mirror image below."""
    mirror = k.transpose(0, 1) if k.ndim == 2 else k.permute(1, 0, 3, 2)
    upper = torch.ones(k.shape[:2], dtype=torch.bool, device=k.device).triu()
    if k.ndim == 4:
        upper = upper[:, :, None, None]
        # On the diagonal x = x', and it is the outputs that change places.
        k = torch.where(torch.eye(len(k), dtype=torch.bool, device=k.device)[:, :, None, None], (k + mirror) / 2, k)
    return torch.where(upper, k, mirror)


def ntk_vector_product(
    module: nn.Module,
    x1: Float[Tensor, "n d"],
    x2: Float[Tensor, "m d"],
    v: Float[Tensor, "m c"],
    chunk_size: int = 1024,
) -> Float[Tensor, "n c"]:
    r"""K(x1, x2) v = J(x1) (J(x2)^T v), over points and outputs, without K: time and memory linear in n + m.

    v: (m, c), one number per point and output, as are f's outputs when flattened.

    Raises: ValueError as `empirical_ntk`, or when v does not fit.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    for tensor, name in ((x1, "x1"), (x2, "x2"), (v, "v")):
        check_finite(tensor, name)
    total: dict[str, dict[str, Tensor]] = {}
    for i, (points, part) in enumerate(zip(x2.split(chunk_size), v.split(chunk_size), strict=True)):
        f, jacobians = layer_jacobians(module, points, check=i == 0)
        if part.shape != f.shape:
            raise ValueError(f"v must have shape ({len(x2)}, {f.shape[1]}), got {tuple(v.shape)}")
        for layer, jacobian in jacobians.items():
            share = jacobian.apply_transposed(part)
            sums = total.setdefault(layer, {name: torch.zeros_like(g) for name, g in share.items()})
            for name, gradient in share.items():
                sums[name] += gradient
    results = []
    for points in x1.split(chunk_size):
        f, jacobians = layer_jacobians(module, points)
        results.append(
            sum((jacobian.apply(total[layer]) for layer, jacobian in jacobians.items()), torch.zeros_like(f))
        )
    return torch.cat(results)
