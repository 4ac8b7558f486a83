"""Masks of a scene's pictures: bright pixels are used, dark ones are never trained on.

Half of the range is the threshold, so that what JPEG leaves around an edge does not count; masks of 0 and 1 have that
range. A frame without a mask is used wholly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images.decode import upright
from peak_nerf.images.photo import PhotoFile, read_photo
from peak_nerf.nerf.data.picture_paths import EXTENSIONS, NAMED, check_exist, picture_paths
from peak_nerf.nerf.data.scene_pictures import ScenePicture, Size, by, in_threads, stamp_of
from peak_nerf.nerf.data.transforms_file import Say, Scene, SceneFile

_INVERSE = {6: 8, 8: 6}  # of EXIF orientations; the others undo themselves


@dataclass(frozen=True)
class MaskFile:
    """What is known of a mask before it is read."""

    path: Path
    upright: Size
    """As EXIF turns it."""
    orientation: int
    """EXIF's, 1 to 8."""
    hides_all: bool
    single: bool
    """Whether it is one channel of 8 bits, dark pixels of which are 0."""
    turn: bool = True
    """Whether it is turned as EXIF says."""

    @property
    def size(self) -> Size:
        """Of the mask in the file, as it is turned."""
        w, h = self.upright
        return (h, w) if self.orientation >= 5 and not self.turn else (w, h)

    def read(self, size: Size) -> np.ndarray:
        """(h, w) bool at a picture's size, by nearest neighbour where it is another: True where it is used."""
        used = used_pixels(_photo(self.path))
        if not self.turn:
            used = upright(used, _INVERSE.get(self.orientation, self.orientation))
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size[::-1], used.shape, strict=True)
        )
        return np.ascontiguousarray(used if used.shape == size[::-1] else used[rows[:, None], columns])


def used_pixels(photo: PhotoFile) -> np.ndarray:
    """(h, w) bool: what a mask leaves to be used.

    The brighter half: the mean of R, G and B is above 127.5; above 0.5 in a mask of 0 and 1. With an alpha channel that
    is not opaque everywhere: where that is above half, and bright if the opaque pixels are black and white; colours, or
    black alone, say nothing then.
    """
    bright = photo.rgb.mean(axis=2, dtype=np.float32) > (0.5 if photo.rgb.max() <= 1 else 127.5)
    if photo.alpha is None:
        return bright
    opaque = photo.alpha > 127
    grey = not np.ptp(photo.rgb[opaque], axis=1).any() if opaque.any() else True
    return opaque & bright if grey and bright[opaque].any() else opaque


def mask_paths(
    scene: Scene, scene_file: SceneFile, paths: Callable[[], Sequence[Path]], downscale: int, say: Say
) -> list[Path | None] | None:
    """Of all frames of a file, the mask of each or None; None where no frame has one.

    Where no frame says `mask_path`, masks are found by name, as nerfstudio and COLMAP name them: of `images/a.jpg` in
    `masks/` as `a.png` or `a.jpg.png`, and said. Masks of smaller pictures are in `masks_2/`, or made from the large.

    paths: gives those of the frames' pictures.
    """
    named = {i: frame.values["mask_path"] for i, frame in enumerate(scene_file.frames) if frame.values.get("mask_path")}
    if not named:
        return _masks_by_name(scene, scene_file, paths(), say) if (scene.folder / "masks").is_dir() else None
    wrong = [scene_file.frames[i].name for i, name in named.items() if not isinstance(name, str)]
    if wrong:
        raise PeakError(f"{scene_file.path}: mask_path of {wrong[0]} is not a path; correct or remove it")
    names = [name.replace("\\", "/") for name in named.values()]
    if not (scene.folder / f"masks_{downscale}").is_dir():
        downscale = 1
    found = dict(zip(named, picture_paths(scene, scene_file, names, downscale, say, "masks"), strict=True))
    return [found.get(i) for i in range(len(scene_file.frames))]


def _masks_by_name(scene: Scene, scene_file: SceneFile, paths: Sequence[Path], say: Say) -> list[Path | None] | None:
    folder = scene.folder / "masks"
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    own = [_within(path, scene.folder) for path in paths]
    stems = Counter(name.stem for name in own)
    found: list[Path | None] = []
    for name in own:
        places = [name, PurePosixPath(*name.parts[1:])] if len(name.parts) > 1 else [name]
        if scene.kind == "blender":  # whose splits have pictures of the same name
            places = [name]
        elif stems[name.stem] == 1:
            places.append(PurePosixPath(name.name))
        wanted = [f"{place.parent / base}{end}" for place in places for base in (name.stem, name.name)
                  for end in EXTENSIONS[1:]]  # fmt: skip
        found.append(next((files[candidate] for candidate in wanted if candidate in files), None))
    n_found = sum(path is not None for path in found)
    if n_found == 0:
        say(f"{folder}: no file there is named as a picture of {scene_file.path.name}: not used")
        return None
    say(
        f"{folder}: masks of {n_found} of {len(found)} pictures, found by their names, are used; rename the folder to "
        f"do without"
    )
    return found


