"""What others have posed: COLMAP's models as they are, and LLFF's poses with points triangulated from them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images.photo import list_pictures, read_photo
from peak_nerf.images.sharpness import sharpness
from peak_nerf.nerf.data import llff
from peak_nerf.nerf.data.colmap import TO_OPENGL, model_folder, read_model
from peak_nerf.photos import copies
from peak_nerf.photos.calls import run
from peak_nerf.photos.colmap import OnProgress, Search, Workspace, image_name
from peak_nerf.photos.convert import intrinsics_of
from peak_nerf.photos.mapping import tracks_settings
from peak_nerf.photos.model import Photo
from peak_nerf.photos.pairs import choose_pairs

Kind = Literal["photos", "video", "colmap", "llff"]
SCENES = ("transforms.json", "transforms_train.json")


@dataclass(frozen=True)
class Imported:
    """Poses of others, and the photos that have one."""

    photos: list[Photo]
    model: Any
    """pycolmap's Reconstruction, whose images are named as the copies within images/."""
    how: list[str]


def kind_of(source: Path) -> Kind:
    """What a source is. Raises: PeakError when it is a scene already, or is not there."""
    if not source.exists():
        raise PeakError(f"{source}: no such folder or video")
    if source.is_file():
        return "video"
    scene = next((name for name in SCENES if (source / name).is_file()), None)
    if scene is not None:
        raise PeakError(
            f"{source}: has poses already ({scene}): ns-train peak --data {source}; to find them anew, name the "
            f"folder of its pictures"
        )
    if model_folder(source) is not None:
        return "colmap"
    return "llff" if (source / llff.NAME).is_file() else "photos"


# ---------------------------------------------------------------------------------------------------------- COLMAP


def import_colmap(source: Path, scene: Path, max_size: int, on_progress: OnProgress) -> Imported:
    """A COLMAP model and its pictures.

    Raises: PeakError when the model cannot be read, has a lens that nerfstudio has not, or no picture of it is found.
    """
    folder = model_folder(source)
    assert folder is not None  # `kind_of` has found it
    model = read_model(folder)
    if len({intrinsics_of(camera, folder).model for camera in model.cameras.values()}) > 1:
        raise PeakError(
            f"{folder}: has cameras of ordinary and of fisheye lenses, which a nerfstudio scene cannot hold together; "
            f"import a model with one kind"
        )
    images = {image.name: image for image in model.images.values()}
    place, pictures = _pictures_of(source, folder, images)
    names = sorted(pictures)
    photos, done = [], 0
    for name, copy in zip(names, copies.copy_names(names), strict=True):
        image = images[name]
        camera = model.cameras[image.camera_id]
        photo = _copied(name, copy, pictures[name], scene, (camera.width, camera.height), max_size)
        photo.camera = f"camera {image.camera_id}"
        if not image.has_pose:
            photo.state, photo.reason = "left out", "no pose in the model"
        photos.append(photo)
        on_progress(done := done + 1, len(names))
    posed = [photo for photo in photos if photo.state == "used"]
    if len(posed) < 2:
        raise PeakError(f"{folder}: {len(posed)} of {len(photos)} pictures have a pose; import a model with more")
    _rename(model, {photo.name: image_name(photo) for photo in photos}, photos)
    _finish(scene, photos)
    if place.name == "images":
        others = {path.relative_to(place).as_posix() for path in list_pictures(place)} - images.keys()
        photos += [Photo(name, state="left out", reason="not in the model") for name in sorted(others)]
    missing = len(images) - len(pictures)
    lost = f"; {missing} whose pictures are not there" if missing else ""
    return Imported(photos, model, [f"poses of the COLMAP model {folder}: {len(posed)} pictures{lost}"])


def _pictures_of(source: Path, folder: Path, names: Iterable[str]) -> tuple[Path, dict[str, Path]]:
    """The folder that holds most of the pictures of these names, and which of them it holds."""
    names = list(names)
    places = [source / "images", source, folder / "images", *(parent / "images" for parent in list(folder.parents)[:3])]
    found = [(place, {name: place / name for name in names if (place / name).is_file()}) for place in places]
    best = max(found, key=lambda one: len(one[1]))
    if not best[1]:
        raise PeakError(
            f"{source}: none of the model's {len(names)} pictures is there ({names[0] if names else 'it names none'}); "
            f"put them into {source / 'images'}"
        )
    return best


def _rename(model: Any, names: dict[str, str], photos: list[Photo]) -> None:
    """Names as the copies have them; lenses for the sizes of the copies; no images without a copy."""
    sizes = {photo.name: photo.size for photo in photos}
    for image in list(model.images.values()):
        if image.name in names:
            continue
        if image.has_pose:
            model.deregister_frame(image.frame_id)
    resized: dict[int, tuple[int, int]] = {}
    for image in model.images.values():
        if image.name not in names:
            continue
        camera, size = model.cameras[image.camera_id], sizes[image.name]
        before = (camera.width, camera.height)
        factor = np.array(size, float) / np.array(resized.setdefault(image.camera_id, before), float)
        if size != before:
            camera.rescale(new_width=size[0], new_height=size[1])
        for point in image.points2D:
            point.xy = np.asarray(point.xy).ravel() * factor
        image.name = names[image.name]
    model.update_point_3d_errors()  # in pixels of the copies


