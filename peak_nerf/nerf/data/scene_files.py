"""A scene's files: which file describes which split, its frames, and the images they name.

What a user can get wrong in a data folder is caught here and raised as a one-line `PeakError`.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import llff

SPLITS = ("train", "val", "test")
NAMES = ("transforms_train.json", "transforms.json", llff.NAME)
EXTENSIONS = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
IMAGE_MODES = ("L", "RGB", "RGBA")  # 8 bits a channel: the only ones nerfstudio's dataset reads as they are meant
DECODE_LIMIT = 200_000_000  # pixels: up to here every image is decoded in full, beyond it only its structure is checked

NAMED = 20  # missing images that are listed by name

Say = Callable[[str], None]


@dataclass(frozen=True)
class Frame:
    """One entry of `frames`: the image's name as written, the camera-to-world matrix, and the entry itself."""

    name: str
    pose: np.ndarray  # (4, 4) float64, OpenGL axes
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SceneFile:
    """A transforms file, or LLFF's poses in its terms: its values and its frames."""

    path: Path
    values: Mapping[str, Any]
    frames: Sequence[Frame]


@dataclass(frozen=True)
class Scene:
    """A data folder and the file of each split; nerfstudio and LLFF scenes name the same file three times."""

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
    looked_for = f"{', '.join(NAMES[:-1])} and {NAMES[-1]}"
    raise PeakError(f"{folder}: no transforms file (looked for {looked_for}); {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    """What to do where `folder` holds no scene: the folder above does, or one below, or neither."""
    above = folder.resolve().parent
    if any((above / name).is_file() for name in NAMES):
        factor = re.fullmatch(r"images_(\d+)", folder.resolve().name)
        return f"did you mean {above}" + (f", with peak-data --downscale-factor {factor[1]}?" if factor else "?")
    nested = sorted(path.parent for name in NAMES for path in folder.glob("*/" + name))
    return f"did you mean {nested[0]}?" if nested else "pass --data a Blender, nerfstudio or LLFF scene"


def split_of_scene(
    scene: Scene, split: str, eval_interval: int = 8, say: Say = print, factor: int | None = None
) -> tuple[SceneFile, list[int]]:
    """The file of `split`, and which of its frames belong to it; `factor` chooses an LLFF scene's images."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    stand_in = {"train": "train", "val": "test", "test": "val"}[split]
    if scene.kind == "blender":
        found = split if split in scene.files else stand_in
        if found not in scene.files:
            wanted = " and ".join(f"transforms_{name}.json" for name in dict.fromkeys((split, stand_in)))
            raise PeakError(f"{scene.folder}: {wanted} missing, so there is no {split} split; add the file")
        if found != split:
            say(f"{scene.folder} has no transforms_{split}.json: the {split} split is the {found} split")
        scene_file = read_scene_file(scene.files[found])
        return scene_file, list(range(len(scene_file.frames)))

    if scene.kind == "llff":
        scene_file = read_llff_scene(scene.files[split], llff.picture_folder(scene.folder, factor, say))
    else:
        scene_file = read_scene_file(scene.files[split], sort=True)
    lists = {name: _listed_frames(scene_file, name) for name in SPLITS if scene_file.values.get(f"{name}_filenames")}
    n_frames = len(scene_file.frames)
    if not lists:
        if eval_interval < 2 or n_frames < 2:
            raise PeakError(
                f"{scene_file.path}: {n_frames} frames with every {eval_interval}th for evaluation leave nothing to "
                f"train on; use at least 2 frames and --eval-interval 2 or more"
                f"{'' if scene.kind == 'llff' else ', or add train_filenames to the file'}"
            )
        return scene_file, [i for i in range(n_frames) if (i % eval_interval == 0) == (split != "train")]
    if split in lists:
        return scene_file, lists[split]
    if split == "train":
        raise PeakError(
            f"{scene_file.path}: has a val or test list but no train_filenames; add it or remove the others"
        )
    if stand_in in lists:
        say(f"{scene_file.path} has no {split}_filenames: the {split} split is the {stand_in} split")
        return scene_file, lists[stand_in]
    rest = sorted(set(range(n_frames)) - set(lists["train"]))
    if not rest:
        raise PeakError(
            f"{scene_file.path}: train_filenames names every frame; leave some out or add {split}_filenames"
        )
    say(f"{scene_file.path} has only train_filenames: the {split} split is the {len(rest)} other frames")
    return scene_file, rest


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


def read_scene_file(path: Path, sort: bool = False) -> SceneFile:
    """Read and check a transforms file. `sort` orders frames by name: captures are often listed in no order at all."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PeakError(f"{path}: cannot be read ({error}); check its permissions and that it is UTF-8 text") from error
    if not text.strip():
        raise PeakError(f"{path}: the file is empty; copy or export it again")
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise PeakError(
            f"{path}: line {error.lineno} is not valid JSON ({error.msg}); mend it or export again"
        ) from error
    entries = values.get("frames") if isinstance(values, dict) else None
    if not isinstance(entries, list) or not entries:
        raise PeakError(f"{path}: has no frames; it needs a list 'frames' of file_path and transform_matrix")
    frames = [_read_frame(path, i, entry) for i, entry in enumerate(entries)]
    return SceneFile(path, values, sorted(frames, key=lambda frame: PurePosixPath(frame.name)) if sort else frames)


def read_llff_scene(path: Path, folder: Path) -> SceneFile:
    """The poses_bounds.npy at `path` for the images in `folder`, as if a transforms file said it."""
    values = llff.transforms(path, folder)
    return SceneFile(path, values, [_read_frame(path, i, entry) for i, entry in enumerate(values["frames"])])


def _read_frame(path: Path, index: int, entry: Any) -> Frame:
    name = entry.get("file_path") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not PurePosixPath(name).name:
        raise PeakError(f"{path}: frame {index} has no file_path; add the path of its image")
    if "transform_matrix" not in entry:
        raise PeakError(f"{path}: frame {index} ({name}) has no transform_matrix; add its 4x4 camera-to-world matrix")
    pose = number_array(entry["transform_matrix"])
    if pose is None or pose.shape not in ((4, 4), (3, 4)):
        raise PeakError(
            f"{path}: transform_matrix of frame {index} ({name}) is not 4x4 numbers; export the poses again"
        )
    if not (np.abs(pose) < np.finfo(np.float32).max).all():
        raise PeakError(f"{path}: transform_matrix of frame {index} ({name}) has NaN or infinity; remove the frame")
    if abs(np.linalg.det(pose[:3, :3])) < 1e-9:
        raise PeakError(f"{path}: transform_matrix of frame {index} ({name}) has no valid rotation; remove the frame")
    return Frame(name.replace("\\", "/"), np.vstack([pose[:3], np.eye(4)[3:]]), entry)


def number(
    scene_file: SceneFile, frame: Frame | None, key: str, low: float = -math.inf, high: float = math.inf
) -> float | None:
    """The frame's value of `key`, or else the file's, or None; it must lie strictly between `low` and `high`."""
    value = scene_file.values.get(key) if frame is None else frame.values.get(key, scene_file.values.get(key))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        allowed = f"between {low:g} and {high:g}" if math.isfinite(high) else ("above 0" if low == 0 else "finite")
        where = "" if frame is None else f" of {frame.name}"
        raise PeakError(f"{scene_file.path}: {key}{where} is {value!r}; give a number {allowed}")
    return float(value)


def number_array(value: Any) -> np.ndarray | None:
    """`value` as a float64 array, or None when it is ragged or not made of numbers."""
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


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
