"""Where a suite's data are: images/NAME.png, masks/NAME.png, and scenes NAME/ in the folders of `SCENES`.

A picture may also be of another kind of `KINDS`, and a name be written in other case on the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from peak_nerf.bench.suite.grid import Cell
from peak_nerf.errors import PeakError

DRAWN_MASKS = ("random", "patch", "textural")
"""What the task draws itself; joined by `+`, what any of them hides is missing."""
FILE_FIRST_MASKS = ("textural",)
"""Drawn by us only where the data root has no file of it."""


SCENES = ("nerf_synthetic", "llff", "posed")
"""Folders of the scenes: Blender's, LLFF's, and other captures with poses. A scene may also lie under the data root
itself, and be named with its folder, as llff/fern."""
SCENE_FILES = ("transforms_train.json", "transforms.json", "poses_bounds.npy")
"""A folder that holds one of these is a scene."""
SCENE_DATA = ("transforms*.json", "poses_bounds.npy", "observations.npz", "*.ply")
"""What of a scene counts by its content: poses and sparse points."""
PICTURES = (".png", ".jpg", ".jpeg")
"""What of a scene counts by name and size."""
KINDS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp", ".npy")
"""Files that are an image or a mask."""


@dataclass(frozen=True)
class Job:
    """A cell as a worker runs it: the names of its data turned into files, and the folder of its result."""

    cell: Cell
    target: str
    """`module:function` of the task."""
    folder: Path
    """Where the result is kept."""
    options: dict[str, Any]
    """What the task is called with."""
    recorded: dict[str, Any]
    """The options as kept beside the result: files by their path under the root and by content, so that a root may
    move and a changed image makes a new run."""
    absent: list[Path] = field(default_factory=list)
    """Files that are not there; with any, the cell is not run."""

    @property
    def out(self) -> Path:
        """Where the task writes, beside the final folder."""
        return self.folder.with_name(f".{self.folder.name}.partial")

    @property
    def files(self) -> tuple[str, ...]:
        """Options that name data: those recorded by content."""
        return tuple(k for k, v in self.options.items() if isinstance(v, str) and v != self.recorded.get(k))


@dataclass
class DataRoot:
    """A folder with images and masks. Raises: PeakError when it is none."""

    folder: Path

    def __post_init__(self) -> None:
        if not os.path.isdir(self.folder):
            raise PeakError(
                f"--data-root {self.folder}: no such folder; give the one that holds images/, masks/ or"
                f" {'/, '.join(SCENES)}/"
            )

    def job(self, cell: Cell, target: str, folder: Path) -> Job:
        """The cell of the task `target`, to be run into `folder`."""
        job = Job(cell, target, folder, dict(cell.options), dict(cell.options))
        if "image" in cell.options:
            self._use_file(job, "image", self._picture("images", str(cell.options["image"])))
        if "mask" in cell.options:
            name = str(cell.options["mask"])
            drawn = all(part in DRAWN_MASKS for part in name.split("+"))
            if not drawn or name in FILE_FIRST_MASKS:
                file = self._picture("masks", name)
                if not drawn or os.path.isfile(file):
                    self._use_file(job, "mask", file)
                    self._use_as_truth(job)
        if "scene" in cell.options:
            self._use_scene(job, str(cell.options["scene"]))
        return job

    def _use_as_truth(self, job: Job) -> None:
        """The image is undamaged: with a mask's file `peak inpaint` would take it for one that is to be repaired."""
        if "image" in job.cell.options and "truth" not in job.cell.options:
            job.options["truth"] = job.options["image"]
            if "image" in job.recorded:
                job.recorded["truth"] = job.recorded["image"]

    def _use_scene(self, job: Job, name: str) -> None:
        """A scene is as much as its poses and points say and the pictures in its folder are.

        Raises: PeakError when several folders have a scene of this name.
        """
        parents = [*(self.folder / parent for parent in SCENES), self.folder]
        candidates = [folder for parent in parents for folder in self._named(parent / name, lambda file: file.name)]
        found = [folder for folder in candidates if any(os.path.isfile(folder / file) for file in SCENE_FILES)]
        if not found:
            job.absent.append(self.folder / name if "/" in name else self.folder / f"{{{','.join(SCENES)}}}" / name)
            return
        folder = self._only(found, f"scenes {name!r}")
        job.options["scene"] = str(folder.resolve())
        job.recorded["scene"] = f"{folder.relative_to(self.folder).as_posix()} sha256:{self._scene_digest(folder)}"

    def _picture(self, parent: str, name: str) -> Path:
        """The file of an image or a mask: NAME.png, NAME when that ends in a kind's suffix, NAME of another kind, or
        either in other case; NAME.png where there is none. Raises: PeakError where several fit equally well."""
        usual = self.folder / parent / f"{name}.png"
        given = self.folder / parent / name
        if os.path.isfile(usual):
            return usual
        if given.suffix.lower() in KINDS and (found := self._named(given, lambda file: file.name)):
            return self._only(found, f"{parent[:-1]} {name!r}")
        found = [file for file in self._named(given, lambda file: file.stem) if file.suffix.lower() in KINDS]
        return self._only(found, f"{parent[:-1]} {name!r}") if found else usual

    def _named(self, wanted: Path, part: Callable[[Path], str]) -> list[Path]:
        """What is in the folder of `wanted` and has its name in a part of its own, or in other case if none has."""
        there = self._listing(wanted.parent)
        same = [path for path in there if part(path) == wanted.name]
        return same or [path for path in there if part(path).casefold() == wanted.name.casefold()]

    def _listing(self, folder: Path) -> list[Path]:
        if folder not in self._listings:
            try:
                self._listings[folder] = sorted(folder / name for name in os.listdir(folder))
            except OSError:  # what is not there is absent
                self._listings[folder] = []
        return self._listings[folder]

    def _only(self, found: list[Path], what: str) -> Path:
        """Raises: PeakError when it is not alone."""
        if len(found) > 1:
            both = " and ".join(path.relative_to(self.folder).as_posix() for path in found[:2])
            raise PeakError(f"--data-root {self.folder}: {both} are both {what}; rename one")
        return found[0]

    def _scene_digest(self, folder: Path) -> str:
        """Of poses and points by content, of the pictures by name and size: a scene may have gigabytes of them."""
        if folder not in self._digests:
            data = sorted(file for pattern in SCENE_DATA for file in folder.glob(pattern))
            lines = [f"{file.name} {self._digest(file)}" for file in data]
            images = (file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
            lines += sorted(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}" for file in images)
            self._digests[folder] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        return self._digests[folder]

    def _use_file(self, job: Job, option: str, file: Path) -> None:
        job.options[option] = str(file.resolve())
        if os.path.isfile(file):
            job.recorded[option] = f"{file.relative_to(self.folder).as_posix()} sha256:{self._digest(file)}"
        else:
            job.absent.append(file)

    @cached_property
    def _listings(self) -> dict[Path, list[Path]]:
        return {}

    @cached_property
    def _digests(self) -> dict[Path, str]:
        return {}

    def _digest(self, file: Path) -> str:
        if file not in self._digests:
            try:
                self._digests[file] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            except OSError as error:
                raise PeakError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
        return self._digests[file]
