"""Pictures read exactly in every depth and layout, and written whole."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.images import read as images
from peak_nerf.images.read import Picture, read_picture, write_png

random = np.random.default_rng(0)
GREY8 = random.integers(0, 256, (9, 11), dtype=np.uint8)
RGB8 = random.integers(0, 256, (9, 11, 3), dtype=np.uint8)
RGBA8 = np.dstack([RGB8, np.where(np.arange(99).reshape(9, 11) % 4 == 0, 0, 100).astype(np.uint8)])
GREY16 = random.integers(0, 65536, (9, 11), dtype=np.uint16)
RGB16 = random.integers(0, 65536, (9, 11, 3), dtype=np.uint16)


def full(values: np.ndarray) -> Picture:
    return Picture(values.astype(np.float32), np.ones(values.shape[:2], dtype=bool))


def assert_reads(path: Path, expected: np.ndarray, tolerance: float = 1e-7) -> None:
    picture = read_picture(path)
    expected = expected[..., None] if expected.ndim == 2 else expected
    assert picture.values.dtype == np.float32
    assert picture.values.shape == expected.shape
    assert np.abs(picture.values - expected).max() <= tolerance
    assert picture.observed.dtype == bool
    assert picture.observed.all()


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_8_bits(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB8).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert_reads(path, RGB8 / 255)
    if suffix != "webp":  # has no grey
        Image.fromarray(GREY8).save(path)
        assert_reads(path, GREY8 / 255)


def test_jpeg_is_close(tmp_path: Path) -> None:
    flat = np.full((16, 24), 100, np.uint8)
    Image.fromarray(flat).save(tmp_path / "a.jpg", quality=95)
    assert_reads(tmp_path / "a.jpg", flat / 255, tolerance=1.5 / 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_exact(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), GREY16)
    assert_reads(path, GREY16 / 65535)
    cv2.imwrite(str(path), RGB16[..., ::-1])  # OpenCV writes BGR
    assert_reads(path, RGB16 / 65535)


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"planarconfig": "separate"}, {"compression": "deflate"}])
def test_16_bit_colour_tiff_layouts(options: dict, tmp_path: Path) -> None:
    values = RGB16.transpose(2, 0, 1) if "planarconfig" in options else RGB16
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", **options)
    assert_reads(tmp_path / "a.tif", RGB16 / 65535)


def test_big_endian_16_bit_grey_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY16, byteorder=">")
    assert_reads(tmp_path / "a.tif", GREY16 / 65535)


def test_16_bit_colour_png_with_alpha(tmp_path: Path) -> None:
    alpha = np.where(np.arange(99).reshape(9, 11) % 5 == 0, 0, 1).astype(np.uint16)  # 1 of 65535 is not 0
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([RGB16[..., ::-1], alpha]))
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.observed, alpha > 0)
    np.testing.assert_allclose(picture.values, RGB16 / 65535 * (alpha > 0)[..., None], atol=1e-7)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_0_is_not_observed(mode: str, tmp_path: Path) -> None:
    array = RGBA8 if mode == "RGBA" else RGBA8[..., 2:]
    Image.fromarray(array, mode).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.n_channels == array.shape[2] - 1
    np.testing.assert_array_equal(picture.observed, array[..., -1] > 0)
    # Straight alpha: what is half transparent keeps its colour.
    np.testing.assert_allclose(picture.values, array[..., :-1] / 255 * (array[..., -1:] > 0), atol=1e-7)


def test_palettes(tmp_path: Path) -> None:
    indices = np.arange(96, dtype=np.uint8).reshape(8, 12) % 3
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    image.save(tmp_path / "a.png")
    assert_reads(tmp_path / "a.png", np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]])[indices] / 255)
    image.save(tmp_path / "b.png", transparency=1)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").observed, indices != 1)
    image.putpalette([0, 0, 0, 7, 7, 7, 255, 255, 255])
    image.save(tmp_path / "c.png")
    assert_reads(tmp_path / "c.png", np.array([0, 7, 255])[indices] / 255)


def test_colour_key_and_bits(tmp_path: Path) -> None:
    Image.fromarray(GREY8).save(tmp_path / "a.png", transparency=int(GREY8[2, 3]))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").observed, GREY8[2, 3] != GREY8)
    Image.fromarray(RGB8).save(tmp_path / "b.png", transparency=tuple(int(v) for v in RGB8[4, 5]))
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").observed, (RGB8[4, 5] != RGB8).any(axis=2))
    Image.fromarray(GREY8 > 99).save(tmp_path / "c.png")
    assert_reads(tmp_path / "c.png", GREY8 > 99)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3)])
def test_floats_with_holes(dtype: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    values = random.random(shape).astype(dtype)
    values[0, 0], values[3, 4], values[5, 6] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if len(shape) == 3 else "minisblack")
    np.save(tmp_path / "a.npy", values)
    observed = np.ones((9, 11), dtype=bool)
    observed[[0, 3, 5], [0, 4, 6]] = False
    for name in ("a.tif", "a.npy"):
        picture = read_picture(tmp_path / name)
        np.testing.assert_array_equal(picture.observed, observed)
        expected = np.where(np.isfinite(values), values, 0).reshape(picture.values.shape)
        np.testing.assert_allclose(picture.values, expected, atol=1e-7)


def test_npy_layouts(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array, expected in ((GREY8, GREY8 / 255), (GREY16[..., None], GREY16 / 65535), (GREY8 > 9, GREY8 > 9)):
        np.save(path, array)
        assert_reads(path, expected)
    np.save(path, RGBA8)
    np.testing.assert_array_equal(read_picture(path).observed, RGBA8[..., 3] > 0)
    np.save(path, RGBA8[..., 2:])  # grey + alpha
    assert read_picture(path).values.shape == (9, 11, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    """Against Pillow for 8 bits; the 16-bit road must turn the same way."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(GREY8).save(tmp_path / "a.png", exif=exif)
    eight = read_picture(tmp_path / "a.png").values[..., 0]
    turned = {
        1: GREY8,
        2: GREY8[:, ::-1],
        3: GREY8[::-1, ::-1],
        4: GREY8[::-1],
        5: GREY8.T,
        6: np.rot90(GREY8, -1),
        7: GREY8[::-1, ::-1].T,
        8: np.rot90(GREY8),
    }
    np.testing.assert_allclose(eight, turned[orientation] / 255, atol=1e-7)
    deep = np.repeat(GREY8[..., None].astype(np.uint16) * 257, 3, axis=2)
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "b.tif", deep, photometric="rgb", extratags=[tag])
    np.testing.assert_allclose(read_picture(tmp_path / "b.tif").values[..., 0], eight, atol=1e-7)


