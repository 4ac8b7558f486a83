"""Spherical harmonics are nerfstudio's, to the last bit."""

import pytest
import torch
import torch.nn.functional as F
from nerfstudio.field_components.encodings import SHEncoding

from peak_nerf.nerf.render.directions import SphericalHarmonics


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_equals_nerfstudios(levels: int) -> None:
    directions = F.normalize(torch.randn(500, 3), dim=-1)
    theirs = SHEncoding(levels=levels, implementation="torch")
    ours = SphericalHarmonics(levels)
    assert torch.equal(ours(directions), theirs(directions))
    assert ours.out_dim == theirs.get_out_dim() == levels**2
    assert torch.equal(ours(directions.double()), theirs(directions.double()))
    assert ours.state_dict() == theirs.state_dict() == {}
    assert ours(torch.empty(0, 3)).shape == (0, levels**2)


@pytest.mark.parametrize("levels", [0, 5])
def test_levels_that_there_are_not(levels: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 4, got {levels}"):
        SphericalHarmonics(levels)
