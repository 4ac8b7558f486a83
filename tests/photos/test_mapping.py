"""Poses against the truth, what repeats, which ways are tried, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from peak_nerf.photos import mapping
from peak_nerf.photos.colmap import Search, Workspace
from peak_nerf.photos.convert import pose_of
from peak_nerf.photos.mapping import (
    ALL_FROM_ONE_SPOT,
    LOOSE,
    Mapper,
    NoPoses,
    error_of,
    is_one_spot,
    refine_lens,
    registered_names,
    tracks_settings,
    without_weak,
)
from peak_nerf.photos.model import Photo
from tests.photos.capture import CORNER, Plane, aligned, arc, look_at, picture
from tests.photos.posed import Posed


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def poses_by_name(model: Any) -> dict[str, np.ndarray]:
    return {model.image(i).name: pose_of(model.image(i)) for i in model.reg_image_ids()}


def matched(folder: Path, pictures: dict[str, np.ndarray]) -> Workspace:
    """A capture of these pictures in `folder`, all pairs matched. The order of the digests is that of the names."""
    (folder / "images").mkdir(parents=True)
    photos = []
    for name, rgb in pictures.items():
        Image.fromarray(rgb).save(folder / "images" / f"{name}.png")
        h, w = rgb.shape[:2]
        photos.append(Photo(name, f"images/{name}.png", size=(w, h), camera="one", digest=name))
    work = Workspace(folder, photos, Search(max_features=2000, upsampled=False))
    work.find_features(silent)
    work.match(every_pair(work), silent)
    return work


def every_pair(work: Workspace) -> list[tuple[int, int]]:
    ids = sorted(work.names)
    return [(a, b) for a in ids for b in ids if a < b]


def mapped(work: Workspace, scene: Path) -> tuple[mapping.Mapped, list[str]]:
    said: list[str] = []
    return Mapper(work, scene, every_pair(work), silent).map(said.append), said


# ------------------------------------------------------------------------------------------------------------ truth


def test_poses_are_the_true_ones(posed: Posed) -> None:
    model = pycolmap.Reconstruction(posed.scene / "sparse" / "0")
    found = poses_by_name(model)
    names = sorted(found)
    assert names == sorted(photo.file.removeprefix("images/") for photo in posed.photos() if photo.file)
    true = posed.true_poses(names)
    angles, offs = aligned(np.stack([found[name] for name in names]), true)
    assert angles.max() < 0.1  # measured: 0.042
    assert offs.max() < 0.001  # measured: 0.00033


def test_focal_length_is_the_true_one(posed: Posed) -> None:
    (camera,) = pycolmap.Reconstruction(posed.scene / "sparse" / "0").cameras.values()
    assert camera.mean_focal_length() == pytest.approx(380, rel=0.001)  # measured: 0.0004


def test_poses_repeat_whatever_the_names_and_the_order(posed: Posed, tmp_path: Path) -> None:
    """The matches and all that follows, of the same photos named in reverse."""
    photos = posed.photos()
    models = []
    for folder, reverse in (("same", False), ("reverse", True)):
        scene = tmp_path / folder
        (scene / "images").mkdir(parents=True)
        renamed = []
        for i, photo in enumerate(photos):
            name = f"{len(photos) - i if reverse else i}.jpg"
            shutil.copyfile(posed.scene / str(photo.file), scene / "images" / name)
            renamed.append(
                Photo(photo.name, f"images/{name}", size=photo.size, camera=photo.camera, digest=photo.digest)
            )
        work = Workspace(scene, renamed[::-1] if reverse else renamed, Search(max_features=1000, upsampled=False))
        work.find_features(silent)
        work.match(every_pair(work), silent)
        model = mapped(work, scene)[0].model
        by_digest = {photo.digest: str(photo.file).removeprefix("images/") for photo in renamed}
        poses = poses_by_name(model)
        models.append(np.stack([poses[by_digest[digest]] for digest in sorted(by_digest)]))
    np.testing.assert_array_equal(*models)


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("side", "limit"), [(100, 2.0), (800, 2.0), (1000, 2.5), (1600, 4.0), (6000, 4.0)])
def test_thresholds_of_tracks_by_hand(side: int, limit: float) -> None:
    assert tracks_settings(side) == {
        "mapper.filter_max_reproj_error": limit,
        "triangulation.merge_max_reproj_error": limit,
        "triangulation.complete_max_reproj_error": limit,
        "mapper.filter_min_tri_angle": 0.5,
        "triangulation.min_angle": 0.5,
    }


def by_hand(centres: Sequence[Sequence[float]], n_points: Sequence[int], depth: float = 10.0) -> Any:
    """A Reconstruction of cameras at `centres` that look along z; camera i sees the first n_points[i] points, which lie
    on the optical axis of the first camera from `depth` on."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(camera_id=1, model="SIMPLE_RADIAL", width=80, height=60, params=[40.0, 40, 30, 0])
    model.add_camera_with_trivial_rig(camera)
    for i, (centre, n) in enumerate(zip(centres, n_points, strict=True), start=1):
        image = pycolmap.Image(name=f"{i}.jpg", camera_id=1, image_id=i)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array([40.0, 30])) for _ in range(n)])
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pycolmap.Rotation3d(), -np.array(centre, float)))
    for k in range(max(n_points)):
        track = pycolmap.Track()
        for i, n in enumerate(n_points, start=1):
            if k < n:
                track.add_element(i, k)
        model.add_point3D(np.array([0.0, 0, depth]), track)
    return model