def _within(path: Path, folder: Path) -> PurePosixPath:
    try:
        return PurePosixPath(path.relative_to(folder).as_posix())
    except ValueError:
        return PurePosixPath(path.name)


def without_hidden(
    scene_file: SceneFile, indices: list[int], masks: Sequence[Path | None] | None, say: Say
) -> list[int]:
    """The frames of which a mask leaves something; says by name which are hidden wholly, and left out.

    masks: of all frames of the file.
    Raises: PeakError when all are hidden.
    """
    if masks is None:
        return indices
    there = [path for i in indices if (path := masks[i]) is not None and path.is_file()]
    hidden = {file.path for file in in_threads(_look_at, there) if file.hides_all}
    out = [i for i in indices if masks[i] in hidden]
    if out and len(out) == len(indices):
        raise PeakError(
            f"{masks[out[0]]}: mask hides all of its picture, as do those of all {len(out)} frames of the split; white "
            f"is what is used: invert the masks, or remove mask_path"
        )
    if out:
        names = [scene_file.frames[i].name for i in out]
        shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        say(f"{scene_file.path}: {len(out)} of {len(indices)} frames hidden wholly by masks and left out: {shown}")
    return [i for i in indices if masks[i] not in hidden]


def masks_of(
    masks: Sequence[Path | None], pictures: Sequence[ScenePicture], source: Path, say: Say
) -> list[MaskFile | None] | None:
    """Of each picture of a split, its mask, if it has one; None where none has.

    Raises: PeakError when a mask is not there, cannot be read, or has another shape than its picture.
    """
    if not any(masks):
        return None
    paths = [path for path in masks if path is not None]
    check_exist(paths, source, "mask")
    files = dict(zip(paths, in_threads(_look_at, paths), strict=True))
    chosen = [None if path is None else _turned(files[path], p) for path, p in zip(masks, pictures, strict=True)]
    resized = [mask for mask, p in zip(chosen, pictures, strict=True) if mask is not None and mask.size != p.size]
    if resized:
        say(f"{len(resized)} of {len(paths)} masks have another size than their pictures and are resized to it")
    if len(paths) < len(masks):
        say(f"{len(masks) - len(paths)} of {len(masks)} pictures have no mask and are used wholly")
    return chosen


def check_masks_of_others(masks: Sequence[MaskFile | None], pictures: Sequence[ScenePicture]) -> None:
    """nerfstudio's own data sets read these masks as ours do.

    Raises: PeakError naming the first that they would not.
    """
    for mask, picture in zip(masks, pictures, strict=bool(masks)):
        if mask is None or not mask.single or mask.size != picture.size or mask.orientation > 1:
            path, problem = picture.file.path, "has no mask where others have one"
            if mask is not None:
                path, problem = mask.path, "mask is not 8-bit grey, black and white, of its picture's size"
            raise PeakError(
                f"{path}: {problem}, which only the methods peak, peak-lite and peak-nerfacto read; use one of them, "
                f"or save such masks for all frames"
            )


def mask_as_stored(path: Path) -> MaskFile:
    """The mask that another data parser names, not turned, as its pictures are not. Raises: PeakError when broken."""
    return replace(_look_at(path), turn=False)


def _turned(mask: MaskFile, picture: ScenePicture) -> MaskFile:
    """Turned as its picture is, or else as it fits."""
    w, h = picture.size
    for turn in (picture.turn or picture.file.orientation == 1, True, False):
        turned = replace(mask, turn=turn)
        m_w, m_h = turned.size
        # The smaller of the two may be rounded either way.
        if (m_w == w) == (m_h == h) and abs(m_w * h - m_h * w) < max(w + h, m_w + m_h):
            return turned
    raise PeakError(
        f"{mask.path}: mask is {by(mask.upright)}, another shape than its picture's {by(picture.size)}; make it again "
        f"from the picture, not cropped"
    )


def _look_at(path: Path) -> MaskFile:
    return _look(path, stamp_of(path))


@lru_cache(maxsize=1 << 16)
def _look(path: Path, stamp: tuple[int, ...]) -> MaskFile:
    photo = _photo(path)
    h, w = photo.rgb.shape[:2]
    used = used_pixels(photo)
    single = photo.converted in ("grey", "black and white") and bool((used == (photo.rgb[..., 0] > 0)).all())
    return MaskFile(path, (w, h), photo.orientation, not used.any(), single)


def _photo(path: Path) -> PhotoFile:
    try:
        return read_photo(path)
    except PeakError as error:
        raise PeakError(str(error).replace(f"{path}: broken", f"{path}: mask is broken", 1)) from error
