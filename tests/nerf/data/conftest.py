"""Small scenes of both kinds."""

from pathlib import Path

import pytest

from peak_nerf.nerf.data import dataparser
from tests.nerf.scene_factory import write_blender_scene, write_nerfstudio_scene


@pytest.fixture
def blender(tmp_path: Path) -> Path:
    return write_blender_scene(tmp_path / "ball")


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_nerfstudio_scene(tmp_path / "capture")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines of `peak-data`, each once, but for views and space."""
    lines: list[str] = []

    def keep(line: str) -> None:
        if line not in lines and "training views" not in line and " scene, " not in line:
            lines.append(line)

    monkeypatch.setattr(dataparser, "say_once", keep)
    return lines
