"""The average of weights over the last part of a fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """Exponential moving average of parameters, swapped in for scoring."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.live = parameters
        self.mean = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, horizon: float) -> None:
        """Take in the parameters as they are; the average is over about so many steps."""
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 / max(horizon, 1.0))

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the average in the parameters' place, and the other way round."""
        kept = [p.detach().clone() for p in self.live]
        torch._foreach_copy_(self.live, self.mean)
        torch._foreach_copy_(self.mean, kept)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within, the parameters are the average."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()
