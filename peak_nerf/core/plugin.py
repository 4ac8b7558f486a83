"""PEAK around a network that you already have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.core.anchors import AnchorSampler, LocalAnchors, box, uniform_points
from peak_nerf.core.encodings import CoefficientInit, CoordinateMap, PolynomialEncoding
from peak_nerf.core.kar import KernelAlignmentRegularizer

FORMER_NAMES = {"r": "n_features", "logits": "similarity"}
"""Settings of KAR by their names of before version 0.2."""


class Peak(nn.Module):
    r"""f(P gamma(x)): the polynomial encoding in front of any network f, which stays as it is, and KAR for its loss.

        siren = MySiren(2, 3)                                    # any nn.Module from (n, 2) to (n, ...)
        peak = Peak(siren, in_dim=2, weight=0.1)
        optimizer = torch.optim.Adam([
            {"params": [*peak.module.parameters(), *peak.encoding.parameters(), *peak.project.parameters()]},
            {"params": peak.regularizer.parameters(), "lr": 1e-3},  # g likes a rate of its own
        ], lr=1e-4)
        for step in range(n_steps):
            loss = (peak(x) - y).square().mean() + peak.kar_loss(progress=step / n_steps)
            optimizer.zero_grad(); loss.backward(); optimizer.step()

    f takes in_dim inputs while gamma has more features, so a learned linear map P leads from the features back to
    in_dim coordinates. It starts by picking the degree-1 block and undoing its sqrt(a_1), P gamma(x) = x to rounding,
    so training starts exactly where your network would have started without PEAK.

    Args:
        module: your network, taking (n, in_dim) to (n, ...), or from `peak.encoding.out_dim` with project=False.
        in_dim: input dimension d; 1, 2, 3 or any other.
        degree: degree of the encoding; at least 1 with project=True.
        coordinate_map: "raw"; with project=False also "unit_sphere".
        init: starting coefficients of the encoding, see `PolynomialEncoding`.
        project: learn P as above; False feeds the features themselves.
        anchors: where KAR looks; by default 12 neighbours within 2.5 % of the box on each side.
        low, high: the box that queries are drawn from, one number or one per dimension.
        **kar: further settings of `KernelAlignmentRegularizer`, such as weight, warmup, n_features, norm.

    Raises: ValueError when project=True meets coordinate_map "unit_sphere" or degree 0, where no linear P returns x.
    """

    def __init__(
        self,
        module: nn.Module,
        in_dim: int,
        degree: int = 1,
        coordinate_map: CoordinateMap = "raw",
        init: CoefficientInit | Sequence[float] = "ones",
        project: bool = True,
        anchors: AnchorSampler | None = None,
        low: float | Sequence[float] = -1.0,
        high: float | Sequence[float] = 1.0,
        **kar: Any,
    ) -> None:
        super().__init__()
        if project and (coordinate_map != "raw" or degree < 1):
            raise ValueError(
                "project=True needs coordinate_map 'raw' and degree at least 1, from which x can be read off; got"
                f" {coordinate_map!r} and {degree}. With project=False the module takes peak.encoding.out_dim inputs"
            )
        self.module = module
        self.encoding = PolynomialEncoding(in_dim, degree, coordinate_map, init)
        self.project = self._identity_projection() if project else nn.Identity()
        self.regularizer = KernelAlignmentRegularizer(
            in_dim, **{FORMER_NAMES.get(name, name): value for name, value in kar.items()}
        )
        self.low, self.high = low, high
        if anchors is None:
            low_, high_ = box(low, high, torch.empty(in_dim))
            anchors = LocalAnchors(n_anchors=12, radius=(0.025 * (high_ - low_)).tolist(), low=low, high=high)
        self.anchors = anchors

    @torch.no_grad()
    def _identity_projection(self) -> nn.Linear:
        """P with P gamma(x) = x."""
        project = nn.Linear(self.encoding.out_dim, self.encoding.in_dim)
        nn.init.zeros_(project.weight)
        nn.init.zeros_(project.bias)
        project.weight[:, self.encoding.degree_slices[1]].fill_diagonal_(
            1 / self.encoding.coefficients[1].sqrt().item()
        )
        return project

    def forward(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n ..."]:
        """f(x): the module behind the encoding."""
        return self.module(self.project(self.encoding(x)))

    def kar_loss(
        self,
        x: Float[Tensor, "n in_dim"] | None = None,
        n_queries: int = 1024,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """KAR of this field, times its weight at `progress` (the fraction of the training done, in [0, 1]).

        x: queries; None draws n_queries of them uniformly in the box.
        Raises: ValueError on n_queries below 1 or progress outside [0, 1].
        """
        weight = self.regularizer.weight_at(progress)
        if n_queries < 1:
            raise ValueError(f"n_queries must be at least 1, got {n_queries}")
        if x is None:
            like = self.encoding.raw_coefficients.detach().new_empty(self.encoding.in_dim)
            x = uniform_points(n_queries, *box(self.low, self.high, like), generator=generator)
        return weight * self.regularizer.field_loss(self, self.anchors, x, generator=generator)
