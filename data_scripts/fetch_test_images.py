"""Fetch the six standard test images that papers on inpainting use, as grey 256 x 256 PNGs.

    python data_scripts/fetch_test_images.py --out data/test_images

Colour originals become grey by ITU-R BT.601 luma; larger ones shrink by area averaging. Pictures that are there already
are left alone. The addresses are those of public collections, which give no licence: use the pictures for research.
Exit code 1 when a picture could not be had, with its name and the reason on stderr.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from peak_nerf.errors import PeakError, exit_on_peak_error
from peak_nerf.images.read import Picture, read_picture, write_png
from peak_nerf.images.resize import resize_picture
from peak_nerf.system.choices import check_options
from peak_nerf.system.ranges import Seconds

SIZE = (256, 256)
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Source:
    """An address, the file's SHA-256 where known, and the picture's name when the file is a zip."""

    url: str
    sha256: str | None = None
    member: str | None = None


_ZIP = "http://www.imageprocessingplace.com/downloads_V3/root_downloads/image_databases/standard_test_images.zip"
_SIPI = "https://sipi.usc.edu/database/download.php?vol=misc&img="
_JULIA = "https://raw.githubusercontent.com/JuliaImages/TestImages.jl/images/images/"

# In order of preference. The addresses were found in public code and none could be tried when this was written; the one
# checksum is the one that several public repositories agree on, for want of one of the publisher's.
SOURCES: dict[str, tuple[Source, ...]] = {
    "baboon": (
        Source(_SIPI + "4.2.03", "3f590b52279fb59b81906f1e928ae713a5357b1afc1a2017a103adb563fb4494"),
        Source(_ZIP, member="mandril_gray.tif"),
        Source(_JULIA + "mandril_gray.tif"),
    ),
    "boat": (Source(_SIPI + "boat.512"),),
    "cameraman": (Source(_ZIP, member="cameraman.tif"), Source(_JULIA + "cameraman.tif")),
    "jetplane": (Source(_ZIP, member="jetplane.tif"), Source(_JULIA + "jetplane.tif")),
    "lake": (Source(_ZIP, member="lake.tif"), Source(_JULIA + "lake_gray.tif")),
    "livingroom": (Source(_ZIP, member="livingroom.tif"), Source(_JULIA + "livingroom.tif")),
}


@dataclass(frozen=True)
class Settings:
    """Fetch baboon, boat, cameraman, jetplane, lake and livingroom as grey 256 x 256 PNGs."""

    out: Path
    """Folder to write NAME.png into."""
    timeout: Seconds = 30.0
    """Seconds to wait for a server that says nothing."""


class Downloads:
    """Files by address, each fetched at most once, failures included: three pictures share one zip."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._files: dict[Source, bytes | PeakError] = {}

    def get(self, source: Source) -> bytes:
        """The file's bytes. Raises: PeakError when it cannot be had or is not the file that the checksum is of."""
        file = replace(source, member=None)
        if file not in self._files:
            try:
                self._files[file] = self._fetch(file)
            except PeakError as error:
                self._files[file] = error
        found = self._files[file]
        if isinstance(found, PeakError):
            raise found
        return found

    def _fetch(self, source: Source) -> bytes:
        # Some servers turn Python's own name away.
        request = urllib.request.Request(source.url, headers={"User-Agent": "peak_nerf fetch_test_images"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                data = answer.read(MAX_BYTES + 1)
                promised = answer.headers.get("Content-Length")
        except Exception as error:  # URLError, timeouts, broken connections, bad certificates
            raise PeakError(f"{source.url}: cannot be fetched ({error}); check the network") from error
        if len(data) > MAX_BYTES:
            raise PeakError(f"{source.url}: is larger than {MAX_BYTES // 2**20} MiB; not the file it was")
        if promised is not None and len(data) != int(promised):
            raise PeakError(f"{source.url}: {len(data)} of {promised} bytes came; try again")
        digest = hashlib.sha256(data).hexdigest()
        if source.sha256 is None:
            print(f"{source.url}: unverified, sha256 {digest}", flush=True)
        elif digest != source.sha256:
            raise PeakError(f"{source.url}: has sha256 {digest} instead of {source.sha256}; not the file it was")
        return data


def to_grey(picture: Picture) -> Picture:
    """One channel: BT.601 luma of RGB, as Pillow, OpenCV and Matlab make it."""
    if picture.n_channels == 1:
        return picture
    luma = picture.values @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    return Picture(luma, picture.observed)


def read_source(source: Source, downloads: Downloads) -> Picture:
    """The grey picture at its own size. Raises: PeakError."""
    data = downloads.get(source)
    if source.member is not None:
        data = _unzip(data, source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(data)
        try:
            picture = to_grey(read_picture(path))
        except PeakError as error:  # a page that says sorry, mostly; the temporary name would say nothing
            raise PeakError(str(error).replace(str(path), source.url)) from error
    if picture.size[0] != picture.size[1] or picture.size[0] < SIZE[0]:
        raise PeakError(f"{source.url}: is {picture.size[1]} x {picture.size[0]} pixels; not the picture it was")
    return picture


def _unzip(data: bytes, source: Source) -> bytes:
    """The member by its name, whatever folder of the zip it is in."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.filename.rsplit("/", 1)[-1] == source.member and not info.filename.startswith("__MACOSX"):
                    if info.file_size > MAX_BYTES:
                        raise PeakError(f"{source.url}: {source.member} in it is too large; not the file it was")
                    return archive.read(info)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise PeakError(f"{source.url}: is no readable zip ({error}); not the file it was") from error
    raise PeakError(f"{source.url}: holds no {source.member}; not the file it was")


def fetch(settings: Settings) -> list[str]:
    """Fetch what is not there yet; the names that could not be had. Raises: PeakError when `out` cannot be written."""
    check_options(settings)
    downloads = Downloads(settings.timeout)
    failed = []
    for name, sources in SOURCES.items():
        path = settings.out / f"{name}.png"
        if path.is_file():
            print(f"{path}: there already", flush=True)
            continue
        reasons = []
        for source in sources:
            try:
                picture = read_source(source, downloads)
            except PeakError as error:
                reasons.append(str(error))
                continue
            write_png(path, resize_picture(picture, SIZE).values)
            print(f"{path}: from {source.url}{f' ({source.member})' if source.member else ''}", flush=True)
            break
        else:
            failed.append(name)
            print(f"{name}: not had. " + " | ".join(reasons), file=sys.stderr, flush=True)
    return failed


def main() -> None:
    """Run from the command line."""
    settings = tyro.cli(Settings, description=__doc__)
    with exit_on_peak_error():
        failed = fetch(settings)
    if failed:
        print(
            f"{len(failed)} of {len(SOURCES)} missing: {', '.join(failed)}. Put them into {settings.out} by hand"
            " (NAME.png), or run this again later.",
            file=sys.stderr,
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
