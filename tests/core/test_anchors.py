import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.core.anchors import AnchorSampler, GlobalAnchors, LocalAnchors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- global


def test_global_from_a_box_fills_it() -> None:
    x = GlobalAnchors(4000, low=[-1.0, 2.0, 0.0], high=[1.0, 6.0, 0.5]).sample(torch.zeros(3, 3), generator=generator())
    assert x.shape == (4000, 3)
    torch.testing.assert_close(x.amin(0), torch.tensor([-1.0, 2.0, 0.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(x.amax(0), torch.tensor([1.0, 6.0, 0.5]), atol=0.02, rtol=0)
    torch.testing.assert_close(x.mean(0), torch.tensor([0.0, 4.0, 0.25]), atol=0.1, rtol=0)


def test_global_draws_anew_and_by_generator() -> None:
    sampler, query = GlobalAnchors(10), torch.zeros(2, 2)
    assert torch.equal(sampler.sample(query, generator(1)), sampler.sample(query, generator(1)))
    assert not torch.equal(sampler.sample(query, generator(1)), sampler.sample(query, generator(2)))


def test_global_rejects() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GlobalAnchors(0)
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
    anchors = LocalAnchors(6, radius).sample(x, generator=generator(seed))
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
    anchors = LocalAnchors(1, [0.1, 0.2]).sample(x)
    torch.testing.assert_close(anchors, torch.tensor([[[0.5, 0.7]], [[1.0, -0.8]]]))


def test_local_radius_per_dimension() -> None:
    anchors = LocalAnchors(500, [0.0, 0.3]).sample(torch.zeros(1, 2), generator=generator())[0]
    assert bool((anchors[:, 0] == 0).all())
    assert 0.28 < float(anchors[:, 1].max()) <= 0.3
    assert -0.3 <= float(anchors[:, 1].min()) < -0.28


def test_local_folds_back_into_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw at the upper end: x + radius where that is inside, else x - radius, else the farther side."""
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype=None, **_: torch.ones(shape, dtype=dtype))
    x = torch.tensor([[0.0], [0.6], [1.0]])
    torch.testing.assert_close(LocalAnchors(1, 0.5).sample(x), torch.tensor([[[0.5]], [[0.1]], [[0.5]]]))
    torch.testing.assert_close(LocalAnchors(1, 1.8).sample(x), torch.tensor([[[1.0]], [[-1.0]], [[-0.8]]]))


def test_local_rejects() -> None:
    with pytest.raises(ValueError, match="at least 1 anchor"):
        LocalAnchors(0, 0.1)
    x = torch.zeros(1, 2)
    for bad in (0.0, 1e-7, [0.1, 1e-8], -0.1, [0.1, -0.1]):
        with pytest.raises(ValueError, match="radius must not be negative"):
            LocalAnchors(3, bad).sample(x)


@pytest.mark.parametrize("anchors", [GlobalAnchors(4), LocalAnchors(4, [0.1, 0.2], low=[-1.0, -2.0])])
def test_drawing_reads_nothing_from_the_device(anchors: AnchorSampler) -> None:
    """On the device without numbers, where whoever asks for one gets an error: a GPU would have to be waited for."""
    assert anchors.sample(torch.empty(3, 2, device="meta")).shape[-2:] == (4, 2)


def test_one_number_for_each_dimension() -> None:
    with pytest.raises(ValueError, match="3 numbers for 2 dimensions"):
        LocalAnchors(4, [0.1, 0.1, 0.1]).sample(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="low must be below high"):
        GlobalAnchors(4, [0.0, 1.0], 1.0).sample(torch.zeros(1, 2))
