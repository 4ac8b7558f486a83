"""A scene's pictures as all of the code sees them: 8-bit sRGB, upright or as stored, with alpha that says something.

Pictures of 8 bits, RGB or RGBA without a colour profile of their own, are read by Pillow, and nothing is changed in
them; all others are what `images.photo` makes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peak_nerf.errors import PeakError, first_line
from peak_nerf.images.color_profile import is_srgb
from peak_nerf.images.decode import is_deep_colour, upright
from peak_nerf.images.photo import MissingPackage, PhotoFile, orientation_of, read_photo
from peak_nerf.nerf.data.transforms_file import Say

DECODE_LIMIT = 200_000_000
"""Pixels: up to here every image is decoded in full, beyond it only its structure is checked."""
_DIRECT_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "WEBP", "TIFF")
_TURN_NOTE = "rotated by EXIF"  # said for itself, since it depends on w and h
Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class PictureFile:
    """What is known of a picture before it is read."""

    path: Path
    stored: Size
    """As it lies in the file."""
    orientation: int
    """EXIF's, 1 to 8."""
    mode: str
    """Pillow's of the file, where `direct`; else RGB or RGBA."""
    direct: bool
    """Whether Pillow's numbers are what is meant: 8 bits, L, RGB or RGBA."""
    converted: str = ""
    """What is converted, such as "CMYK"."""

    @property
    def upright(self) -> Size:
        """Its size turned as EXIF says."""
        return (self.stored[1], self.stored[0]) if self.orientation >= 5 else self.stored

    @property
    def has_alpha(self) -> bool:
        """Whether it has an alpha channel; of a picture that is converted, one that says something."""
        return self.mode == "RGBA"


@dataclass(frozen=True)
class ScenePicture:
    """A picture of a split, and how it is read."""

    file: PictureFile
    turn: bool
    """Whether it is turned as its EXIF orientation says."""
    n_channels: int
    """3, or 4: RGB files are opaque then."""

    @property
    def size(self) -> Size:
        """Of what `read` gives."""
        return self.file.upright if self.turn else self.file.stored

    def read(self) -> np.ndarray:
        """(h, w, n_channels) uint8, sRGB.

        Raises: PeakError when the file cannot be read.
        """
        if self.file.direct:
            array = _with_pillow(self.file.path, np.array)
            if array.ndim == 2:
                array = array[:, :, None].repeat(3, axis=2)
            if self.turn and self.file.orientation > 1:
                array = np.ascontiguousarray(upright(array, self.file.orientation))
        else:
            photo = _photo(self.file.path, as_stored=not self.turn)
            array = photo.rgb if photo.alpha is None else np.dstack((photo.rgb, photo.alpha))
        if array.shape[2] < self.n_channels:
            array = np.concatenate((array, np.full_like(array[..., :1], 255)), axis=2)
        return np.ascontiguousarray(array[..., : self.n_channels])


def look_at(paths: Sequence[Path]) -> list[PictureFile]:
    """What is known of each picture, every one of which can be read.

    Raises: PeakError naming the first that cannot.
    """
    files = in_threads(lambda path: _look(path, stamp_of(path)), paths)
    direct = [file.path for file in files if file.direct]
    full = sum(file.stored[0] * file.stored[1] for file in files if file.direct) < DECODE_LIMIT
    in_threads(lambda path: _probe(path, stamp_of(path), full), direct)
    return files


def any_transparent(files: Sequence[PictureFile]) -> bool:
    """Whether a pixel of any picture is not opaque: where alpha is 255 everywhere, it tells nothing."""
    if any(file.has_alpha and not file.direct for file in files):
        return True
    paths = [file.path for file in files if file.has_alpha]
    some = (paths[i : i + 16] for i in range(0, len(paths), 16))  # mostly, the first tell
    return any(any(in_threads(lambda path: _probe(path, stamp_of(path), True), part)) for part in some)


def choose_reading(
    files: Sequence[PictureFile], training: Sequence[PictureFile], fits: Callable[[int, Size], bool], by_channel: bool
) -> list[ScenePicture]:
    """How the pictures of a split are read, which is the same for all splits of a scene.

    - Turned as EXIF says, if that fits what the file says of their size, as stored if only that does. A size that fits
      either way goes with the others of the scene, and is turned if there are none.
    - With alpha where a training picture has a pixel that is not opaque; `by_channel`, where any of `files` has an
      alpha channel.

    Args:
        files: of the split, and then all others that tell which way pictures are turned.
        training: of the training views.
        fits: whether the file number i of `files` may have that size.
        by_channel: as of Blender scenes, which are of an object anyway.
    """
    votes = Counter[bool]()
    either = {}
    for i, file in enumerate(files):
        as_turned, as_stored = fits(i, file.upright), fits(i, file.stored)
        either[i] = as_turned == as_stored
        if file.orientation > 1 and not either[i]:
            votes[as_turned] += 1
    default = not (votes[False] and not votes[True])
    n_channels = 4 if (any(f.has_alpha for f in files) if by_channel else any_transparent(training)) else 3
    return [
        ScenePicture(file, (default if either[i] else fits(i, file.upright)) and file.orientation > 1, n_channels)
        for i, file in enumerate(files)
    ]


