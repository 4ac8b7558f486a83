"""Pictures of every format, depth and orientation are one and the same to all of the code."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import scene_pictures
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from tests.nerf.data.scenes import dataset, parse
from tests.nerf.scene_factory import edit_json, write_blender_scene, write_nerfstudio_scene

ORIENTATION = 0x112
TRANSPOSED = {  # how a picture lies in the file, if EXIF says n
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # counter-clockwise: a viewer turns it clockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def pictures_of(data: Path) -> list[Path]:
    return sorted((data / "images").iterdir())


def image(data: Path, split: str = "train", i: int = 0) -> np.ndarray:
    return dataset(data, split).get_numpy_image(i)


def rename(data: Path, suffix: str) -> None:
    """In the file, and none of the pictures that were there."""
    text = (data / "transforms.json").read_text()
    for path in pictures_of(data):
        path.unlink()
    (data / "transforms.json").write_text(text.replace(".png", suffix))


def rewrite(data: Path, write: Callable[[Image.Image, Path], object], suffix: str = ".png") -> list[np.ndarray]:
    """Every picture again, by `write`; what they were."""
    old = {path: Image.open(path).convert("RGB") for path in pictures_of(data)}
    if suffix != ".png":
        rename(data, suffix)
    for path, picture in old.items():
        write(picture, path.with_suffix(suffix))
    return [np.asarray(picture) for picture in old.values()]


GREYS = np.array([[0, 128, 129, 257, 385, 386, 65406, 65407, 65535] + [7 * 257] * 7] * 16, np.uint16)
"""Halves between n * 257 are rounded upwards: 128 is below half of 257, 129 above; 65406 = 254.49 * 257."""
GREYS_8 = [0, 0, 1, 1, 1, 2, 254, 255, 255] + [7] * 7


def test_sixteen_bits_of_grey_are_rounded_not_cut_off(capture: Path, said: list[str]) -> None:
    rewrite(capture, lambda _, path: Image.fromarray(GREYS).save(path))
    for split in ("train", "val"):
        assert (image(capture, split) == np.array(GREYS_8)[None, :, None]).all()
    assert said == ["7 of 7 pictures are converted to 8-bit sRGB: 16 bits, grey (7)"]


@pytest.mark.parametrize("n_channels", [3, 4])
def test_sixteen_bits_of_colour(capture: Path, n_channels: int) -> None:
    deep = np.stack([GREYS, GREYS.T, GREYS[::-1, ::-1], GREYS][:n_channels], axis=2)
    bgr = deep[..., [2, 1, 0, 3][:n_channels]]
    rewrite(capture, lambda _, path: cv2.imwrite(str(path), bgr))
    eight = np.array([GREYS_8] * 16)
    wanted = np.stack([eight, eight.T, eight[::-1, ::-1], eight][:n_channels], axis=2)
    np.testing.assert_array_equal(image(capture), wanted)
    assert parse(capture).metadata["has_alpha"] == (n_channels == 4)


FORMATS: dict[str, tuple[str, Callable[[Image.Image], Image.Image], str]] = {
    "palette": (".png", lambda im: im.quantize(64), "palette (7)"),
    "grey and alpha": (".png", lambda im: im.convert("LA"), "grey (7)"),
    "gif": (".gif", lambda im: im.quantize(64), "palette (7)"),
    "black and white": (".png", lambda im: im.convert("1"), "black and white (7)"),
    "tiff of a palette": (".tif", lambda im: im.quantize(16), "palette (7)"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_read_as_a_viewer_shows_them(capture: Path, said: list[str], name: str) -> None:
    suffix, convert, what = FORMATS[name]
    old = rewrite(capture, lambda im, path: convert(im).save(path), suffix)
    wanted = np.asarray(convert(Image.fromarray(old[1])).convert("RGB"))
    np.testing.assert_array_equal(image(capture), wanted)  # frame 1 is the first training view
    assert said == [f"7 of 7 pictures are converted to 8-bit sRGB: {what}"]
    assert parse(capture).metadata["unbounded"]


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tif"])
def test_formats_without_loss_are_read_as_they_are(capture: Path, said: list[str], suffix: str) -> None:
    old = rewrite(capture, lambda im, path: im.save(path, lossless=True), suffix)
    np.testing.assert_array_equal(image(capture), old[1])
    assert said == []


def test_cmyk(capture: Path, said: list[str]) -> None:
    """By ideal inks: all cyan is no red."""
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    rewrite(capture, lambda _, path: cyan.save(path, quality=100), ".jpg")
    assert np.abs(image(capture).astype(int) - [0, 255, 255]).max() <= 2
    assert said == ["7 of 7 pictures are converted to 8-bit sRGB: CMYK (7)"]


def test_linear_light_of_exr(capture: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 0.5 is 1.055 * 0.5^(1/2.4) - 0.055 = 0.7354 of 255; 0.002 is 12.92 * 0.002 of it; 3 is cut off."""
    light = np.full((16, 16, 3), (3.0, 0.002, 0.5), np.float32)  # OpenCV's order is BGR
    monkeypatch.setenv("OPENCV_IO_ENABLE_OPENEXR", "1")
    rewrite(capture, lambda _, path: cv2.imwrite(str(path), light), ".exr")
    assert (image(capture) == [188, 7, 255]).all()
    assert said == ["7 of 7 pictures are converted to 8-bit sRGB: linear light, cut off at 1, floats (7)"]


