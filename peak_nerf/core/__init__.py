"""The field core: one neural field gamma -> backbone with the Kernel Alignment Regularizer, for any input dimension.

    from peak_nerf.core import Peak, Siren

    peak = Peak(Siren(in_dim=2, out_dim=3), in_dim=2, weight=1e-2)

What is named here is public. Kernels (NTK, alignment, aligned encodings) are in `peak_nerf.core.kernels`, the fit loop
of the tasks in `peak_nerf.core.fit`.
"""

from peak_nerf.core.anchors import GlobalAnchors, LocalAnchors
from peak_nerf.core.backbones import ReluMLP, Siren
from peak_nerf.core.encodings import (
    ConcatEncoding,
    FourierEncoding,
    IdentityEncoding,
    PolynomialEncoding,
    RawCoordinates,
    UnitSphereMap,
)
from peak_nerf.core.field import FieldConfig, HashGridConfig, PeakField
from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.core.kar import (
    KernelAlignmentRegularizer,
    dirichlet_energy,
    kernel_alignment_residual,
    kernel_alignment_residual_local,
)
from peak_nerf.core.plugin import Peak

__all__ = [
    "ConcatEncoding",
    "FieldConfig",
    "FourierEncoding",
    "GlobalAnchors",
    "HashGridConfig",
    "HashGridEncoding",
    "IdentityEncoding",
    "KernelAlignmentRegularizer",
    "LocalAnchors",
    "Peak",
    "PeakField",
    "PolynomialEncoding",
    "RawCoordinates",
    "ReluMLP",
    "Siren",
    "UnitSphereMap",
    "dirichlet_energy",
    "kernel_alignment_residual",
    "kernel_alignment_residual_local",
]
