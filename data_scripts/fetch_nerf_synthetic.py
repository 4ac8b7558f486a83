"""Fetch the NeRF synthetic scenes and write them as table3.yaml wants them: 400 x 400, every 8th test view.

    python data_scripts/fetch_nerf_synthetic.py --out data
    python data_scripts/fetch_nerf_synthetic.py --out data --zip nerf_synthetic.zip    # downloaded by hand

leaves data/nerf_synthetic/SCENE/. A download that was cut goes on where it stopped; scenes that are whole are left
alone. No checksum of the publisher's is known: the SHA-256 of what came is printed and kept in SOURCE.json beside the
scenes, --sha256 insists on one, and the zip's own CRC-32 of every picture is checked. Exit code 1 when a scene is
missing, with its name and the reason on stderr. The scenes have licences of their own (README.txt in the zip).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from pydantic import Field

from peak_nerf.errors import PeakError, exit_on_peak_error
from peak_nerf.system.choices import check_options
from peak_nerf.system.files import write_atomically
from peak_nerf.system.ranges import Seconds

# The authors' shared file, as public code names it. It could not be tried when this was written.
URL = "https://drive.usercontent.google.com/download?id=18JxhpWD-4ZmuFKLzKlAw-w5PpzZxXOcG&export=download&confirm=t"
SCENES = ("chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship")
SPLITS = ("train", "val", "test")
CHUNK = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Fetch the NeRF synthetic scenes into OUT/nerf_synthetic/."""

    out: Path
    """The data root."""
    scenes: tuple[str, ...] = SCENES
    """Which of the scenes."""
    size: Annotated[int, Field(ge=1, le=800)] = 400
    """Width and height of the pictures; the originals' 800 is averaged down, so it must be a multiple of this."""
    test_every: Annotated[int, Field(ge=1, le=200)] = 8
    """Every so many test views; 1 for all 200."""
    val_every: Annotated[int, Field(ge=1, le=100)] = 10
    """Every so many validation views; 1 for all 100."""
    zip: Path | None = None
    """A nerf_synthetic.zip that is here already, instead of a download."""
    url: str = URL
    """Where to download from."""
    sha256: str | None = None
    """What the zip must have."""
    keep_zip: bool = False
    """Keep the downloaded zip beside the scenes."""
    timeout: Seconds = 60.0
    """Seconds to wait for a server that says nothing."""

    def check(self) -> None:
        """Raises: PeakError on what cannot be."""
        unknown = [name for name in self.scenes if name not in SCENES]
        if unknown or not self.scenes:
            raise PeakError(f"--scenes {' '.join(unknown)}: there are {', '.join(SCENES)}")
        check_options(self)


# ------------------------------------------------------------------------------------------------------- download


def download(url: str, target: Path, timeout: float) -> None:
    """Fetch `url` to `target`, going on with what an earlier call has left in `target`.partial.

    Raises: PeakError; what has come so far stays for the next call.
    """
    partial = target.with_name(target.name + ".partial")
    note = partial.with_name(partial.name + ".json")
    headers = {"User-Agent": "peak_nerf fetch_nerf_synthetic"}
    before = _read_json(note)
    n_before = partial.stat().st_size if partial.is_file() and before.get("url") == url else 0
    if n_before:
        headers["Range"] = f"bytes={n_before}-"
        if before.get("validator"):
            headers["If-Range"] = before["validator"]  # a file that has changed since comes whole
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
            goes_on = answer.status == 206
            length = answer.headers.get("Content-Length")
            expected = None if length is None else int(length) + (n_before if goes_on else 0)
            if "html" in (answer.headers.get("Content-Type") or ""):
                raise PeakError(
                    f"{url}: sends a web page instead of the file (a quota or a question, mostly); download it with a"
                    " browser and pass it as --zip"
                )
            validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            _write_json(note, {"url": url, "validator": validator})
            if goes_on:
                print(f"{partial}: going on after {n_before:,} bytes", flush=True)
            with partial.open("ab" if goes_on else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
    except (OSError, ValueError) as error:  # URLError, timeouts, broken connections; and a disk that is full
        if getattr(error, "code", None) == 416:  # the partial file has all bytes, or more than there are
            partial.unlink(missing_ok=True)
        raise PeakError(f"{url}: cannot be fetched ({error}); the same command goes on from here") from error
    n = partial.stat().st_size
    if expected is not None and n < expected:
        raise PeakError(f"{url}: {n:,} of {expected:,} bytes came; the same command goes on from there")
    partial.replace(target)
    note.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))


# --------------------------------------------------------------------------------------------------------- scenes


