"""Multi-resolution grid encoding (Mueller et al. 2022, "Instant Neural Graphics Primitives") behind one switch.

Four implementations share one class: `triton` (our kernels for GPUs), `numba` (those for CPUs), `torch` (plain,
differentiable by autograd, any device) and `tcnn` (tiny-cuda-nn, CUDA). The first three share one table layout and
agree to 1e-5: a checkpoint of one opens under the others. tcnn lays its table out in its own way, so a checkpoint
records its layout and refuses to load under the other one.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from peak_nerf.errors import PeakError
from peak_nerf.system import accelerator
from peak_nerf.system.parallel import keep_freed_memory, n_threads, parallel_for

Implementation = Literal["auto", "triton", "tcnn", "numba", "torch"]

# Spatial hash of Teschner et al. 2003, as used by Mueller et al. 2022; the first prime is 1 for cache coherence.
PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437, 2165219737)

MAX_TRITON_DIM = 4
"""Input dimensions that the Triton kernels have."""

logger = logging.getLogger(__name__)


def choose_implementation(requested: Implementation, device: torch.device | str, in_dim: int = 3) -> tuple[str, str]:
    """The implementation to use on `device`, and why.

    `auto` takes triton on CUDA where Triton is installed, numba on the CPU where numba is, and torch otherwise.
    `TRITON_INTERPRET=1` has the CPU stand for a GPU.

    Raises: PeakError when an implementation is asked for by name that this machine or device cannot run.
    """
    kind = torch.device(device).type
    has_tcnn = importlib.util.find_spec("tinycudann") is not None
    has_numba = importlib.util.find_spec("numba") is not None
    no_triton = accelerator.hindrance(device)
    if no_triton is None and in_dim > MAX_TRITON_DIM:
        no_triton = f"its kernels have up to {MAX_TRITON_DIM} dimensions"
    if requested == "auto":
        if no_triton is None:
            return "triton", "Triton's interpreter" if accelerator.interpreted() else "CUDA and Triton are here"
        if kind == "cuda":
            return "torch", no_triton
        if has_numba and kind == "cpu":
            return "numba", f"CPU, {n_threads()} threads"
        return "torch", "numba is not installed" if not has_numba else f"no compiled kernel for {device}"
    if requested == "triton" and no_triton is not None:
        raise PeakError(f"hash grid implementation 'triton': {no_triton}; use implementation 'auto' or 'torch'")
    if requested == "tcnn" and not (kind == "cuda" and has_tcnn):
        missing = "the device is not CUDA" if kind != "cuda" else "tiny-cuda-nn is not installed"
        raise PeakError(f"hash grid implementation 'tcnn': {missing}; use implementation 'auto', 'numba' or 'torch'")
    if requested == "numba" and (kind == "cuda" or not has_numba):
        missing = "it runs on the CPU only" if kind == "cuda" else "numba is not installed (pip install numba)"
        raise PeakError(f"hash grid implementation 'numba': {missing}; use implementation 'auto' or 'torch'")
    return requested, "asked for"


def tcnn_config(
    n_levels: int, n_features: int, log2_table_size: int, base_resolution: int, growth: float
) -> dict[str, Any]:
    """What tiny-cuda-nn is handed; a contract test pins it, since no GPU stands behind our own tests."""
    return {
        "otype": "HashGrid",
        "n_levels": n_levels,
        "n_features_per_level": n_features,
        "log2_hashmap_size": log2_table_size,
        "base_resolution": base_resolution,
        "per_level_scale": growth,
        "interpolation": "Linear",
    }


def grid_levels(
    in_dim: int, n_levels: int, log2_table_size: int, base_resolution: int, finest_resolution: int, hash_all: bool
) -> tuple[Int[Tensor, " l"], list[int], list[bool]]:
    """Of each level: cells per side N_l, rows in the table, whether it is dense. Arguments as in `HashGridEncoding`."""
    growth = grid_growth(n_levels, base_resolution, finest_resolution)
    # The same expression as nerfstudio's HashEncoding, so that rounding agrees; a lone level is the base one.
    resolutions = torch.floor(base_resolution * torch.tensor(growth) ** torch.arange(n_levels)).long()
    vertices = [(int(n) + 1) ** in_dim for n in resolutions]
    rows = 2**log2_table_size
    dense = [v <= rows and not hash_all for v in vertices]
    return resolutions, [v if d else rows for v, d in zip(vertices, dense, strict=True)], dense


def grid_growth(n_levels: int, base_resolution: int, finest_resolution: int) -> float:
    """b, by which each level is finer than the last."""
    return (finest_resolution / base_resolution) ** (1 / (n_levels - 1)) if n_levels > 1 else 1.0


class HashGridEncoding(nn.Module):
    r"""Trilinear (d-linear) look-up in L grids of growing resolution, concatenated.

    Level l has N_l = floor(N_0 * b^l) cells per side, b = (N_finest / N_0)^(1/(L-1)). Its (N_l + 1)^d vertices are
    stored densely when they fit in the table of T = 2^log2_table_size rows, and hashed into T rows otherwise.

    Input: positions in [low, high]^d with shape (n, in_dim); positions outside are clamped to the box (zero gradient
    outside), NaN counts as `low`. Output: (n, n_levels * n_features), level-major.

    Args:
        in_dim: input dimension d, 1 to 7.
        n_levels: number of levels L.
        n_features: features per level F.
        log2_table_size: a level has at most 2^log2_table_size rows.
        base_resolution: cells per side of the coarsest level, N_0.
        finest_resolution: cells per side of the finest level.
        init_scale: table entries start uniform in +-init_scale.
        low, high: the box side that the grid spans, the same in every dimension.
        hash_all_levels: hash every level, also where a dense one would fit (nerfstudio's own layout).
        implementation: see `choose_implementation`.
        device: the device that it will run on; decides `auto`.
        half_precision: triton reads the table in float16, sums in float32 and keeps the table itself in float32.

    Raises: ValueError on sizes that make no grid; PeakError on an implementation that cannot run here, and on half
        precision of another than triton.
    Source: Mueller et al. 2022, section 3; used beside the polynomial encoding of the paper's section 3.3.
    """

    layout: Tensor
    resolutions: Tensor
    levels: Tensor

    def __init__(
        self,
        in_dim: int,
        n_levels: int = 16,
        n_features: int = 2,
        log2_table_size: int = 19,
        base_resolution: int = 16,
        finest_resolution: int = 1024,
        init_scale: float = 1e-4,
        hash_all_levels: bool = False,
        low: float = 0.0,
        high: float = 1.0,
        implementation: Implementation = "auto",
        device: torch.device | str = "cpu",
        half_precision: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= in_dim <= len(PRIMES):
            raise ValueError(f"in_dim must be 1 to {len(PRIMES)}, got {in_dim}")
        if min(n_levels, n_features, base_resolution) < 1 or finest_resolution < base_resolution:
            raise ValueError(
                "a grid needs n_levels, n_features and base_resolution of at least 1, and finest_resolution of at least"
                f" base_resolution; got {n_levels}, {n_features}, {base_resolution}, {finest_resolution}"
            )
        if not 1 <= log2_table_size <= 30:
            raise ValueError(f"log2_table_size must be 1 to 30, got {log2_table_size}")
        self.in_dim, self.n_levels, self.n_features = in_dim, n_levels, n_features
        self.out_dim = n_levels * n_features
        self.low, self.high = low, high
        self.implementation, why = choose_implementation(implementation, device, in_dim)
        self.half_precision = False
        if half_precision:
            self.read_in_half()
        resolutions, rows, dense = grid_levels(
            in_dim, n_levels, log2_table_size, base_resolution, finest_resolution, hash_all_levels
        )
        sizes = torch.tensor(rows)
        # The compiled kernels take a mask instead of a modulo: a hashed level always has a power of two of rows.
        self._grid = (
            np.concatenate([[0], np.cumsum(sizes.numpy())[:-1]]).astype(np.int64),
            resolutions.numpy(),
            sizes.numpy(),
            np.asarray(dense),
            tuple(np.uint32(prime) for prime in PRIMES[:in_dim]),
        )
        self.register_buffer("resolutions", resolutions, persistent=False)
        description = [in_dim, n_levels, n_features, log2_table_size, base_resolution, finest_resolution]
        uses_tcnn = self.implementation == "tcnn"
        self.register_buffer("layout", torch.tensor([int(uses_tcnn), *description, int(hash_all_levels)]))

        if uses_tcnn:
            import tinycudann as tcnn  # only on CUDA machines that have it

            if hash_all_levels:
                raise PeakError("hash grid: hash_all_levels is not offered by tiny-cuda-nn; use 'numba' or 'torch'")
            growth = grid_growth(n_levels, base_resolution, finest_resolution)
            config = tcnn_config(n_levels, n_features, log2_table_size, base_resolution, growth)
            self.tcnn_encoding = tcnn.Encoding(n_input_dims=in_dim, encoding_config=config, dtype=torch.float32)
        else:
            if self.implementation == "numba":
                keep_freed_memory()
            elif self.implementation == "triton":
                levels = np.stack([np.asarray(part, dtype=np.int64) for part in self._grid[:4]], axis=1)
                self.register_buffer("levels", torch.from_numpy(levels), persistent=False)
            self.table = nn.Parameter((torch.rand(int(sizes.sum()), n_features) * 2 - 1) * init_scale)
        logger.info(
            "hash grid: %s (%s), %d levels %d..%d, %d dense, %d rows",
            *(
                self.implementation,
                why,
                n_levels,
                int(resolutions[0]),
                int(resolutions[-1]),
                sum(dense),
                int(sizes.sum()),
            ),
        )

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n features"]:
        """Features of the positions x in [low, high]^d."""
        if x.shape[-1] != self.in_dim:
            raise ValueError(f"positions have {x.shape[-1]} coordinates, the grid has in_dim {self.in_dim}")
        if (self.low, self.high) != (0.0, 1.0):
            x = (x - self.low) / (self.high - self.low)
        if self.implementation == "tcnn":
            return self.tcnn_encoding(x).to(x.dtype)
        if self.implementation == "numba":
            return cast(Tensor, _NumbaLookup.apply(x, self.table, self._grid))
        if self.implementation == "triton":
            from peak_nerf.core.hash_grid_triton import look_up  # only where Triton is

            return look_up(x, self.table, self.levels, self.half_precision)
        return self._torch_forward(x)

    def read_in_half(self) -> None:
        """Have the kernels read the table in float16 from now on. Raises: PeakError on another grid than triton's."""
        if self.implementation != "triton":
            raise PeakError(
                f"hash grid: half precision is of implementation 'triton', this grid's is {self.implementation!r};"
                " leave it in float32"
            )
        self.half_precision = True

    @property
    def dense_levels(self) -> list[tuple[int, int]]:
        """(first row, cells per side N) of each level stored densely: vertex v is row first + sum_i v_i (N + 1)^i."""
        first, resolutions, _, dense, _ = self._grid
        return [(int(first[level]), int(resolutions[level])) for level in range(self.n_levels) if dense[level]]

    def corners(self, x: Float[Tensor, "n d"]) -> tuple[Int[Tensor, "n l k"], Float[Tensor, "n l k"]]:
        """Table row and weight of each of the 2^d corners around x in [low, high]^d, per level.

        The features of a level are sum_k weight_k table[row_k]. Not for tcnn, whose table is its own affair.
        """
        return self._unit_corners((x - self.low) / (self.high - self.low))

    def _torch_forward(self, x: Tensor) -> Tensor:
        """Reference implementation: every corner's row and weight, then one weighted embedding bag."""
        rows, weights = self._unit_corners(x)
        n_corners = rows.shape[-1]
        features = nn.functional.embedding_bag(
            rows.reshape(-1, n_corners), self.table, per_sample_weights=weights.reshape(-1, n_corners), mode="sum"
        )
        return features.reshape(x.shape[0], self.out_dim)

    def _unit_corners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`corners` of x in [0, 1]^d."""
        offsets, resolutions, sizes, dense = (torch.as_tensor(part, device=x.device) for part in self._grid[:4])
        x = x.to(self.table.dtype)
        inside = torch.where((x >= 0) & (x <= 1), x, torch.where(x > 1, 1.0, 0.0).to(x.dtype))  # NaN becomes 0
        position = inside[:, None, :] * resolutions[:, None]  # (n, L, d)
        lower = torch.minimum(position.detach().long(), resolutions[:, None] - 1)
        w = position - lower
        corners = torch.arange(2**self.in_dim, device=x.device)
        bits = (corners[:, None] >> torch.arange(self.in_dim, device=x.device)) & 1  # (C, d)
        vertex = lower[:, :, None, :] + bits  # (n, L, C, d)
        strides = (resolutions[:, None] + 1) ** torch.arange(self.in_dim, device=x.device)  # (L, d)
        dense_row = (vertex * strides[:, None, :]).sum(-1)
        hashed_row = torch.zeros_like(dense_row)
        for d in range(self.in_dim):
            hashed_row = hashed_row ^ (vertex[..., d] * PRIMES[d])
        rows = torch.where(dense[:, None], dense_row, hashed_row & (sizes[:, None] - 1)) + offsets[:, None]
        return rows, torch.where(bits.bool(), w[:, :, None, :], 1 - w[:, :, None, :]).prod(-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        recorded = state_dict.get(prefix + "layout")
        if recorded is not None and recorded.tolist() != self.layout.tolist():
            raise PeakError(
                f"checkpoint: its hash grid has the layout ({_describe(recorded)}), this field has"
                f" ({_describe(self.layout)}); load it with the same settings and the same kind of implementation"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _describe(layout: Tensor) -> str:
    names = ("in_dim", "n_levels", "n_features", "log2_table_size", "base_resolution", "finest_resolution")
    values = layout.tolist()
    kind = "tcnn" if values[0] else "triton/numba/torch"
    hashed = ", every level hashed" if values[-1] else ""
    return kind + ", " + ", ".join(f"{n} {v}" for n, v in zip(names, values[1:-1], strict=False)) + hashed


class _NumbaLookup(torch.autograd.Function):
    """The compiled kernels as one autograd node; gradients for the table and, where asked for, the positions."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, table: Tensor, grid: tuple[Any, ...]) -> Tensor:
        from peak_nerf.core import hash_grid_numba as kernels  # numba takes a second to import

        out = torch.empty(x.shape[0], grid[1].shape[0] * table.shape[1], dtype=table.dtype)
        points, rows, result = _as_array(x, table.dtype), table.detach().numpy(), out.numpy()
        parallel_for(lambda i, j: kernels.forward(points, rows, *grid, result, i, j), x.shape[0], min_chunk=256)
        ctx.save_for_backward(x, table)
        ctx.grid = grid  # type: ignore[attr-defined]
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        from peak_nerf.core import hash_grid_numba as kernels

        x, table = ctx.saved_tensors
        grid = ctx.grid
        points, slope = _as_array(x, table.dtype), _as_array(grad_out, table.dtype)
        grad_x: Tensor | None = None
        grad_table: Tensor | None = None
        if ctx.needs_input_grad[1]:
            grad_table = torch.empty_like(table)
            # The costly ones first, one at a time: whichever thread is free takes the next, and they end together.
            order = np.argsort(-grid[1], kind="stable")
            target, n_levels = grad_table.numpy(), len(order)
            parallel_for(
                lambda i, j: kernels.table_gradient(points, slope, *grid, order, target, i, j),
                n_levels,
                chunks_per_thread=n_levels,
            )
        if ctx.needs_input_grad[0]:
            gradient = torch.empty(x.shape, dtype=table.dtype)
            rows, result = table.detach().numpy(), gradient.numpy()
            parallel_for(
                lambda i, j: kernels.input_gradient(points, rows, slope, *grid, result, i, j), len(x), min_chunk=256
            )
            grad_x = gradient.to(x.dtype)
        return grad_x, grad_table, None


def _as_array(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    return x.detach().to(dtype).contiguous().numpy()
