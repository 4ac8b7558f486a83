"""The field fits in 1D, 2D and 3D, on its box, and KAR reaches every part of it."""

import math

import pytest
import torch

from peak_nerf.core.anchors import AnchorSampler, GlobalAnchors, LocalAnchors
from peak_nerf.core.field import FieldConfig, HashGridConfig, PeakField
from peak_nerf.core.kar import KernelAlignmentRegularizer

SMALL_GRID = HashGridConfig(n_levels=4, log2_table_size=10, base_resolution=4, finest_resolution=32)


def small(in_dim: int) -> PeakField:
    torch.manual_seed(0)
    return PeakField(in_dim, 2, FieldConfig(hash_grid=SMALL_GRID, hidden_dim=32), low=0.0, high=10.0)


@pytest.mark.parametrize("in_dim", [1, 2, 3])
def test_it_fits_a_wave(in_dim: int) -> None:
    field = small(in_dim)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    x = 10 * torch.rand(400, in_dim)
    phase = x.sum(-1)
    target = torch.stack((phase.sin(), phase.cos()), -1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (field(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_normalise_maps_the_box() -> None:
    field = PeakField(2, 1, FieldConfig(hash_grid=None), low=[0.0, -5.0], high=[10.0, 5.0])
    assert field.normalise(torch.tensor([[0.0, -5.0], [10.0, 5.0], [5.0, 0.0]])).tolist() == [[-1, -1], [1, 1], [0, 0]]


@pytest.mark.parametrize("anchors", [LocalAnchors(4, radius=0.1), GlobalAnchors(32)])
def test_kar_trains_field_encoding_and_similarity(anchors: AnchorSampler) -> None:
    field, kar = small(2), KernelAlignmentRegularizer(2, n_features=16, hidden_dim=16)
    kar.field_loss(field.evaluate, anchors, field.normalise(10 * torch.rand(64, 2))).backward()
    parameters = [*field.named_parameters(), *kar.named_parameters()]
    without = [name for name, p in parameters if p.grad is None or not p.grad.abs().sum() > 0]
    # A constant added to f cancels in f - A f.
    assert without == ["backbone.output.bias"] or without == []


def test_every_encoding_can_be_left_out() -> None:
    plain = PeakField(2, 1, FieldConfig(hash_grid=None, polynomial_degree=None))
    assert plain.encoding.out_dim == 2
    assert plain.polynomial is None
    fourier = PeakField(2, 1, FieldConfig(hash_grid=None, polynomial_degree=2, n_frequencies=8, backbone="siren"))
    assert fourier.encoding.out_dim == 16 + math.comb(4 + 2, 2)
    assert fourier.polynomial is not None
    assert len(fourier.polynomial.coefficients) == 3
    assert fourier(torch.rand(5, 2)).shape == (5, 1)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="low must be below high"):
        PeakField(2, 1, low=1.0, high=1.0)
