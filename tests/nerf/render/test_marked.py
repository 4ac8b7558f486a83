"""What a mask marks, picked without asking how much that is."""

import pytest
import torch

from peak_nerf.nerf.render import marked as module
from peak_nerf.nerf.render.marked import Marked, marked, random_marked
from tests.waits import waits

MASK = torch.tensor([False, True, True, False, False, True, False])


def test_the_marked_ones_in_order() -> None:
    assert marked(MASK, 3).tolist() == [1, 2, 5]
    assert marked(MASK, 2).tolist() == [1, 2]
    assert marked(MASK, 4).tolist() == [1, 2, 5, 7]
    assert marked(MASK, 0).tolist() == []


@pytest.mark.parametrize("on_gpu", [False, True])
def test_each_is_as_likely(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "runs_ahead", lambda device: on_gpu)
    torch.manual_seed(0)
    counts = torch.bincount(Marked(MASK).draw(3000), minlength=7)
    assert set(counts.nonzero()[:, 0].tolist()) == {1, 2, 5}
    assert bool((counts[MASK] > 900).all())


def test_where_none_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    none = torch.zeros(5, dtype=torch.bool)
    assert random_marked(none, 3).tolist() == [0, 0, 0]
    assert Marked(none).fewer_than(1)
    assert not Marked(MASK).fewer_than(3)
    assert Marked(MASK).fewer_than(4)
    monkeypatch.setattr(module, "runs_ahead", lambda device: True)
    assert not Marked(none).fewer_than(1)  # nobody has asked


def test_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "runs_ahead", lambda device: True)
    with waits() as found:
        Marked(MASK).draw(5)
        marked(MASK, 2)
    assert found == []
