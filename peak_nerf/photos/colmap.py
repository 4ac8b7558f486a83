"""The workspace of a capture: features, matches and tracks by pycolmap, with progress, and the same in every run.

One database holds what was found so far; what is in it is not computed again, so an interrupted run goes on where it
stopped. Images have their ids by the digest of their pixels: the same photos give the same poses in whatever order
and under whatever names they come. Everything runs on one core or, where the sum does not depend on it, on all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.nerf.data.colmap import SEED
from peak_nerf.photos.calls import check_space, load, run, stopped
from peak_nerf.photos.global_mapping import map_globally
from peak_nerf.photos.model import Photo

PAIRS_AT_ONCE = 40
BYTES_OF_FEATURE = 2 * (128 + 6 * 4)
"""In the database and its journal: descriptor and keypoint."""
BYTES_OF_MATCH = 2 * (8 + 8)
"""Of a match, before and after verification."""
SMALL = 1000
"""Longer side in pixels of small pictures, in which half a pixel, by which SIFT errs, is much."""
STILL = 4.0
"""Pixels by which a match must move to have moved."""
STATIC = 0.25
"""Fraction of a pair's matches; where so many stand still, a camera stood still before a turntable."""
OnProgress = Callable[[int, int], None]
Pair = tuple[int, int]
"""Ids of two images, the smaller one first."""


@dataclass(frozen=True)
class Search:
    """How features are found and compared."""

    max_features: int = 8192
    peak_threshold: float = 0.0067
    """Contrast that a feature must have."""
    max_ratio: float = 0.8
    """Of distances to the nearest and the second nearest descriptor, for a match."""
    upsampled: bool | None = None
    """Whether pictures are doubled first, for finer features at four times the cost; None doubles small ones."""
    guided: bool = False
    """Whether matches are searched for once more along epipolar lines."""
    ignore_static: bool = False
    """Leave out matches that do not move between pictures: the background of a turntable."""


