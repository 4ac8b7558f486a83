"""Where Triton's kernels run: on NVIDIA's GPUs, and for tests on the CPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

import torch

OLDEST = (7, 0)
"""Compute capability from which on Triton compiles."""


def interpreted() -> bool:
    """Whether Triton's interpreter stands for a GPU: `TRITON_INTERPRET=1`, set before triton is imported.

    It runs kernels with numpy, thousands of times slower: for tests.
    """
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=1)
def launcher_needs() -> str | None:
    """What Triton lacks to build the few lines of C that start a kernel, in words; None where it has all.

    On Linux alone: Windows' Triton brings its own compiler.
    """
    if sys.platform != "linux":
        return None
    if os.environ.get("CC") is None and not any(map(shutil.which, ("gcc", "clang", "cc"))):
        return "Triton needs a C compiler (apt-get install gcc)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Triton needs Python's headers (apt-get install python3-dev)"
    return None


def hindrance(device: torch.device | str) -> str | None:
    """Why Triton's kernels take no tensors of this device, in words; None where they do."""
    device = torch.device(device)
    if device.type != "cuda" and not interpreted():
        return "the device is not CUDA"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton; on Windows triton-windows)"
    if device.type == "cuda" and (missing := launcher_needs()) is not None:
        return missing
    if device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < OLDEST:
        return "the GPU is older than what Triton compiles for"
    return None


def state() -> dict[str, str | None]:
    """Triton's version, and what it lacks to start kernels; imports it."""
    import triton

    return {"version": triton.__version__, "needs": launcher_needs()}


def runs_ahead(device: torch.device) -> bool:
    """Whether the host only hands work to this device, and has to wait when it wants to know what came of it."""
    return device.type != "cpu" or interpreted()


def triton_takes(device: torch.device) -> bool:
    """Whether Triton's kernels are to be used for tensors of this device."""
    return (device.type == "cuda" or interpreted()) and hindrance(device) is None


def block_size(on_gpu: int, n_items: int, longest: int = 1024) -> int:
    """Items of a program, a power of two; the interpreter is faster with few large ones, of at most `longest`."""
    return max(1, min(longest, 1 << (n_items - 1).bit_length())) if interpreted() else on_gpu
