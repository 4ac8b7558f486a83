"""The copies of pictures that a scene is made of: their names, sizes and masks, and how they are written."""

from __future__ import annotations

import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.images.photo import PhotoFile, is_picture_name, list_pictures, read_photo
from peak_nerf.system.files import write_atomically

IMAGES, MASKS, LEFT_OUT = "images", "masks", "left_out"
FACTORS = (2, 4)
"""By which further copies are smaller: images_2, images_4."""
_SMALLEST_LONGER_SIDE = 400
_LONGEST_NAME = 100


def copy_names(names: Sequence[str]) -> list[str]:
    """One name, without suffix, for the copy of each source: letters, digits, `-`, `_` and `.` of ASCII, all different.

    "tour/Église 2.JPG" becomes "tour__Eglise_2". Where two become one, also by case alone, the later gets _2.
    """
    taken: set[str] = set()
    copies = []
    for name in names:
        stem = name[: -len(PurePosixPath(name).suffix)] if is_picture_name(name) else name
        plain = unicodedata.normalize("NFKD", stem.replace("/", "__")).encode("ascii", "ignore").decode()
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip(".")[-_LONGEST_NAME:].lstrip(".") or "picture"
        copy, number = plain, 1
        while copy.lower() in taken:
            number += 1
            copy = f"{plain}_{number}"
        taken.add(copy.lower())
        copies.append(copy)
    return copies


class MaskFolder:
    """Which file of `--masks` belongs to which picture."""

    def __init__(self, folder: Path, names: Sequence[str] = ()) -> None:
        """Index a folder.

        Args:
            folder: the masks, at any depth.
            names: of all pictures; a mask is found by the file's name alone only where a single picture has that.

        Raises: PeakError when there is no such folder, or no picture in it.
        """
        if not folder.is_dir():
            raise PeakError(f"--masks {folder}: no such folder; name the one that holds the masks")
        self.folder = folder
        # Without its suffix: "a/IMG_1.JPG.png" is of "a/IMG_1.JPG", "a/IMG_1.png" of "a/IMG_1" with any suffix.
        self._by_key = {
            path.relative_to(folder).with_suffix("").as_posix().lower(): path
            for path in reversed(list_pictures(folder))
        }
        if not self._by_key:
            raise PeakError(f"--masks {folder}: holds no picture; name the folder that holds the masks")
        self._n_with: dict[str, int] = defaultdict(int)
        for name in names:
            for key in _keys(PurePosixPath(name).name):
                self._n_with[key] += 1

    def find(self, name: str, copy: str) -> Path | None:
        """The mask of the picture `name` ("a/IMG_1.JPG"), whose copy is called `copy` ("a__IMG_1")."""
        alone = [key for key in _keys(PurePosixPath(name).name) if self._n_with[key] <= 1]
        return next((self._by_key[key] for key in (*_keys(name), *alone, copy.lower()) if key in self._by_key), None)


def read_mask(path: Path, size: tuple[int, int], whole: tuple[int, int], name: str) -> np.ndarray:
    """(h, w) bool, True where the picture is used: brighter than half, or 1 in a mask of zeros and ones.

    Args:
        path: the mask, of any mode; what is transparent in it is not used.
        size: (width, height) of the copy, to which it is resized, each pixel the nearest.
        whole: (width, height) of the picture, whose aspect the mask must have to within a pixel or 1 %.
        name: the picture's, for the message.

    Raises: PeakError when it cannot be read or has another aspect.
    """
    import cv2

    mask = read_photo(path)
    h, w = mask.rgb.shape[:2]
    if abs(w * whole[1] - h * whole[0]) > max(0.01 * w * whole[1], *whole):
        raise PeakError(
            f"{path}: the mask is {w} x {h} pixels and {name} is {whole[0]} x {whole[1]} upright; "
            "make the mask for the upright picture, in its aspect"
        )
    grey = mask.rgb.mean(axis=2, dtype=np.float32)
    used = grey > (0.5 if grey.max() <= 1 else 127.5)
    if mask.alpha is not None:
        used &= mask.alpha > 127
    return np.asarray(cv2.resize(used.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)).astype(bool)