# ------------------------------------------------------------------------------------------------------------ LLFF


def import_llff(source: Path, scene: Path, max_size: int, on_progress: OnProgress) -> Imported:
    """LLFF's poses; points from features that are matched and triangulated with the poses as they are.

    The pictures are those of `images`, or of the largest copies that there are.
    """
    path = source / llff.NAME
    poses, sizes, _ = llff.read_poses_bounds(path)
    folders = llff.picture_folders(source)
    if not folders:
        raise PeakError(f"{source}: {llff.NAME} has no pictures beside it; put them into images, or images_4")
    folder = next(iter(folders.values()))
    files = llff.pictures(folder)
    if len(files) != len(poses):
        raise PeakError(f"{path}: has {len(poses)} rows but {folder} has {len(files)} pictures; they belong together")
    names, photos = [file.name for file in files], []
    for i, (file, copy) in enumerate(zip(files, copies.copy_names(names), strict=True)):
        photo = _copied(file.name, copy, file, scene, None, max_size)
        photo.camera = f"{tuple(sizes[i])}, {photo.size}"
        photos.append(photo)
        on_progress(i + 1, len(files))
    _finish(scene, photos)
    work = Workspace(scene, photos, Search())
    given = {image_name(photo): (pose, size) for photo, pose, size in zip(photos, poses, sizes, strict=True)}
    _set_lenses(work, {name: float(size[2] / size[1]) for name, (_, size) in given.items()})
    work.find_features(on_progress)
    pairs, how = choose_pairs("auto", len(photos), False, lambda: [work.descriptors(i) for i in work.names])
    work.match([(a + 1, b + 1) for a, b in pairs], on_progress)
    model = _with_poses(work, {name: pose for name, (pose, _) in given.items()})
    options = work.colmap.IncrementalPipelineOptions()
    for name, value in tracks_settings(max(photos[0].size)).items():
        part, last = name.split(".")
        setattr(getattr(options, part), last, value)
    options.num_threads = 1
    options.random_seed = options.triangulation.random_seed = 0
    out = scene / "mapping"
    out.mkdir(exist_ok=True)
    model = run(work.colmap.triangulate_points, model, work.path, work.images, out, options=options)
    return Imported(photos, model, [f"poses of {path}", f"points triangulated from them: {how}"])


def _set_lenses(work: Workspace, focal: dict[str, float]) -> None:
    """Make the database's cameras pinholes with given focal lengths, by image and as fractions of the width."""
    with work.open() as database:
        for image in database.read_all_images():
            camera = database.read_camera(image.camera_id)
            pinhole = work.colmap.Camera.create_from_model_name(
                camera.camera_id, "SIMPLE_PINHOLE", focal[image.name] * camera.width, camera.width, camera.height
            )
            pinhole.has_prior_focal_length = True
            database.update_camera(pinhole)


def _with_poses(work: Workspace, given: dict[str, np.ndarray]) -> Any:
    """A Reconstruction of the database's images with given poses c2w (4, 4), and without points."""
    colmap = work.colmap
    model = colmap.Reconstruction()
    with work.open() as database:
        images, cameras = database.read_all_images(), {c.camera_id: c for c in database.read_all_cameras()}
    for image in sorted(images, key=lambda image: image.image_id):
        if not model.exists_camera(image.camera_id):
            model.add_camera_with_trivial_rig(cameras[image.camera_id])
        from_world = np.linalg.inv(given[image.name] @ TO_OPENGL)
        motion = colmap.Rigid3d(colmap.Rotation3d(from_world[:3, :3]), from_world[:3, 3])
        posed = colmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
        model.add_image_with_trivial_frame(posed, motion)
    return model


# -------------------------------------------------------------------------------------------------------- pictures


def _copied(name: str, copy: str, path: Path, scene: Path, expected: tuple[int, int] | None, max_size: int) -> Photo:
    """The photo with its copy written: upright, or as it lies in its file where the poses were made for that.

    expected: width and height that the poses are for; None for whatever it is.
    """
    file = read_photo(path)
    if expected is not None and file.size != expected == file.size[::-1]:
        file = read_photo(path, as_stored=True)
    if expected is not None and abs(file.size[0] * expected[1] - file.size[1] * expected[0]) > 0.01 * math.prod(
        expected
    ):
        raise PeakError(
            f"{path}: is {file.size[0]} x {file.size[1]} but the model's camera {expected[0]} x {expected[1]}; "
            f"give the pictures that the model was made from"
        )
    size = copies.size_within(file.size, max_size)
    rgb, alpha = copies.resized(file.rgb, file.alpha, size)
    photo = Photo(name, size=size, sharpness=sharpness(rgb), digest=copy, converted=file.converted)
    photo.file = copies.write_copy(scene, copy, rgb, alpha, file)
    return photo


def _finish(scene: Path, photos: list[Photo]) -> None:
    factors = copies.smaller_factors([photo.size for photo in photos])
    for photo in photos:
        if photo.state == "used":
            copies.write_smaller(scene, str(photo.file), None, factors)
