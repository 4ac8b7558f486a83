"""Where a suite's data are: images/NAME.png and masks/NAME.png under a data root."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from peak_nerf.bench.suite import Cell
from peak_nerf.errors import PeakError

DRAWN_MASKS = ("random", "patch", "textural")
"""What the task draws itself; joined by `+`, what any of them hides is missing."""
FILE_FIRST_MASKS = ("textural",)
"""Drawn by us only where the data root has no file of it."""


@dataclass
class Inputs:
    """A cell's options with its names turned into files."""

    options: dict[str, Any]
    record: dict[str, Any]
    """The options as kept beside the result: files by their place under the root and by content, so that a root may
    move and a changed image makes a new run."""
    absent: list[Path] = field(default_factory=list)
    """Files that are not there; with any, the cell is not run."""

    @property
    def files(self) -> tuple[str, ...]:
        """Options that name data: those recorded by content."""
        return tuple(k for k, v in self.options.items() if isinstance(v, str) and v != self.record.get(k))


@dataclass
class DataRoot:
    """A folder with images and masks. Raises: PeakError when it is none."""

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise PeakError(f"--data-root {self.folder}: no such folder; give the one that holds images/ and masks/")

    def inputs(self, cell: Cell) -> Inputs:
        """What the cell's task is called with."""
        inputs = Inputs(dict(cell.options), dict(cell.options))
        if "image" in cell.options:
            self._use_file(inputs, "image", self.folder / "images" / f"{cell.options['image']}.png")
        if "mask" in cell.options:
            name = str(cell.options["mask"])
            file = self.folder / "masks" / f"{name}.png"
            drawn = all(part in DRAWN_MASKS for part in name.split("+"))
            if not drawn or (name in FILE_FIRST_MASKS and file.is_file()):
                self._use_file(inputs, "mask", file)
        return inputs

    def _use_file(self, inputs: Inputs, option: str, file: Path) -> None:
        inputs.options[option] = str(file.resolve())
        if file.is_file():
            inputs.record[option] = f"{file.relative_to(self.folder).as_posix()} sha256:{self._digest(file)}"
        else:
            inputs.absent.append(file)

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
