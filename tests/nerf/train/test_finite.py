"""A loss that is not a number is found: at once on the CPU, one step late on a GPU, and before anything is saved."""

import math

import pytest
import torch

from peak_nerf.nerf.train import finite
from peak_nerf.nerf.train.finite import LossWatch, NotANumber

GOOD = {"rgb": torch.tensor(0.25), "kar": torch.tensor(0.5, dtype=torch.float64)}
BAD = {"rgb": torch.tensor(0.25), "kar": torch.tensor(math.nan)}


def look(watch: LossWatch, step: int, parts: dict[str, torch.Tensor]) -> None:
    watch.look(step, torch.stack([part.float() for part in parts.values()]).sum(), parts)


def test_at_once_on_the_cpu() -> None:
    watch = LossWatch()
    look(watch, 6, GOOD)
    with pytest.raises(NotANumber) as found:
        look(watch, 7, BAD)
    assert (found.value.step, found.value.parts) == (7, "rgb 0.25, kar nan")


def test_with_the_next_step_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "runs_ahead", lambda device: True)
    watch = LossWatch()
    look(watch, 7, BAD)
    with pytest.raises(NotANumber) as found:
        look(watch, 8, GOOD)
    assert found.value.step == 7


def test_at_the_end_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "runs_ahead", lambda device: True)
    watch = LossWatch()
    look(watch, 7, BAD)
    with pytest.raises(NotANumber):
        watch.finish()
    watch.finish()  # once
