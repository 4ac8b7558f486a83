"""What a scene's file says: its values and its frames, each with a name and a camera, checked as they are read.

What a user can get wrong in such a file is raised as a one-line `PeakError` that names the file and the frame.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from peak_nerf.errors import PeakError, first_line
from peak_nerf.nerf.data.observations import Observations

FARTHEST = 1e12
"""Of a position from the origin: map coordinates in micrometres are nearer."""
OUTLIER = 1e4
"""Times the usual distance from the middle of the cameras: a frame without a pose of its own stands there."""
LARGEST_FILE = 128 << 20
"""Bytes of a transforms file: a frame has about a thousand."""
MOST_FRAMES = 20_000
ROUNDED = 1e-3
"""By which an axis of a rotation may be longer or shorter than 1, as in files of few digits."""
SKEWED = 1.2
"""Longest over shortest axis of what is still taken for a rotation that was scaled."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Frame:
    """One entry of `frames`: the image's name as written, the camera-to-world matrix, and the entry itself."""

    name: str
    pose: np.ndarray  # (4, 4) float64, OpenGL axes
    values: Mapping[str, Any]
    index: int = 0
    """In the file, counted from 0."""


@dataclass(frozen=True)
class SceneFile:
    """A transforms file, or a COLMAP model or LLFF's poses in its terms: its values and its frames."""

    path: Path
    values: Mapping[str, Any]
    frames: Sequence[Frame]
    observations: Observations | None = None
    """The sparse points that the file itself holds, as COLMAP's models do."""


@dataclass(frozen=True)
class Scene:
    """A data folder and the file of each split; nerfstudio and LLFF scenes name the same file three times, or a COLMAP
    model's folder."""

    kind: Literal["blender", "nerfstudio", "llff"]
    folder: Path
    files: Mapping[str, Path]


