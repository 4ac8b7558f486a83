import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.core.coordinates import RawCoordinates, UnitSphereMap


@settings(deadline=None)
@given(d=st.integers(1, 12), seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 1.0, 50.0]))
def test_unit_sphere_has_norm_one_in_any_dimension(d: int, seed: int, scale: float) -> None:
    x = scale * torch.randn(7, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mapped = UnitSphereMap(d)(x)
    assert mapped.shape == (7, 2 * d)
    torch.testing.assert_close(mapped.norm(dim=-1), torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-14)


def test_unit_sphere_by_hand() -> None:
    expected = torch.tensor([[1.0, 0.0, 0.0, 1.0]]) / math.sqrt(2)
    torch.testing.assert_close(UnitSphereMap(2)(torch.tensor([[0.0, math.pi / 2]])), expected, atol=1e-7, rtol=0)


def test_raw_coordinates_are_the_input() -> None:
    x = torch.tensor([[0.3, -7.0, 2.0]])
    assert RawCoordinates(3)(x) is x
    assert RawCoordinates(3).out_dim == 3


@pytest.mark.parametrize("kind", [UnitSphereMap, RawCoordinates])
def test_no_dimension_is_an_error(kind: type) -> None:
    with pytest.raises(ValueError, match="in_dim"):
        kind(0)
