"""Folders as other tools leave them: COLMAP's, halves of a scene, and those that are recognised and refused."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import dataparser
from peak_nerf.nerf.data.colmap import TO_OPENGL, Z_UP
from peak_nerf.nerf.data.colmap_scene import colmap_scene
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig, PeakDataparserOutputs
from peak_nerf.nerf.data.scene_files import find_scene, split_of_scene
from tests.nerf.scene_factory import edit_json, write_blender_scene, write_image, write_json, write_nerfstudio_scene

POINTS = np.array([[0.3, 0.1, -0.2], [-0.4, 0.2, 0.1], [0.0, -0.3, 0.4]])
"""In the world of transforms.json; all cameras look at the origin, from 4."""
FOCAL, MIDDLE = 21.9, 8.0
LENSES = {
    "PINHOLE": [FOCAL, FOCAL, MIDDLE, MIDDLE],
    "SIMPLE_RADIAL": [FOCAL, MIDDLE, MIDDLE, 0.05],
    "OPENCV_FISHEYE": [FOCAL, FOCAL, MIDDLE, MIDDLE, 0.01, 0.0, 0.0, 0.0],
    "FULL_OPENCV": [FOCAL, FOCAL, MIDDLE, MIDDLE, 0.1, 0.01, 0.001, -0.002, 0.002, 0.3, 0.02, 0.001],
}


@pytest.fixture(autouse=True)
def _silent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataparser, "_said", set())


def parse(data: Path, split: str = "train", **options: Any) -> PeakDataparserOutputs:
    return PeakDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split=split)


def write_colmap(folder: Path, lens: str = "PINHOLE", text: bool = False, place: str = "sparse/0") -> np.ndarray:
    """A capture of 9 pictures with a model in place of its transforms.json; its poses (9, 4, 4)."""
    import pycolmap

    capture = write_nerfstudio_scene(folder)
    frames = json.loads((capture / "transforms.json").read_text())["frames"]
    (capture / "transforms.json").unlink()
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, lens, FOCAL, 16, 16)
    camera.params = LENSES[lens]
    model.add_camera_with_trivial_rig(camera)
    poses = np.array([frame["transform_matrix"] for frame in frames])
    world = np.vstack([Z_UP, [0, 0, 0, 1]])
    for i, (frame, pose) in enumerate(zip(frames, poses, strict=True)):
        from_world = np.linalg.inv(np.linalg.inv(world) @ pose @ TO_OPENGL)
        image = pycolmap.Image(name=Path(frame["file_path"]).name, camera_id=1, image_id=i + 1)
        local = (POINTS @ Z_UP[:, :3]) @ from_world[:3, :3].T + from_world[:3, 3]
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in camera.img_from_cam(local)])
        motion = pycolmap.Rigid3d(pycolmap.Rotation3d(from_world[:3, :3]), from_world[:3, 3])
        model.add_image_with_trivial_frame(image, motion)
    for k, xyz in enumerate(POINTS @ Z_UP[:, :3]):
        track = pycolmap.Track()
        for i in range(9):
            track.add_element(i + 1, k)
        model.add_point3D(xyz, track, np.array([10 * k, 20, 30], np.uint8))
    (capture / place).mkdir(parents=True, exist_ok=True)
    if text:
        model.write_text(capture / place)
    else:
        model.write_binary(capture / place)
    return poses


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0", ""])
def test_a_colmap_folder_is_read(tmp_path: Path, text: bool, place: str) -> None:
    poses = write_colmap(tmp_path, text=text, place=place)
    train, test = parse(tmp_path), parse(tmp_path, "test")
    assert [path.name for path in test.image_filenames] == ["frame_00000.png", "frame_00008.png"]
    assert len(train.image_filenames) == 7
    assert train.metadata["kind"] == "nerfstudio"
    scene = find_scene(tmp_path)
    frames = colmap_scene(scene.files["train"], scene.folder, print).frames
    np.testing.assert_allclose([frame.pose for frame in frames], poses, atol=1e-6)
    assert float(train.cameras.fx[0]) == pytest.approx(FOCAL)


def test_what_a_training_says_is_in_colmaps_coordinates(tmp_path: Path) -> None:
    """dataparser_transforms.json leads from the model's own world: to the points as they are used."""
    write_colmap(tmp_path)
    outputs = parse(tmp_path)
    ours = torch.from_numpy(POINTS @ Z_UP[:, :3])
    moved = outputs.dataparser_scale * (
        ours @ outputs.dataparser_transform[:, :3].T + outputs.dataparser_transform[:, 3]
    )
    torch.testing.assert_close(outputs.metadata["points"].xyz, moved.float(), atol=1e-5, rtol=0)