def say_readings(
    pictures: Sequence[ScenePicture], fits: Callable[[int, Size], bool], say: Say, known: Sequence[PictureFile]
) -> None:
    """One line each of what is converted, turned, and of alpha that is added or left out; none where nothing is.

    fits: as of `choose_reading`.
    known: training pictures of which it is said already; what is the same in these is not said again.
    """
    n = len(pictures)
    kinds = Counter(picture.file.converted for picture in pictures if picture.file.converted)
    if kinds.keys() - {file.converted for file in known}:
        what = "; ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        say(f"{kinds.total()} of {n} pictures are converted to 8-bit sRGB: {what}")
    tagged = {i: picture for i, picture in enumerate(pictures) if picture.file.orientation > 1}
    if tagged and all(file.orientation == 1 for file in known):
        turned = sum(picture.turn for picture in tagged.values())
        other = [(i, p.file.stored if p.turn else p.file.upright) for i, p in tagged.items()]
        why = "fits w and h either way" if all(fits(i, size) for i, size in other) else "goes by w and h"
        how = f"{turned} are read upright" + (f", {len(tagged) - turned} as stored" if turned < len(tagged) else "")
        say(f"{len(tagged)} of {n} pictures have an EXIF orientation, which {why}: {how}")
    with_alpha = sum(picture.file.has_alpha for picture in pictures)
    said = any(file.has_alpha for file in known)
    if with_alpha and pictures[0].n_channels == 3:
        if any_transparent([picture.file for picture in pictures]):
            say(f"alpha of {with_alpha} of {n} pictures is left out, since the training pictures are opaque")
        elif not said:
            say(f"alpha of {with_alpha} of {n} pictures is opaque everywhere: they are photos")
    elif with_alpha < n and pictures[0].n_channels == 4 and not said:
        say(f"{n - with_alpha} of {n} pictures have no alpha where others have: taken as opaque")


def check_read_by_others(pictures: Sequence[ScenePicture]) -> None:
    """nerfstudio's own data sets read these pictures as ours do.

    Raises: PeakError naming the first that they would read wrong.
    """
    for picture in pictures:
        file = picture.file
        what = "" if file.direct else file.converted or "another pixel format"
        if picture.turn:
            what = "an EXIF orientation"
        elif file.has_alpha != pictures[0].file.has_alpha:
            what = f"{file.mode} where {pictures[0].file.path.name} has {pictures[0].file.mode}"
        if what:
            raise PeakError(
                f"{file.path}: has {what}, which only the methods peak, peak-lite and peak-nerfacto read; use one of "
                f"them, or save all pictures upright as 8-bit RGB or RGBA"
            )


def check_one_size(pictures: Sequence[ScenePicture], source: Path) -> None:
    """All images of a split are of one size."""
    for picture in pictures:
        if picture.size != pictures[0].size:
            raise PeakError(
                f"{picture.file.path} is {by(picture.size)} but {pictures[0].file.path} is {by(pictures[0].size)}; "
                f"resize the images, or give every frame of {source} its own w, h, fl_x and fl_y"
            )


def by(size: Size) -> str:
    """Such as 800x600."""
    return f"{size[0]}x{size[1]}"


def in_threads(function: Callable[[Path], Any], paths: Sequence[Path]) -> list[Any]:
    """Its results for each path."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, paths))


def stamp_of(path: Path) -> tuple[int, ...]:
    """Changes with the file."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=1 << 16)
def _look(path: Path, stamp: tuple[int, ...]) -> PictureFile:
    """Cached, since every split looks at the training pictures."""
    try:
        with Image.open(path) as image:
            found = _direct(path, image)
    except Exception:  # whatever Pillow says of it: the other reader knows more formats and says it better
        found = None
    if found is not None:
        return found
    photo = _photo(path, as_stored=False)
    h, w = photo.rgb.shape[:2]
    stored = (h, w) if photo.orientation >= 5 else (w, h)
    notes = ", ".join(note for note in photo.converted.split(", ") if note != _TURN_NOTE)
    return PictureFile(path, stored, photo.orientation, "RGB" if photo.alpha is None else "RGBA", False, notes)


def _direct(path: Path, image: Image.Image) -> PictureFile | None:
    """None where Pillow's numbers are not what is meant."""
    orientation = orientation_of(image)
    if (
        image.format not in _DIRECT_FORMATS
        or image.mode not in ("L", "RGB", "RGBA")
        or "transparency" in image.info
        or is_deep_colour(image)
        or (getattr(image, "n_frames", 1) > 1 and image.format != "MPO")  # MPO: a JPEG with its previews
        or (image.format == "TIFF" and orientation > 1)  # Pillow turns it by itself
        or not is_srgb(image.info.get("icc_profile"), "L" if image.mode == "L" else "RGB")
    ):
        return None
    return PictureFile(path, image.size, orientation, image.mode, True)


@lru_cache(maxsize=1 << 16)
def _probe(path: Path, stamp: tuple[int, ...], full: bool) -> bool:
    """Whether a pixel is transparent, of a picture that can be decoded; not `full`, only its structure is checked."""
    return _with_pillow(path, _transparent if full else _verify)


def _verify(image: Image.Image) -> bool:
    image.verify()  # the format's own: of PNGs, all checksums
    return False


def _transparent(image: Image.Image) -> bool:
    image.load()
    return image.mode == "RGBA" and np.asarray(image.getchannel("A")).min() < 255


def _with_pillow(path: Path, action: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(path) as image:
            return action(image)
    except Exception as error:  # PIL's decoders raise anything, down to SyntaxError, on bytes they cannot read
        reason = first_line(error)
        raise PeakError(f"{path}: image is broken or truncated ({reason}); copy or render it again") from error


def _photo(path: Path, as_stored: bool) -> PhotoFile:
    try:
        return read_photo(path, as_stored=as_stored)
    except MissingPackage:
        raise
    except PeakError as error:
        raise PeakError(str(error).replace(f"{path}: broken", f"{path}: image is broken", 1)) from error
