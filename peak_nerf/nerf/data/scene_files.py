"""A scene's files: which file describes which split, its frames, and the images they name.

What a user can get wrong in a data folder is caught here and raised as a one-line `PeakError`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import llff
from peak_nerf.nerf.data.colmap_scene import colmap_scene, find_colmap
from peak_nerf.nerf.data.recognition import check_smaller, foreign_scene, halves
from peak_nerf.nerf.data.transforms_file import Say, SceneFile, read_scene_file, scene_file_of

SPLITS = ("train", "val", "test")
NAMES = ("transforms_train.json", "transforms.json", llff.NAME)
EXTENSIONS = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
IMAGE_MODES = ("L", "RGB", "RGBA")  # 8 bits a channel: the only ones nerfstudio's dataset reads as they are meant
DECODE_LIMIT = 200_000_000  # pixels: up to here every image is decoded in full, beyond it only its structure is checked

NAMED = 20  # missing images that are listed by name


@dataclass(frozen=True)
class Scene:
    """A data folder and the file of each split; nerfstudio and LLFF scenes name the same file three times, or a COLMAP
    model's folder."""

    kind: Literal["blender", "nerfstudio", "llff"]
    folder: Path
    files: Mapping[str, Path]


def find_scene(data: Path, say: Say = print) -> Scene:
    """The scene at `data`: a folder, one of its JSON files, or its poses_bounds.npy."""
    if not data.exists():
        raise PeakError(f"{data}: no such file or folder; pass --data the folder that holds the scene's transforms")
    if data.is_file() and data.suffix.lower() not in (".json", ".npy"):
        raise PeakError(
            f"{data}: not a JSON file; pass --data a scene's folder, its transforms .json file or its {llff.NAME}"
        )
    folder = data.parent if data.is_file() else data
    if data.is_file() and data.suffix.lower() == ".npy":
        return Scene("llff", folder, dict.fromkeys(SPLITS, data))
    by_split = {split: folder / f"transforms_{split}.json" for split in SPLITS}
    blender = {split: path for split, path in by_split.items() if path.is_file()}
    single = folder / "transforms.json"
    poses_bounds = folder / llff.NAME
    if data.is_dir() and poses_bounds.is_file() and (blender or single.is_file()):
        say(f"{folder} holds a transforms file and {llff.NAME}: using the first; pass a file to choose")
    if data.is_file() and data not in by_split.values():
        return Scene("nerfstudio", folder, dict.fromkeys(SPLITS, data))
    if blender and (data.is_file() or "train" in blender or not single.is_file()):
        if data.is_dir() and single.is_file():
            say(f"{folder} holds transforms_train.json and transforms.json: using the first; pass a file to choose")
        return Scene("blender", folder, blender)
    if single.is_file():
        return Scene("nerfstudio", folder, dict.fromkeys(SPLITS, single))
    if poses_bounds.is_file():
        return Scene("llff", folder, dict.fromkeys(SPLITS, poses_bounds))
    if (found := find_colmap(folder, say)) is not None:
        place, model = found
        return Scene("nerfstudio", place, dict.fromkeys(SPLITS, model))
    if files := halves(folder):
        say(f"{folder}: " + ", ".join(f"the {split} split is {path.parent.name}" for split, path in files.items()))
        own = all(path.name == "transforms.json" for path in files.values())
        return Scene("nerfstudio" if own else "blender", folder, files)
    looked_for = f"{', '.join(NAMES[:-1])} and {NAMES[-1]}"
    nothing = f"{folder}: no transforms file (looked for {looked_for})"
    if hint := _hint(folder):
        raise PeakError(f"{nothing}; {hint}")
    if foreign := foreign_scene(folder):
        raise PeakError(f"{nothing}, but {foreign}")
    raise PeakError(f"{nothing}; pass --data a Blender, nerfstudio, COLMAP or LLFF scene")


