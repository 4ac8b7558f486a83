"""Picking what a mask marks without asking how much that is: on a GPU the host would have to wait for the answer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from peak_nerf.system.accelerator import runs_ahead


def marked(mask: Bool[Tensor, " m"], n: int) -> Int[Tensor, " n"]:
    """Indices of the first n that are marked, ascending; m for each that there is not."""
    return torch.searchsorted(mask.cumsum(0), torch.arange(1, n + 1, device=mask.device))


def random_marked(mask: Bool[Tensor, " m"], n: int) -> Int[Tensor, " n"]:
    """Indices of n of those that are marked, at random, each as likely, some perhaps twice; 0 where none is.

    Raises: IndexError on an empty mask.
    """
    count = mask.cumsum(0)
    chosen = (torch.rand(n, dtype=torch.float64, device=mask.device) * count[-1]).long()
    return torch.searchsorted(count, chosen + (count[-1] > 0))


class Marked:
    """A mask to draw from again and again; on the CPU by a list of what it marks."""

    def __init__(self, mask: Bool[Tensor, " m"]) -> None:
        self.mask = mask
        self.indices = None if runs_ahead(mask.device) else mask.nonzero()[:, 0]

    def fewer_than(self, n: int) -> bool:
        """Whether it is known that fewer are marked; on a GPU it is not."""
        return self.indices is not None and len(self.indices) < n

    def draw(self, n: int) -> Int[Tensor, " n"]:
        """Indices of n of them at random, some perhaps twice; on a GPU 0 where none is."""
        if self.indices is None:
            return random_marked(self.mask, n)
        return self.indices[torch.randint(len(self.indices), (n,), device=self.mask.device)]
