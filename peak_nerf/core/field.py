"""The field that every task and the NeRF method share: coordinate map -> encodings -> backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.core.backbones import ReluInit, ReluMLP, Siren
from peak_nerf.core.encodings import ConcatEncoding, FourierEncoding, IdentityEncoding, PolynomialEncoding
from peak_nerf.core.hash_grid import HashGridEncoding, Implementation


@dataclass
class HashGridConfig:
    """Size of the multi-resolution grid."""

    n_levels: int = 16
    """Number of resolutions."""
    n_features: int = 2
    """Features per level."""
    log2_table_size: int = 19
    """A level has at most 2^log2_table_size rows; finer levels are hashed."""
    base_resolution: int = 16
    """Cells per side of the coarsest level."""
    finest_resolution: int = 1024
    """Cells per side of the finest level."""
    init_scale: float = 1e-4
    """Entries start uniform in +- this."""


@dataclass
class FieldConfig:
    """What a `PeakField` is made of. Encodings that are not None are concatenated; with none, x itself is the input."""

    hash_grid: HashGridConfig | None = field(default_factory=HashGridConfig)
    """Multi-resolution grid, or None for none."""
    polynomial_degree: int | None = 1
    """Degree N of the learnable polynomial encoding (paper, section 3.4: 1 is often enough), or None for none."""
    polynomial_cross_terms: bool = True
    """All monomials, or powers of single variables only; the same at degree 1."""
    coordinate_map: Literal["unit_sphere", "raw"] = "unit_sphere"
    """What the polynomial encoding sees: F(x) = [cos x, sin x] / sqrt(d), or x itself."""
    polynomial_init: float = 1e-2
    """Starting value of every a_k. The grid starts near 0: large polynomial features beside it would let the first
    steps push every ReLU of the backbone below 0, for all x at once and for good."""
    n_frequencies: int | None = None
    """Number of random Fourier features, or None for none."""
    frequency_scale: float = 10.0
    """Standard deviation of the random frequencies, in cycles per unit of x in [-1, 1]."""
    backbone: Literal["relu", "siren"] = "relu"
    """ReLU MLP, or SIREN."""
    hidden_dim: int = 64
    """Width of the backbone."""
    n_hidden: int = 2
    """Hidden layers of the backbone."""
    bias: bool = True
    """Whether the layers of a ReLU backbone have a bias; without is faster."""
    relu_init: ReluInit = "torch"
    """Where the weights of a ReLU backbone start, see `ReluMLP`."""
    implementation: Implementation = "auto"
    """Who computes the grid: triton or tcnn (CUDA), numba (CPU), torch; auto takes triton on CUDA, numba on a CPU."""


class PeakField(nn.Module):
    r"""f(x) = backbone(gamma(u(x))), where u maps the box [low, high] to [-1, 1]^d and gamma concatenates encodings.

    Args:
        in_dim: input dimension d: 1 for signals, 2 for images, 3 for scenes.
        out_dim: number of output channels.
        config: encodings and backbone.
        low, high: the box, one number or one per dimension.
        device: the device it will run on; decides the grid's implementation when that is `auto`.

    Raises: ValueError unless low < high.
    Source: Li et al., ICML 2025, section 3.4, eq. (12); the grid beside the polynomial is the authors' own practice.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        config: FieldConfig | None = None,
        low: float | Sequence[float] = -1.0,
        high: float | Sequence[float] = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        config = config or FieldConfig()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32).expand(in_dim).clone())
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.float32).expand(in_dim).clone())
        if not bool((self.low < self.high).all()):
            raise ValueError(f"low must be below high, got {low} and {high}")
        self.encoding = build_encoding(in_dim, config, device)
        size = (self.encoding.out_dim, out_dim, config.hidden_dim, config.n_hidden)
        if config.backbone == "relu":
            self.backbone: nn.Module = ReluMLP(*size, bias=config.bias, init=config.relu_init)
        else:
            self.backbone = Siren(*size)

    def normalise(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """u(x) in [-1, 1]^d."""
        return (x - self.low) * (2 / (self.high - self.low)) - 1

    def evaluate(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """f at positions that are normalised already."""
        return self.backbone(self.encoding(u))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """f(x)."""
        return self.evaluate(self.normalise(x))

    @property
    def polynomial(self) -> PolynomialEncoding | None:
        """The polynomial encoding, whose `coefficients` are the a_k; None where there is none."""
        return next((e for e in self.encoding.modules() if isinstance(e, PolynomialEncoding)), None)


def build_encoding(in_dim: int, config: FieldConfig, device: torch.device | str = "cpu") -> ConcatEncoding:
    """The concatenation of the encodings that `config` asks for, all on inputs in [-1, 1]^d."""
    parts: list[nn.Module] = []
    if config.hash_grid is not None:
        grid = vars(config.hash_grid)
        parts.append(
            HashGridEncoding(in_dim, **grid, low=-1.0, high=1.0, implementation=config.implementation, device=device)
        )
    if config.polynomial_degree is not None:
        init = [config.polynomial_init] * (config.polynomial_degree + 1)
        parts.append(
            PolynomialEncoding(
                in_dim, config.polynomial_degree, config.coordinate_map, init, config.polynomial_cross_terms
            )
        )
    if config.n_frequencies is not None:
        parts.append(FourierEncoding(in_dim, config.n_frequencies, scale=config.frequency_scale))
    return ConcatEncoding(parts or [IdentityEncoding(in_dim)])
