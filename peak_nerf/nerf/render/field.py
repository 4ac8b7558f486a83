"""The radiance field: density from hash grid ++ polynomial encoding of position, colour from those and direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from peak_nerf.core.backbones import ReluMLP
from peak_nerf.core.field import FieldConfig, PeakField
from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.nerf.render.directions import SphericalHarmonics

AMPERE = (8, 0)
"""Compute capability of the first GPUs that multiply bfloat16."""


def networks_in_bfloat16(precision: str, device: torch.device | str) -> bool:
    """Whether networks on `device` are worked out in bfloat16: by choice, or for "auto" where it is fast there.

    So it is on CPUs with instructions for products of bfloat16 matrices (AVX-512 BF16) and on GPUs from Ampere on.
    """
    if precision != "auto":
        return precision == "bfloat16"
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= AMPERE
    # Not public in torch 2.5 to 2.14, and absent from some builds: without it, float32 is what always works.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and bool(supported())


class PeakRadianceField(nn.Module):
    r"""Density sigma(x) = exp(h_0(x) + bias) and colour c(x, d) = sigmoid(MLP(h(x), SH(d))), h a `PeakField`.

    Positions are normalised to [-1, 1]^3, densities are per unit of that space.

    Args:
        config: encodings and density backbone; `relu_init` is also how the colour network starts.
        n_geometry: features h_1.. handed from density to colour.
        colour_hidden_dim, colour_n_hidden: size of the colour network.
        sh_levels: levels of spherical harmonics, 1 to 4; L levels are L^2 numbers per direction.
        density_bias: start thin: at 0 a scene may stay fog for ever.
        bfloat16: work both networks out in bfloat16; weights, encodings and rendering stay float32.
        half_tables: have Triton's kernels read the grid's table in float16.
        device: decides the grid's implementation.

    Raises: PeakError on half tables of a grid that is not Triton's.
    """

    def __init__(
        self,
        config: FieldConfig,
        n_geometry: int = 15,
        colour_hidden_dim: int = 64,
        colour_n_hidden: int = 2,
        sh_levels: int = 4,
        density_bias: float = -2.0,
        bfloat16: bool = False,
        half_tables: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.base = PeakField(3, 1 + n_geometry, config, device=device)
        if half_tables:
            self.grid.read_in_half()
        self.density_bias = density_bias
        self.in_bfloat16 = bfloat16
        self.feature_mask: Tensor | None = None
        self.direction_encoding = SphericalHarmonics(sh_levels)
        size = (n_geometry + sh_levels**2, 3, colour_hidden_dim, colour_n_hidden)
        self.colour_network = ReluMLP(*size, bias=False, init=config.relu_init)

    def density(
        self, x: Float[Tensor, "n 3"], n_levels: int | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n geometry"]]:
        """Density and the features that the colour needs; by the grid's `n_levels` coarsest levels, or all."""
        features = self._features(x)
        if n_levels is not None:
            fine = torch.arange(features.shape[1], device=features.device)
            fine = (fine >= n_levels * self.grid.n_features) & (fine < self.grid.n_levels * self.grid.n_features)
            features = features.masked_fill(fine, 0.0)
        h = self._network(self.base.backbone, features)
        # Beyond e^12 a step is opaque anyhow, and the exponential must not overflow.
        return torch.exp((h[:, 0] + self.density_bias).clamp(max=12.0)), h[:, 1:]

    def colour(
        self,
        geometry: Float[Tensor, "n geometry"],
        directions: Float[Tensor, "r 3"],
        ray: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n 3"]:
        """Colour in [0, 1]; `ray` says which of the (unit) directions each sample has, None when there is one each."""
        harmonics = self.direction_encoding(directions)
        harmonics = harmonics if ray is None else harmonics[ray]
        return torch.sigmoid(self._network(self.colour_network, torch.cat((geometry, harmonics), -1)))

    def open_levels(self, progress: float) -> None:
        """Let the grid's levels in from coarse to fine, see `level_mask`; at progress 1 all are open."""
        grid = self.grid
        mask = level_mask(grid.n_levels, grid.n_features, progress, device=grid.resolutions.device)
        ones = mask.new_ones(self.base.encoding.out_dim - len(mask))
        self.feature_mask = None if progress >= 1 else torch.cat((mask, ones))

    @property
    def grid(self) -> HashGridEncoding:
        """The hash grid among the encodings, the first of them."""
        grid = self.base.encoding.encodings[0]
        assert isinstance(grid, HashGridEncoding)
        return grid

    def _features(self, x: Tensor) -> Tensor:
        features = self.base.encoding(x)
        return features if self.feature_mask is None else features * self.feature_mask.to(features)

    def _network(self, network: nn.Module, features: Tensor) -> Tensor:
        """The network's output in float32, whatever it is worked out in."""
        if not self.in_bfloat16:
            return network(features).float()
        n, kind = len(features), features.device.type
        added = padding(n) if kind == "cpu" else 0
        # No cache: casts of the weights that were made without gradient would be reused with one, and lose it.
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
            return network(F.pad(features, (0, 0, 0, added)))[:n].float()


def padding(n: int) -> int:
    """Rows, at most 31 or some n / 16 of them, that make n rows a multiple of 32 or more with few significant digits.

    torch's bfloat16 products compile a kernel for every new number of rows, about 1 ms and 0.7 MB each, and training
    has a new number in every step.
    """
    return -n % max(32, 1 << max(0, n.bit_length() - 5))


def level_mask(
    n_levels: int, n_features: int, progress: float, n_start: int = 2, device: torch.device | str = "cpu"
) -> Float[Tensor, " features"]:
    r"""Factors of the hash grid's features, level by level: alpha_l = clamp(n_start + (L - n_start) s - l, 0, 1).

    At s = progress = 0 the `n_start` coarsest levels are open, at s = 1 all L; in between the next one fades in.

    Args:
        n_levels: L, of the grid.
        n_features: features per level.
        progress: s, held to [0, 1].
        n_start: levels open from the start, at least 1.
        device: of the result.

    Source: Yang, Pavone, Wang, FreeNeRF, CVPR 2023, eq. (4), which masks the frequencies of a positional encoding.
    """
    level = torch.arange(n_levels, dtype=torch.float32, device=device)
    n_start = min(n_start, n_levels)
    opened = n_start + (n_levels - n_start) * min(max(progress, 0.0), 1.0)
    return (opened - level).clamp(0, 1).repeat_interleave(n_features)
