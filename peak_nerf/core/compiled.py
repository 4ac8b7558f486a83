"""When compiled CPU kernels, which know nothing but float32 and plain autograd, may do a call's work."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

HAS_NUMBA = importlib.util.find_spec("numba") is not None


def compiled_kernels_take(*tensors: Tensor) -> bool:
    """Whether numba is there, all tensors are float32 on the CPU, and only autograd looks on.

    torch takes calls under autocast, `torch.func`, forward-mode differentiation, compilation and tracing.
    """
    return (
        HAS_NUMBA
        and all(
            type(t) in (Tensor, nn.Parameter) and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors
        )
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
