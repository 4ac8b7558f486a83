"""A picture is written as it was read: depth, channels, alpha, colour profile, EXIF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from peak_nerf.errors import PeakError
from peak_nerf.images.original import Original, read_original
from peak_nerf.images.write import write_original

random = np.random.default_rng(0)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x112], data[0x10F], data[0x8769] = orientation, "Canon", {0x9003: "2020:01:01 00:00:00"}
    return data.tobytes()


@pytest.mark.parametrize("n_channels", MODES)
@pytest.mark.parametrize(("form", "suffix"), [("PNG", "png"), ("TIFF", "tif")])
def test_8_bits(form: str, suffix: str, n_channels: int, tmp_path: Path) -> None:
    pixels = random.integers(0, 256, (20, 30, n_channels), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0] if n_channels == 1 else pixels)
    path = tmp_path / f"a.{suffix}"
    image.save(path, format=form, icc_profile=PROFILE, exif=exif(6), dpi=(300, 300))
    original = read_original(path)
    np.testing.assert_array_equal(original.pixels, np.rot90(pixels, -1))  # upright
    copy = write_original(tmp_path / "copy", original)
    assert copy.name == f"copy.{suffix}"
    with Image.open(copy) as opened:
        assert (opened.format, opened.mode, opened.size) == (form, MODES[n_channels], (20, 30))
        np.testing.assert_array_equal(np.asarray(opened).reshape(30, 20, -1), original.pixels)
        assert opened.info["icc_profile"] == PROFILE
        assert opened.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        kept = opened.getexif()
        assert kept.get(0x112, 1) == 1
        assert kept[0x10F] == "Canon"
        assert kept.get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"


@pytest.mark.parametrize("n_channels", [1, 3, 4])
def test_16_bits(n_channels: int, tmp_path: Path) -> None:
    pixels = random.integers(0, 65536, (20, 30, n_channels), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels[..., [2, 1, 0, 3][:n_channels]] if n_channels > 1 else pixels)
    extra = {"extrasamples": ["unassalpha"]} if n_channels == 4 else {}
    rgb = "rgb" if n_channels > 1 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tiff", pixels.squeeze(), photometric=rgb, iccprofile=PROFILE, **extra)
    for name in ("a.png", "a.tiff"):
        original = read_original(tmp_path / name)
        np.testing.assert_array_equal(original.pixels, pixels)
        given = replace(original, icc_profile=PROFILE, exif=exif(1))
        copy = write_original(tmp_path / "copy", given)
        again = read_original(copy)
        assert copy.suffix == Path(name).suffix
        assert again.pixels.dtype == np.uint16
        np.testing.assert_array_equal(again.pixels, pixels)
        assert again.icc_profile == PROFILE
        assert b"Canon" in again.exif


def test_floats_and_npy(tmp_path: Path) -> None:
    floats = random.random((20, 30, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", floats, photometric="rgb")
    np.save(tmp_path / "b.npy", floats[..., 0].astype(np.float64))
    for name, dtype in (("a.tif", np.float32), ("b.npy", np.float64)):
        original = read_original(tmp_path / name)
        again = read_original(write_original(tmp_path / "copy", original))
        assert again.pixels.dtype == dtype
        np.testing.assert_array_equal(again.pixels, original.pixels)
    assert np.load(tmp_path / "copy.npy").shape == (20, 30)


def test_jpeg_is_written_without_loss(tmp_path: Path) -> None:
    image = Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    image.save(tmp_path / "a.jpg", icc_profile=PROFILE, exif=exif(3))
    original = read_original(tmp_path / "a.jpg")
    copy = write_original(tmp_path / "copy", original)
    assert copy.suffix == ".png"
    np.testing.assert_array_equal(np.asarray(Image.open(copy)), original.pixels)
    assert read_original(copy).icc_profile == PROFILE


def test_what_is_converted_is_said(tmp_path: Path) -> None:
    grey = Image.fromarray(random.integers(0, 2, (20, 30), dtype=np.uint8) * 255)
    grey.convert("1").save(tmp_path / "bits.png")
    grey.convert("RGB").quantize(4).save(tmp_path / "palette.png")
    grey.save(tmp_path / "key.png", transparency=255)
    Image.new("CMYK", (30, 20), (0, 255, 255, 0)).save(tmp_path / "inks.jpg")
    for name, n_channels, note in (
        ("bits.png", 1, "black and white, as grey"),
        ("palette.png", 1, "palette, as grey"),
        ("key.png", 2, "transparent colour, as alpha"),
        ("inks.jpg", 3, "CMYK converted to sRGB by ideal inks, for it has no profile"),
    ):
        original = read_original(tmp_path / name, convert=True)
        assert original.pixels.shape == (20, 30, n_channels)
        assert original.notes == (note,)
    red = read_original(tmp_path / "inks.jpg", convert=True).pixels[0, 0]
    assert red[0] > 200 > 60 > red[1]
    key = read_original(tmp_path / "key.png")
    assert key.alpha is not None
    np.testing.assert_array_equal(key.alpha, 255 - np.asarray(grey))


def test_encode_rounds_and_clips() -> None:
    values = np.array([[[-0.1], [0.5]], [[0.001], [1.2]]])
    eight, sixteen = (Original(np.zeros((2, 2, 1), dtype)) for dtype in (np.uint8, np.uint16))
    np.testing.assert_array_equal(eight.encode(values)[..., 0], [[0, 128], [0, 255]])
    np.testing.assert_array_equal(sixteen.encode(values)[..., 0], [[0, 32768], [66, 65535]])


def test_gimps_own_format_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.xcf").write_bytes(b"gimp xcf v011\0" + bytes(99))
    with pytest.raises(PeakError, match=r"a\.xcf: is GIMP's own format, .*export it there as PNG"):
        read_original(tmp_path / "a.xcf")


def test_first_of_several_pictures_where_that_will_do(tmp_path: Path) -> None:
    pages = [Image.new("L", (9, 9), level) for level in (7, 5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    original = read_original(tmp_path / "a.tif", first=True)
    assert original.notes == ("first of 2 pictures",)
    assert (original.pixels == 7).all()


def test_two_pictures_are_refused(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 20), value) for value in (1, 2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(PeakError, match=r"a\.tif: holds 2 pictures; save the one you mean"):
        read_original(tmp_path / "a.tif")


def test_a_tiff_without_resolution_has_none(tmp_path: Path) -> None:
    """Pillow says 1."""
    Image.new("L", (20, 20)).save(tmp_path / "a.tif")
    assert read_original(tmp_path / "a.tif").dpi is None
