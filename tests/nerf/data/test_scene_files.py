"""Whatever is wrong with a data folder ends in one line that names the file, the problem and the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import scene_pictures
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.scene_files import find_scene, split_of_scene
from tests.nerf.scene_factory import edit_frame, edit_json, write_blender_scene

POSE = np.eye(4).tolist()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def resave(path: Path, mode: str, size: int = 16) -> None:
    Image.new(mode, (size, size)).save(path)


BLENDER_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda d: shutil.rmtree(d), r"ball: no such file or folder; pass --data"),
    "no train": (lambda d: (d / "transforms_train.json").unlink(), r"transforms_train.json missing.*add the file"),
    "no transforms": (
        lambda d: [(d / f"transforms_{s}.json").unlink() for s in ("train", "val", "test")],
        r"ball: no transforms file \(looked for transforms_train.json, transforms.json and poses.*npy\); pass --data",
    ),
    "empty json": (lambda d: (d / "transforms_train.json").write_text(" \n"), r"train.json: the file is empty; copy"),
    "bad json": (lambda d: (d / "transforms_train.json").write_text('{\n"a": 1,\n}'), r"line 3 is not valid JSON"),
    "not text": (lambda d: (d / "transforms_train.json").write_bytes(b"\xff\xfe\x00"), r"cannot be read .*UTF-8"),
    "a deep nest": (lambda d: (d / "transforms_train.json").write_text("[" * 10**5), r"not valid JSON .*mend it"),
    "many digits": (
        lambda d: (d / "transforms_train.json").write_text('{"a": ' + "9" * 5000 + "}"),
        r"not valid JSON .*digits.*mend it",
    ),
    "a million frames": (
        lambda d: edit_json(d / "transforms_train.json", frames=[1] * 10**6),
        r"has 1000000 frames, more than 20000; leave some out",
    ),
    "hundreds of digits": (
        lambda d: edit_json(d / "transforms_train.json", camera_angle_x=10**400),
        r"camera_angle_x of .* is a number of hundreds of digits; give a number",
    ),
    "list": (lambda d: (d / "transforms_train.json").write_text("[1]"), r"train.json: has no frames"),
    "no frames": (lambda d: edit_json(d / "transforms_train.json", frames=None), r"train.json: has no frames"),
    "empty frames": (lambda d: edit_json(d / "transforms_train.json", frames=[]), r"train.json: has no frames"),
    "frame no dict": (lambda d: edit_json(d / "transforms_train.json", frames=[1]), r"frame 0 has no file_path"),
    "no file_path": (
        lambda d: edit_frame(d / "transforms_train.json", 2, file_path=None),
        r"train.json: frame 2 has no file_path; add",
    ),
    "dot file_path": (
        lambda d: edit_frame(d / "transforms_train.json", 2, file_path="./"),
        r"frame 2 has no file_path",
    ),
    "long file_path": (
        lambda d: edit_frame(d / "transforms_train.json", 2, file_path="a" * 5000),
        r"file_path of frame 2 \(a+\.\.\.\) is no name of a file; correct it",
    ),
    "no matrix": (
        lambda d: edit_frame(d / "transforms_train.json", 2, transform_matrix=None),
        r"frame 2 \(./train/r_2\) has no transform_matrix; add",
    ),
    "3x3": (
        lambda d: edit_frame(d / "transforms_train.json", 2, transform_matrix=np.eye(3).tolist()),
        r"frame 2 \(./train/r_2\) is not 4x4 numbers; export",
    ),
    "ragged": (
        lambda d: edit_frame(d / "transforms_train.json", 2, transform_matrix=[[1, 2], [3]]),
        r"frame 2 \(./train/r_2\) is not 4x4 numbers",
    ),
    "words": (
        lambda d: edit_frame(d / "transforms_train.json", 2, transform_matrix=[["a"] * 4] * 4),
        r"frame 2 \(./train/r_2\) is not 4x4 numbers",
    ),
    "NaN pose": (
        lambda d: edit_frame(d / "transforms_train.json", 3, transform_matrix=np.full((4, 4), np.nan).tolist()),
        r"frame 3 \(./train/r_3\) has NaN or infinity; remove",
    ),
    "huge pose": (
        lambda d: edit_frame(d / "transforms_train.json", 3, transform_matrix=np.full((4, 4), 1e300).tolist()),
        r"frame 3 \(./train/r_3\) has NaN or infinity",
    ),
    "zero pose": (
        lambda d: edit_frame(d / "transforms_train.json", 3, transform_matrix=np.zeros((4, 4)).tolist()),
        r"frame 3 \(./train/r_3\) has no valid rotation",
    ),
    "missing images": (
        lambda d: [(d / "train" / f"r_{i}.png").unlink() for i in (2, 4)],
        r"train/r_2.png: image is missing \(2 of 6 that transforms_train.json names; also r_\d.png\); restore",
    ),
    "truncated image": (lambda d: truncate(d / "train" / "r_1.png"), r"r_1.png: image is broken or truncated .*; copy"),
    "no image": (lambda d: (d / "train" / "r_1.png").write_text("hello"), r"r_1.png: image is broken or truncated"),
    "empty image": (lambda d: (d / "train" / "r_1.png").write_bytes(b""), r"r_1.png: is empty \(0 bytes\); copy"),
    "sizes": (
        lambda d: resave(d / "train" / "r_3.png", "RGBA", 20),
        r"r_3.png is 20x20 but .*r_0.png is 16x16; resize",
    ),
    "no focal": (lambda d: edit_json(d / "transforms_train.json", camera_angle_x=None), r"no focal length.*add fl_x"),
    "zero angle": (lambda d: edit_json(d / "transforms_train.json", camera_angle_x=0), r"camera_angle_x.* is 0; give"),
    "wide angle": (lambda d: edit_json(d / "transforms_train.json", camera_angle_x=3.2), r"between 0 and 3.14"),
    "word angle": (
        lambda d: edit_json(d / "transforms_train.json", camera_angle_x="wide"),
        r"is 'wide'; give a number",
    ),
    "w and h": (
        lambda d: edit_json(d / "transforms_train.json", w=800, h=800),
        r"is 16x16 but .*says 800x800.*correct",
    ),
}

CAPTURE_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "focal": (lambda d: edit_json(d / "transforms.json", fl_x=-3), r"fl_x of .* is -3; give a number above 0"),
    "NaN focal": (lambda d: edit_frame(d / "transforms.json", 1, fl_x=float("nan")), r"fl_x of images/.*1.png is nan"),
    "centre": (lambda d: edit_json(d / "transforms.json", cx=float("inf")), r"cx of .* is inf; give a number finite"),
    "camera": (
        lambda d: edit_json(d / "transforms.json", camera_model="SPHERE"),
        r"'SPHERE' is not supported; use PIN",
    ),
    "aabb": (lambda d: edit_json(d / "transforms.json", aabb_scale=-1), r"json: aabb_scale is -1; give"),
    "applied": (lambda d: edit_json(d / "transforms.json", applied_transform=[1]), r"applied_transform is not 3x4"),
    "orientation": (
        lambda d: edit_json(d / "transforms.json", orientation_override="x"),
        r"orientation_override is 'x'",
    ),
    "test list of all": (
        lambda d: edit_json(d / "transforms.json", test_filenames=[f"images/frame_{i:05d}.png" for i in range(9)]),
        r"val and test lists name every frame; leave some out to train on",
    ),
    "unknown name": (
        lambda d: edit_json(d / "transforms.json", train_filenames=["x.png"]),
        r"names x.png, which is no",
    ),
    "bad list": (
        lambda d: edit_json(d / "transforms.json", train_filenames="x.png"),
        r"train_filenames must be a list",
    ),
    "one frame": (
        lambda d: edit_json(
            d / "transforms.json", frames=json.loads((d / "transforms.json").read_text())["frames"][:1]
        ),
        r"1 frames .* leave nothing to train on",
    ),
    "one mask": (
        lambda d: edit_frame(d / "transforms.json", 1, mask_path="masks/1.png"),
        r"masks/1.png: mask is missing \(1 of 1 that transforms.json names\); restore",
    ),
}


def expect_error(config: PeakDataParserConfig, message: str, split: str = "train") -> None:
    with pytest.raises(PeakError, match=message) as caught:
        config.setup().get_dataparser_outputs(split=split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", BLENDER_FAULTS)
def test_faults_of_a_blender_scene(blender: Path, fault: str):
    damage, message = BLENDER_FAULTS[fault]
    damage(blender)
    expect_error(PeakDataParserConfig(data=blender), message)


@pytest.mark.parametrize("fault", CAPTURE_FAULTS)
def test_faults_of_a_capture(capture: Path, fault: str):
    damage, message = CAPTURE_FAULTS[fault]
    damage(capture)
    expect_error(PeakDataParserConfig(data=capture), message)


def test_a_folder_of_scenes_suggests_one_of_them(blender: Path):
    expect_error(PeakDataParserConfig(data=blender.parent), r"did you mean .*/ball\?")


def test_a_file_that_is_not_json(blender: Path):
    expect_error(PeakDataParserConfig(data=blender / "train" / "r_0.png"), r"r_0.png: not a JSON file")


def test_beyond_the_decode_limit_structure_is_still_checked(blender: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scene_pictures, "DECODE_LIMIT", 0)
    assert len(PeakDataParserConfig(data=blender).setup().get_dataparser_outputs("train").image_filenames) == 6
    truncate(blender / "train" / "r_1.png")
    expect_error(PeakDataParserConfig(data=blender), "r_1.png: image is broken")


def test_truncated_jpeg(blender: Path):
    path = blender / "train" / "r_1.jpg"  # its headers are whole: only decoding tells
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    truncate(path)
    edit_json(blender / "transforms_train.json", frames=[{"file_path": "train/r_1.jpg", "transform_matrix": POSE}])
    expect_error(PeakDataParserConfig(data=blender), "r_1.jpg: image is broken or truncated")


def test_only_the_images_in_use_have_to_be_there(blender: Path):
    (blender / "train" / "r_5.png").unlink()
    PeakDataParserConfig(data=blender, view_indices=(0, 1)).setup().get_dataparser_outputs("train")
    expect_error(PeakDataParserConfig(data=blender), "r_5.png: image is missing")


@pytest.mark.parametrize(("kept", "asked"), [("test", "val"), ("val", "test")])
def test_blender_val_and_test_stand_in_for_each_other(tmp_path: Path, kept: str, asked: str):
    counts = {"n_val": 0, "n_test": 0, f"n_{kept}": 2}
    scene = find_scene(write_blender_scene(tmp_path / "ball", **counts))
    said: list[str] = []
    scene_file, indices = split_of_scene(scene, asked, say=said.append)
    assert scene_file.path.name == f"transforms_{kept}.json"
    assert indices == [0, 1]
    assert len(said) == 1
    assert f"no transforms_{asked}.json" in said[0]


def test_blender_without_any_evaluation_split_holds_every_eighth_out(tmp_path: Path):
    data = write_blender_scene(tmp_path / "ball", n_train=10, n_val=0, n_test=0)
    said: list[str] = []
    scene = find_scene(data)
    assert split_of_scene(scene, "train", say=said.append)[1] == [1, 2, 3, 4, 5, 6, 7, 9]
    assert "every 8th frame of transforms_train.json, 2 of 10, is held out" in said[0]
    assert split_of_scene(scene, "test")[1] == split_of_scene(scene, "val")[1] == [0, 8]
    a, b = (PeakDataParserConfig(data=data).setup().get_dataparser_outputs(split) for split in ("train", "test"))
    assert not set(a.image_filenames) & set(b.image_filenames)
    with pytest.raises(PeakError, match=r"10 frames with every 1th.* leave nothing to train on.*add transforms_test"):
        split_of_scene(scene, "test", eval_interval=1)


def test_val_alone_and_test_alone_are_not_a_scene(blender: Path):
    for name in ("transforms_train.json", "transforms_val.json"):
        (blender / name).unlink()
    expect_error(PeakDataParserConfig(data=blender), "transforms_train.json missing, so there is no train split")


def test_every_eighth_frame_is_for_evaluation(capture: Path):
    scene = find_scene(capture)
    assert split_of_scene(scene, "train")[1] == [1, 2, 3, 4, 5, 6, 7]
    assert split_of_scene(scene, "val")[1] == split_of_scene(scene, "test")[1] == [0, 8]
    assert split_of_scene(scene, "test", eval_interval=4)[1] == [0, 4, 8]
    with pytest.raises(PeakError, match="nothing to train on"):
        split_of_scene(scene, "train", eval_interval=1)


def test_lists_of_the_splits(capture: Path):
    names = [f"images/frame_{i:05d}.png" for i in range(9)]
    said: list[str] = []

    def split(name: str) -> list[int]:
        return split_of_scene(find_scene(capture), name, say=said.append)[1]

    edit_json(capture / "transforms.json", train_filenames=names[:5], test_filenames=["./" + n for n in names[7:]])
    assert (split("train"), split("test"), said) == ([0, 1, 2, 3, 4], [7, 8], [])
    assert split("val") == [7, 8]
    assert "no val_filenames" in said.pop()
    edit_json(capture / "transforms.json", test_filenames=None)
    assert split("val") == split("test") == [5, 6, 7, 8]
    said.clear()
    edit_json(capture / "transforms.json", train_filenames=names)
    assert (split("train"), split("val"), split("test")) == ([1, 2, 3, 4, 5, 6, 7], [0, 8], [0, 8])
    assert "every 8th of them, 2 of 9, is held out" in said[0]
    edit_json(capture / "transforms.json", train_filenames=None, val_filenames=names[:2])
    said.clear()
    assert (split("train"), split("test")) == ([2, 3, 4, 5, 6, 7, 8], [0, 1])
    assert "has no train_filenames: the train split is the 7 other frames" in said[0]


def test_frames_of_a_capture_are_in_order_of_name(capture: Path):
    frames = json.loads((capture / "transforms.json").read_text())["frames"]
    edit_json(capture / "transforms.json", frames=frames[::-1])
    scene_file, _ = split_of_scene(find_scene(capture), "train")
    assert [frame.name for frame in scene_file.frames] == [frame["file_path"] for frame in frames]


def test_folder_with_both_formats(blender: Path, capture: Path):
    for path in ("transforms.json", "images"):
        (capture / path).rename(blender / path)
    said: list[str] = []
    assert find_scene(blender, said.append).kind == "blender"
    assert "transforms_train.json and transforms.json" in said[0]
    assert find_scene(blender / "transforms.json", said.append).kind == "nerfstudio"
    assert len(said) == 1
    (blender / "transforms_train.json").unlink()
    assert find_scene(blender, said.append).kind == "nerfstudio"


def test_names_with_extension_backslash_or_byte_order_mark(blender: Path):
    path = blender / "transforms_train.json"
    edit_frame(path, 0, file_path="train/r_0.png")
    edit_frame(path, 1, file_path="train\\r_1.png")
    Image.open(blender / "train" / "r_2.png").save(blender / "train" / "r_2.5.png")
    edit_frame(path, 2, file_path="./train/r_2.5")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    outputs = PeakDataParserConfig(data=blender).setup().get_dataparser_outputs("train")
    assert [file.name for file in outputs.image_filenames[:4]] == ["r_0.png", "r_1.png", "r_2.5.png", "r_3.png"]


def test_a_scene_is_never_written_to(blender: Path):
    before = {path: path.stat().st_mtime_ns for path in blender.rglob("*")}
    PeakDataParserConfig(data=blender).setup().get_dataparser_outputs("train")
    assert {path: path.stat().st_mtime_ns for path in blender.rglob("*")} == before


def test_a_file_with_one_frame_is_enough_for_blender(tmp_path: Path):
    data = write_blender_scene(tmp_path / "ball", n_train=1)
    assert len(PeakDataParserConfig(data=data).setup().get_dataparser_outputs("train").image_filenames) == 1
