"""Masks as people have them: of any format, of some frames only, of other sizes, found by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.images.photo import PhotoFile
from peak_nerf.nerf.data.scene_masks import used_pixels
from tests.nerf.data.scenes import dataset, parse
from tests.nerf.runs import start, tiny_config
from tests.nerf.scene_factory import edit_frame, edit_json, write_blender_scene, write_nerfstudio_scene

DISC = (np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 20) * np.uint8(255)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_nerfstudio_scene(tmp_path / "capture", size=64)


def mask_all(data: Path, write: Callable[[Path], object], suffix: str = ".png", frames: range = range(9)) -> None:
    (data / "masks").mkdir(exist_ok=True)
    for i in frames:
        write(data / "masks" / f"m{i}{suffix}")
        edit_frame(data / "transforms.json", i, mask_path=f"masks/m{i}{suffix}")


def mask(data: Path, split: str = "train", i: int = 0) -> np.ndarray:
    found = dataset(data, split)[i]["mask"].numpy()
    assert found.dtype == bool
    assert found.shape[2] == 1
    return found[..., 0]


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "L": lambda im: im,
    "1": lambda im: im.convert("1"),
    "RGB": lambda im: im.convert("RGB"),
    "RGBA": lambda im: im.convert("RGBA"),
    "P": lambda im: im.convert("P"),
    "LA": lambda im: im.convert("LA"),
    "0 and 1": lambda im: im.point(lambda v: v // 255),
    "16 bits": lambda im: Image.fromarray(np.asarray(im).astype(np.uint16) * 257),
    "alpha of white": lambda im: Image.merge("LA", (Image.new("L", im.size, 255), im)),
    "alpha of black": lambda im: Image.merge("LA", (Image.new("L", im.size, 0), im)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_masks(capture: Path, kind: str) -> None:
    mask_all(capture, KINDS[kind](Image.fromarray(DISC)).save)
    for split in ("train", "test"):
        np.testing.assert_array_equal(mask(capture, split), DISC > 0)


def test_half_is_the_threshold(capture: Path) -> None:
    """What JPEG leaves around an edge is not used: 127 is hidden, 128 is not."""
    ramp = np.tile(np.arange(64, dtype=np.uint8) + 96, (64, 1))
    mask_all(capture, Image.fromarray(ramp).save)
    np.testing.assert_array_equal(mask(capture), ramp >= 128)
    mask_all(capture, lambda path: Image.fromarray(DISC).save(path, quality=90), ".jpg")
    ringing = np.asarray(Image.open(capture / "masks" / "m1.jpg"))
    assert ((ringing > 0) & (DISC == 0)).sum() > 100
    np.testing.assert_array_equal(mask(capture), DISC > 0)


def photo(rgb: list[int], alpha: list[int]) -> PhotoFile:
    return PhotoFile(np.repeat(np.array([rgb], np.uint8)[..., None], 3, axis=2), np.array([alpha], np.uint8))


def test_what_alpha_means() -> None:
    """Black and white count where alpha shows them; a cut-out photo is used wherever it is opaque."""
    assert used_pixels(photo([255, 0, 255, 0], [255, 255, 0, 0])).tolist() == [[True, False, False, False]]
    assert used_pixels(photo([0, 0, 0, 0], [255, 128, 127, 0])).tolist() == [[True, True, False, False]]
    cut_out = PhotoFile(np.array([[[9, 0, 0], [0, 255, 0]]], np.uint8), np.array([[255, 255]], np.uint8))
    assert used_pixels(cut_out).tolist() == [[True, True]]


def test_frames_without_a_mask_are_used_wholly(capture: Path, said: list[str]) -> None:
    mask_all(capture, Image.fromarray(DISC).save, frames=range(0, 9, 2))
    assert mask(capture, i=0).all()  # frame 1
    np.testing.assert_array_equal(mask(capture, i=1), DISC > 0)
    assert parse(capture).mask_filenames is None
    assert said == ["4 of 7 pictures have no mask and are used wholly"]
    with pytest.raises(PeakError, match=r"frame_00001.png: has no mask where others have one, which only the methods"):
        parse(capture, for_others=True)


def test_masks_of_another_size(capture: Path, said: list[str]) -> None:
    """Nearest: each pixel of a quarter stands for 4 x 4; of twice the size, every second is taken."""
    small, large = DISC[::4, ::4], DISC.repeat(2, axis=0).repeat(2, axis=1)
    mask_all(capture, Image.fromarray(small).save)
    np.testing.assert_array_equal(mask(capture), (small > 0).repeat(4, axis=0).repeat(4, axis=1))
    assert said == ["7 of 7 masks have another size than their pictures and are resized to it"]
    mask_all(capture, Image.fromarray(large).save)
    np.testing.assert_array_equal(mask(capture), DISC > 0)


@pytest.mark.parametrize("shape", [(64, 48), (64, 65), (32, 48)])
def test_masks_of_another_shape(capture: Path, shape: tuple[int, int]) -> None:
    mask_all(capture, Image.new("L", shape, 255).save)
    wanted = rf"m1.png: mask is {shape[0]}x{shape[1]}, another shape than its picture's 64x64; make it again"
    with pytest.raises(PeakError, match=wanted):
        parse(capture)


def test_masks_of_smaller_pictures_are_made_from_the_large_ones(capture: Path) -> None:
    mask_all(capture, Image.fromarray(DISC).save)
    (capture / "images_2").mkdir()
    for path in (capture / "images").iterdir():
        Image.open(path).resize((32, 32)).save(capture / "images_2" / path.name)
    found = dataset(capture, downscale_factor=2)[0]["mask"][..., 0].numpy()
    np.testing.assert_array_equal(found, (DISC > 0)[1::2, 1::2])
    (capture / "masks_2").mkdir()
    for path in (capture / "masks").iterdir():
        Image.new("L", (32, 32), 255).save(capture / "masks_2" / path.name)
    assert dataset(capture, downscale_factor=2)[0]["mask"].all()


def test_a_frame_that_is_hidden_wholly_is_left_out(capture: Path, said: list[str]) -> None:
    mask_all(capture, Image.fromarray(DISC).save)
    Image.new("L", (64, 64)).save(capture / "masks" / "m4.png")
    assert [path.stem[-1] for path in parse(capture).image_filenames] == ["1", "2", "3", "5", "6", "7"]
    assert [path.stem[-1] for path in parse(capture, num_views=2).image_filenames] == ["1", "7"]
    assert len(said) == 1
    assert said[0].endswith("json: 1 of 7 frames hidden wholly by masks and left out: images/frame_00004.png")


def test_all_frames_hidden(capture: Path) -> None:
    mask_all(capture, Image.new("L", (64, 64)).save)
    with pytest.raises(PeakError, match=r"m1.png: mask hides all of its picture, as do those of all 7 frames.*invert"):
        parse(capture)


NAMES = {"frame_00001.png": 1, "frame_00002.png.png": 2, "images/frame_00003.jpg": 3, "frame_00004.PNG": 4}


def test_masks_are_found_by_name(capture: Path, said: list[str]) -> None:
    for name in NAMES:
        path = capture / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(DISC).save(path, format="PNG")
    found = [not mask(capture, i=i).all() for i in range(7)]
    assert found == [True] * 4 + [False] * 3
    assert said[0].endswith(
        "masks: masks of 4 of 9 pictures, found by their names, are used; rename the folder to do without"
    )


def test_masks_of_no_picture_are_not_used(capture: Path, said: list[str]) -> None:
    (capture / "masks").mkdir()
    Image.fromarray(DISC).save(capture / "masks" / "other.png")
    assert "mask" not in dataset(capture)[0]
    assert "no file there is named as a picture" in said[0]


def test_masks_by_name_of_blender_splits_are_by_split(tmp_path: Path) -> None:
    """`train/r_0.png` and `test/r_0.png` are two pictures."""
    data = write_blender_scene(tmp_path / "b", size=64)
    (data / "masks" / "train").mkdir(parents=True)
    Image.fromarray(DISC).save(data / "masks" / "train" / "r_0.png")
    Image.fromarray(DISC).save(data / "masks" / "r_1.png")
    np.testing.assert_array_equal(mask(data), DISC > 0)
    assert mask(data, i=1).all()
    assert "mask" not in dataset(data, "test")[0]


@pytest.mark.parametrize("fault", ["missing", "broken", "number"])
def test_faults_of_masks(capture: Path, fault: str) -> None:
    mask_all(capture, Image.fromarray(DISC).save)
    path = capture / "masks" / "m3.png"
    wanted = {"missing": r"m3.png: mask is missing \(1 of 7", "broken": r"m3.png: mask is broken or truncated"}
    if fault == "missing":
        path.unlink()
    elif fault == "broken":
        path.write_bytes(path.read_bytes()[:90])
    else:
        edit_frame(capture / "transforms.json", 3, mask_path=3)
    with pytest.raises(PeakError, match=wanted.get(fault, "mask_path of images/frame_00003.png is not a path")):
        parse(capture)


def test_a_mask_is_turned_with_its_picture(tmp_path: Path) -> None:
    data = write_nerfstudio_scene(tmp_path, size=16)
    edit_json(data / "transforms.json", w=20, cx=10)
    exif = Image.Exif()
    exif[0x112] = 6
    used = np.zeros((16, 20), np.uint8)
    used[2:9, 3:5] = 255
    for path in (data / "images").iterdir():
        Image.new("RGB", (16, 20)).save(path, exif=exif)
    mask_all(data, lambda path: Image.fromarray(np.rot90(used)).save(path, exif=exif))
    np.testing.assert_array_equal(mask(data), used > 0)
    mask_all(data, Image.fromarray(used).save)
    np.testing.assert_array_equal(mask(data), used > 0)


def test_training_draws_no_pixel_that_is_hidden(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    data = write_nerfstudio_scene(tmp_path / "masked", size=64)
    mask_all(data, Image.fromarray(DISC).convert("RGB").save, frames=range(0, 9, 2))
    config.data = config.pipeline.datamanager.data = data
    table = start(config).pipeline.datamanager.full_size
    assert len(table) == 3 * int((DISC > 0).sum()) + 4 * 64 * 64


def test_masks_of_another_data_parser_are_read_as_ours(capture: Path) -> None:
    """nerfstudio's own rule, everything but 0, would use what JPEG leaves around the edges."""
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from peak_nerf.nerf.data.dataset import PeakDataset

    mask_all(capture, lambda path: Image.fromarray(np.maximum(DISC, 100)).convert("RGB").save(path))
    config = NerfstudioDataParserConfig(data=capture, eval_mode="all", downscale_factor=1)
    outputs = config.setup().get_dataparser_outputs("train")
    item = PeakDataset(outputs).get_data(0, "uint8")
    np.testing.assert_array_equal(item["mask"][..., 0].numpy(), DISC > 0)
    assert item["image"].shape == (64, 64, 3)
