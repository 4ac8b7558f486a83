"""From verified pairs to poses: incremental mapping first, looser settings when pictures stay out, then the global
mapper; the lens is refined as far as the tracks determine it; what cannot be true is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.photos.calls import load, run
from peak_nerf.photos.colmap import SMALL, OnProgress, Pair, Search, Workspace
from peak_nerf.photos.keypoints import refine_keypoints

REFERENCE_SIDE = 1600.0
"""Longer side in pixels at which COLMAP's threshold of 4 px for a track is right; smaller ones have less."""
LEAST_ERROR = 2.0
FAR = 0.5
"""Degrees between the rays to a point: far points, which COLMAP leaves out below 1.5, hold the rotations."""
LOOSE = {
    "min_num_matches": 10,
    "mapper.init_min_num_inliers": 30,
    "mapper.init_min_tri_angle": 4.0,
    "mapper.abs_pose_min_num_inliers": 12,
    "mapper.abs_pose_min_inlier_ratio": 0.1,
    "mapper.max_reg_trials": 5,
}
"""For pictures with little overlap or little texture."""
DENSE = Search(max_features=12_000, peak_threshold=0.002, max_ratio=0.85, upsampled=True, guided=True)
TURNTABLE = 0.5
"""Fraction of pairs with a background that stands still, above which it is left out."""
GAIN = 0.005
"""A lens with more parameters must make the reprojection error smaller by this fraction."""
ONE_SPOT = 0.01
"""Of the median distance to the points: cameras that lie closer together than this have seen no parallax."""
FEWEST_POINTS, FEWEST_BY_FAINT, FEWEST_GLOBALLY = 12, 20, 40
"""A picture that sees fewer points than this has no pose to speak of. Faint features and the global mapper place
pictures wrongly more often, and those see few points."""
MOST_ITERATIONS = 40
"""Of a bundle adjustment of `refine_lens`; where a capture says little about its lens it would go on for minutes."""


class NoPoses(PeakError):
    """The pictures do not say where they were taken from; the message says why, without naming their folder."""


@dataclass
class Mapped:
    """The model that was chosen, and how it came about."""

    model: Any
    """pycolmap's Reconstruction."""
    how: list[str] = field(default_factory=list)
    """What was done, in words."""
    notes: list[str] = field(default_factory=list)
    """What the user should know."""
    others: list[list[str]] = field(default_factory=list)
    """Names of the images of other scenes in the same folder, each with at least three."""


def tracks_settings(longer_side: int) -> dict[str, Any]:
    """Thresholds for tracks in pixels, for pictures of this size: 4 px at `REFERENCE_SIDE`, at least `LEAST_ERROR`."""
    limit = min(4.0, max(LEAST_ERROR, 4.0 * longer_side / REFERENCE_SIDE))
    return {
        "mapper.filter_max_reproj_error": limit,
        "triangulation.merge_max_reproj_error": limit,
        "triangulation.complete_max_reproj_error": limit,
        "mapper.filter_min_tri_angle": FAR,
        "triangulation.min_angle": FAR,
    }


