"""What every function on kernel matrices and points refuses, in the same words."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Relative to the largest entry or eigenvalue: rounding of a kernel computed in the tensor's own precision.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def tolerance(x: Tensor) -> float:
    """What counts as rounding in this dtype, relative to the largest value."""
    return TOLERANCE.get(x.dtype, 1e-2)


def check_finite(x: Tensor, name: str) -> None:
    """Raises: ValueError on an empty tensor, or one with an entry that is not finite."""
    if x.numel() == 0:
        raise ValueError(f"{name} is empty (shape {tuple(x.shape)}); give at least one point")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} has {int((~x.isfinite()).sum())} entries that are not finite")


def check_kernel(k: Float[Tensor, "n n"], name: str = "the kernel matrix") -> None:
    """Raises: ValueError unless the matrix is finite, not empty, square and symmetric."""
    check_finite(k, name)
    if k.ndim != 2 or k.shape[0] != k.shape[1]:
        raise ValueError(f"{name} must be square, got shape {tuple(k.shape)}")
    asymmetry = float((k - k.T).abs().max())
    if asymmetry > tolerance(k) * float(k.abs().max()):
        raise ValueError(f"{name} is not symmetric: entries differ from their mirror by up to {asymmetry:.3g}")


def check_spectrum(eigenvalues: Float[Tensor, " n"], name: str = "the kernel matrix") -> None:
    """Raises: ValueError when an eigenvalue is below 0 by more than rounding: then it is no kernel."""
    lowest, largest = float(eigenvalues.min()), float(eigenvalues.abs().max())
    if lowest < -tolerance(eigenvalues) * largest:
        raise ValueError(
            f"{name} is not positive semi-definite: eigenvalue {lowest:.3g}, with the largest at {largest:.3g}"
        )
