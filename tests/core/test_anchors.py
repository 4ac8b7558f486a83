import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peak_nerf.core.anchors import GlobalAnchors, LocalAnchors, SeparableAnchors, grid_offsets


def grid(n: int) -> Tensor:
    axis = torch.linspace(-1, 1, n)
    return torch.cartesian_prod(axis, axis)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- global


def test_global_from_a_box_fills_it() -> None:
    x = GlobalAnchors(4000, low=[-1.0, 2.0, 0.0], high=[1.0, 6.0, 0.5]).sample(torch.zeros(3, 3), generator=generator())
    assert x.self_index is None
    assert x.x.shape == (4000, 3)
    torch.testing.assert_close(x.x.amin(0), torch.tensor([-1.0, 2.0, 0.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(x.x.amax(0), torch.tensor([1.0, 6.0, 0.5]), atol=0.02, rtol=0)
    torch.testing.assert_close(x.x.mean(0), torch.tensor([0.0, 4.0, 0.25]), atol=0.1, rtol=0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), m=st.integers(1, 49))
def test_global_from_candidates_names_each_query(seed: int, m: int) -> None:
    candidates = grid(7)
    index = torch.randint(49, (20,), generator=generator(seed))
    index[3] = -1
    query = candidates[index]
    query[3] = 0.123  # not a candidate
    sampler = GlobalAnchors(m, candidates)
    told = sampler.sample(query, index, generator=generator(seed))
    found = sampler.sample(query, generator=generator(seed))
    assert len(torch.unique(told.x, dim=0)) == m
    # The slow way: compare every query with every anchor.
    expected = []
    for q in query:
        same = (told.x == q).all(dim=1).nonzero()[:, 0].tolist()
        expected.append(same[0] if same else -1)
    assert torch.equal(told.x, found.x)
    assert told.self_index is not None
    assert told.self_index.tolist() == expected
    assert found.self_index is not None
    assert found.self_index.tolist() == expected


def test_global_draws_anew_and_by_generator() -> None:
    sampler = GlobalAnchors(10, grid(7))
    query = grid(7)[:2]
    assert torch.equal(sampler.sample(query, generator=generator(1)).x, sampler.sample(query, generator=generator(1)).x)
    assert not torch.equal(
        sampler.sample(query, generator=generator(1)).x, sampler.sample(query, generator=generator(2)).x
    )


def test_global_rejects() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GlobalAnchors(0)
    with pytest.raises(ValueError, match="exceeds"):
        GlobalAnchors(10, grid(3))
    with pytest.raises(ValueError, match="no"):
        GlobalAnchors(10).sample(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="below high"):
        GlobalAnchors(10, low=1.0).sample(torch.zeros(1, 2))


# --- local


@settings(deadline=None, max_examples=60)
@given(
    d=st.integers(1, 3),
    radius=st.sampled_from([1e-5, 0.02, 0.9, 1.5, 5.0]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_local_stays_inside_near_and_off_the_query(d: int, radius: float, seed: int, dtype: torch.dtype) -> None:
    x = (2 * torch.rand(40, d, generator=generator(seed)) - 1).to(dtype)
    x[:20] = x[:20].round()  # corners, edges and centres of the domain
    anchors = LocalAnchors(6, radius).sample(x, generator=generator(seed)).x
    assert anchors.shape == (40, 6, d)
    assert anchors.dtype == dtype
    assert not bool((anchors == x[:, None]).all(dim=-1).any())
    assert bool((anchors.abs() <= 1).all())
    assert bool(((anchors - x[:, None]).abs() <= max(radius, 1) * (1 + 1e-6) + 1e-6).all())
    if radius < 1:
        assert bool(((anchors - x[:, None]).abs() <= radius + 1e-6).all())


def test_local_moves_a_draw_of_zero_off_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw at the middle of the neighbourhood is the query itself."""
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype=None, **_: torch.full(shape, 0.5, dtype=dtype))
    x = torch.tensor([[0.5, 0.5], [1.0, -1.0]])
    anchors = LocalAnchors(1, [0.1, 0.2]).sample(x).x
    torch.testing.assert_close(anchors, torch.tensor([[[0.5, 0.7]], [[1.0, -0.8]]]))


def test_local_radius_per_dimension() -> None:
    anchors = LocalAnchors(500, [0.0, 0.3]).sample(torch.zeros(1, 2), generator=generator()).x[0]
    assert bool((anchors[:, 0] == 0).all())
    assert 0.28 < float(anchors[:, 1].max()) <= 0.3
    assert -0.3 <= float(anchors[:, 1].min()) < -0.28


def test_grid_offsets_by_hand() -> None:
    assert grid_offsets([0.5], dilations=(1, 2)).tolist() == [[-0.5], [0.5], [-1.0], [1.0]]
    offsets = grid_offsets((0.25, 0.5), dilations=(1, 2, 4))
    assert offsets.shape == (24, 2)
    assert len(torch.unique(offsets, dim=0)) == 24
    assert offsets.abs().amax(0).tolist() == [1.0, 2.0]
    assert len(grid_offsets((1.0, 1.0, 1.0), (1,))) == 26


def test_offsets_land_on_other_pixels_of_the_image() -> None:
    n = 17
    x = grid(n)
    anchors = LocalAnchors(offsets=grid_offsets((2 / 16, 2 / 16), (1, 4, 12))).sample(x).x
    assert anchors.shape == (n * n, 24, 2)
    pixel = (anchors + 1) * 8
    torch.testing.assert_close(pixel, pixel.round(), atol=1e-4, rtol=0)
    assert float((anchors - x[:, None]).abs().amax(dim=-1).min()) > 0.1
    assert float(anchors.abs().max()) <= 1
    # Inside, they are exactly x + offset; the corner is mirrored inwards.
    centre = anchors[x.norm(dim=1).argmin()]
    torch.testing.assert_close(centre[:8], grid_offsets((2 / 16, 2 / 16), (1,)))
    corner = anchors[0][:8]
    assert bool((corner > -1 - 1e-6).all())
    assert float(corner.max()) == pytest.approx(-1 + 2 / 16)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.7), (-0.7, -0.1)])
def test_border_pixels_are_reached_despite_rounding(low: float, high: float) -> None:
    rounded_out = 0
    for n in range(20, 60):
        axis, step = torch.linspace(low, high, n), (high - low) / (n - 1)
        anchors = LocalAnchors(offsets=torch.tensor([[-step], [step]]), low=low, high=high).sample(axis[1:-1, None]).x
        torch.testing.assert_close(anchors[:, :, 0], torch.stack([axis[:-2], axis[2:]], dim=1), atol=1e-6, rtol=0)
        rounded_out += bool(axis[1] - step < low) + bool(axis[-2] + step > high)
    assert rounded_out > 0  # else this test would show nothing


def test_a_subset_of_the_offsets_is_drawn_anew() -> None:
    offsets = grid_offsets((0.1, 0.1), (1, 2))
    sampler = LocalAnchors(n_anchors=5, offsets=offsets)
    seen = {tuple(sampler.sample(torch.zeros(1, 2), generator=generator(s)).x[0].flatten().tolist()) for s in range(5)}
    assert len(seen) == 5
    for draw in seen:
        chosen = torch.tensor(draw).reshape(5, 2)
        assert len(torch.unique(chosen, dim=0)) == 5
        assert all(bool((chosen_one == offsets).all(dim=1).any()) for chosen_one in chosen)


def test_local_rejects() -> None:
    with pytest.raises(ValueError, match="either"):
        LocalAnchors(3)
    with pytest.raises(ValueError, match="either"):
        LocalAnchors(3, 0.1, offsets=torch.ones(4, 2))
    with pytest.raises(ValueError, match="n_anchors"):
        LocalAnchors(radius=0.1)
    with pytest.raises(ValueError, match="at least 1 anchor"):
        LocalAnchors(0, 0.1)
    with pytest.raises(ValueError, match="at least 1 anchor"):
        LocalAnchors(offsets=torch.ones(0, 2))
    with pytest.raises(ValueError, match="exceeds"):
        LocalAnchors(5, offsets=torch.ones(4, 2))
    x = torch.zeros(1, 2)
    for vanishing in (0.0, 1e-7, [0.1, 1e-8]):
        with pytest.raises(ValueError, match="displacement"):
            LocalAnchors(3, vanishing).sample(x)
    with pytest.raises(ValueError, match="negative"):
        LocalAnchors(3, -0.1).sample(x)
    with pytest.raises(ValueError, match="displacement"):
        LocalAnchors(offsets=torch.tensor([[0.1, 0.0], [0.0, 0.0]])).sample(x)
    with pytest.raises(ValueError, match="dilations"):
        grid_offsets((0.1, 0.1), (0,))


# --- separable


def test_separable_points() -> None:
    anchors = SeparableAnchors(torch.tensor([0.0, 1.0, 5.0]), torch.tensor([-1.0, 3.0]))
    assert anchors.grid().tolist() == [[0, -1], [0, 3], [1, -1], [1, 3], [5, -1], [5, 3]]
    assert anchors.row_points().tolist() == [[0, 1], [1, 1], [5, 1]]
    assert anchors.column_points().tolist() == [[2, -1], [2, 3]]
    with pytest.raises(ValueError, match="at least 2"):
        SeparableAnchors(torch.zeros(1), torch.zeros(3))