def test_pictures_that_see_too_few_points_have_no_pose() -> None:
    model = by_hand([(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)], [30, 12, 11, 20])
    assert registered_names(without_weak(model, 12)) == ["1.jpg", "2.jpg", "4.jpg"]


@pytest.mark.parametrize(("step", "one_spot"), [(0.0, True), (0.09, True), (0.11, False), (5.0, False)])
def test_one_spot_is_a_hundredth_of_the_distance(step: float, one_spot: bool) -> None:
    # Median position: the middle one of three; the median distance to it is `step`, that to the points 10.
    assert is_one_spot(by_hand([(-step, 0, 0), (0, 0, 0), (step, 0, 0)], [20, 20, 20])) == one_spot


def test_without_points_there_is_no_saying() -> None:
    model = by_hand([(0, 0, 0), (1, 0, 0)], [1, 1])
    model.delete_point3D(1)
    assert is_one_spot(model)


# ------------------------------------------------------------------------------------------------------------ ladder


class Ladder:
    """Stands in for `Workspace.map` and its relatives: each attempt gives the next models, by how many images they
    hold of those that the true model has."""

    def __init__(self, posed: Posed, patch: pytest.MonkeyPatch, *answers: Sequence[int]) -> None:
        self.attempts: list[tuple[str, bool]] = []
        self.answers = list(answers)
        self.sparse = posed.scene / "sparse" / "0"
        patch.setattr(Workspace, "find_features", lambda work, on_progress: None)
        patch.setattr(Workspace, "match", lambda work, pairs, on_progress: None)
        patch.setattr(Workspace, "verified_pairs", lambda work: dict.fromkeys([(1, 2), (2, 3), (3, 6)], Verified()))
        patch.setattr(Workspace, "static_pairs", lambda work: 0.0)
        patch.setattr(Workspace, "map", lambda work, *args: self._map(work, *args))
        patch.setattr(Workspace, "map_globally", lambda work, out: self._map_globally(work))
        patch.setattr(mapping, "refine_keypoints", lambda model, images: 0.5)
        patch.setattr(mapping, "refine_lens", lambda model: (model, "lens: left as it is"))

    def _map(self, work: Workspace, settings: dict[str, Any], *_: object) -> list[Any]:
        self.attempts.append((work.path.stem, settings.items() >= LOOSE.items()))
        return self._next()

    def _map_globally(self, work: Workspace) -> list[Any]:
        self.attempts.append((f"global {work.path.stem}", False))
        return self._next()

    def _next(self) -> list[Any]:
        models = []
        for n in self.answers.pop(0):
            model = pycolmap.Reconstruction(self.sparse)
            for i in sorted(model.reg_image_ids())[n:]:
                model.deregister_frame(model.image(i).frame_id)
            models.append(model)
        return models


class Verified:
    """A two-view geometry with parallax."""

    config = int(pycolmap.TwoViewGeometryConfiguration.CALIBRATED)


NORMAL, LOOSER, DENSER, GLOBAL = ("database", False), ("database", True), ("dense", True), ("global dense", False)


