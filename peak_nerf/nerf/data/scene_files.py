"""A scene's files: which file describes which split, and its frames.

What a user can get wrong in a data folder is caught here and raised as a one-line `PeakError`.
"""

import re
from pathlib import Path, PurePosixPath

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import llff
from peak_nerf.nerf.data.colmap_scene import colmap_scene, find_colmap
from peak_nerf.nerf.data.picture_paths import image_path
from peak_nerf.nerf.data.recognition import check_smaller, foreign_scene, halves
from peak_nerf.nerf.data.transforms_file import Say, Scene, SceneFile, read_scene_file, scene_file_of

SPLITS = ("train", "val", "test")
NAMES = ("transforms_train.json", "transforms.json", llff.NAME)


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