class Workspace:
    """The database of one capture, next to the copies of its pictures."""

    def __init__(self, scene: Path, photos: Sequence[Photo], search: Search, name: str = "database") -> None:
        """Open the database `scene/NAME.db`, or begin it: photos that have a copy, each with its camera.

        A prior focal length comes from a copy's EXIF data.
        """
        self.colmap = load()
        self.images = scene / "images"
        self.masks = scene / f"{name}_masks"
        self.path = scene / f"{name}.db"
        self.search = search
        self.photos = sorted((photo for photo in photos if photo.state == "used" and photo.file), key=_by_content)
        self.ids = {image_name(photo): i for i, photo in enumerate(self.photos, start=1)}
        self.names = {i: name for name, i in self.ids.items()}
        with self.open() as database:
            if database.num_images() != len(self.ids):  # new, or interrupted while it was begun
                with self.colmap.DatabaseTransaction(database):
                    self._begin(database)

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        """The database itself; closed afterwards, whatever happens."""
        check_space(self.path, 0)
        try:
            database = self.colmap.Database.open(self.path)
        except Exception as error:  # SQLite's errors, as pycolmap raises them
            raise stopped(error, self.path) from error
        try:
            yield database
        except (ValueError, RuntimeError) as error:
            raise stopped(error, self.path) from error
        finally:
            database.close()

    def _begin(self, database: Any) -> None:
        """Each camera is a rig of its own, each image a frame of its rig: so COLMAP wants it since 3.12."""
        colmap, cameras = self.colmap, dict[str, tuple[int, int]]()
        database.clear_all_tables()
        for photo in self.photos:
            if photo.camera not in cameras:
                camera = self._camera(photo)
                camera.camera_id = database.write_camera(camera)
                rig = colmap.Rig()
                rig.add_ref_sensor(camera.sensor_id)
                cameras[photo.camera] = camera.camera_id, database.write_rig(rig)
            camera_id, rig_id = cameras[photo.camera]
            name = image_name(photo)
            image = colmap.Image(name=name, camera_id=camera_id, image_id=self.ids[name])
            database.write_image(image, use_image_id=True)
            frame = colmap.Frame()
            frame.rig_id = rig_id
            frame.add_data_id(image.data_id)
            database.write_frame(frame)

    def _camera(self, photo: Photo) -> Any:
        options = self.colmap.ImageReaderOptions()
        options.camera_model = "SIMPLE_RADIAL"
        return self.colmap.infer_camera_from_image(self.images / image_name(photo), options)

    # ---------------------------------------------------------------------------------------------------- features

    def find_features(self, on_progress: OnProgress) -> None:
        """Features of all images that have none yet."""
        options = self.colmap.FeatureExtractionOptions()
        options.sift.max_num_features = self.search.max_features
        options.sift.peak_threshold = self.search.peak_threshold
        if self.search.upsampled is None:
            upsampled = sorted(max(photo.size) for photo in self.photos)[len(self.photos) // 2] < SMALL
        else:
            upsampled = self.search.upsampled
        options.sift.first_octave = -1 if upsampled else 0
        reader = self.colmap.ImageReaderOptions()
        if self._link_masks():
            reader.mask_path = self.masks
        with self.open() as database:
            todo = [name for name, i in self.ids.items() if not database.exists_keypoints(i)]
        done, at_once = len(self.ids) - len(todo), os.cpu_count() or 1
        on_progress(done, len(self.ids))
        for begin in range(0, len(todo), at_once):
            batch = todo[begin : begin + at_once]
            check_space(self.path, len(batch) * self.search.max_features * BYTES_OF_FEATURE)
            run(
                self.colmap.extract_features,
                self.path,
                self.images,
                image_names=batch,
                reader_options=reader,
                extraction_options=options,
            )
            on_progress(done + begin + len(batch), len(self.ids))

    def _link_masks(self) -> bool:
        """Lay the masks where COLMAP looks for them: a folder of NAME.png for the image NAME."""
        masked = [photo for photo in self.photos if photo.mask]
        for photo in masked:
            target = self.masks / f"{image_name(photo)}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.images.parent / str(photo.mask), target)
        return bool(masked)

    def descriptors(self, i: int) -> Any:
        """Of image i, (n, 128) uint8."""
        with self.open() as database:
            return database.read_descriptors(i).data

    # ----------------------------------------------------------------------------------------------------- matches

    def match(self, pairs: Sequence[Pair], on_progress: OnProgress) -> None:
        """Match and verify those of the pairs that were not yet."""
        options = self.colmap.FeatureMatchingOptions()
        options.guided_matching = self.search.guided
        options.sift.max_ratio = self.search.max_ratio
        geometry = self.colmap.TwoViewGeometryOptions()
        geometry.ransac.random_seed = SEED
        geometry.filter_stationary_matches = self.search.ignore_static
        with self.open() as database:
            todo = [pair for pair in pairs if not database.exists_two_view_geometry(*pair)]
        done, listed = len(pairs) - len(todo), self.path.with_suffix(".pairs")
        on_progress(done, len(pairs))
        for begin in range(0, len(todo), PAIRS_AT_ONCE):
            batch = todo[begin : begin + PAIRS_AT_ONCE]
            check_space(self.path, len(batch) * self.search.max_features * BYTES_OF_MATCH)
            listed.write_text("".join(f"{self.names[a]} {self.names[b]}\n" for a, b in batch), encoding="utf-8")
            pairing = self.colmap.ImportedPairingOptions()
            pairing.match_list_path = listed
            run(
                self.colmap.match_image_pairs,
                self.path,
                matching_options=options,
                pairing_options=pairing,
                verification_options=geometry,
            )
            on_progress(done + begin + len(batch), len(pairs))
        listed.unlink(missing_ok=True)

    def verified_pairs(self) -> dict[Pair, Any]:
        """The two-view geometries with enough inliers to count, by pair."""
        with self.open() as database:
            ids, geometries = database.read_two_view_geometries()
        found = {}
        for pair_id, geometry in zip(ids, geometries, strict=True):
            a, b = self.colmap.pair_id_to_image_pair(pair_id)
            if len(geometry.inlier_matches):
                found[min(a, b), max(a, b)] = geometry
        return found

    def static_pairs(self) -> float:
        """Fraction of the verified pairs in which much does not move: at least `STATIC` of the matches."""
        with self.open() as database:
            places = {i: np.asarray(database.read_keypoints(i))[:, :2] for i in self.names}
        static = []
        for (a, b), geometry in self.verified_pairs().items():
            matches = np.asarray(geometry.inlier_matches)
            moved = np.linalg.norm(places[a][matches[:, 0]] - places[b][matches[:, 1]], axis=1)
            static.append((moved < STILL).mean() > STATIC)
        return float(np.mean(static)) if static else 0.0

    def without_static(self, on_progress: OnProgress) -> Workspace:
        """The same features and matches in a database of its own, verified again without what does not move."""
        copy = self.path.with_name("static.db")
        if not copy.exists():
            begun = copy.with_suffix(".begun")
            shutil.copyfile(self.path, begun)
            database = self.colmap.Database.open(begun)
            database.clear_two_view_geometries()
            database.close()
            begun.replace(copy)
        pairs = sorted(self.verified_pairs())
        moving = Workspace(self.images.parent, self.photos, replace(self.search, ignore_static=True), "static")
        moving.match(pairs, on_progress)
        return moving

    # ----------------------------------------------------------------------------------------------------- mapping

    def map(self, settings: Mapping[str, Any], out: Path, on_progress: OnProgress) -> list[Any]:
        """Incremental mapping; the models it gives, the one with most images first.

        settings: options of the mapper by their dotted names, such as {"mapper.init_min_tri_angle": 4.0}.
        """
        options = self.colmap.IncrementalPipelineOptions()
        options.min_model_size = 3
        options.num_threads = 1  # the sums of several threads differ from run to run
        options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = SEED
        options.image_path = self.images
        for name, value in settings.items():
            *parents, last = name.split(".")
            target = options
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, last, value)
        registered = 0

        def one_more(n: int = 1) -> None:
            nonlocal registered
            registered = min(registered + n, len(self.ids))
            on_progress(registered, len(self.ids))

        on_progress(0, len(self.ids))
        with _emptied(out):
            models = run(
                self.colmap.incremental_mapping,
                self.path,
                self.images,
                out,
                options=options,
                initial_image_pair_callback=lambda: one_more(2),
                next_image_callback=one_more,
            )
        return _largest_first(models.values())

    def map_globally(self, out: Path) -> list[Any]:
        """Global mapping (GLOMAP); the models it gives, the one with most images first."""
        with _emptied(out):
            models = map_globally(self.path, self.images, out)
        return _largest_first(models)


def image_name(photo: Photo) -> str:
    """A copy's name within images/, which is what COLMAP calls it."""
    return str(photo.file).removeprefix("images/")


def _by_content(photo: Photo) -> tuple[str, str]:
    return photo.digest, photo.name


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """A folder for what COLMAP writes and nobody reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _largest_first(models: Iterable[Any]) -> list[Any]:
    return sorted(models, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