def test_exr_with_alpha_comes_multiplied_by_it(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_IO_ENABLE_OPENEXR", "1")
    light = np.full((16, 16, 4), (0.25, 0.25, 0.25, 0.5), np.float32)
    rewrite(capture, lambda _, path: cv2.imwrite(str(path), light), ".exr")
    assert (image(capture) == [188, 188, 188, 128]).all()


BROKEN = {".exr": b"v/1\x01\x02\0\0\0" + b"\0" * 64, ".heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64}


@pytest.mark.parametrize("suffix", BROKEN)
def test_broken_pictures_of_rare_formats(capture: Path, suffix: str) -> None:
    rewrite(capture, lambda _, path: path.write_bytes(BROKEN[suffix]), suffix)
    with pytest.raises(PeakError, match=rf"frame_00001{suffix}: image is broken or truncated.*; copy"):
        parse(capture)


def test_jpeg_xl_names_the_package(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    rewrite(capture, lambda _, path: path.write_bytes(b"\xff\x0a" + b"\0" * 64), ".jxl")
    with pytest.raises(PeakError, match=r"frame_00001.jxl: JPEG XL needs a package; pip install pillow-jxl-plugin"):
        parse(capture)


# ------------------------------------------------------------------------------------------------------ alpha


def test_one_transparent_picture_gives_all_an_alpha_channel(capture: Path, said: list[str]) -> None:
    path = pictures_of(capture)[4]
    Image.open(path).convert("RGBA").save(path)
    picture = Image.open(path)
    picture.putpixel((3, 5), (1, 2, 3, 0))
    picture.save(path)
    train, val = dataset(capture), dataset(capture, "val")
    assert [train.get_numpy_image(i).shape[2] for i in range(7)] == [4] * 7
    assert (train.get_numpy_image(0)[..., 3] == 255).all()
    assert train.get_numpy_image(3)[5, 3].tolist() == [1, 2, 3, 0]
    assert (val.get_numpy_image(0)[..., 3] == 255).all()
    for outputs in (train, val):
        assert (outputs.metadata["has_alpha"], outputs.metadata["unbounded"]) == (True, False)
    assert said == ["6 of 7 pictures have no alpha where others have: taken as opaque"]


@pytest.mark.parametrize("which", ["all", "one"])
def test_alpha_that_is_opaque_everywhere_is_that_of_a_photo(capture: Path, said: list[str], which: str) -> None:
    """As RGB: the same space, the same pixels."""
    as_rgb = parse(capture)
    said.clear()
    for path in pictures_of(capture)[0 if which == "all" else 4 :][: None if which == "all" else 1]:
        Image.open(path).convert("RGBA").save(path)
    for split in ("train", "val"):
        outputs = parse(capture, split)
        assert (outputs.metadata["has_alpha"], outputs.metadata["unbounded"]) == (False, True)
        torch.testing.assert_close(outputs.scene_box.aabb, as_rgb.scene_box.aabb)
        np.testing.assert_array_equal(image(capture, split).shape, (16, 16, 3))
    n = 7 if which == "all" else 1
    assert said == [f"alpha of {n} of 7 pictures is opaque everywhere: they are photos"]


def test_transparent_test_pictures_of_photos(capture: Path, said: list[str]) -> None:
    path = pictures_of(capture)[8]
    old = Image.open(path)
    rgba = old.convert("RGBA")
    rgba.putalpha(7)
    rgba.save(path)
    val = dataset(capture, "val")
    assert (val.metadata["has_alpha"], val.metadata["unbounded"]) == (False, True)
    np.testing.assert_array_equal(val.get_numpy_image(1), np.asarray(old))
    assert said == ["alpha of 1 of 2 pictures is left out, since the training pictures are opaque"]


def test_a_blender_scene_stays_what_it_is(tmp_path: Path) -> None:
    data = write_blender_scene(tmp_path)
    for path in data.glob("*/*.png"):
        picture = Image.open(path)
        picture.putalpha(255)
        picture.save(path)
    outputs = parse(data)
    assert (outputs.metadata["has_alpha"], outputs.metadata["unbounded"]) == (True, False)
    assert outputs.pictures[0].read().shape == (16, 16, 4)


def test_runs_of_before_keep_their_space(capture: Path) -> None:
    """Their config.yml does not say `opaque_is_photo`; they took any alpha channel for that of an object."""
    for path in pictures_of(capture):
        Image.open(path).convert("RGBA").save(path)
    state = vars(PeakDataParserConfig(data=capture)).copy()
    assert PeakDataParserConfig(data=capture).setup().get_dataparser_outputs().metadata["unbounded"]
    del state["opaque_is_photo"]
    old = PeakDataParserConfig.__new__(PeakDataParserConfig)
    old.__setstate__(state)
    metadata = old.setup().get_dataparser_outputs().metadata
    assert (metadata["has_alpha"], metadata["unbounded"]) == (True, False)


# ------------------------------------------------------------------------------------------------ orientation


def wide_scene(data: Path) -> Path:
    """Of pictures 20 x 16."""
    write_nerfstudio_scene(data)
    edit_json(data / "transforms.json", w=20, cx=10)
    noise = np.random.default_rng(0).integers(0, 255, (9, 16, 20, 3), dtype=np.uint8)
    for path, values in zip(pictures_of(data), noise, strict=True):
        Image.fromarray(values).save(path)
    return data


def tag(path: Path, orientation: int, stored: Image.Transpose | None) -> None:
    """Say that it is to be turned; `stored`: turn it the other way before."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture = Image.open(path)
    picture.load()
    (picture if stored is None else picture.transpose(stored)).save(path, exif=exif)


@pytest.mark.parametrize("orientation", TRANSPOSED)
def test_pictures_are_upright_where_that_fits(tmp_path: Path, said: list[str], orientation: int) -> None:
    data = wide_scene(tmp_path)
    upright = np.asarray(Image.open(pictures_of(data)[1]))
    for path in pictures_of(data):
        tag(path, orientation, TRANSPOSED[orientation])
    outputs = parse(data)
    np.testing.assert_array_equal(image(data), upright)
    assert outputs.cameras.width.unique().tolist() == [20]
    why = "goes by w and h" if orientation >= 5 else "fits w and h either way"
    assert said == [f"7 of 7 pictures have an EXIF orientation, which {why}: 7 are read upright"]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_pictures_are_as_stored_where_only_that_fits(tmp_path: Path, said: list[str], orientation: int) -> None:
    """One that would fit either way goes with the others, in all splits."""
    data = wide_scene(tmp_path)
    stored = [np.asarray(Image.open(path)) for path in pictures_of(data)]
    for i, path in enumerate(pictures_of(data)):
        tag(path, 3 if i in (0, 4) else orientation, None)
    np.testing.assert_array_equal(image(data), stored[1])
    np.testing.assert_array_equal(image(data, i=3), stored[4])
    np.testing.assert_array_equal(image(data, "val"), stored[0])
    assert said == [
        "7 of 7 pictures have an EXIF orientation, which goes by w and h: 0 are read upright, 7 as stored",
    ]


def test_square_pictures_are_upright(capture: Path) -> None:
    path = pictures_of(capture)[1]
    before = np.asarray(Image.open(path))
    tag(path, 6, None)
    np.testing.assert_array_equal(image(capture), np.rot90(before, -1))


def test_a_size_that_fits_neither_way(tmp_path: Path) -> None:
    data = wide_scene(tmp_path)
    edit_json(data / "transforms.json", w=30)
    tag(pictures_of(data)[1], 6, Image.Transpose.ROTATE_90)
    with pytest.raises(PeakError, match=r"frame_00001.png is 20x16 but .* says 30x16"):
        parse(data)


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "P"), (".tif", "RGB"), (".tif", "P"), (".webp", "RGB")])
@pytest.mark.parametrize("fits", ["upright", "stored"])
def test_orientation_of_other_formats(tmp_path: Path, suffix: str, mode: str, fits: str) -> None:
    data = wide_scene(tmp_path)
    exif = Image.Exif()
    exif[ORIENTATION] = 6

    def write(picture: Image.Image, path: Path) -> None:
        picture = picture.transpose(Image.Transpose.ROTATE_90) if fits == "upright" else picture
        (picture.quantize(256) if mode == "P" else picture).save(path, exif=exif, lossless=True)

    old = rewrite(data, write, suffix)
    got = image(data)
    assert got.shape == old[1].shape
    if mode == "RGB":
        np.testing.assert_array_equal(got, old[1])
    else:
        assert np.abs(got.astype(int) - old[1]).mean() < 20


# ------------------------------------------------------------------------------------- nerfstudio's own reading


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "jpeg"])
def test_usual_pictures_are_read_as_nerfstudio_reads_them(
    tmp_path: Path, kind: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Pillow alone, to the bit, at every scale."""
    monkeypatch.setattr(scene_pictures, "read_photo", None)
    data = write_nerfstudio_scene(tmp_path, alpha=kind == "RGBA")
    if kind == "jpeg":
        rewrite(data, lambda im, path: im.save(path), ".jpg")
    if kind == "L":
        rewrite(data, lambda im, path: im.convert("L").save(path))
    outputs = parse(data)
    for scale in (1.0, 0.5):
        ours, theirs = dataset(data), InputDataset(outputs, scale)
        ours.scale_factor = scale
        for i in range(len(theirs)):
            np.testing.assert_array_equal(ours.get_numpy_image(i), theirs.get_numpy_image(i))
            assert ours.get_data(i).keys() == theirs.get_data(i).keys()
    assert said == []


@pytest.mark.parametrize("what", ["palette", "mixed", "turned"])
def test_other_methods_are_not_given_what_they_read_wrong(capture: Path, what: str) -> None:
    path = pictures_of(capture)[4]
    picture = Image.open(path)
    if what == "palette":
        picture.quantize(16).save(path)
    elif what == "mixed":
        picture.putalpha(9)
        picture.save(path)
    else:
        tag(path, 6, None)
    parse(capture)
    with pytest.raises(PeakError, match=r"frame_00004.png: has .* only the methods peak, peak-lite and peak-n"):
        parse(capture, for_others=True)
