"""Shared by all tests."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Helper modules such as nerf/scene_factory.py are imported by name.
for folder in ("nerf", "tasks"):
    sys.path.insert(0, str(Path(__file__).parent / folder))


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """Also where a shell has started the tests in the background, with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _denormals_stay() -> Iterator[None]:
    """Training a NeRF makes the processor flush denormals from then on, with which hypothesis refuses to draw."""
    yield
    torch.set_flush_denormal(False)