def resized(rgb: np.ndarray, alpha: np.ndarray | None, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture (h, w, 3) uint8 and its alpha at a smaller size (width, height): each pixel the mean over its area.

    Colours are weighted by alpha, so that what is transparent does not bleed in.
    """
    import cv2

    if (rgb.shape[1], rgb.shape[0]) == size:
        return rgb, alpha
    if alpha is None:
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)), None
    weight = alpha.astype(np.float32)
    new_weight = np.asarray(cv2.resize(weight, size, interpolation=cv2.INTER_AREA))
    colors = np.asarray(cv2.resize(rgb * weight[..., None], size, interpolation=cv2.INTER_AREA))
    colors = colors / np.maximum(new_weight, 1e-3)[..., None]
    return np.rint(np.clip(colors, 0, 255)).astype(np.uint8), np.rint(new_weight).astype(np.uint8)


def size_within(size: tuple[int, int], longer_side: int) -> tuple[int, int]:
    """(width, height) in proportion with the longer side at most so long; never enlarged."""
    longest = max(size)
    if longest <= longer_side:
        return size
    w, h = (max(1, round(side * longer_side / longest)) for side in size)
    return w, h


def write_copy(scene: Path, copy: str, rgb: np.ndarray, alpha: np.ndarray | None, photo: PhotoFile) -> str:
    """Write scene/images/COPY.jpg where the source was a JPEG, .png otherwise; returns its path within the scene."""
    jpeg = photo.is_jpeg and alpha is None
    file = f"{IMAGES}/{copy}.{'jpg' if jpeg else 'png'}"
    write_picture(scene / file, rgb if alpha is None else np.dstack([rgb, alpha]), photo.exif)
    return file


def write_picture(path: Path, array: np.ndarray, exif: bytes = b"") -> None:
    """Write (h, w), (h, w, 3) or (h, w, 4) uint8 whole or not at all: JPEG of quality 95 in 4:4:4, or PNG."""
    options = {"exif": exif} if exif else {}
    buffer = io.BytesIO()
    if path.suffix == ".jpg":
        Image.fromarray(array).save(buffer, "JPEG", quality=95, subsampling=0, **options)
    else:
        Image.fromarray(array).save(buffer, "PNG", compress_level=1, **options)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def read_copy(path: Path) -> tuple[np.ndarray, np.ndarray | None, bytes]:
    """Colours, alpha and EXIF of a copy that `write_copy` has written."""
    with Image.open(path) as image:
        array, exif = np.array(image), image.info.get("exif", b"")
    return (array, None, exif) if array.shape[2] == 3 else (array[..., :3], array[..., 3], exif)


def smaller_factors(sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Those of `FACTORS` at which the median picture still has a longer side of 400 pixels."""
    median = float(np.median([max(size) for size in sizes]))
    return tuple(factor for factor in FACTORS if median // factor >= _SMALLEST_LONGER_SIDE)


def write_smaller(scene: Path, file: str, mask: str | None, factors: Sequence[int]) -> None:
    """Write images_2/NAME and masks_2/NAME and so on from the copy and its mask; sizes are rounded down."""
    rgb, alpha, exif = read_copy(scene / file)
    for factor in factors:
        size = (max(1, rgb.shape[1] // factor), max(1, rgb.shape[0] // factor))
        small, small_alpha = resized(rgb, alpha, size)
        array = small if small_alpha is None else np.dstack([small, small_alpha])
        write_picture(scene / f"{IMAGES}_{factor}" / Path(file).name, array, exif)
        if mask is not None:
            import cv2

            with Image.open(scene / mask) as image:
                used = np.array(image)
            nearest = np.asarray(cv2.resize(used, size, interpolation=cv2.INTER_NEAREST_EXACT))
            write_picture(scene / f"{MASKS}_{factor}" / Path(mask).name, nearest)


def _keys(name: str) -> tuple[str, str]:
    path = PurePosixPath(name.lower())
    return path.as_posix(), path.with_suffix("").as_posix() if is_picture_name(name) else path.as_posix()
