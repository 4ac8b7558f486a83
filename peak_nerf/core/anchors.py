r"""Which points X a query x is compared with in the Kernel Alignment Regularizer.

`GlobalAnchors` and `LocalAnchors` hand back `Anchors` from `sample(x_query, ...)`; `SeparableAnchors` needs no sampling
and hands the rows and columns of its grid. `KernelAlignmentRegularizer.field_loss` takes any of the three.
A query is never its own anchor: otherwise A = I solves f = A f and the regularizer says nothing.
"""

# n: queries   m: anchors shared by all queries   k: anchors of one query   d: input dimension

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Displacements below this fraction of the domain may vanish in float32.
RESOLUTION = 1e-6


@dataclass(frozen=True, eq=False)
class Anchors:
    """Anchor points, shared (m, d) or one set per query (n, k, d)."""

    x: Float[Tensor, "*anchors d"]
    """The points."""
    self_index: Int[Tensor, " n"] | None = None
    """For shared anchors: each query's own position among them, to be excluded; -1 when it is not there."""


def uniform_points(
    n: int,
    low: Float[Tensor, " d"],
    high: Float[Tensor, " d"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n d"]:
    """n points drawn uniformly in the box [low, high], drawn on the generator's device, handed back on low's."""
    device = low.device if generator is None else generator.device
    unit = torch.rand(n, len(low), generator=generator, device=device, dtype=low.dtype)
    return low + unit.to(low.device) * (high - low)


def box(
    low: float | Sequence[float], high: float | Sequence[float], like: Float[Tensor, "... d"]
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """The bounds as two vectors of the size, dtype and device of `like`. Raises: ValueError unless low < high."""
    low_, high_ = (like.new_tensor(side).expand(like.shape[-1]) for side in (low, high))
    if not bool((low_ < high_).all()):
        raise ValueError(f"low must be below high, got {low} and {high}")
    return low_, high_


@dataclass(eq=False)
class GlobalAnchors:
    """The same m anchors for all queries, drawn anew at each call.

    Raises: ValueError when n_anchors is below 1 or above the number of candidates.
    """

    n_anchors: int = 1024
    """Number of anchors m."""
    candidates: Float[Tensor, "n_candidate d"] | None = None
    """Distinct points to draw from without replacement; None draws uniformly in the box."""
    low: float | Sequence[float] = -1.0
    """Lower corner of the box, one number or one per dimension; without candidates only."""
    high: float | Sequence[float] = 1.0
    """Upper corner of the box."""

    def __post_init__(self) -> None:
        if self.n_anchors < 1:
            raise ValueError(f"n_anchors must be at least 1, got {self.n_anchors}")
        if self.candidates is not None and self.n_anchors > len(self.candidates):
            raise ValueError(f"n_anchors {self.n_anchors} exceeds the {len(self.candidates)} candidates")

    def sample(
        self,
        x_query: Float[Tensor, "n d"],
        query_index: Int[Tensor, " n"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Anchors:
        """Anchors of shape (m, d), with `self_index` when they come from candidates.

        query_index: each query's position among the candidates, -1 when it is none. Without it, a query is taken for
        the candidate that has the same coordinates, which costs a sort of n + m points.
        Raises: ValueError when query_index is given without candidates.
        """
        if self.candidates is None:
            if query_index is not None:
                raise ValueError("query_index counts among the candidates, and there are none")
            return Anchors(uniform_points(self.n_anchors, *box(self.low, self.high, x_query), generator=generator))
        device = self.candidates.device if generator is None else generator.device
        order = torch.randperm(len(self.candidates), generator=generator, device=device)
        chosen = order[: self.n_anchors].to(self.candidates.device)
        anchors = self.candidates[chosen].to(x_query)
        if query_index is None:
            return Anchors(anchors, _own_position(x_query.detach(), anchors))
        position = torch.full((len(self.candidates),), -1, device=chosen.device)
        position[chosen] = torch.arange(self.n_anchors, device=chosen.device)
        index = query_index.to(chosen.device)
        own = torch.where(index >= 0, position[index.clamp_min(0)], -1)
        return Anchors(anchors, own.to(x_query.device))


def _own_position(x_query: Float[Tensor, "n d"], x_anchor: Float[Tensor, "m d"]) -> Int[Tensor, " n"]:
    """Where each query stands among the anchors, -1 when it does not, without an n x m comparison."""
    m = len(x_anchor)
    unique, label = torch.unique(torch.cat([x_anchor, x_query]), dim=0, return_inverse=True)
    position = torch.full((len(unique),), -1, device=label.device)
    position[label[:m]] = torch.arange(m, device=label.device)
    return position[label[m:]]


@dataclass(eq=False)
class LocalAnchors:
    """k anchors of its own near each query: x + u with u uniform in +-radius, or with u from a fixed list of offsets.

    A displacement that leaves the domain is mirrored, x - u; where that leaves it too, the farther side of the domain
    is taken. Plain clamping would put the anchor back on a query that sits on the border.

    Raises: ValueError unless exactly one of radius and offsets is given, or on an empty or vanishing neighbourhood.
    """

    n_anchors: int | None = None
    """Anchors per query k. With offsets: how many of them to draw at each call, None for all."""
    radius: float | Sequence[float] | None = None
    """Half-width of the neighbourhood, one number or one per dimension, in the units of x."""
    offsets: Float[Tensor, "n_offset d"] | None = None
    """Fixed displacements instead of a radius, e.g. `grid_offsets(pixel_size, dilations)` on an image grid."""
    low: float | Sequence[float] = -1.0
    """Lower corner of the domain, one number or one per dimension. Queries are expected inside."""
    high: float | Sequence[float] = 1.0
    """Upper corner of the domain."""

    def __post_init__(self) -> None:
        if (self.radius is None) == (self.offsets is None):
            raise ValueError("give either radius or offsets")
        if self.radius is not None and self.n_anchors is None:
            raise ValueError("radius needs n_anchors")
        n_offsets = None if self.offsets is None else len(self.offsets)
        if n_offsets == 0 or (self.n_anchors is not None and self.n_anchors < 1):
            raise ValueError("a query needs at least 1 anchor")
        if n_offsets is not None and self.n_anchors is not None and self.n_anchors > n_offsets:
            raise ValueError(f"n_anchors {self.n_anchors} exceeds the {n_offsets} offsets")

    def sample(self, x_query: Float[Tensor, "n d"], generator: torch.Generator | None = None) -> Anchors:
        """Anchors of shape (n, k, d) inside the domain, none of them equal to its query.

        Raises: ValueError when radius or an offset is zero, or lost in rounding, at the scale of the domain.
        """
        x = x_query.detach()[:, None]
        low, high = box(self.low, self.high, x)
        if self.offsets is not None:
            offsets = self.offsets.to(x)
            _check_displacement(offsets, low, high)
            if self.n_anchors is not None and self.n_anchors < len(offsets):
                device = x.device if generator is None else generator.device
                order = torch.randperm(len(offsets), generator=generator, device=device)
                offsets = offsets[order[: self.n_anchors].to(x.device)]
            return Anchors(_displaced(x, offsets[None], low, high))
        # __post_init__ has checked both.
        assert self.radius is not None
        assert self.n_anchors is not None
        radius = x.new_tensor(self.radius).expand(x.shape[-1])
        if bool((radius < 0).any()):
            raise ValueError(f"radius must not be negative, got {self.radius}")
        _check_displacement(radius[None], low, high)
        u = uniform_points(len(x) * self.n_anchors, -radius, radius, generator=generator)
        anchors = _displaced(x, u.reshape(len(x), self.n_anchors, -1), low, high)
        # A draw of (nearly) zero may round to the query: move that one by a whole radius along the widest direction.
        widest = torch.where(torch.arange(len(radius), device=x.device) == radius.argmax(), radius, 0.0)
        on_query = (anchors == x).all(dim=-1, keepdim=True)
        return Anchors(torch.where(on_query, _displaced(x, widest, low, high), anchors))


def _check_displacement(u: Float[Tensor, "k d"], low: Float[Tensor, " d"], high: Float[Tensor, " d"]) -> None:
    scale = torch.maximum(high - low, torch.maximum(low.abs(), high.abs()))
    lost = (u != 0) & (u.abs() < 4 * RESOLUTION * scale)
    if bool(lost.any()) or bool((u == 0).all(dim=-1).any()):
        raise ValueError(
            f"each displacement must be at least {4 * RESOLUTION:g} of the domain's scale, got {u.tolist()}"
        )


def _displaced(
    x: Float[Tensor, "n 1 d"], u: Float[Tensor, "... d"], low: Float[Tensor, " d"], high: Float[Tensor, " d"]
) -> Float[Tensor, "n k d"]:
    """x + u folded back into the box; the slack keeps a border pixel that rounding puts just outside."""
    slack = RESOLUTION * (high - low)
    plus, minus = x + u, x - u
    plus_out = (plus < low - slack) | (plus > high + slack)
    minus_out = (minus < low - slack) | (minus > high + slack)
    farther = torch.where(x - low > high - x, low, high)
    folded = torch.where(plus_out, torch.where(minus_out, farther, minus), plus)
    return torch.maximum(torch.minimum(folded, high), low)


def grid_offsets(pixel_size: Sequence[float], dilations: Sequence[int] = (1, 2, 4, 8)) -> Float[Tensor, "k d"]:
    """Displacements to the 3^d - 1 grid neighbours, at each dilation: dilation * pixel_size * {-1, 0, 1}^d without 0.

    pixel_size: grid spacing per dimension, e.g. (2 / 255, 2 / 255) for linspace(-1, 1, 256) twice.
    Raises: ValueError on no dilations, one below 1, or a pixel size that is not above 0.
    """
    if len(dilations) == 0 or min(dilations) < 1 or len(pixel_size) == 0 or not min(pixel_size) > 0:
        raise ValueError(f"dilations must be at least 1 and pixel sizes above 0, got {dilations} and {pixel_size}")
    steps = torch.tensor([step for step in product((-1.0, 0.0, 1.0), repeat=len(pixel_size)) if any(step)])
    return torch.cat([dilation * steps * torch.tensor(pixel_size) for dilation in dilations])


@dataclass(eq=False)
class SeparableAnchors:
    """Rows and columns of an n_row x n_column grid: row i is compared with the other rows, column j with the others.

    Only an n_row x n_row and an n_column x n_column matrix arise, never one over the grid's points. g lives on the
    grid's two centre lines: row i stands at (rows[i], mean of columns), column j at (mean of rows, columns[j]).

    Raises: ValueError when there are fewer than 2 rows or columns.
    """

    rows: Float[Tensor, " n_row"]
    """First coordinate of each row."""
    columns: Float[Tensor, " n_column"]
    """Second coordinate of each column."""

    def __post_init__(self) -> None:
        if min(len(self.rows), len(self.columns)) < 2:
            raise ValueError(f"need at least 2 rows and 2 columns, got {len(self.rows)} and {len(self.columns)}")

    def grid(self) -> Float[Tensor, "n_point 2"]:
        """All grid points, row-major, with shape (n_row * n_column, 2)."""
        return torch.cartesian_prod(self.rows, self.columns)

    def row_points(self) -> Float[Tensor, "n_row 2"]:
        """Where g is evaluated for each row."""
        return torch.stack([self.rows, self.columns.mean().expand_as(self.rows)], dim=-1)

    def column_points(self) -> Float[Tensor, "n_column 2"]:
        """Where g is evaluated for each column."""
        return torch.stack([self.rows.mean().expand_as(self.columns), self.columns], dim=-1)


AnchorSampler = GlobalAnchors | LocalAnchors | SeparableAnchors
