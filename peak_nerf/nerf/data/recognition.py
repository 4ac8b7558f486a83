"""What a folder without a transforms file of its own holds: halves of a scene, scenes of other tools, pictures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from peak_nerf.errors import PeakError

HALVES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test", "eval")}
"""How the names of folders with a split of their own end."""
NAMES = ("transforms_{split}.json", "transforms.json", "transforms_train.json")
PICTURES = ("images", "image", "rgb", "color", "colors", "input", "train/rgb", "rgb/1x", "keyframes/images")
"""Where other tools have their pictures."""
FEWEST = 2


def halves(folder: Path) -> dict[str, Path]:
    """The transforms file of each split where splits have folders of their own, such as 8_train and 8_test.

    Empty where there is no train folder, or no other; the folders' names differ in the split alone.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        match = re.fullmatch(r"(.*?[_\- ]?)([A-Za-z]+)", path.name)
        split = next((split for split, ends in HALVES.items() if match and match[2].lower() in ends), None)
        file = next((path / n.format(split=split) for n in NAMES if (path / n.format(split=split)).is_file()), None)
        if match and split and file:
            found.setdefault(match[1], {}).setdefault(split, file)
    whole = next((files for files in found.values() if "train" in files and len(files) > 1), {})
    return {split: whole[split] for split in HALVES if split in whole}


def _has(*patterns: str) -> Callable[[Path], bool]:
    return lambda folder: all(next(folder.glob(pattern), None) is not None for pattern in patterns)


FOREIGN: tuple[tuple[str, Callable[[Path], bool], str], ...] = (
    ("cameras.npz of IDR and NeuS", _has("cameras*.npz"), ""),
    ("meta_data.json of SDFStudio", _has("meta_data.json"), ""),
    ("cameras of Polycam", _has("keyframes/*cameras"), "ns-process-data polycam --data {} --output-dir SCENE"),
    (
        "metadata.json of Record3D",
        _has("metadata.json", "rgb"),
        "ns-process-data record3d --data {} --output-dir SCENE",
    ),
    ("dataset.json of Nerfies", _has("dataset.json", "camera"), ""),
    ("cameras of ScanNet", _has("pose", "intrinsic"), ""),
    ("intrinsics and poses of NeRF++ or NSVF", _has("intrinsics*"), ""),
    ("train folders of NeRF++", _has("train/intrinsics"), ""),
    ("cameras of MVSNet", _has("cams"), ""),
    ("reconstruction.json of OpenSfM", _has("reconstruction.json"), ""),
    ("sfm_data of OpenMVG", _has("sfm_data.*"), ""),
    ("cameras of Bundler", _has("bundle*.out"), ""),
    ("a database of COLMAP without a model", _has("database.db"), ""),
    ("cameras of Metashape", _has("*.xml"), ""),
)
"""What others' folders are known by, and the command that converts them where there is one but ours, which finds poses
anew."""


def foreign_scene(folder: Path) -> str | None:
    """What a folder holds and the command that makes a scene of it, to end a sentence; None for nothing known."""
    pictures = next((folder / name for name in PICTURES if _count(folder / name) >= FEWEST), None)
    if pictures is None and _count(folder) >= FEWEST:
        pictures = folder
    name, command = next(((name, command) for name, known, command in FOREIGN if known(folder)), ("", ""))
    if not name and pictures is not None:
        name = f"pictures ({'here' if pictures == folder else pictures.name})"
    if not name:
        return None
    if command:
        return f"{name}; convert it: {command.format(shlex.quote(str(folder)))}"
    if pictures is None:
        return f"{name}, and no pictures; pass --data a Blender, nerfstudio, COLMAP or LLFF scene"
    poses = "find their poses" if name.startswith("pictures") else "its format is not read; find the poses anew"
    return f"{name}; {poses}: peak photos {shlex.quote(str(pictures))} --out SCENE, then --data SCENE"


def _count(folder: Path) -> int:
    """Of pictures, in subfolders too, but for those of a folder's own folders that are pictures' by name."""
    from peak_nerf.images.photo import list_pictures

    return sum(path.parent == folder for path in list_pictures(folder)) if folder.is_dir() else 0


def check_smaller(folder: Path, name: str, capture: bool, factor: int) -> None:
    """Whether there are pictures shrunk by `factor` for the frame of this name. Raises: PeakError, which names those
    that there are."""
    own = (folder / name).parent
    bases = (folder / "images", own) if capture else (own,)
    folders = [base.with_name(f"{base.name}_{factor}") for base in bases]
    if any(path.is_dir() for path in folders):
        return
    found = {
        int(match[1])
        for base in bases
        if base.parent.is_dir()
        for path in base.parent.iterdir()
        if (match := re.fullmatch(re.escape(base.name) + r"_([1-9]\d*)", path.name)) and path.is_dir()
    }
    remedies = [f"use --downscale-factor {n}" for n in sorted(found)]
    if any(base.is_dir() for base in bases):
        remedies.append("leave the option out")
    raise PeakError(
        f"{folders[0]}: no such folder, but --downscale-factor {factor} reads the smaller images there; "
        f"{', or '.join(remedies) or f'restore {own}'}"
    )
