"""A fake task in the registry, and a data root for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from peak_nerf.bench.suite import registry as tasks
from tests.bench.fake_task import TARGET

SUITE = """\
title: A suite
task: fake
data:
  image: [lena, house]
  mask: [random]
methods:
  - peak
  - {name: peak-no-kar, method: peak, settings: {kar_weight: 0}}
seeds: [1, 2]
settings: {size: 256, budget_seconds: 60}
paper:
  source: a paper
  values:
    image=lena: {peak: 21}
"""


@pytest.fixture(autouse=True)
def _fake_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "fake", TARGET)


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """With the images lena and house."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for i, name in enumerate(("lena", "house")):
        Image.new("L", (8, 8), i).save(folder / "images" / f"{name}.png")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a suite file, the standard one with some text replaced."""

    def write_file(*replaced: tuple[str, str], text: str = SUITE, name: str = "mine.yaml") -> Path:
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file
