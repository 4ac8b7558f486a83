"""A capture and what `peak photos` made of it; see the fixture `posed` in conftest.py."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peak_nerf.photos.colmap import Search, Workspace, image_name
from peak_nerf.photos.folder import Record
from peak_nerf.photos.model import Photo


@dataclass(frozen=True)
class Posed:
    """A capture and the scene that `peak photos` made of it, with its database. Tests only read it."""

    pictures: Path
    scene: Path
    poses: np.ndarray
    """(n, 4, 4) c2w, the true ones, by name."""

    def copied(self, folder: Path) -> Path:
        """The scene, to be changed."""
        shutil.copytree(self.scene, folder)
        return folder

    def photos(self) -> list[Photo]:
        """As photos.json has them, by name."""
        photos = Record.model_validate_json((self.scene / "photos.json").read_text()).photos
        assert photos is not None
        return photos

    def workspace(self, folder: Path) -> Workspace:
        """A copy of the database in `folder`, which has features and matches."""
        folder.mkdir(exist_ok=True)
        shutil.copyfile(self.scene / "database.db", folder / "database.db")
        (folder / "images").symlink_to(self.scene / "images")
        return Workspace(folder, self.photos(), Search())

    def true_poses(self, names: list[str]) -> np.ndarray:
        """(n, 4, 4) of the copies of these names."""
        by_name = {image_name(photo): pose for photo, pose in zip(self.photos(), self.poses, strict=True)}
        return np.stack([by_name[name] for name in names])
