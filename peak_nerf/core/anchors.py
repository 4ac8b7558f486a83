r"""Which points X a query x is compared with in the Kernel Alignment Regularizer.

A query is never its own anchor: otherwise A = I solves f = A f and the regularizer says nothing.
"""

# n: queries   m: anchors shared by all queries   k: anchors of one query   d: input dimension

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Displacements below this fraction of the domain may vanish in float32.
RESOLUTION = 1e-6


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
    low_, high_ = (_of_each(side, like) for side in (low, high))
    if not all(a < b for a, b in zip(low_, high_, strict=True)):
        raise ValueError(f"low must be below high, got {low} and {high}")
    return _beside(like, low_), _beside(like, high_)


def _of_each(values: float | Sequence[float], like: Float[Tensor, "... d"]) -> list[float]:
    """One number per dimension. Raises: ValueError where there are fewer or more."""
    numbers = list(values) if isinstance(values, Sequence) else [values] * like.shape[-1]
    if len(numbers) != like.shape[-1]:
        raise ValueError(f"{len(numbers)} numbers for {like.shape[-1]} dimensions: {values}")
    return [float(number) for number in numbers]


def _beside(like: Tensor, numbers: Sequence[float]) -> Float[Tensor, " d"]:
    """The numbers on the device of `like`, filled in there: for a copy the host would wait."""
    return torch.stack([like.new_full((), number) for number in numbers])


@dataclass(eq=False)
class GlobalAnchors:
    """The same m anchors for all queries, drawn anew and uniformly in the box at each call.

    Raises: ValueError when n_anchors is below 1.
    """

    n_anchors: int = 1024
    """Number of anchors m."""
    low: float | Sequence[float] = -1.0
    """Lower corner of the box, one number or one per dimension."""
    high: float | Sequence[float] = 1.0
    """Upper corner of the box."""

    def __post_init__(self) -> None:
        if self.n_anchors < 1:
            raise ValueError(f"n_anchors must be at least 1, got {self.n_anchors}")

    def sample(self, x_query: Float[Tensor, "n d"], generator: torch.Generator | None = None) -> Float[Tensor, "m d"]:
        """Anchors shared by all queries, of which only dtype and dimension matter."""
        return uniform_points(self.n_anchors, *box(self.low, self.high, x_query), generator=generator)


@dataclass(eq=False)
class LocalAnchors:
    """k anchors of its own near each query: x + u with u uniform in +-radius.

    A displacement that leaves the domain is mirrored, x - u; where that leaves it too, the farther side of the domain
    is taken. Plain clamping would put the anchor back on a query that sits on the border.

    Raises: ValueError when n_anchors is below 1.
    """

    n_anchors: int
    """Anchors per query k."""
    radius: float | Sequence[float]
    """Half-width of the neighbourhood, one number or one per dimension, in the units of x."""
    low: float | Sequence[float] = -1.0
    """Lower corner of the domain, one number or one per dimension. Queries are expected inside."""
    high: float | Sequence[float] = 1.0
    """Upper corner of the domain."""

    def __post_init__(self) -> None:
        if self.n_anchors < 1:
            raise ValueError(f"a query needs at least 1 anchor, got {self.n_anchors}")

    def sample(self, x_query: Float[Tensor, "n d"], generator: torch.Generator | None = None) -> Float[Tensor, "n k d"]:
        """Anchors inside the domain, none of them equal to its query.

        Raises: ValueError when the radius is negative or, in all dimensions, lost in rounding at the domain's scale.
        """
        x = x_query.detach()[:, None]
        low, high = box(self.low, self.high, x)
        radii = _of_each(self.radius, x)
        corners = zip(_of_each(self.low, x), _of_each(self.high, x), strict=True)
        least = [4 * RESOLUTION * max(b - a, abs(a), abs(b)) for a, b in corners]
        if not any(radii) or not all(r == 0 or r >= r_min for r, r_min in zip(radii, least, strict=True)):
            raise ValueError(
                f"radius must not be negative, and where it is not 0 at least {4 * RESOLUTION:g} of the domain's scale,"
                f" got {self.radius}"
            )
        radius = _beside(x, radii)
        u = uniform_points(len(x) * self.n_anchors, -radius, radius, generator=generator)
        anchors = _displaced(x, u.reshape(len(x), self.n_anchors, -1), low, high)
        # A draw of (nearly) zero may round to the query: move that one by a whole radius along the widest direction.
        widest = torch.where(torch.arange(len(radius), device=x.device) == radius.argmax(), radius, 0.0)
        on_query = (anchors == x).all(dim=-1, keepdim=True)
        return torch.where(on_query, _displaced(x, widest, low, high), anchors)


def _displaced(
    x: Float[Tensor, "n 1 d"], u: Float[Tensor, "... d"], low: Float[Tensor, " d"], high: Float[Tensor, " d"]
) -> Float[Tensor, "n k d"]:
    """x + u folded back into the box; the slack keeps a query on the border that rounding puts just outside."""
    slack = RESOLUTION * (high - low)
    plus, minus = x + u, x - u
    plus_out = (plus < low - slack) | (plus > high + slack)
    minus_out = (minus < low - slack) | (minus > high + slack)
    farther = torch.where(x - low > high - x, low, high)
    folded = torch.where(plus_out, torch.where(minus_out, farther, minus), plus)
    return torch.maximum(torch.minimum(folded, high), low)


AnchorSampler = GlobalAnchors | LocalAnchors