@pytest.mark.parametrize(
    ("answers", "attempts", "n_best"),
    [
        ([[6]], [NORMAL], 6),
        ([[4], [6]], [NORMAL, LOOSER], 6),
        ([[4], [3], [6]], [NORMAL, LOOSER, DENSER], 6),
        ([[3], [5], [4], [6]], [NORMAL, LOOSER, DENSER, GLOBAL], 6),
        ([[4], [5], [4], [3]], [NORMAL, LOOSER, DENSER, GLOBAL], 5),
        ([[], [], [], [3]], [NORMAL, LOOSER, DENSER, GLOBAL], 3),
        ([[3, 5], [4], [4], [3]], [NORMAL, LOOSER, DENSER, GLOBAL], 5),  # the larger of two models is taken
    ],
)
def test_each_way_is_tried_until_all_pictures_have_a_pose(
    posed: Posed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[list[int]],
    attempts: list[tuple[str, bool]],
    n_best: int,
) -> None:
    work = posed.workspace(tmp_path / "scene")
    ladder = Ladder(posed, monkeypatch, *answers)
    result, said = mapped(work, tmp_path / "scene")
    assert ladder.attempts == attempts
    assert result.model.num_reg_images() == n_best
    counted = [max(answer, default=0) for answer in answers]
    assert [line for line in result.how if "have a pose" in line] == [
        f"{way}: {n} of 6 pictures have a pose"
        for way, n in zip(
            (
                "incremental mapping",
                "incremental mapping with looser settings",
                "fainter features and guided matching",
                "global mapping",
            ),
            counted,
            strict=False,
        )
    ]
    assert set(result.how) <= set(said)


def test_faint_features_and_the_global_mapper_must_see_more_points(
    posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    keep = mapping.without_weak
    monkeypatch.setattr(mapping, "without_weak", lambda model, fewest: asked.append(fewest) or keep(model, fewest))
    Ladder(posed, monkeypatch, [3], [4], [5], [6])
    mapped(posed.workspace(tmp_path / "scene"), tmp_path / "scene")
    assert asked == [12, 12, 20, 40]


def test_a_background_that_stands_still_is_left_out_and_said(
    posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ladder(posed, monkeypatch, [6])
    monkeypatch.setattr(Workspace, "static_pairs", lambda work: 0.6)
    moving: list[Workspace] = []
    monkeypatch.setattr(Workspace, "without_static", lambda work, on_progress: moving.append(work) or work)
    result, _ = mapped(posed.workspace(tmp_path / "scene"), tmp_path / "scene")
    assert len(moving) == 1
    assert result.notes[0].startswith("The background does not move with the subject")


def test_looser_settings_are_spared_where_no_match_leads_further(
    posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = posed.workspace(tmp_path / "scene")
    ladder = Ladder(posed, monkeypatch, [4], [4])
    monkeypatch.setattr(Workspace, "verified_pairs", lambda work: {(1, 2): Verified()})
    mapped(work, tmp_path / "scene")
    assert ladder.attempts == [NORMAL, DENSER]


def test_nothing_found_says_how_many_pairs_overlap(
    posed: Posed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = posed.workspace(tmp_path / "scene")
    Ladder(posed, monkeypatch, [], [], [], [])
    with pytest.raises(NoPoses, match="3 of 15 pairs of pictures overlap, too few or too little"):
        mapped(work, tmp_path / "scene")


# ---------------------------------------------------------------------------------------------------------- captures


def test_pictures_from_one_spot_are_refused(tmp_path: Path) -> None:
    turned = [look_at((0, -2, 1.2), (0.5 * i - 0.75, 2, 0.8)) for i in range(4)]
    work = matched(tmp_path, {str(i): picture(pose) for i, pose in enumerate(turned)})
    assert len(work.verified_pairs()) == 6
    with pytest.raises(NoPoses) as caught:
        mapped(work, tmp_path)
    assert str(caught.value) == ALL_FROM_ONE_SPOT


def test_pictures_without_overlap_are_refused(tmp_path: Path) -> None:
    walls = [(Plane((-3, 3, 3), (6, 0, 0), (0, 0, -3), seed),) for seed in (11, 12, 13)]
    work = matched(tmp_path, {str(i): picture(arc(3)[i], wall, (240, 180)) for i, wall in enumerate(walls)})
    with pytest.raises(NoPoses, match="none of the 3 pictures shows what another one shows; take pictures that"):
        mapped(work, tmp_path)


def test_of_two_scenes_the_larger_is_taken_and_the_other_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping.Mapper, "_more_features", pytest.fail)  # both scenes are whole: no need to look on
    other = tuple(Plane(plane.corner, plane.across, plane.along, plane.seed + 20) for plane in CORNER)
    pictures = {f"a{i}": picture(pose, other) for i, pose in enumerate(arc(3, 0.7))}
    pictures |= {f"b{i}": picture(pose) for i, pose in enumerate(arc(4, 1.0))}
    work = matched(tmp_path, pictures)
    result, _ = mapped(work, tmp_path)
    assert sorted(registered_names(result.model)) == ["b0.png", "b1.png", "b2.png", "b3.png"]
    assert result.others == [["a0.png", "a1.png", "a2.png"]]


# ------------------------------------------------------------------------------------------------------------ lenses


def exact(off_centre: float = 0.0, k2: float = 0.0, noise: float = 0.2) -> Any:
    """Eight cameras around 150 points with `noise` pixels of noise, as SIMPLE_RADIAL with a centred principal point."""
    random = np.random.RandomState(0)
    points = random.uniform(-1, 1, (150, 3)) + np.array([0, 2, 0.8])
    true = pycolmap.Camera(
        camera_id=1, model="RADIAL", width=400, height=300, params=[380.0, 200 + off_centre, 150, 0, k2]
    )
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(camera_id=1, model="SIMPLE_RADIAL", width=400, height=300, params=[380.0, 200, 150, 0])
    )
    poses = [
        look_at((3 * np.sin(a), 2 - 3 * np.cos(a), 0.8 + 0.8 * (-1) ** i))
        for i, a in enumerate(np.linspace(0, 2 * np.pi, 8, endpoint=False))
    ]
    for i, pose in enumerate(poses, start=1):
        from_world = np.linalg.inv(pose @ np.diag([1.0, -1, -1, 1]))
        local = points @ from_world[:3, :3].T + from_world[:3, 3]
        image = pycolmap.Image(name=f"{i}.jpg", camera_id=1, image_id=i)
        pixels = true.img_from_cam(local) + noise * random.randn(len(points), 2)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in pixels])
        motion = pycolmap.Rigid3d(pycolmap.Rotation3d(from_world[:3, :3]), from_world[:3, 3])
        model.add_image_with_trivial_frame(image, motion)
    for k, xyz in enumerate(points):
        track = pycolmap.Track()
        for i in range(1, len(poses) + 1):
            track.add_element(i, k)
        model.add_point3D(xyz, track)
    return model


