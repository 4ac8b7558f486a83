"""A scene's files: which file describes which split, and its frames.

What a user can get wrong in a data folder is caught here and raised as a one-line `PeakError`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import llff

SPLITS = ("train", "val", "test")
NAMES = ("transforms_train.json", "transforms.json", llff.NAME)

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


def number_array(value: Any) -> np.ndarray | None:
    """`value` as a float64 array, or None when it is ragged or not made of numbers."""
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
