"""Photographs of every format, mode and orientation, and the photos of a folder."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms

from peak_nerf.errors import PeakError
from peak_nerf.images import photo as module
from peak_nerf.images.photo import MissingPackage, PhotoError, PhotoFile, list_pictures, read_photo
from tests.images.pictures import camera_exif

random = np.random.default_rng(0)
# Tiles of one colour each, so that JPEG and its like stay close.
RGB = random.integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
GREY = RGB[..., 0].copy()
ALPHA = np.where(np.arange(48 * 64).reshape(48, 64) % 64 < 32, 255, 40).astype(np.uint8)
H, W = GREY.shape


def on_three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def far(photo: PhotoFile, expected: np.ndarray) -> float:
    assert photo.rgb.dtype == np.uint8
    assert photo.rgb.shape == expected.shape
    return float(np.abs(photo.rgb.astype(int) - expected).mean())


def register_heif() -> None:
    pillow_heif.register_heif_opener()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif", "heic", "avif", "mpo"])
def test_every_format_under_a_wrong_name(suffix: str, tmp_path: Path) -> None:
    if suffix == "heic":
        register_heif()
    options: dict[str, Any] = {"jpg": {"quality": 95, "subsampling": 0}, "mpo": {"quality": 95, "subsampling": 0}}
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", **options.get(suffix, {}))
    (tmp_path / f"a.{suffix}").rename(tmp_path / "a.dat")
    photo = read_photo(tmp_path / "a.dat")
    assert far(photo, RGB) <= {"png": 0, "tif": 0, "bmp": 0, "gif": 0}.get(suffix, 5)
    assert photo.alpha is None
    assert photo.exif == b""
    assert photo.converted == ("palette" if suffix == "gif" else "")
    assert photo.is_jpeg == (suffix in ("jpg", "mpo"))
    assert photo.size == (W, H)


MODES: dict[str, tuple[Image.Image, np.ndarray, np.ndarray | None, str]] = {
    "grey": (Image.fromarray(GREY), on_three(GREY), None, "grey"),
    "grey and alpha": (Image.fromarray(np.dstack([GREY, ALPHA])), on_three(GREY), ALPHA, "grey"),
    "colour and alpha": (Image.fromarray(np.dstack([RGB, ALPHA])), RGB, ALPHA, ""),
    "opaque": (Image.fromarray(np.dstack([RGB, np.full_like(ALPHA, 255)])), RGB, None, ""),
    "palette": (Image.fromarray(RGB).quantize(16), RGB, None, "palette"),
    "black and white": (Image.fromarray(GREY > 127), on_three((GREY > 127) * np.uint8(255)), None, "black and white"),
    "16 bits": (
        Image.fromarray((GREY.astype(np.uint16) * 257) - np.where(GREY > 0, np.uint16(128), np.uint16(0))),
        on_three(GREY),
        None,
        "16 bits, grey",
    ),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_modes(name: str, suffix: str, tmp_path: Path) -> None:
    image, rgb, alpha, converted = MODES[name]
    image.save(tmp_path / f"a.{suffix}")
    photo = read_photo(tmp_path / f"a.{suffix}")
    assert far(photo, rgb) == 0
    assert (photo.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(photo.alpha, alpha)
    assert photo.converted == converted


def test_16_bits_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert np.array_equal(read_photo(tmp_path / "grey.png").rgb, on_three(expected))
    deep = np.dstack([values, values[::-1], values.T])
    cv2.imwrite(str(tmp_path / "colour.png"), deep[..., ::-1])
    tifffile.imwrite(tmp_path / "colour.tif", deep, photometric="rgb")
    for name in ("colour.png", "colour.tif"):
        photo = read_photo(tmp_path / name)
        assert np.array_equal(photo.rgb, np.rint(deep / 257).astype(np.uint8))
        assert photo.converted == "16 bits"


def test_16_bits_with_alpha(tmp_path: Path) -> None:
    deep = np.dstack([RGB, ALPHA]).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., [2, 1, 0, 3]])
    photo = read_photo(tmp_path / "a.png")
    assert far(photo, RGB) == 0
    assert np.array_equal(photo.alpha, ALPHA)


def test_transparent_palette_and_colour_key(tmp_path: Path) -> None:
    Image.fromarray(RGB).quantize(16).save(tmp_path / "palette.png", transparency=0)
    palette = read_photo(tmp_path / "palette.png")
    indices = np.asarray(Image.fromarray(RGB).quantize(16))
    assert np.array_equal(palette.alpha == 0, indices == 0)
    key = tuple(int(value) for value in RGB[0, 0])
    Image.fromarray(RGB).save(tmp_path / "key.png", transparency=key)
    assert np.array_equal(read_photo(tmp_path / "key.png").alpha == 0, np.all(RGB[0, 0] == RGB, axis=2))


def test_floats(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", (RGB / 255).astype(np.float32), photometric="rgb")
    photo = read_photo(tmp_path / "a.tif")
    assert far(photo, RGB) == 0
    assert photo.converted == "floats"
    tifffile.imwrite(tmp_path / "b.tif", RGB.astype(np.float32), photometric="rgb")
    with pytest.raises(PhotoError, match=f"values from {RGB.min()} to {RGB.max()}"):
        read_photo(tmp_path / "b.tif")


def test_integers_of_unknown_range(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.int32) * 1000).save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match="32-bit integers"):
        read_photo(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_of_either_polarity(suffix: str, tmp_path: Path) -> None:
    """Pillow writes JPEGs as Adobe does, inverted, and TIFFs not: white paper must come out white from both."""
    inks = np.zeros((H, W, 4), np.uint8)
    inks[:, : W // 2, 1] = 255  # magenta, and paper
    Image.fromarray(inks, mode="CMYK").save(tmp_path / f"a.{suffix}")
    photo = read_photo(tmp_path / f"a.{suffix}")
    assert photo.converted == "CMYK"
    assert np.abs(photo.rgb[8, 8].astype(int) - (255, 0, 255)).max() <= 3
    assert np.abs(photo.rgb[8, -8].astype(int) - 255).max() <= 3


def display_p3() -> bytes:
    """An ICC profile with the primaries of Display P3 and a gamma of 2.2, written by hand."""
    return _matrix_profile(
        "Wide", ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
    )


def _matrix_profile(name: str, colorants: tuple[tuple[float, float, float], ...]) -> bytes:
    def fixed(*values: float) -> bytes:
        return b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in values)

    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + len(text).to_bytes(4, "big") + text + bytes(4 + 4 + 2 + 1 + 67),
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        **{tag: b"XYZ " + bytes(4) + fixed(*xyz)
           for tag, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)},
        **{tag: b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(2.2 * 256).to_bytes(2, "big") + bytes(2)
           for tag in (b"rTRC", b"gTRC", b"bTRC")},
    }  # fmt: skip
    table, body, start = len(tags).to_bytes(4, "big"), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + (start + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data
    header = bytearray(128)
    header[0:4] = (start + len(body)).to_bytes(4, "big")
    header[8:12], header[12:24], header[36:40] = bytes((2, 0x20, 0, 0)), b"mntrRGB XYZ ", b"acsp"
    header[68:80] = fixed(0.9642, 1.0, 0.8249)
    return bytes(header) + table + body


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_wide_colours_become_srgb(suffix: str, tmp_path: Path) -> None:
    values = np.zeros((16, 32, 3), np.uint8)
    values[:, :16] = (200, 100, 100)
    values[:, 16:] = 128
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(values).save(tmp_path / f"a.{suffix}", icc_profile=display_p3(), **options)
    photo = read_photo(tmp_path / f"a.{suffix}")
    assert photo.converted == "Wide"
    # By hand: linear (200, 100, 100) / 255 by gamma 2.2 from P3 to BT.709, then the sRGB curve.
    linear = (np.array([200, 100, 100]) / 255) ** 2.2
    linear = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]) @ linear
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(photo.rgb[4, 4] - expected).max() <= 2
    assert np.ptp(photo.rgb[4, 20].astype(int)) <= 1  # grey stays grey


def test_a_profile_of_srgb_changes_nothing_and_a_broken_one_does_no_harm(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, data, words in (("a.png", profile, ""), ("b.png", b"nonsense" * 40, "colour profile unreadable")):
        Image.fromarray(RGB).save(tmp_path / name, icc_profile=data)
        photo = read_photo(tmp_path / name)
        assert far(photo, RGB) == 0
        assert photo.converted == words
    Image.fromarray(GREY).save(tmp_path / "c.png", icc_profile=profile)  # of three colours, on a grey picture
    assert far(read_photo(tmp_path / "c.png"), on_three(GREY)) == 0


# Upright = this turn of what is stored: EXIF 2.32, section 4.6.4.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "heic"])
def test_orientations(suffix: str, orientation: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    if suffix == "heic":
        register_heif()
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=camera_exif(orientation).tobytes(), **options)
    photo = read_photo(path)
    expected = UPRIGHT[orientation](RGB)
    assert far(photo, expected) <= (4 if suffix in ("jpg", "heic") else 0)
    assert photo.size == (expected.shape[1], expected.shape[0])
    assert photo.converted == ("rotated by EXIF" if orientation > 1 else "")
    kept = Image.Exif()
    kept.load(photo.exif)
    assert {tag: kept[tag] for tag in kept if tag != 0x8769} == {0x10F: "Canon", 0x110: "EOS 5D"}
    assert dict(kept.get_ifd(0x8769)) == {0x920A: 24.5, 0xA405: 39, 0xA434: "EF 24-70"}


def test_16_bits_are_turned_with_their_alpha(tmp_path: Path) -> None:
    deep = np.dstack([RGB, ALPHA]).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", extrasamples=["unassalpha"],
                     extratags=[(274, 3, 1, 6, True)])  # fmt: skip
    photo = read_photo(tmp_path / "a.tif")
    assert far(photo, np.rot90(RGB, -1)) == 0
    assert np.array_equal(photo.alpha, np.rot90(ALPHA, -1))


def test_useless_and_damaged_exif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x10F], exif[0x8769] = "  ", {0x920A: 0.0, 0xA405: 0}
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif.tobytes())
    assert read_photo(tmp_path / "a.jpg").exif == b""
    Image.fromarray(RGB).save(tmp_path / "b.jpg", exif=b"Exif\0\0garbage of no kind")
    assert far(read_photo(tmp_path / "b.jpg"), RGB) < 10

    def damaged(self: Image.Exif, tag: int) -> None:
        raise SyntaxError("not a TIFF file")

    # The details alone are damaged: the orientation is still known.
    Image.fromarray(RGB).save(tmp_path / "c.png", exif=camera_exif(6).tobytes())
    monkeypatch.setattr(Image.Exif, "get_ifd", damaged)
    photo = read_photo(tmp_path / "c.png")
    assert (photo.exif, photo.converted) == (b"", "EXIF unreadable, rotated by EXIF")
    assert far(photo, np.rot90(RGB, -1)) == 0


def test_a_large_jpeg_may_be_decoded_smaller(tmp_path: Path) -> None:
    large = RGB.repeat(8, axis=0).repeat(8, axis=1)  # 512 x 384
    Image.fromarray(large).save(tmp_path / "a.jpg", exif=camera_exif(6), quality=95, subsampling=0)
    for at_least, longer in ((None, 512), (513, 512), (300, 512), (256, 256), (100, 128), (1, 64)):
        photo = read_photo(tmp_path / "a.jpg", at_least)
        assert (max(photo.rgb.shape), photo.size) == (longer, (384, 512))
    assert far(read_photo(tmp_path / "a.jpg", 60), np.rot90(RGB, -1)) < 5


def test_the_first_of_several(tmp_path: Path) -> None:
    images = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for suffix, words in (("gif", "palette, "), ("tif", ""), ("webp", ""), ("png", "")):
        options = {"lossless": True} if suffix == "webp" else {}
        images[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=images[1:], **options)
        photo = read_photo(tmp_path / f"a.{suffix}")
        assert far(photo, RGB) == 0
        assert set(photo.converted.split(", ")) == {"first of 2 pictures", *filter(None, [words.strip(", ")])}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif", "heic"])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.95])
def test_cut_short(suffix: str, fraction: float, tmp_path: Path) -> None:
    if suffix == "heic":
        register_heif()
    noise = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(PhotoError, match="broken or truncated") as caught:
        read_photo(path)
    assert str(caught.value).startswith(f"{path}: broken or truncated")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["16-bit png", "16-bit tif"])
def test_deep_pictures_cut_short(kind: str, tmp_path: Path) -> None:
    deep = random.integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    path = tmp_path / f"a.{kind[-3:]}"
    if kind.endswith("png"):
        cv2.imwrite(str(path), deep)
    else:
        tifffile.imwrite(path, deep, photometric="rgb", compression="deflate")
    path.write_bytes(path.read_bytes()[:-2000] if kind.endswith("png") else _without_middle(path.read_bytes()))
    with pytest.raises(PhotoError, match="broken or truncated"):
        read_photo(path)


def _without_middle(data: bytes) -> bytes:
    return data[: len(data) // 2]


def test_what_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_text("not a picture")
    (tmp_path / "b.jpg").write_bytes(b"")
    Image.fromarray(RGB).save(tmp_path / "c.png")
    for name, words in (
        ("a.jpg", "not a picture"),
        ("b.jpg", "empty"),
        ("missing.jpg", "no such file"),
        ("", "folder"),
    ):
        with pytest.raises(PhotoError, match=words):
            read_photo(tmp_path / name)
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    with pytest.raises(PhotoError, match="64 x 48 is more than 0 megapixels"):
        read_photo(tmp_path / "c.png")


def test_heic_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes((24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100))
    with pytest.raises(MissingPackage, match="pip install pillow-heif"):
        read_photo(tmp_path / "a.heic")


def test_pictures_of_a_folder_in_natural_order(tmp_path: Path) -> None:
    wanted = ["a/IMG2.JPG", "a/img10.jpg", "b2/x.heic", "b10/x.tif", "img1.png", "img2.avif", "img02.webp", "img3.bmp"]
    wanted += ["img20.GIF", "x.jfif", "x.jpe", "x.mpo", "x.tiff"]
    hidden = [".hidden.jpg", ".thumbnails/x.jpg", "__MACOSX/a.jpg", "a/@eaDir/x.jpg", "notes.txt", "film.mov", "noext"]
    hidden += ["skipped/x.png"]
    for name in (*wanted, *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "a")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    found = [path.relative_to(tmp_path).as_posix() for path in list_pictures(tmp_path, [tmp_path / "skipped"])]
    wanted.insert(wanted.index("img1.png"), "gone.jpg")
    assert found == wanted
    with pytest.raises(PeakError, match="cannot be read"):
        list_pictures(tmp_path / "missing")


def test_reading_leaves_no_lenience_behind(tmp_path: Path) -> None:
    from PIL import ImageFile

    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(PhotoError):
        read_photo(tmp_path / "a.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_picture_can_be_read_as_it_is_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert read_photo(tmp_path / "a.jpg").size == (10, 20)
    assert read_photo(tmp_path / "a.jpg", as_stored=True).size == (20, 10)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_as_stored_undoes_what_decoders_turn(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Pillow turns a TIFF by itself."""
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", exif=exif, lossless=True)
    photo = read_photo(tmp_path / f"a.{suffix}", as_stored=True)
    np.testing.assert_array_equal(photo.rgb, RGB)
    assert photo.orientation == orientation


def test_exr_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_IO_ENABLE_OPENEXR", "1")
    cv2.imwrite(str(tmp_path / "a.exr"), np.zeros((4, 5, 3), np.float32))
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    OpenEXR:                     NO\n")
    with pytest.raises(PeakError, match=r"a.exr: OpenEXR needs an OpenCV that reads it; pip install opencv-python"):
        read_photo(tmp_path / "a.exr")


def test_an_exr_that_claims_to_be_huge_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_IO_ENABLE_OPENEXR", "1")
    path = tmp_path / "a.exr"
    cv2.imwrite(str(path), np.zeros((4, 5, 3), np.float32))
    assert read_photo(path).rgb.shape == (4, 5, 3)
    window = np.array([0, 0, 4, 3], "<i4").tobytes()
    path.write_bytes(path.read_bytes().replace(window, np.array([0, 0, 10**6, 10**6], "<i4").tobytes()))
    with pytest.raises(PhotoError, match=r"a.exr: 1000001 x 1000001 is more than 300 megapixels"):
        read_photo(path)
