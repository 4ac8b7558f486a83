"""The demo scene: valid, deterministic Blender format whose pictures agree with its poses."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from tests.data_scripts.scripts import load_script

pytest.importorskip("embreex")  # without it the ray caster takes minutes


script = load_script("make_demo_scene")
cameras, light, shapes, textures, village = (
    sys.modules[f"demo_scene.{name}"] for name in ("cameras", "light", "shapes", "textures", "village")
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "scene"
    small = script.Settings(out=out, size=40, train_views=8, val_views=1, test_views=4, supersample=2, workers=1)
    assert script.make_scene(small)
    return small


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def frames_of(folder: Path):
    """Yield (pose, RGBA picture in [0, 1], focal length in pixels) of every view, as a reader would load it."""
    for split in ("train", "val", "test"):
        meta = json.loads((folder / f"transforms_{split}.json").read_text())
        for frame in meta["frames"]:
            picture = np.asarray(Image.open(folder / (frame["file_path"] + ".png"))) / 255
            focal = 0.5 * picture.shape[1] / math.tan(0.5 * meta["camera_angle_x"])
            yield np.array(frame["transform_matrix"]), picture, focal


def project(point, pose, focal, size):
    """Pixel (row, column) of a world point: OpenGL camera, looking along -z with y up."""
    x, y, z = pose[:3, :3].T @ (np.asarray(point) - pose[:3, 3])
    assert z < 0
    return int(size / 2 - focal * y / -z), int(size / 2 + focal * x / -z)


def test_layout_is_blender_format(settings):
    for split, count in (("train", 8), ("val", 1), ("test", 4)):
        meta = json.loads((settings.out / f"transforms_{split}.json").read_text())
        assert meta["camera_angle_x"] == 0.6911112070083618
        assert [f["file_path"] for f in meta["frames"]] == [f"./{split}/r_{i}" for i in range(count)]
    assert not settings.out.with_name("scene.partial").exists()


def test_poses_are_rotations_at_radius_4_on_the_upper_hemisphere(settings):
    for pose, picture, _ in frames_of(settings.out):
        assert picture.shape == (40, 40, 4)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        assert np.linalg.norm(pose[:3, 3]) == pytest.approx(4)
        assert pose[2, 3] > 0
        assert pose[2, 1] > 0  # the picture's up has a share of the world's up
        np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])


def test_alpha_has_object_and_background(settings):
    for _, picture, _ in frames_of(settings.out):
        alpha = picture[..., 3]
        assert (alpha == 1).mean() > 0.1
        assert (alpha == 0).mean() > 0.2
        assert not picture[alpha == 0].any()
        assert picture[alpha == 1][:, :3].std() > 0.05  # not one flat colour


def test_known_points_project_onto_their_objects(settings):
    tower, cap = (-0.2, 0.4, village.GROUND + 0.85), (-0.2, 0.4, village.GROUND + 1.02)
    crown = (0.42, 0.72, village.GROUND + 0.5)
    n_red = n_green = 0
    for pose, picture, focal in frames_of(settings.out):
        for point in (tower, cap, crown):
            assert picture[project(point, pose, focal, 40)][3] == 1
        red, green, blue, _ = picture[project(cap, pose, focal, 40)]
        n_red += red > 1.5 * green and red > 1.5 * blue
        red, green, blue, _ = picture[project(crown, pose, focal, 40)]
        n_green += green > 1.2 * red and green > 1.5 * blue
    # Of 13 views; other objects may hide these points in the rest.
    assert n_red >= 9
    assert n_green >= 7


def test_rendered_silhouette_matches_projected_triangles(settings):
    """Every corner of the geometry projects onto a pixel with some alpha: convention and scale, in all views."""
    points = script.scene_of(0).triangles[::97, 0]
    for pose, picture, focal in frames_of(settings.out):
        covered = [picture[project(p, pose, focal, 40)][3] > 0 for p in points]
        assert np.mean(covered) > 0.98  # a corner on the outline may fall between the samples
        y_down = [picture[::-1][project(p, pose, focal, 40)][3] > 0 for p in points]
        assert np.mean(y_down) < 0.95  # the check can tell a wrong convention


def test_everything_lies_in_the_box():
    assert np.abs(script.scene_of(0).triangles).max() < 1.2


def test_same_settings_give_the_same_bytes(settings, tmp_path):
    script.scene_of.cache_clear()
    again = replace(settings, out=tmp_path / "again")
    script.make_scene(again)
    assert files_of(again.out) == files_of(settings.out)


def test_rerun_is_a_no_op_and_other_settings_are_refused(settings):
    before = {p: p.stat().st_mtime_ns for p in settings.out.rglob("*")}
    assert not script.make_scene(settings)
    with pytest.raises(PeakError, match="--force"):
        script.make_scene(replace(settings, size=41))
    assert {p: p.stat().st_mtime_ns for p in settings.out.rglob("*")} == before


def test_force_replaces_and_a_stale_partial_is_cleared(settings, tmp_path):
    tiny = replace(settings, out=tmp_path / "scene", size=8, train_views=1, test_views=1, supersample=1)
    (tmp_path / "scene.partial").mkdir()
    (tmp_path / "scene.partial" / "junk").touch()
    assert script.make_scene(tiny)
    assert script.make_scene(replace(tiny, size=9, force=True))
    with Image.open(tiny.out / "train" / "r_0.png") as picture:
        assert picture.size == (9, 9)
    assert not list(tmp_path.rglob("junk"))


def test_a_folder_that_is_not_ours_is_left_alone(settings, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(PeakError, match="not a scene"):
        script.make_scene(replace(settings, out=tmp_path, force=True))
    assert (tmp_path / "thesis.tex").exists()


def test_unwritable_path_is_one_line_and_exit_code_2(settings, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        script.main(replace(settings, out=tmp_path / "file" / "scene"))
    assert end.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("change", [{"size": 0}, {"train_views": 0}, {"supersample": 0}, {"seed": -1}, {"workers": 0}])
def test_numbers_out_of_range_are_refused(settings, change, tmp_path):
    with pytest.raises(PeakError, match="--"):
        script.make_scene(replace(settings, out=tmp_path / "x", **change))


def test_without_trimesh_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(PeakError, match=r"needs trimesh .*; pip install -e '\.\[demo\]'"):
        script.make_scene(script.Settings(out=tmp_path / "scene"))


@pytest.mark.parametrize("n_views", [8, 12, 25, 50, 100])
def test_evenly_spaced_subsets_are_well_spread(n_views):
    """Mean angle to the nearest neighbour, against that of a regular layout on the same cap."""
    poses = np.stack(cameras.spiral_poses(100))[np.round(np.linspace(0, 99, n_views)).astype(int)]
    cosine = poses[:, :3, 2] @ poses[:, :3, 2].T
    np.fill_diagonal(cosine, -1)
    nearest = np.arccos(cosine.max(1))
    regular = math.sqrt(2 * math.pi * 0.85 / n_views)
    assert nearest.mean() > 0.75 * regular
    assert nearest.min() > 0.5 * regular


def test_intersection_and_shading_of_a_lone_square():
    """By hand: a white square seen from above, with no blocker, is lit by the key, fill and sky at full."""
    import trimesh

    mesh = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    scene = light.Scene([shapes.Part(mesh, textures.plain("ffffff"), gloss=0.0)])
    o, d = np.array([[0.2, 0.3, 4.0], [3.0, 0.0, 4.0]]), np.array([[0.0, 0.0, -1.0]] * 2)
    lamp = np.array([0.2, 0.3, 5.0])
    rgb, hit = scene.radiance(o, d, lamp)
    fill = light.FILL_DIRECTION[2] / np.linalg.norm(light.FILL_DIRECTION)
    np.testing.assert_array_equal(hit, [True, False])
    np.testing.assert_allclose(rgb[0], light.KEY_COLOUR + light.FILL_COLOUR * fill + light.SKY_COLOUR, rtol=1e-6)
    assert not rgb[1].any()


def test_photos_are_a_capture_with_a_lens(tmp_path: Path) -> None:
    """The folder reads as one of ns-process-data's, and the lens in its JSON is the one that drew the pictures."""
    photos = sys.modules["demo_scene.photos"]
    settings = script.Settings(
        tmp_path / "photos", size=16, train_views=2, test_views=1, supersample=1, workers=1, photos=True
    )
    assert script.make_scene(settings)
    written = json.loads((tmp_path / "photos" / "transforms.json").read_text())
    assert (written["w"], written["h"], len(written["frames"])) == (16, 12, 3)
    with Image.open(tmp_path / "photos" / "images" / "frame_00003.png") as image:
        assert (image.mode, image.size) == ("RGB", (16, 12))
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 7), np.linspace(-0.4, 0.4, 5))
    np.testing.assert_allclose(photos.distort(*photos.undistort(x, y)), (x, y), atol=1e-12)