class Mapper:
    """Tries one way after the other until all pictures have a pose, and keeps the best."""

    def __init__(self, work: Workspace, scene: Path, pairs: Sequence[Pair], on_progress: OnProgress) -> None:
        self.work, self.scene, self.pairs, self.on_progress = work, scene, pairs, on_progress
        self.longer_side = sorted(max(photo.size) for photo in work.photos)[len(work.photos) // 2]
        self.tracks = tracks_settings(self.longer_side)
        self.best: Mapped | None = None
        self.how: list[str] = []
        self.notes: list[str] = []

    def map(self, say: Callable[[str], None]) -> Mapped:
        """The best model. Raises: NoPoses where there is none, saying why."""
        self._ignore_static_background(say)
        self._try("incremental mapping", self.work, {}, say)
        if self.best is None and self._only_turned():
            raise NoPoses(ALL_FROM_ONE_SPOT)  # looser settings would find depth where there is none
        if self._missing() and self._connected(self.work):
            self._try("incremental mapping with looser settings", self.work, LOOSE, say)
        if self._missing() and not self._belongs_to_others():
            self._more_features(say)
        if self.best is None:
            raise NoPoses(self._why_not())
        if is_one_spot(self.best.model):
            raise NoPoses(ALL_FROM_ONE_SPOT)
        self._refine(self.best, say)
        return self.best

    def _ignore_static_background(self, say: Callable[[str], None]) -> None:
        if self.work.static_pairs() > TURNTABLE:
            self.work = self.work.without_static(self.on_progress)
            self.notes.append(
                "The background does not move with the subject, as on a turntable. Poses are of the subject; give "
                "--masks, or pictures with a transparent background, so that training leaves the background out."
            )
            say("the background stands still, as on a turntable: only what moves counts")

    def _refine(self, best: Mapped, say: Callable[[str], None]) -> None:
        colmap = load()
        model = colmap.Reconstruction(best.model)
        if self.longer_side < SMALL:
            moved = refine_keypoints(model, self.work.images)
            if moved > 0:
                self.how.append(f"small pictures: {moved:.0%} of the keypoints moved to where the pictures fit best")
                say(self.how[-1])
        best.model, lens = refine_lens(model)
        say(lens)
        best.how, best.notes = [*self.how, lens], self.notes

    def _more_features(self, say: Callable[[str], None]) -> None:
        """Once more with fainter features and matches along epipolar lines; where that does not help, globally."""
        say(f"{self._missing()} of {len(self.work.ids)} pictures have no pose yet: looking for fainter features")
        search = replace(DENSE, ignore_static=self.work.search.ignore_static)
        dense = Workspace(self.scene, self.work.photos, search, "dense")
        dense.find_features(self.on_progress)
        posed = self._posed()
        verified = self.work.verified_pairs()
        pairs = [(a, b) for a, b in self.pairs if (a, b) in verified or not {a, b} <= posed]
        dense.match(pairs, self.on_progress)
        self._try("fainter features and guided matching", dense, LOOSE, say, FEWEST_BY_FAINT)
        if self._missing() and self._connected(dense):
            self._consider("global mapping", dense.map_globally(self.scene / "mapping"), say, FEWEST_GLOBALLY)

    def _try(
        self,
        how: str,
        work: Workspace,
        settings: dict[str, Any],
        say: Callable[[str], None],
        fewest_points: int = FEWEST_POINTS,
    ) -> None:
        models = work.map({**self.tracks, **settings}, self.scene / "mapping", self.on_progress)
        self._consider(how, models, say, fewest_points)

    def _consider(self, how: str, models: list[Any], say: Callable[[str], None], fewest_points: int) -> None:
        models = [without_weak(model, fewest_points) for model in models]
        models = [model for model in models if model.num_reg_images() >= 3]
        models.sort(key=lambda model: -model.num_reg_images())
        n = models[0].num_reg_images() if models else 0
        self.how.append(f"{how}: {n} of {len(self.work.ids)} pictures have a pose")
        say(self.how[-1])
        if models and (self.best is None or n > self.best.model.num_reg_images()):
            mine = set(registered_names(models[0]))
            others = [sorted(set(registered_names(model)) - mine) for model in models[1:]]
            self.best = Mapped(models[0], others=[names for names in others if len(names) >= 3])

    def _missing(self) -> int:
        return len(self.work.ids) - (self.best.model.num_reg_images() if self.best else 0)

    def _belongs_to_others(self) -> bool:
        """Whether all pictures without a pose make up scenes of their own, which share nothing with the best."""
        if self.best is None or self._connected(self.work):
            return False
        others = {name for names in self.best.others for name in names}
        return others | set(registered_names(self.best.model)) == set(self.work.ids)

    def _connected(self, work: Workspace) -> bool:
        """Whether a picture without a pose shares matches with one that has one; or, without any model, at all."""
        posed = self._posed()
        return any((a in posed) != (b in posed) or not posed for a, b in work.verified_pairs())

    def _posed(self) -> set[int]:
        """Ids of the images that have a pose in the best model so far."""
        return {self.work.ids[name] for name in registered_names(self.best.model)} if self.best else set()

    def _only_turned(self) -> bool:
        """Whether most pairs fit a camera that stood still, as those of pictures of one plane do, too."""
        kinds = self.work.colmap.TwoViewGeometryConfiguration
        flat = {int(kind) for kind in (kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC)}
        geometries = self.work.verified_pairs().values()
        return sum(int(geometry.config) in flat for geometry in geometries) > 0.5 * max(len(geometries), 1)

    def _why_not(self) -> str:
        geometries = self.work.verified_pairs()
        n = len(self.work.ids)
        if not geometries:
            return (
                f"none of the {n} pictures shows what another one shows; take pictures that overlap by two "
                f"thirds, of something with texture"
            )
        return (
            f"{len(geometries)} of {n * (n - 1) // 2} pairs of pictures overlap, too few or too little for "
            f"poses; take more pictures in between, a step apart"
        )


ALL_FROM_ONE_SPOT = (
    "all pictures were taken from one spot, which shows no depth; walk around the subject, or sideways, and take a "
    "picture at every step"
)


def registered_names(model: Any) -> list[str]:
    """Names of the images that have a pose."""
    return [model.image(i).name for i in model.reg_image_ids()]


def without_weak(model: Any, fewest_points: int) -> Any:
    """The model without the pictures that see fewer points than this."""
    for i in list(model.reg_image_ids()):
        if model.image(i).num_points3D < fewest_points:
            model.deregister_frame(model.image(i).frame_id)
    return model


def is_one_spot(model: Any) -> bool:
    """Whether the cameras only turned: their positions lie within `ONE_SPOT` of the median distance to the points."""
    centres = np.array([model.image(i).projection_center() for i in model.reg_image_ids()])
    points = np.array([point.xyz for point in model.points3D.values()])
    if not len(points):
        return True
    middle = np.median(centres, axis=0)
    distance = float(np.median(np.linalg.norm(points - middle, axis=1)))
    return float(np.median(np.linalg.norm(centres - middle, axis=1))) < ONE_SPOT * distance


# ---------------------------------------------------------------------------------------------------------- lenses


def refine_lens(model: Any) -> tuple[Any, str]:
    """The model after a last bundle adjustment, with as many parameters of the lens as the tracks determine.

    From one radial term on (SIMPLE_RADIAL), each step is kept when it lowers the error of reprojection by `GAIN`:
    the principal point; a second radial term (RADIAL); two focal lengths and tangential distortion (OPENCV).
    """
    colmap = load()
    model = _adjusted(colmap.Reconstruction(model), principal_point=False)
    kept, free_centre = ["focal length and one radial term"], False
    for words, lens in (
        ("principal point", None),
        ("second radial term", "RADIAL"),
        ("tangential distortion", "OPENCV"),
    ):
        candidate = colmap.Reconstruction(model)
        if lens is not None:
            for camera in candidate.cameras.values():
                _change_lens(colmap, camera, lens)
        candidate = _adjusted(candidate, principal_point=free_centre or lens is None)
        if _plausible(candidate) and error_of(candidate) < (1 - GAIN) * error_of(model):
            model, free_centre = candidate, free_centre or lens is None
            kept.append(words)
    return model, f"lens: {', '.join(kept)}"


def _adjusted(model: Any, principal_point: bool) -> Any:
    colmap = load()
    options, scope = colmap.BundleAdjustmentOptions(), colmap.BundleAdjustmentConfig()
    options.refine_principal_point = principal_point
    options.print_summary = False
    options.ceres.solver_options.num_threads = 1
    options.ceres.solver_options.max_num_iterations = MOST_ITERATIONS
    options.ceres.solver_options.function_tolerance = 1e-7
    for i in model.reg_image_ids():
        scope.add_image(i)
    scope.fix_gauge(colmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    adjuster = colmap.create_default_bundle_adjuster(options, scope, model)
    run(lambda cancellation_token: adjuster.solve())  # which cannot be cancelled: Ctrl-C waits for its end
    model.update_point_3d_errors()
    return model


def error_of(model: Any) -> float:
    """Root mean square error of reprojection in pixels, of each track's mean weighted by its length."""
    lengths = np.array([point.track.length() for point in model.points3D.values()], float)
    errors = np.array([point.error for point in model.points3D.values()], float)
    return math.sqrt(float((lengths * errors**2).sum() / max(lengths.sum(), 1.0)))


def _change_lens(colmap: Any, camera: Any, lens: str) -> None:
    """The same camera with more parameters, which begin at 0."""
    if camera.model_name not in ("SIMPLE_RADIAL", "RADIAL"):
        return
    f, cx, cy, *k = (float(value) for value in camera.params)
    k = [*k, 0.0][:2]
    camera.model = getattr(colmap.CameraModelId, lens)
    camera.params = [f, cx, cy, *k] if lens == "RADIAL" else [f, f, cx, cy, *k, 0.0, 0.0]


def _plausible(model: Any) -> bool:
    """Whether each lens is one that exists: centre within a tenth of the picture, square pixels, mild distortion."""
    for camera in model.cameras.values():
        off = (camera.principal_point_x / camera.width - 0.5, camera.principal_point_y / camera.height - 0.5)
        ratio = camera.focal_length_x / camera.focal_length_y
        distortion = np.abs([camera.params[i] for i in camera.extra_params_idxs()])
        if max(map(abs, off)) > 0.1 or not 0.95 < ratio < 1.05 or (distortion > 1.0).any():
            return False
    return True
