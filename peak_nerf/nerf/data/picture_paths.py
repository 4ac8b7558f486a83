"""Where a scene's pictures and masks are: as their frames say, in smaller copies, or where else they can only be."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from peak_nerf.errors import PeakError
from peak_nerf.images.photo import PICTURE_SUFFIXES
from peak_nerf.nerf.data.transforms_file import Say, Scene, SceneFile

SUFFIXES = PICTURE_SUFFIXES | {".exr", ".hdr"}
_USUAL = (".png", ".jpg", ".jpeg")
EXTENSIONS = ("", *_USUAL, *(suffix.upper() for suffix in _USUAL), *sorted(SUFFIXES - {*_USUAL}))
"""What is tried, in this order, after a name without one."""
NAMED = 20
"""Missing images that are listed by name."""
NO_PICTURES = re.compile(r"\..*|(masks?|depths?|normals?|sparse)(_.*)?|.*_\d+", re.IGNORECASE)
"""Folders that hold no pictures of a scene, or smaller copies, unless its frames say so."""


def image_path(scene: Scene, name: str, downscale: int, folder_name: str = "images") -> Path:
    """Where the image `name` is, at `1 / downscale` of its size; the extension may be left out, as Blender does.

    Smaller copies are in `images_2/` for nerfstudio scenes, as deep in folders as those of full size or not, and beside
    the pictures' own folder, `train_2/`, for Blender's and where there is such a one.
    Of an LLFF scene, `name` already is that of the smaller copy.
    """
    path = scene.folder / name
    if downscale == 1 or scene.kind == "llff":
        return _with_extension(path)
    own = path.parent.with_name(f"{path.parent.name}_{downscale}")
    folder = scene.folder / f"{folder_name}_{downscale}" if scene.kind == "nerfstudio" else own
    if not folder.is_dir() and not own.is_dir():
        raise PeakError(
            f"{folder}: no such folder, but --downscale-factor {downscale} reads the smaller images there; "
            f"write them (ns-process-data does, for captures) or leave the option out"
        )
    # The cameras of a rig have a folder each, in which pictures have the same names.
    inner = folder.joinpath(*PurePosixPath(name).parts[1:])
    places = (inner, own / path.name, folder / path.name)
    found = (_with_extension(place) for place in places if place.parent.is_dir())
    return next((place for place in found if place.is_file()), _with_extension(folder / path.name))


def _with_extension(path: Path) -> Path:
    """The file of that name, or of that name and an extension."""
    found = next((end for end in EXTENSIONS if os.path.isfile(f"{path}{end}")), None)
    if found is None:
        found = "" if path.suffix.lower() in SUFFIXES else EXTENSIONS[1]
    return path.with_name(path.name + found)


def picture_paths(
    scene: Scene, scene_file: SceneFile, names: Sequence[str], downscale: int, say: Say, folder_name: str = "images"
) -> list[Path]:
    """`image_path` of each name; those that are not there, where the last parts of the name match exactly one file.

    So are found: names in other case, absolute paths of another machine, or relative ones that begin elsewhere. How
    many is said.

    Args:
        scene: whose folder is searched.
        scene_file: which names them, for messages.
        names: of one kind, all that there are, since two of them are never the same file.
        downscale: as of `image_path`.
        say: takes the line.
        folder_name: "images" or "masks".
    """
    paths = [image_path(scene, name, downscale, folder_name) for name in names]
    lost = [i for i, path in enumerate(paths) if not path.is_file()]
    if not lost:
        return paths
    smaller = downscale > 1 and scene.kind != "llff"
    root = paths[lost[0]].parent if smaller else scene.folder
    tree = _Tree(root, any_folder=smaller or folder_name == "masks")
    wanted = {i: paths[i].name if smaller else names[i] for i in lost}
    found = {i: path for i in lost if (path := tree.find(wanted[i])) is not None}
    taken = Counter({path for i, path in enumerate(paths) if i not in found})
    taken.update({(path, names[i].casefold()): path for i, path in found.items()}.values())
    found = {i: path for i, path in found.items() if taken[path] == 1}
    if found:
        i, path = next(iter(found.items()))
        say(
            f"{scene_file.path}: {len(found)} {'picture' if folder_name == 'images' else 'mask'}"
            f"{'s are' if len(found) > 1 else ' is'} not where the file says and found by the last parts of the name: "
            f"{names[i]} is {path.relative_to(scene.folder)}"
        )
    return [found.get(i, path) for i, path in enumerate(paths)]


class _Tree:
    """All files under a folder, by their names in lower case."""

    def __init__(self, root: Path, any_folder: bool) -> None:
        self.root, self.any_folder = root, any_folder
        self.files: dict[str, list[Path]] = {}
        for folder, _, names in os.walk(root):
            for name in names:
                self.files.setdefault(name.casefold(), []).append(Path(folder) / name)

    def find(self, name: str) -> Path | None:
        """The only file that fits best.

        All parts of `name` are the end of its path, or its whole path in the folder is the end of `name`. Of a name
        that begins outside the folder, by a drive, a root or "..", it is enough that the file's own name is the same.
        """
        parts = [part for part in PurePosixPath(name.casefold()).parts if part.strip("/.")]
        if not parts:
            return None
        outside = bool(re.match(r"/|[a-z]:|\.\./", name, re.IGNORECASE))
        candidates = self.files.get(parts[-1], [])
        if PurePosixPath(parts[-1]).suffix not in SUFFIXES:
            candidates = [path for suffix in EXTENSIONS for path in self.files.get(parts[-1] + suffix, [])]
        fits: dict[Path, int] = {}
        for path in dict.fromkeys(candidates):
            own = [part.casefold() for part in path.relative_to(self.root).parts]
            own[-1] = parts[-1]
            if not self.any_folder and any(NO_PICTURES.fullmatch(p) and p not in parts for p in own[:-1]):
                continue
            common = next((n for n in range(min(len(own), len(parts)), 0, -1) if own[-n:] == parts[-n:]), 0)
            if outside or common == min(len(own), len(parts)):
                fits[path] = common
        best = [path for path, common in fits.items() if common == max(fits.values())]
        return best[0] if len(best) == 1 else None


def without_missing(scene: Scene, scene_file: SceneFile, indices: list[int], downscale: int, say: Say) -> list[int]:
    """The frames of a capture that have an image; says by name which have none, as instant-ngp's tools leave some.

    A Blender scene is a benchmark, and nothing is left out of one. Raises: PeakError when no frame has an image.
    """
    if scene.kind == "blender":
        return indices
    names = [frame.name for frame in scene_file.frames]
    all_paths = picture_paths(scene, scene_file, names, downscale, say)
    paths = [all_paths[i] for i in indices]
    there = [path.is_file() for path in paths]
    missing = [scene_file.frames[i].name for i, found in zip(indices, there, strict=True) if not found]
    if indices and not any(there):
        check_exist(paths, scene_file.path)
    if missing:
        shown = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        say(f"{scene_file.path}: {len(missing)} of {len(indices)} frames have no image and are left out: {shown}")
    return [i for i, found in zip(indices, there, strict=True) if found]


def check_exist(paths: Sequence[Path], source: Path, what: str = "image") -> None:
    """Every file is there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = ", ".join(path.name for path in missing[1:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise PeakError(
            f"{missing[0]}: {what} is missing ({len(missing)} of {len(paths)} that {source.name} names"
            f"{'; also ' if others else ''}{others}); restore the files or remove their frames from {source}"
        )
