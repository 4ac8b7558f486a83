"""A COLMAP model as if a transforms file said it: frames, lenses, and the sparse points with who saw them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.colmap import OURS, PICTURES, Z_UP, model_folder, pose_of, read_model, sightings
from peak_nerf.nerf.data.observations import Observations
from peak_nerf.nerf.data.transforms_file import Say, SceneFile, scene_file_of

SUFFIXES = ("bin", "txt")


def find_colmap(folder: Path, say: Say) -> tuple[Path, Path] | None:
    """The scene's folder, by which names of pictures are given, and that of its model; None where there is no model.

    Raises: PeakError when the model cannot be read, or has no pose, or none of its pictures is found.
    """
    model = model_folder(folder)
    if model is None:
        return None
    others = [path.name for path in sorted(model.parent.iterdir()) if path != model and model_folder(path) == path]
    if model.name.isdigit() and others:
        say(f"{model.parent} holds {len(others) + 1} models: using {model.name}; pass --data one's folder to choose")
    names = [frame["file_path"] for frame in _contents(model)[0]]
    place = _pictures(folder, model, names)
    return (place.parent if place.name in PICTURES else place), model


def colmap_scene(model: Path, scene: Path, say: Say) -> SceneFile:
    """The model in this folder, with names as they are from the folder `scene` on."""
    entries, observed = _contents(model)
    place = _pictures(scene, model, [entry["file_path"] for entry in entries])
    prefix = "" if place == scene else place.relative_to(scene).as_posix() + "/"
    scene_file = scene_file_of(model, {"applied_transform": Z_UP}, entries, True, say, prefix)
    if observed is None:
        return scene_file
    named = {**observed, "image_names": np.array([prefix + entry["file_path"] for entry in entries])}
    return SceneFile(scene_file.path, scene_file.values, scene_file.frames, Observations(**named))


def _pictures(folder: Path, model: Path, names: list[str]) -> Path:
    """The folder that holds the pictures of most of these names."""
    above = [folder, model, *list(model.parents)[:3]]
    places = [root / name for root in above for name in PICTURES]
    places = [place for place in dict.fromkeys(places) if place.is_dir()]
    counts = [sum((place / name).is_file() for name in names) for place in places]
    if max(counts) == 0:
        raise PeakError(
            f"{model}: none of the model's {len(names)} pictures is there ({names[0]}); put them into "
            f"{folder / 'images'}"
        )
    return places[counts.index(max(counts))]


def _contents(model: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray] | None]:
    files = [model / f"{name}.{suffix}" for name in ("cameras", "images", "points3D") for suffix in SUFFIXES]
    return _read(model.resolve(), tuple(path.stat().st_mtime_ns for path in files if path.is_file()))


@lru_cache(maxsize=2)
def _read(model: Path, changed: tuple[int, ...]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray] | None]:
    """Frames as in transforms.json, and arrays of `Observations`. `changed` tells files from those of before.

    A data parser asks for the same model a dozen times.
    """
    reconstruction = read_model(model, "a scene of COLMAP")
    images = [reconstruction.image(i) for i in reconstruction.reg_image_ids()]
    if not images:
        raise PeakError(f"{model}: no image of the model has a pose; run colmap mapper again")
    images.sort(key=lambda image: image.name)
    entries = []
    for image in images:
        camera = reconstruction.cameras[image.camera_id]
        lens = dict(zip(OURS.get(camera.model_name, "").split(), map(float, camera.params), strict=False))
        f = lens.pop("f", None)
        f_x, f_y = lens.pop("fx", f), lens.pop("fy", f)
        lens = {**lens, "camera_model": camera.model_name, "w": float(camera.width), "h": float(camera.height)}
        if f_x is not None and f_y is not None:
            lens |= {"fl_x": f_x, "fl_y": f_y}
        entries.append({"file_path": image.name, "transform_matrix": pose_of(image), **lens})
    return entries, _observations(reconstruction, images, entries)


def _observations(model: Any, images: list[Any], entries: list[dict[str, Any]]) -> dict[str, np.ndarray] | None:
    points = [point for _, point in sorted(model.points3D.items())]
    table = sightings(points, images)
    if not len(table):
        return None
    point_index, image_index = table[:, 0].astype(np.int32), table[:, 1].astype(np.int32)
    xyz = np.array([point.xyz for point in points], float)
    world = xyz @ Z_UP[:, :3].T
    poses = np.stack([entry["transform_matrix"] for entry in entries])[image_index]
    depths = -((world[point_index] - poses[:, :3, 3]) * poses[:, :3, 2]).sum(1)
    mean_errors = np.array([max(point.error, 0.0) for point in points])
    return {
        "points": world,
        "colors": np.array([point.color for point in points], np.uint8),
        "errors": mean_errors.astype(np.float32),
        "image_index": image_index,
        "point_index": point_index,
        "pixels": table[:, 2:].astype(np.float32),
        # COLMAP keeps a point's mean error alone.
        "pixel_errors": mean_errors[point_index].astype(np.float32),
        "depths": depths.astype(np.float32),
    }