def test_points_of_a_colmap_model_are_known_with_who_saw_them(tmp_path: Path) -> None:
    write_colmap(tmp_path)
    metadata = parse(tmp_path).metadata
    assert metadata["points"].rgb.tolist() == [[0, 20, 30], [10, 20, 30], [20, 20, 30]]
    seen = metadata["sightings"]
    assert len(seen.point) == 3 * 7  # the training views alone
    cameras = parse(tmp_path).cameras
    for i in range(0, 21, 5):  # each lies on the ray of the pixel that saw it
        u, v = seen.xy[i]
        camera = seen.image[i].reshape(1, 1)
        ray = cameras.generate_rays(camera, torch.stack((v, u))[None])
        towards = metadata["points"].xyz[seen.point[i]] - ray.origins[0]
        torch.testing.assert_close(towards / towards.norm(), ray.directions[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("lens", LENSES)
def test_lenses_of_colmap(tmp_path: Path, lens: str) -> None:
    """A point is seen where COLMAP itself projects it."""
    write_colmap(tmp_path, lens)
    outputs = parse(tmp_path)
    seen = outputs.metadata["sightings"]
    rays = outputs.cameras.generate_rays(seen.image[:, None], seen.xy.flip(-1))
    towards = outputs.metadata["points"].xyz[seen.point] - rays.origins
    torch.testing.assert_close(torch.nn.functional.normalize(towards, dim=-1), rays.directions, atol=1e-4, rtol=0)


def test_the_model_itself_as_data_and_pictures_of_a_rig(tmp_path: Path) -> None:
    write_colmap(tmp_path / "scene")
    assert parse(tmp_path / "scene" / "sparse" / "0").image_filenames == parse(tmp_path / "scene").image_filenames
    shutil.rmtree(tmp_path / "scene" / "images")
    with pytest.raises(PeakError, match=r"sparse/0: none of the model's 9 pictures is there \(frame_0.*; put them"):
        parse(tmp_path / "scene")


def test_a_colmap_file_that_is_cut_short(tmp_path: Path) -> None:
    write_colmap(tmp_path)
    path = tmp_path / "sparse" / "0" / "images.bin"
    path.write_bytes(path.read_bytes()[:-9])
    os.utime(path, (1, 1))
    with pytest.raises(PeakError, match=r"images.bin: is cut short; copy it again"):
        parse(tmp_path)


# ---------------------------------------------------------------------------------------------------------- halves


def test_train_and_test_in_folders_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As captures: both placed alike, pictures beside their own file."""
    for name, n in (("8_train", 6), ("8_test", 3)):
        write_nerfstudio_scene(tmp_path / name, n=n)
    train, val, test = (parse(tmp_path, split) for split in ("train", "val", "test"))
    assert "the train split is 8_train, the test split is 8_test" in capsys.readouterr().out
    assert {path.parent for path in train.image_filenames} == {tmp_path / "8_train" / "images"}
    assert len(train.image_filenames) == 6
    assert test.image_filenames == val.image_filenames == sorted((tmp_path / "8_test" / "images").iterdir())
    assert train.dataparser_scale == test.dataparser_scale
    torch.testing.assert_close(train.dataparser_transform, test.dataparser_transform)


def test_train_and_test_folders_of_blender_scenes(tmp_path: Path) -> None:
    write_blender_scene(tmp_path / "n_train", n_val=0, n_test=0)
    write_blender_scene(tmp_path / "n_test", n_train=0, n_val=0)
    assert len(parse(tmp_path).image_filenames) == 6
    assert [path.parent for path in parse(tmp_path, "test").image_filenames] == [tmp_path / "n_test" / "test"] * 2
    assert parse(tmp_path).metadata["kind"] == "blender"


def test_a_train_folder_alone_is_suggested_and_works(tmp_path: Path) -> None:
    write_blender_scene(tmp_path / "n_train", n_val=0, n_test=0)
    with pytest.raises(PeakError, match=r"did you mean .*/n_train\?"):
        parse(tmp_path)
    assert len(parse(tmp_path / "n_train").image_filenames) == 5
    assert len(parse(tmp_path / "n_train", "test").image_filenames) == 1


def test_a_hint_is_given_only_where_following_it_works(tmp_path: Path) -> None:
    scene = write_blender_scene(tmp_path / "ball", n_train=1, n_val=0, n_test=0)
    with pytest.raises(PeakError, match=r"no transforms file") as caught:
        parse(tmp_path)
    assert "did you mean" not in str(caught.value)
    edit_json(scene / "transforms_train.json", frames=None)
    (scene / "images_2").mkdir()
    with pytest.raises(PeakError, match=r"no transforms file") as caught:
        parse(scene / "images_2")
    assert "did you mean" not in str(caught.value)


def test_images_2_as_data_hints_at_the_factor(tmp_path: Path) -> None:
    scene = write_nerfstudio_scene(tmp_path)
    shutil.copytree(scene / "images", scene / "images_2")
    with pytest.raises(PeakError, match=rf"did you mean {tmp_path}, with peak-data --downscale-factor 2\?"):
        parse(scene / "images_2")


def test_smaller_images_that_are_not_there(tmp_path: Path) -> None:
    scene = write_nerfstudio_scene(tmp_path)
    with pytest.raises(PeakError, match=r"images_2: no such folder, .* there; leave the option out"):
        parse(scene, downscale_factor=2)
    shutil.copytree(scene / "images", scene / "images_4")
    with pytest.raises(PeakError, match=r"there; use --downscale-factor 4, or leave the option out"):
        parse(scene, downscale_factor=2)
    shutil.rmtree(scene / "images")
    with pytest.raises(PeakError, match=r"there; use --downscale-factor 4$"):
        parse(scene, downscale_factor=2)


def test_equal_names_in_folders_of_a_rig(tmp_path: Path) -> None:
    scene = write_nerfstudio_scene(tmp_path, n=4)
    frames = json.loads((scene / "transforms.json").read_text())["frames"]
    for i, frame in enumerate(frames):
        frame["file_path"] = f"images/cam{i % 2}/{i // 2}.png"
        write_image(scene / frame["file_path"], np.array(frame["transform_matrix"]), 16, False)
    edit_json(scene / "transforms.json", frames=frames)
    names = [path.relative_to(scene / "images").as_posix() for path in parse(scene).image_filenames]
    assert names == ["cam0/1.png", "cam1/0.png", "cam1/1.png"]
    said: list[str] = []
    edit_json(scene / "transforms.json", train_filenames=["images/cam1/0.png", "images/cam1/1.png"])
    assert split_of_scene(find_scene(scene), "test", say=said.append)[1] == [0, 1]


# ------------------------------------------------------------------------------------------------------ recognised


FOREIGN = {
    "idr": (
        {"cameras_sphere.npz": b"", "image/0.png": b"", "image/1.png": b""},
        r"npz of IDR.*peak photos .*/image",
    ),
    "sdfstudio": ({"meta_data.json": b"{}", "0.png": b"", "1.png": b""}, r"meta_data.json of SDFStudio; .*peak photos"),
    "nsvf": (
        {"intrinsics.txt": b"", "rgb/0.png": b"", "rgb/1.png": b""},
        r"or NSVF; .*peak photos .*/rgb --out",
    ),
    "nerf++": ({"intrinsics/0.txt": b"", "images/0.png": b"", "images/1.png": b""}, r"NSVF; .*peak photos .*/images"),
    "polycam": ({"keyframes/cameras/1.json": b""}, r"Polycam; convert it: ns-process-data polycam --data"),
    "record3d": ({"metadata.json": b"{}", "rgb/0.jpg": b""}, r"Record3D; convert it: ns-process-data record3d"),
    "opensfm": ({"reconstruction.json": b"", "images/0.jpg": b"", "images/1.jpg": b""}, r"OpenSfM; .*peak photos"),
    "database": ({"database.db": b"", "images/0.jpg": b"", "images/1.jpg": b""}, r"without a model; .*peak photos"),
    "pictures": ({"images/0.jpg": b"", "images/1.jpg": b""}, r"but pictures \(images\); find their poses: peak photos"),
    "here": ({"0.jpg": b"", "1.jpg": b""}, r"but pictures \(here\); find their poses: peak photos"),
    "none": ({"cameras.npz": b""}, r"IDR and NeuS, and no pictures; pass --data a Blender"),
    "empty": ({}, r"no transforms file \(looked for .*; pass --data a Blender, nerfstudio, COLMAP or LLFF scene"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_scenes_of_others_are_recognised(tmp_path: Path, name: str) -> None:
    files, message = FOREIGN[name]
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    with pytest.raises(PeakError, match=message) as caught:
        parse(tmp_path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- frames


def edit_poses(scene: Path, change: Any, name: str = "transforms.json") -> None:
    values = json.loads((scene / name).read_text())
    for i, frame in enumerate(values["frames"]):
        frame["transform_matrix"] = np.asarray(change(i, np.array(frame["transform_matrix"]))).tolist()
    write_json(scene / name, values)


def scaled(factor: float) -> Any:
    return lambda i, pose: pose @ np.diag([factor, factor, factor, 1])


def test_scaled_rotations_are_normalised_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_nerfstudio_scene(tmp_path / "a"), write_nerfstudio_scene(tmp_path / "b")
    edit_poses(b, scaled(3.0))
    wanted, ours = parse(a), parse(b)
    torch.testing.assert_close(ours.cameras.camera_to_worlds, wanted.cameras.camera_to_worlds)
    assert "rotations of 9 of 9 frames are scaled (that of images/frame_00000.png by 3): normalised" in (
        capsys.readouterr().out
    )
    edit_poses(b, lambda i, pose: pose @ np.diag([1 / 3, 1 / 3, 1 / 3, 1]))
    parse(b, "test")
    assert "scaled" not in capsys.readouterr().out


def turned_around(i: int, pose: np.ndarray) -> np.ndarray:
    return pose @ np.diag([-1, 1, -1, 1])


def placed(i: int, where: list[float]) -> Any:
    return lambda k, pose: np.block([[pose[:3, :3], np.array([where]).T], [np.eye(4)[3:]]]) if k == i else pose


POSES = {
    "far": (
        lambda i, pose: np.diag([1e30] * 3 + [1]) @ pose @ np.diag([1e-30] * 3 + [1]),
        r"its camera \S+e\+30 from",
    ),
    "one far": (placed(3, [1e30, 0, 0]), r"frame 3 \(images/frame_00003.png\) puts its camera 1e\+30 from the origin"),
    "outlier": (placed(4, [1e7, 0, 0]), r"frame 4 \(images/frame_00004.png\) puts its camera \S+ times as far"),
    "one point": (lambda i, pose: placed(i, [1, 2, 3])(i, pose), r"all 9 cameras stand in one point \(1, 2, 3\)"),
    "away": (
        turned_around,
        r"stand around \(.*\) and look away from it, frame images/frame_0.*--space unbounded",
    ),
    "sheared": (lambda i, pose: pose @ np.diag([1, 1, 2, 1]), r"frame 0 .* is no rotation: .* \(9 such frames\)"),
    "one mirrored": (lambda i, p: p @ np.diag([-1, 1, 1, 1]) if i == 2 else p, r"frame 2 .* is mirrored"),
    "transposed": (lambda i, pose: pose.T, r"last row of transform_matrix of frame 0 .*its rows may be its columns"),
    "homogeneous": (
        lambda i, pose: 2 * pose,
        r"last row of transform_matrix of frame 0 .* is 0, 0, 0, 2, not 0, 0",
    ),
}


@pytest.mark.parametrize("name", POSES)
def test_cameras_that_teach_nothing_are_refused(tmp_path: Path, name: str) -> None:
    change, message = POSES[name]
    scene = write_nerfstudio_scene(tmp_path)
    edit_poses(scene, change)
    with pytest.raises(PeakError, match=message) as caught:
        parse(scene)
    assert "\n" not in str(caught.value)


def test_cameras_that_look_outwards_by_intention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_nerfstudio_scene(tmp_path)
    edit_poses(scene, turned_around)
    assert parse(scene, space="unbounded").metadata["unbounded"]
    assert "look away from it; should they look at it, mind that poses have" in capsys.readouterr().out


def test_map_coordinates_and_mirrored_worlds_are_none_of_these(tmp_path: Path) -> None:
    scene = write_nerfstudio_scene(tmp_path)
    edit_poses(scene, lambda i, pose: np.diag([-1.0, 1, 1, 1]) @ pose)  # a world that is mirrored as a whole
    parse(scene)
    edit_poses(scene, lambda i, pose: pose + np.array([[0, 0, 0, 5e5], [0, 0, 0, 5e6], [0, 0, 0, 300], [0] * 4]))
    parse(scene)


@pytest.mark.parametrize("which", [range(6), [3]])
def test_a_blender_camera_that_looks_past_the_box(tmp_path: Path, which: Any) -> None:
    scene = write_blender_scene(tmp_path)
    edit_poses(scene, lambda i, p: turned_around(i, p) if i in which else p, "transforms_train.json")
    with pytest.raises(PeakError, match=r"frame \S+ .*looks past the scene, the box of|look away from it"):
        parse(scene)


def test_a_frame_that_comes_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_nerfstudio_scene(tmp_path)
    frames = json.loads((scene / "transforms.json").read_text())["frames"]
    edit_json(scene / "transforms.json", frames=[*frames, {**frames[4], "file_path": "./images/frame_00004.png"}])
    a, b = parse(scene).image_filenames, parse(scene, "test").image_filenames
    assert len(a) + len(b) == 9
    assert "1 frames that come twice are left out the second time, such as ./images/frame_00004.png" in (
        capsys.readouterr().out
    )
    edit_json(
        scene / "transforms.json", frames=[*frames, {**frames[4], "transform_matrix": frames[0]["transform_matrix"]}]
    )
    with pytest.raises(PeakError, match=r"frames 4 and 9 are both of images/frame_00004.png, with different poses"):
        parse(scene)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"aabb_scale": 1e30}, r"aabb_scale is 1e\+30; give a number between 0 and 10000"),
        ({"aabb_scale": 1, "scale": 1e30}, r"scale is 1e\+30; give a number between 1e-09 and 1e\+09"),
        ({"aabb_scale": 1, "offset": [1e30, 0, 0]}, r"offset is \[1e\+30, 0, 0\]; give one number or three"),
    ],
)
def test_instant_ngps_keys_out_of_range(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(PeakError, match=message):
        parse(write_nerfstudio_scene(tmp_path, **values))