def shrunk(rgba: np.ndarray, size: int) -> np.ndarray:
    """(n, n, 4) bytes to (size, size, 4): the mean of each block, colours weighted by alpha."""
    n = rgba.shape[0]
    if rgba.shape[:2] != (n, n) or n % size:
        raise PeakError(f"--size {size}: the pictures are {rgba.shape[1]} x {n}; give a divisor of {n}")
    values = rgba.astype(np.float64) / 255
    values[..., :3] *= values[..., 3:]
    k = n // size
    mean = values.reshape(size, k, size, k, 4).mean(axis=(1, 3))
    mean[..., :3] /= np.maximum(mean[..., 3:], 1e-9)
    return np.round(255 * mean.clip(0, 1)).astype(np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise PeakError(f"{path}: is no whole zip ({error}); delete it and fetch it again") from error


class Archive:
    """The zip's members by scene, whatever folder of it they lie in."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.members: dict[str, str] = {}
        for name in archive.namelist():
            parts = PurePosixPath(name).parts
            if "__MACOSX" not in parts and (found := [i for i, part in enumerate(parts) if part in SCENES]):
                self.members["/".join(parts[found[0] :])] = name

    def read(self, name: str) -> bytes:
        """The member SCENE/... Raises: PeakError when there is none."""
        if name not in self.members:
            raise PeakError(f"the zip has no {name}")
        return self.archive.read(self.members[name])

    def write_scene(self, scene: str, folder: Path, settings: Settings) -> None:
        """Pictures and transforms of a scene, shrunk and thinned."""
        every = {"train": 1, "val": settings.val_every, "test": settings.test_every}
        for split in SPLITS:
            transforms = json.loads(self.read(f"{scene}/transforms_{split}.json"))
            transforms["frames"] = transforms["frames"][:: every[split]]
            (folder / split).mkdir(parents=True)
            for frame in transforms["frames"]:
                name = PurePosixPath(frame["file_path"])
                with Image.open(io.BytesIO(self.read(f"{scene}/{name}.png"))) as image:
                    picture = shrunk(np.asarray(image.convert("RGBA")), settings.size)
                Image.fromarray(picture).save(folder / f"{name}.png")
            (folder / f"transforms_{split}.json").write_text(json.dumps(transforms, indent=1), encoding="utf-8")


def lacking(folder: Path) -> list[str]:
    """What a scene's folder lacks of its transforms and the pictures they name."""
    files = []
    for split in SPLITS:
        transforms = folder / f"transforms_{split}.json"
        frames = _read_json(transforms).get("frames")
        files += [transforms.name] if frames is None else [f"{frame['file_path']}.png" for frame in frames]
    return [file for file in files if not (folder / file).is_file()]


def fetch(settings: Settings) -> dict[str, str]:
    """Fetch what is not there yet; the scenes that could not be had, with the reason.

    Raises: PeakError when nothing can be had, or `out` cannot be written.
    """
    settings.check()
    root = settings.out / "nerf_synthetic"
    wanted = []
    for scene in settings.scenes:
        gaps = lacking(root / scene)
        if not gaps:
            print(f"{root / scene}: there already", flush=True)
            continue
        if (root / scene).exists():
            print(f"{root / scene}: lacks {len(gaps)} files, such as {gaps[0]}; written anew", flush=True)
        wanted.append(scene)
    if not wanted:
        return {}
    archive_path = settings.zip or root / "nerf_synthetic.zip"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not archive_path.is_file():
            if settings.zip is not None:
                raise PeakError(f"--zip {settings.zip}: no such file")
            print(f"{settings.url}: fetching about 1.3 GB", flush=True)
            download(settings.url, archive_path, settings.timeout)
        _verify(archive_path, root, settings)
        missing = _extract(archive_path, root, wanted, settings)
    except OSError as error:
        raise PeakError(f"{error.filename or root}: {error.strerror or error}; free space or change --out") from error
    if settings.zip is None and not settings.keep_zip and not missing:
        archive_path.unlink()
    return missing


def _verify(path: Path, root: Path, settings: Settings) -> None:
    """Check the zip's SHA-256 against --sha256, and say and keep what it is."""
    digest = sha256_of(path)
    if settings.sha256 is not None and digest != settings.sha256.lower():
        raise PeakError(f"{path}: has sha256 {digest} instead of {settings.sha256}; not the file it was")
    known = "as --sha256 says" if settings.sha256 is not None else "unverified: the publisher gives none"
    print(f"{path}: sha256 {digest} ({known})", flush=True)
    before = _read_json(root / "SOURCE.json").get("sha256", digest)
    if before != digest:
        print(f"{root}: earlier scenes here are from a zip with sha256 {before}", file=sys.stderr, flush=True)
    origin = settings.url if settings.zip is None else str(settings.zip)
    _write_json(root / "SOURCE.json", {"from": origin, "bytes": path.stat().st_size, "sha256": digest})


def _extract(path: Path, root: Path, wanted: list[str], settings: Settings) -> dict[str, str]:
    missing = {}
    with _opened(path) as file:
        archive = Archive(file)
        for scene in wanted:
            partial = root / f".{scene}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                archive.write_scene(scene, partial, settings)
            except (PeakError, zipfile.BadZipFile, ValueError, KeyError) as error:
                shutil.rmtree(partial, ignore_errors=True)
                missing[scene] = str(error)
                continue
            shutil.rmtree(root / scene, ignore_errors=True)
            partial.rename(root / scene)
            print(f"{root / scene}: written", flush=True)
    return missing


def main() -> None:
    """Run from the command line."""
    settings = tyro.cli(Settings, description=__doc__)
    with exit_on_peak_error():
        missing = fetch(settings)
    for scene, reason in missing.items():
        print(f"{scene}: not had ({reason})", file=sys.stderr)
    if missing:
        print(f"{len(missing)} of {len(settings.scenes)} scenes missing: {', '.join(missing)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
