"""Small scenes of both kinds."""

from pathlib import Path

import pytest

from tests.nerf.scene_factory import write_blender_scene, write_nerfstudio_scene


@pytest.fixture
def blender(tmp_path: Path) -> Path:
    return write_blender_scene(tmp_path / "ball")


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_nerfstudio_scene(tmp_path / "capture")
