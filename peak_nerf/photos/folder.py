"""The folder in which a scene comes about: OUT.partial until it is whole, then OUT in one move.

Each finished stage leaves its result there, which is what `--resume` goes on from.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from peak_nerf.errors import PeakError, first_line
from peak_nerf.photos.model import Photo
from peak_nerf.photos.options import PhotosOptions
from peak_nerf.system.choices import flag
from peak_nerf.system.locks import LOCK, at_work, is_held, locked_folder
from peak_nerf.system.record import plain, write_json

RECORD = "photos.json"
DECIDES = ("source", "video_frames", "max_size", "masks", "matching", "camera")
"""Options that a resumed run must share with the one it goes on with."""
SCRATCH = ("database*", "dense*", "static*", "mapping", f".{RECORD}.*")
"""What a finished scene does not need."""


WHO = "`peak photos`"


class Record(BaseModel):
    """What photos.json says: the options, what became of each photo, and how the poses came about."""

    model_config = ConfigDict(extra="forbid")
    version: Literal[1] = 1
    options: dict[str, Any]
    kind: Literal["photos", "video", "colmap", "llff"] = "photos"
    photos: list[Photo] | None = None
    """None until the pictures were read."""
    how: list[str] | None = None
    """None until there are poses."""
    notes: list[str] = []
    finished: bool = False


class SceneFolder:
    """OUT, and OUT.partial next to it."""

    def __init__(self, options: PhotosOptions) -> None:
        """Find what is there already. Raises: PeakError where --resume is missing, or does not fit what is there."""
        self.out = options.out
        if self.out.name in ("", ".."):
            raise PeakError(
                f"--out {self.out}: names no folder of its own; give the scene one, such as {self.out / 'scene'}"
            )
        self.partial = _partial(self.out)
        self.record = Record(options=_deciding(options))
        self.was_finished = False
        if self.out.exists() and not self.out.is_dir():
            raise PeakError(f"{self.out}: is a file; name another folder with --out")
        if self.out.is_dir() and any(self.out.iterdir()):
            self._adopt(self.out, options, "exists already")
            self.was_finished = True
        elif self.partial.exists() and not _is_barely_begun(self.partial):
            self._adopt(self.partial, options, "was left by an interrupted run")

    def _adopt(self, folder: Path, options: PhotosOptions, what: str) -> None:
        if not options.resume:
            remedy = "add --resume to go on with it, or " if (folder / RECORD).is_file() else ""
            delete = f", or delete {folder}" if folder == self.partial else ""
            raise PeakError(f"{folder}: {what}; {remedy}name another folder with --out{delete}")
        found = _read(folder / RECORD)
        for name, value in _deciding(options).items():
            if found.options.get(name) != value:
                before = found.options.get(name)
                raise PeakError(
                    f"{folder}: was begun with {flag(name)} {before}, not {value}; give the same with --resume"
                )
        self.record = found

    @property
    def path(self) -> Path:
        """Where the files are now."""
        return self.out if self.was_finished else self.partial

    def begin(self) -> None:
        """Make the folder, and write down what it is for."""
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PeakError(
                f"{self.partial}: cannot be made ({error.strerror}); name another folder with --out"
            ) from None
        self.save()

    def save(self) -> None:
        """Write photos.json."""
        write_json(self.path / RECORD, {**plain(self.record.model_dump(exclude={"photos"})), "photos": self._photos()})

    def _photos(self) -> list[dict[str, Any]] | None:
        return None if self.record.photos is None else [plain(asdict(photo)) for photo in self.record.photos]

    def finish(self) -> None:
        """Delete what only the way here needed, and give the scene its name."""
        for pattern in SCRATCH:
            for path in self.partial.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.record.finished = True
        self.save()
        try:
            if self.out.exists():
                self.out.rmdir()  # an empty one
            self.partial.rename(self.out)
        except OSError as error:
            raise PeakError(f"{self.out}: cannot be written ({error.strerror}); add --resume once it can") from None
        self.was_finished = True

    def discard(self) -> None:
        """Leave nothing half-written: these photos cannot become a scene."""
        shutil.rmtree(self.partial, ignore_errors=True)


@contextmanager
def held_scene(options: PhotosOptions) -> Iterator[SceneFolder]:
    """The scene's folder, in which no other `peak photos` works meanwhile.

    Raises: PeakError as `SceneFolder` does, and while another one works there.
    """
    if options.out.name:
        for place in (options.out, _partial(options.out)):  # or what it has begun would be proposed to be deleted
            if is_held(place):
                raise at_work(place, "--out", WHO)
    path = SceneFolder(options).path  # what is refused leaves no trace
    with locked_folder(path, "--out", WHO):
        folder = SceneFolder(options)
        if folder.path != path:
            raise PeakError(f"{folder.out}: was finished by another {WHO} at this moment; run this once more")
        try:
            yield folder
        finally:
            (folder.path / LOCK).unlink(missing_ok=True)


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _is_barely_begun(partial: Path) -> bool:
    """Whether it was left before its record was written whole: empty, or with a part of that record."""
    return partial.is_dir() and all(path.name.startswith((f".{RECORD}.", LOCK)) for path in partial.iterdir())


def _deciding(options: PhotosOptions) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in DECIDES}
    paths = {name: str(value.resolve()) for name, value in values.items() if isinstance(value, Path)}
    return {**values, **paths}


def _read(path: Path) -> Record:
    try:
        return TypeAdapter(Record).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PeakError(
            f"{path}: no such file, so there is nothing to resume; name another folder with --out"
        ) from None
    except (OSError, ValidationError) as error:
        reason = first_line(error)
        raise PeakError(f"{path}: cannot be read ({reason}); begin again with another --out") from None
