"""All of space fits into the cube, and comes back."""

import torch
import torch.nn.functional as F

from peak_nerf.nerf.render.contraction import contract, infinity, per_distance, uncontract


def positions(n: int = 400, reach: float = 30.0) -> torch.Tensor:
    """Half in the box, half up to `reach` times as far."""
    x = 2 * torch.rand(n, 3, dtype=torch.float64) - 1
    return torch.cat((x[: n // 2], reach * x[n // 2 :]))


def test_contraction_by_hand_and_continuous_at_the_box() -> None:
    x = torch.tensor([[0.5, -0.25, 0.0], [2.0, 0.0, 1.0], [0.0, -1e9, 0.0]])
    expected = torch.tensor([[0.25, -0.125, 0.0], [0.75, 0.0, 0.375], [0.0, -1.0, 0.0]])
    torch.testing.assert_close(contract(x), expected)
    face = torch.tensor([[1.0, 0.3, 0.2]])
    torch.testing.assert_close(contract(face * (1 - 1e-4)), contract(face * (1 + 1e-4)), atol=2e-4, rtol=0)
    # The slope across the face is continuous too: nothing is seen of it.
    for point in (face * (1 - 1e-4), face * (1 + 1e-4)):
        outward = torch.autograd.functional.jacobian(contract, point)[0, :, 0, 0]
        torch.testing.assert_close(outward[0], torch.tensor(0.5), atol=1e-3, rtol=0)


def test_uncontract_is_the_inverse() -> None:
    x = positions()
    torch.testing.assert_close(uncontract(contract(x)), x, atol=1e-10, rtol=1e-9)
    assert bool((contract(x).abs() < 1).all())
    assert bool(uncontract(torch.tensor([[1.0, 0.5, -1.0]])).isfinite().all())


def test_density_per_distance() -> None:
    x = positions()
    torch.testing.assert_close(per_distance(contract(x)), 1 / x.abs().amax(-1).clamp(min=1), atol=1e-12, rtol=1e-9)


def test_infinity_is_where_a_ray_ends() -> None:
    directions = F.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    ends = contract(0.3 + 1e9 * directions)
    torch.testing.assert_close(infinity(directions), ends, atol=1e-7, rtol=0)
