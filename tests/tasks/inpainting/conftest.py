"""Shared by the tests of the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.pictures import smooth_picture
from tests.tasks.inpainting.runs import H, W, write_image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A grey picture, 32 x 24."""
    return write_image(tmp_path / "picture.png", smooth_picture(H, W))
