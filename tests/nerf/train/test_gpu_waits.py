"""A step hands a GPU its work without waiting for it more than once: for the number of samples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.interpreted import needs_triton, run
from tests.waits import waits

KINDS = ("bounded", "unbounded", "unobserved")


@needs_triton
def test_a_step_waits_once(tmp_path: Path) -> None:
    """KAR, distortion, total variation, occlusion, entropy, refined cameras and opening levels are on, in turn."""
    printed = run(["-m", "tests.nerf.train.gpu_waits", str(tmp_path)], tmp_path, timeout=1800)
    steps = [line for line in printed.splitlines() if line.split(" ")[0] in KINDS]
    assert len(steps) == 4 * len(KINDS)
    for step in steps:
        assert step.split(" ")[2].startswith("1;"), step
        assert "tolist at nerf/render/" in step, step


@pytest.mark.parametrize(
    ("n", "work"),
    [
        (1, float),
        (1, lambda x: bool(x > 0)),
        (1, lambda x: x.reshape(1)[x.reshape(1) > 0]),
        (1, lambda x: x.reshape(1).nonzero()),
        (1, lambda x: x.reshape(1).tolist()),
        (1, lambda x: x.new_tensor([1.0, 2.0])),
        (1, lambda x: torch.tensor([1.0], device=x.device)),
        (1, lambda x: torch.ones(1).repeat_interleave(x.reshape(1).long())),
        (1, lambda x: x.to("cpu", non_blocking=True).tolist()),
        (0, lambda x: x.to("cpu", non_blocking=True)),
        (0, lambda x: torch.tensor([1.0])),
        (0, lambda x: torch.where(x > 0, x, 0.0).sum()),
        (0, lambda x: x.expand(3).clone()[torch.arange(2)].cumsum(0)),
    ],
)
def test_what_waits_is_found(n: int, work: Callable[[torch.Tensor], object]) -> None:
    x = torch.tensor(3.0)
    with waits() as found:
        work(x)
    assert len(found) == n, found


def test_a_copy_can_be_read_after_the_next_wait() -> None:
    x = torch.arange(3.0)
    with waits() as found:
        copy = x.to("cpu", non_blocking=True)
        float(x[0])
        assert copy.tolist() == [0.0, 1.0, 2.0]
    assert len(found) == 1
