"""Counts, without a GPU, how often a program's host would have to wait for one.

What waits: numbers read from tensors, results whose size is in them, and copies from the host that are not pinned.
`torch.cuda.set_sync_debug_mode` says the same of a real one.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "histc",
}  # fmt: skip
"""Operators of torch that wait in any case."""
METHODS = ("tolist", "numpy", "cpu", "new_tensor")
"""Of tensors."""
ELSEWHERE = ("/triton/", "/relu_mlp")
"""Code that stands in for a GPU's, or that is for CPUs alone."""


class Waits(TorchDispatchMode):
    """Within it, `found` lists what would wait, and in which line."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, overload = func.__name__.split(".")
        kwargs = kwargs or {}
        repeats = name == "repeat_interleave" and overload == "Tensor" and kwargs.get("output_size") is None
        if name in READS or repeats:
            self.note(name)
        elif name.strip("_") in ("index", "index_put", "index_put_impl"):
            by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
            # One value at the places of a mask is filled in.
            if by_mask and (name == "index" or args[2].numel() != 1 or len(args[1]) > 1):
                self.note(f"{name} by a mask")
        return func(*args, **kwargs)

    def note(self, what: str) -> None:
        """Something waits; nothing where it is done by what stands in for a GPU."""
        frame, place = sys._getframe(1), None
        while frame is not None:
            name = frame.f_code.co_filename
            if any(part in name for part in ELSEWHERE):
                return
            if place is None and "/torch/" not in name and name != __file__ and "mock" not in name:
                place = f"{'/'.join(name.split('/')[-3:])}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        self.found.append(f"{what} at {place}")


@contextmanager
def waits() -> Iterator[list[str]]:
    """What would wait, within. A copy to the host that is not waited for can be read after the next wait."""
    mode = Waits()
    on_its_way: dict[int, tuple[torch.Tensor, int]] = {}

    def patched(owner: Any, name: str, counts: Callable[..., bool]) -> Any:
        plain = getattr(owner, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            if counts(*args, **kwargs):
                mode.note(name)
            with torch.utils._python_dispatch._disable_current_modes():
                return plain(*args, **kwargs)

        return mock.patch.object(owner, name, called)

    def read(tensor: torch.Tensor, *_: Any, **__: Any) -> bool:
        _, then = on_its_way.get(id(tensor), (None, len(mode.found)))
        return then == len(mode.found)

    def to_device(*_: Any, device: Any = None, **__: Any) -> bool:
        return device is not None

    plain_to = torch.Tensor.to

    def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = plain_to(tensor, *args, **kwargs)
        if args[:1] == ("cpu",) and kwargs.get("non_blocking"):
            on_its_way[id(result)] = result, len(mode.found)
        return result

    with ExitStack() as stack:
        stack.enter_context(mode)
        stack.enter_context(mock.patch.object(torch.Tensor, "to", to))
        for name in METHODS:
            stack.enter_context(patched(torch.Tensor, name, read))
        for name in ("tensor", "as_tensor"):
            stack.enter_context(patched(torch, name, to_device))
        yield mode.found
