"""One capture, posed once for all tests of a worker: it takes seconds."""

from __future__ import annotations

import numpy as np
import pytest

from peak_nerf.cli import main
from peak_nerf.photos import folder as scene_folder
from tests.photos.capture import arc, write_capture
from tests.photos.posed import Posed


@pytest.fixture(scope="session")
def posed(tmp_path_factory: pytest.TempPathFactory) -> Posed:
    folder = tmp_path_factory.mktemp("posed")
    poses = arc(6)
    pictures = write_capture(folder / "pictures", poses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_folder, "SCRATCH", ())
        assert main(["photos", str(pictures), "--out", str(folder / "scene")]) == 0
    return Posed(pictures, folder / "scene", np.stack(poses))