def _hint(folder: Path) -> str:
    """Where the scene is that `folder` is not: above, or below; nothing where neither can be trained on."""
    above = folder.resolve().parent
    if any((above / name).is_file() for name in NAMES):
        factor = re.fullmatch(r"images_(\d+)", folder.resolve().name)
        if _works(above, int(factor[1]) if factor else None):
            return f"did you mean {above}" + (f", with peak-data --downscale-factor {factor[1]}?" if factor else "?")
    nested = sorted({path.parent for name in NAMES for path in folder.glob("*/" + name)})
    found = next((path for path in nested if _works(path)), None)
    return f"did you mean {found}?" if found else ""


def _works(folder: Path, factor: int | None = None) -> bool:
    """Whether a training could begin there: every split has frames, and the first of them have their images."""
    try:
        scene = find_scene(folder, lambda line: None)
        for split in SPLITS:
            scene_file, indices = split_of_scene(scene, split, say=lambda line: None, factor=factor)
            first = image_path(scene, scene_file.frames[indices[0]].name, factor or 1)
            if not first.is_file():
                return False
    except PeakError:
        return False
    return True


def split_of_scene(
    scene: Scene, split: str, eval_interval: int = 8, say: Say = print, factor: int | None = None
) -> tuple[SceneFile, list[int]]:
    """The file of `split`, and which of its frames belong to it; `factor` chooses an LLFF scene's images."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    stand_in = {"train": "train", "val": "test", "test": "val"}[split]
    if len({*scene.files.values()}) > 1 or scene.kind == "blender":
        found = next((name for name in (split, stand_in) if name in scene.files), None)
        if found is None and "train" in scene.files:
            scene_file = _scene_file(scene, "train", say, factor)
            held_out = _every_nth(
                scene_file, list(range(len(scene_file.frames))), eval_interval, "add transforms_test.json"
            )
            return scene_file, held_out
        if found is None:
            wanted = " and ".join(f"transforms_{name}.json" for name in dict.fromkeys((split, stand_in)))
            raise PeakError(f"{scene.folder}: {wanted} missing, so there is no {split} split; add the file")
        if found != split:
            say(f"{scene.folder} has no transforms_{split}.json: the {split} split is the {found} split")
        scene_file = _scene_file(scene, found, say, factor)
        everything = list(range(len(scene_file.frames)))
        if found == "train" and len(scene.files) == 1:
            held_out = _every_nth(scene_file, everything, eval_interval, "add transforms_test.json")
            say(
                f"{scene.folder} has neither transforms_val.json nor transforms_test.json: every {eval_interval}th "
                f"frame of {scene_file.path.name}, {len(held_out)} of {len(everything)}, is held out for evaluation"
            )
            return scene_file, sorted(set(everything) - set(held_out))
        return scene_file, everything

    scene_file = _scene_file(scene, split, say, factor)
    return scene_file, _splits(scene_file, eval_interval, split, say)[split]


def _scene_file(scene: Scene, split: str, say: Say, factor: int | None) -> SceneFile:
    """The file of a split; with the images that `factor` chooses, or checked for having some."""
    path = scene.files[split]
    if scene.kind == "llff":
        return read_llff_scene(path, llff.picture_folder(scene.folder, factor, say), say)
    sort = scene.kind == "nerfstudio"
    if path.is_dir():
        scene_file = colmap_scene(path, scene.folder, say)
    else:
        inner = path.parent.relative_to(scene.folder).as_posix()
        scene_file = read_scene_file(path, sort, say, "" if inner == "." else inner + "/")
    if factor is not None and factor > 1:
        check_smaller(scene.folder, scene_file.frames[0].name, sort, factor)
    return scene_file


def _splits(scene_file: SceneFile, eval_interval: int, asked: str, say: Say) -> dict[str, list[int]]:
    """Of a file that holds all frames: by its lists, or every so many frames for evaluation. Says what `asked` is."""
    lists = {name: _listed_frames(scene_file, name) for name in SPLITS if scene_file.values.get(f"{name}_filenames")}
    path, everything = scene_file.path, list(range(len(scene_file.frames)))
    if not lists:
        held_out = _every_nth(scene_file, everything, eval_interval, "add train_filenames to the file")
        return {"train": sorted(set(everything) - set(held_out)), "val": held_out, "test": held_out}
    if "train" not in lists:
        lists["train"] = sorted(set(everything) - {i for indices in lists.values() for i in indices})
        if not lists["train"]:
            raise PeakError(f"{path}: its val and test lists name every frame; leave some out to train on")
        if asked == "train":
            say(f"{path} has no train_filenames: the train split is the {len(lists['train'])} other frames")
    if len(lists) == 1:
        rest = sorted(set(everything) - set(lists["train"]))
        if rest and asked != "train":
            say(f"{path} has only train_filenames: the {asked} split is the {len(rest)} other frames")
        if not rest:
            rest = _every_nth(scene_file, lists["train"], eval_interval, "add test_filenames to the file")
            say(
                f"{path}: train_filenames names every frame, and there is no other list: every {eval_interval}th of "
                f"them, {len(rest)} of {len(everything)}, is held out for evaluation"
            )
            lists["train"] = sorted(set(everything) - set(rest))
        return {**lists, "val": rest, "test": rest}
    for missing, stand_in in (("val", "test"), ("test", "val")):
        if missing not in lists:
            lists[missing] = lists[stand_in]
            if asked == missing:
                say(f"{path} has no {missing}_filenames: the {missing} split is the {stand_in} split")
    return lists


def _every_nth(scene_file: SceneFile, indices: list[int], n: int, instead: str) -> list[int]:
    """The first of every n. Raises: PeakError when nothing or all is left."""
    if n < 2 or len(indices) < 2:
        other = "" if scene_file.path.suffix != ".json" else f", or {instead}"
        raise PeakError(
            f"{scene_file.path}: {len(indices)} frames with every {n}th for evaluation leave nothing to "
            f"train on; use at least 2 frames and --eval-interval 2 or more{other}"
        )
    return indices[::n]


def without_missing(scene: Scene, scene_file: SceneFile, indices: list[int], downscale: int, say: Say) -> list[int]:
    """The frames of a capture that have an image; says by name which have none, as instant-ngp's tools leave some.

    A Blender scene is a benchmark, and nothing is left out of one. Raises: PeakError when no frame has an image.
    """
    if scene.kind == "blender":
        return indices
    paths = [image_path(scene, scene_file.frames[i].name, downscale) for i in indices]
    there = [path.is_file() for path in paths]
    missing = [scene_file.frames[i].name for i, found in zip(indices, there, strict=True) if not found]
    if indices and not any(there):
        check_exist(paths, scene_file.path)
    if missing:
        shown = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        say(f"{scene_file.path}: {len(missing)} of {len(indices)} frames have no image and are left out: {shown}")
    return [i for i, found in zip(indices, there, strict=True) if found]


def _listed_frames(scene_file: SceneFile, split: str) -> list[int]:
    names = scene_file.values[f"{split}_filenames"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PeakError(f"{scene_file.path}: {split}_filenames must be a list of the frames' file_path")
    listed = {PurePosixPath(name.replace("\\", "/")) for name in names}
    unknown = listed - {PurePosixPath(frame.name) for frame in scene_file.frames}
    if unknown:
        raise PeakError(
            f"{scene_file.path}: {split}_filenames names {min(unknown)}, which is no frame's file_path "
            f"({len(unknown)} such names); correct the list"
        )
    return [i for i, frame in enumerate(scene_file.frames) if PurePosixPath(frame.name) in listed]


def read_llff_scene(path: Path, folder: Path, say: Say = print) -> SceneFile:
    """The poses_bounds.npy at `path` for the images in `folder`, as if a transforms file said it."""
    values = llff.transforms(path, folder)
    return scene_file_of(path, values, values["frames"], False, say)


def image_path(scene: Scene, name: str, downscale: int, folder_name: str = "images") -> Path:
    """Where the image `name` is, at `1 / downscale` of its size; the extension may be left out, as Blender does.

    Smaller copies are in `images_2/` for nerfstudio scenes and beside the split's folder, `train_2/`, for Blender's.
    Of an LLFF scene, `name` already is that of the smaller copy.
    """
    path = scene.folder / name
    if downscale > 1 and scene.kind != "llff":
        folder = path.parent.parent / f"{path.parent.name}_{downscale}"
        if scene.kind == "nerfstudio":
            folder = scene.folder / f"{folder_name}_{downscale}"
        if not folder.is_dir():
            raise PeakError(
                f"{folder}: no such folder, but --downscale-factor {downscale} reads the smaller images there; "
                f"write them (ns-process-data does, for captures) or leave the option out"
            )
        path = folder / path.name
    candidates = [path.with_name(path.name + extension) for extension in EXTENSIONS]
    fallback = path if path.suffix.lower() in (".png", ".jpg", ".jpeg") else candidates[1]
    return next((candidate for candidate in candidates if candidate.is_file()), fallback)


def check_exist(paths: Sequence[Path], source: Path, what: str = "image") -> None:
    """Every file is there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = ", ".join(path.name for path in missing[1:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise PeakError(
            f"{missing[0]}: {what} is missing ({len(missing)} of {len(paths)} that {source.name} names"
            f"{'; also ' if others else ''}{others}); restore the files or remove their frames from {source}"
        )


def check_images(paths: Sequence[Path]) -> tuple[list[tuple[int, int]], int]:
    """Every image can be read; returns each one's (width, height) and their common number of channels, 3 or 4."""
    headers = _in_threads(_header, paths)
    for path, (mode, _) in zip(paths, headers, strict=True):
        if mode not in IMAGE_MODES:
            raise PeakError(f"{path}: has pixel format {mode}; save it as 8-bit RGB or RGBA")
        if (mode == "RGBA") != (headers[0][0] == "RGBA"):
            raise PeakError(f"{path} is {mode} but {paths[0]} is {headers[0][0]}; save all images of a split alike")
    sizes = [size for _, size in headers]
    full = sum(width * height for width, height in sizes) < DECODE_LIMIT
    _in_threads(partial(_probe, full=full), paths)
    return sizes, 4 if headers[0][0] == "RGBA" else 3


def check_masks(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    """Every mask can be read, has one channel and the size of its image."""
    for path, size, (mode, mask_size) in zip(paths, sizes, _in_threads(_header, paths), strict=True):
        if mode not in ("1", "L") or mask_size != size:
            raise PeakError(
                f"{path}: mask is {mode} of {_by(mask_size)}; save it as 8-bit grey of its image's size, {_by(size)}"
            )
    _in_threads(partial(_probe, full=True), paths)


def check_one_size(paths: Sequence[Path], sizes: Sequence[tuple[int, int]], source: Path) -> None:
    """All images of a split are of one size."""
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise PeakError(
                f"{path} is {_by(size)} but {paths[0]} is {_by(sizes[0])}; "
                f"resize the images, or give every frame of {source} its own w, h, fl_x and fl_y"
            )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _in_threads(function: Callable[[Path], Any], paths: Sequence[Path]) -> list[Any]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, paths))


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    return _read(path, lambda image: (image.mode, image.size))


def _probe(path: Path, full: bool) -> None:
    _read(path, lambda image: image.load() if full else image.verify())


def _read(path: Path, action: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(path) as image:
            return action(image)
    except Exception as error:  # PIL's decoders raise anything, down to SyntaxError, on bytes they cannot read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PeakError(f"{path}: image is broken or truncated ({reason}); copy or render it again") from error