def read_scene_file(path: Path, sort: bool = False, say: Say = print, prefix: str = "") -> SceneFile:
    """Read and check a transforms file. `sort` orders frames by name: captures are often listed in no order at all.

    `prefix` goes before their names: the folder of the file within that of the scene.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise PeakError(f"{path}: has more than {LARGEST_FILE >> 20} MiB; leave frames out, or export it again")
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
    except (RecursionError, ValueError) as error:  # nested a thousand deep; a number of five thousand digits
        raise PeakError(f"{path}: is not valid JSON ({first_line(error)}); mend it or export again") from error
    entries = values.get("frames") if isinstance(values, dict) else None
    if not isinstance(entries, list) or not entries:
        raise PeakError(f"{path}: has no frames; it needs a list 'frames' of file_path and transform_matrix")
    if len(entries) > MOST_FRAMES:
        raise PeakError(f"{path}: has {len(entries)} frames, more than {MOST_FRAMES}; leave some out")
    return scene_file_of(path, values, entries, sort, say, prefix)


def scene_file_of(
    path: Path, values: Mapping[str, Any], entries: Sequence[Any], sort: bool, say: Say, prefix: str = ""
) -> SceneFile:
    """The file at `path` with these `values` and these entries as frames, checked. `prefix` goes before their names.

    Raises: PeakError on an entry that is no frame, or whose camera makes no sense.
    """
    frames = tidy([_read_frame(path, i, entry, prefix) for i, entry in enumerate(entries)], path, say)
    return SceneFile(path, values, sorted(frames, key=lambda frame: PurePosixPath(frame.name)) if sort else frames)


def tidy(frames: Sequence[Frame], path: Path, say: Say) -> list[Frame]:
    """Frames without those that come twice, and with rotations that are rotations; says what it has changed.

    Raises: PeakError when two frames of one file have different poses, and on poses that no camera has.
    """
    kept = _without_twins(frames, path, say)
    poses = np.stack([frame.pose for frame in kept])
    _check_positions(kept, poses[:, :3, 3], path)
    u, lengths, v = np.linalg.svd(poses[:, :3, :3])
    _refuse(
        kept,
        lengths.max(1) > SKEWED * lengths.min(1),
        path,
        "is no rotation: its axes are of different lengths, or not at right angles; remove the frame",
    )
    mirrored = np.linalg.det(poses[:, :3, :3]) < 0
    if mirrored.all():
        say(f"{path}: all poses are mirrored (determinant -1); if the result is blurred, one of their axes is turned")
    else:
        problem = "is mirrored (determinant -1), unlike others; export the poses again"
        _refuse(kept, mirrored if mirrored.mean() <= 0.5 else ~mirrored, path, problem)
    off = np.abs(lengths - 1).max(1) > ROUNDED
    if off.any():
        first = int(off.argmax())
        say(
            f"{path}: the rotations of {int(off.sum())} of {len(kept)} frames are scaled (that of {kept[first].name} "
            f"by {lengths[first].mean():.4g}): normalised"
        )
        poses[off, :3, :3] = (u @ v)[off]
    return [replace(frame, pose=pose) for frame, pose in zip(kept, poses, strict=True)]


def _without_twins(frames: Sequence[Frame], path: Path, say: Say) -> list[Frame]:
    first: dict[PurePosixPath, Frame] = {}
    twins = []
    for frame in frames:
        other = first.setdefault(PurePosixPath(frame.name), frame)
        if other is frame:
            continue
        if not np.allclose(frame.pose, other.pose, rtol=1e-6, atol=1e-9):
            raise PeakError(
                f"{path}: frames {other.index} and {frame.index} are both of {frame.name}, with different poses; "
                f"remove the wrong one"
            )
        twins.append(frame)
    if twins:
        say(f"{path}: {len(twins)} frames that come twice are left out the second time, such as {twins[0].name}")
    return list(first.values())


def _check_positions(frames: Sequence[Frame], positions: np.ndarray, path: Path) -> None:
    far = np.abs(positions).max(1)
    _refuse(frames, far > FARTHEST, path, "puts its camera {:.3g} from the origin; correct or remove the frame", far)
    distance = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    usual = float(np.median(distance))
    if usual > 0:
        times = distance / usual
        problem = "puts its camera {:.3g} times as far from the others as is usual; correct or remove the frame"
        _refuse(frames, times > OUTLIER, path, problem, times)


def _refuse(
    frames: Sequence[Frame], wrong: np.ndarray, path: Path, problem: str, value: np.ndarray | None = None
) -> None:
    if wrong.any():
        i = int(wrong.argmax())
        said = problem if value is None else problem.format(value[i])
        others = f" ({int(wrong.sum())} such frames)" if wrong.sum() > 1 else ""
        raise PeakError(f"{path}: transform_matrix of frame {frames[i].index} ({frames[i].name}) {said}{others}")


def _read_frame(path: Path, index: int, entry: Any, prefix: str) -> Frame:
    name = entry.get("file_path") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not PurePosixPath(name).name:
        raise PeakError(f"{path}: frame {index} has no file_path; add the path of its image")
    for key in ("file_path", "mask_path"):
        if isinstance(entry.get(key), str) and not can_be_path(entry[key]):
            raise PeakError(f"{path}: {key} of frame {index} ({name[:60]}...) is no name of a file; correct it")
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
    if pose.shape == (4, 4) and (pose[3, :3].any() or pose[3, 3] not in (0, 1)):
        last = ", ".join(f"{value:g}" for value in pose[3])
        turned = "; its rows may be its columns" if pose[3, :3].any() and not pose[:3, 3].any() else ""
        raise PeakError(
            f"{path}: the last row of transform_matrix of frame {index} ({name}) is {last}, not 0, 0, 0, 1{turned}; "
            f"export the poses again as camera-to-world matrices"
        )
    if prefix:
        entry = {**entry, **{key: prefix + str(entry[key]) for key in ("file_path", "mask_path") if entry.get(key)}}
    return Frame(prefix + name.replace("\\", "/"), np.vstack([pose[:3], np.eye(4)[3:]]), entry, index)


def number(
    scene_file: SceneFile, frame: Frame | None, key: str, low: float = -math.inf, high: float = math.inf
) -> float | None:
    """The frame's value of `key`, or else the file's, or None; it must lie strictly between `low` and `high`."""
    value = scene_file.values.get(key) if frame is None else frame.values.get(key, scene_file.values.get(key))
    if value is None:
        return None
    finite = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not finite or not low < value < high:
        allowed = f"between {low:g} and {high:g}" if math.isfinite(high) else ("above 0" if low == 0 else "finite")
        where = "" if frame is None else f" of {frame.name}"
        raise PeakError(f"{scene_file.path}: {key}{where} is {_shown(value)}; give a number {allowed}")
    return float(value)


def can_be_path(name: str) -> bool:
    """Whether a file may be called so: it and its parts are short enough, of characters that names may have."""
    try:
        parts = [os.fsencode(part) for part in name.replace("\\", "/").split("/")]
    except UnicodeEncodeError:
        return False
    return "\0" not in name and sum(map(len, parts)) < 3000 and max(map(len, parts)) <= 255


def _shown(value: Any) -> str:
    """As the file has it, or its beginning."""
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 1024 else "a number of hundreds of digits"
    return text if len(text) <= 60 else f"{text[:60]}..."


def number_array(value: Any) -> np.ndarray | None:
    """`value` as a float64 array, or None when it is ragged or not made of numbers."""
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