def broken(path: Path, what: str) -> None:
    """Write the file that `what` names."""
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (40, 40), dtype=np.uint8)).save(buffer, "PNG")
    if what == "folder":
        path.mkdir()
    elif what == "empty":
        path.touch()
    elif what == "text":
        path.write_text("<html>sorry</html>")
    elif what == "truncated":
        path.write_bytes(buffer.getvalue()[:800])
    elif what == "truncated npy":
        np.save(buffer, np.zeros((40, 40), np.float32))
        path.write_bytes(buffer.getvalue()[buffer.getvalue().index(b"\x93NUMPY") :][:900])
    elif what == "truncated 16":
        data = cv2.imencode(".png", random.integers(0, 65536, (40, 40, 3), dtype=np.uint16))[1].tobytes()
        path.write_bytes(data[:3000])
    elif what == "narrow":
        Image.fromarray(np.zeros((40, 1), np.uint8)).save(path, "PNG")
    elif what == "large":
        Image.new("1", (4000, 3001)).save(path, "PNG")
    elif what == "cmyk":
        Image.new("CMYK", (9, 9)).save(path, "JPEG")
    elif what == "int32":
        Image.fromarray(np.zeros((9, 9), np.int32)).save(path, "TIFF")
    elif what == "pages":
        Image.new("L", (9, 9)).save(path, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9), 5)])
    elif what == "float pages":
        tifffile.imwrite(path, np.zeros((2, 9, 9)), photometric="minisblack")
    arrays = {
        "range": np.linspace(0, 255, 100, dtype=np.float32).reshape(10, 10),
        "negative": np.linspace(-0.5, 1, 100).reshape(10, 10),
        "shape": np.zeros((9, 9, 5)),
        "int64": np.zeros((9, 9), np.int64),
        "large npy": np.zeros((4000, 3001), bool),
        "pickle": np.array([None]),
    }
    if what in arrays:
        with path.open("wb") as file:
            np.save(file, arrays[what])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "no such file; name a picture"),
        ("folder", "is a folder; name one picture in it"),
        ("empty", r"is empty \(0 bytes\); copy it again"),
        ("text", "not a picture that can be read; convert it to PNG"),
        ("truncated", "cannot be read .*cut short, copy it again"),
        ("truncated npy", "cannot be read .*cut short, copy it again"),
        ("truncated 16", "cannot be read .*cut short, copy it again"),
        ("pickle", "cannot be read .*copy it again"),
        ("narrow", "is 1 x 40 pixels; 8 a side is the least"),
        ("large", r"4000 x 3001 pixels take about 0.9 GiB, and this machine has 1.0 GiB; scale it down"),
        ("large npy", r"3001 x 4000 pixels take about 0.9 GiB, and this machine has 1.0 GiB; scale it down"),
        ("cmyk", "holds CMYK colours; convert it"),
        ("int32", "holds 32-bit integers, .*convert it"),
        ("pages", "holds 2 pictures; save the one you mean"),
        ("float pages", "holds 2 pictures; save the one you mean"),
        ("range", r"values from 0 to 255; floats must be in \[0, 1\]"),
        ("negative", r"values from -0.5 to 1; floats must be in \[0, 1\]"),
        ("shape", r"has shape \(9, 9, 5\); a picture is"),
        ("int64", "holds int64 numbers; save uint8"),
    ],
)
def test_errors_name_file_problem_and_remedy(
    what: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a picture"
    monkeypatch.setattr("peak_nerf.images.original.memory_total", lambda: 2**30)
    broken(path, what)
    with pytest.raises(PeakError, match=message) as error:
        read_picture(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_limits_themselves_are_allowed(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").size == (8, 8)
    Image.new("1", (4032, 3024)).save(tmp_path / "b.png")  # a phone's
    assert read_picture(tmp_path / "b.png").size == (3024, 4032)


def test_picture_checks_its_shapes() -> None:
    with pytest.raises(ValueError, match="values are"):
        Picture(np.zeros((8, 8, 2), np.float32), np.ones((8, 8), bool))
    with pytest.raises(ValueError, match="values are"):
        Picture(np.zeros((8, 8, 1), np.float32), np.ones((8, 9), bool))


# ------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 1), (9, 11, 3)])
def test_png_round_trip(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = random.integers(0, 256, shape) / 255
    write_png(tmp_path / "new" / "a.png", values)
    assert_reads(tmp_path / "new" / "a.png", values.reshape(9, 11, -1))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]  # nothing temporary is left


def test_png_clips_and_rounds(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.array([[-1.0, 2.0, 0.5019, 0.6 / 255, np.inf]]))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), [[0, 255, 128, 1, 255]])


def test_png_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_png(path, np.zeros((8, 8)))
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(images.Image.Image, "save", full_disk)
    with pytest.raises(PeakError, match="No space left"):
        write_png(path, np.ones((8, 8)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PeakError, match=r"a\.png: cannot be written"):
        write_png(tmp_path / "file" / "a.png", np.zeros((8, 8)))


@pytest.mark.parametrize("values", [np.zeros((8, 8, 2)), np.zeros(8), np.full((8, 8), np.nan)])
def test_what_is_no_png(values: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="values"):
        write_png(tmp_path / "a.png", values)
