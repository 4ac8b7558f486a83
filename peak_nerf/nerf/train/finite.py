"""Whether losses are numbers; on a GPU without waiting for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from peak_nerf.system.accelerator import runs_ahead


class NotANumber(Exception):
    """A loss that is none: its step, and what it consists of, in words."""

    def __init__(self, step: int, parts: str) -> None:
        super().__init__(step, parts)
        self.step, self.parts = step, parts


class _Copied(NamedTuple):
    """Losses on their way to the host."""

    step: int
    names: list[str]
    values: Tensor
    there: torch.cuda.Event | None
    """Has happened once they are there."""


class LossWatch:
    """Looks at the losses of each step: on the CPU at once, on a GPU when those of the next step come.

    The host would have to wait for a GPU until a step is done before it can hand out the next. By the next step's end
    it has waited for the number of samples, and what was handed out before is done.
    """

    def __init__(self) -> None:
        self._last: _Copied | None = None

    def look(self, step: int, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Take a step's loss and what it is the sum of. Raises: NotANumber, of this step or of the one before."""
        self.finish()
        values = torch.stack([value.detach().float() for value in (loss, *parts.values())])
        values, there = values.to("cpu", non_blocking=True), None
        if loss.device.type == "cuda":
            there = torch.cuda.Event()
            there.record()
        self._last = _Copied(step, list(parts), values, there)
        if not runs_ahead(loss.device):
            self.finish()

    def finish(self) -> None:
        """Look at the last losses now. Raises: NotANumber."""
        last, self._last = self._last, None
        if last is None:
            return
        if last.there is not None:
            last.there.synchronize()
        total, *values = last.values.tolist()
        if not math.isfinite(total):
            parts = zip(last.names, values, strict=True)
            raise NotANumber(last.step, ", ".join(f"{name} {value:g}" for name, value in parts))