def test_a_lens_of_one_radial_term_stays_one() -> None:
    model, lens = refine_lens(exact())
    assert lens == "lens: focal length and one radial term"
    assert model.cameras[1].model_name == "SIMPLE_RADIAL"
    assert (model.cameras[1].principal_point_x, model.cameras[1].principal_point_y) == (200, 150)


def test_a_principal_point_that_is_off_is_found() -> None:
    given = exact(off_centre=8.0, noise=0.05)
    model, lens = refine_lens(given)
    assert lens == "lens: focal length and one radial term, principal point"
    assert model.cameras[1].principal_point_x == pytest.approx(208, abs=0.2)
    assert model.cameras[1].principal_point_y == pytest.approx(150, abs=0.2)
    assert model.cameras[1].mean_focal_length() == pytest.approx(380, rel=0.001)
    assert given.cameras[1].principal_point_x == 200  # the model that was given is left as it was


def test_a_second_radial_term_is_found() -> None:
    model, lens = refine_lens(exact(k2=0.3))
    assert lens == "lens: focal length and one radial term, second radial term"
    assert model.cameras[1].params[4] == pytest.approx(0.3, abs=0.03)


def test_a_lens_that_cannot_exist_is_not_kept() -> None:
    _, lens = refine_lens(exact(off_centre=60.0))  # 15 % of the width
    assert "principal point" not in lens


def test_error_of_a_model_by_hand() -> None:
    model = by_hand([(0, 0, 0), (1, 0, 0), (2, 0, 0)], [2, 2, 1])
    model.point3D(1).error, model.point3D(2).error = 1.0, 2.0  # tracks of 3 and 2
    assert error_of(model) == pytest.approx(np.sqrt((3 * 1 + 2 * 4) / 5))
