"""The kernels behind PEAK, as functions on tensors.

`ntk`: the empirical neural tangent kernel of any module. `infinite_width`: its limit, in closed form. `optimal`: the
kernel that predicts best, and regression with any. `aligned_encoding`: an encoding that turns one kernel into another.
`alignment`: how alike two kernels are.
"""

from peak_nerf.core.kernels.aligned_encoding import aligned_encoding
from peak_nerf.core.kernels.alignment import (
    centered_kernel_alignment,
    kernel_alignment,
    kernel_target_alignment,
    spectrum,
)
from peak_nerf.core.kernels.finite_width import FiniteNetwork
from peak_nerf.core.kernels.infinite_width import InfiniteNetwork
from peak_nerf.core.kernels.ntk import empirical_ntk, ntk_vector_product
from peak_nerf.core.kernels.optimal import (
    expected_squared_error,
    gaussian_posterior,
    kernel_regression,
    optimal_kernel,
)

__all__ = [
    "FiniteNetwork",
    "InfiniteNetwork",
    "aligned_encoding",
    "centered_kernel_alignment",
    "empirical_ntk",
    "expected_squared_error",
    "gaussian_posterior",
    "kernel_alignment",
    "kernel_regression",
    "kernel_target_alignment",
    "ntk_vector_product",
    "optimal_kernel",
    "spectrum",
]
