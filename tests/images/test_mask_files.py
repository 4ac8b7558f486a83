"""Masks as tools export them: what is the hole, and what is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.images.mask_files import percent, read_mask
from tests.images.pictures import scenery

H, W = 60, 80
PHOTO = scenery(3, H, W)
HOLE = np.zeros((H, W), dtype=bool)
HOLE[15:17, 5:75] = True
HOLE[30:45, 35:38] = True
WHITE = np.where(HOLE, 255, 0).astype(np.uint8)
BLACK = 255 - WHITE
NONE = np.zeros_like(WHITE)
PAINTED = PHOTO.copy()
PAINTED[HOLE] = (255, 0, 0)


def save(folder: Path, picture: np.ndarray | Image.Image, name: str = "mask.png", **options: Any) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(folder / name, **options)
    return folder / name


def read(path: Path, hole: str | None = None, photo: np.ndarray = PHOTO) -> tuple[np.ndarray, str]:
    mask = read_mask(path, (photo / 255).astype(np.float32), hole)
    return ~mask.observed, "; ".join(mask.notes)


@pytest.mark.parametrize(
    ("picture", "hole", "note"),
    [
        (BLACK, None, "black is the hole"),
        (BLACK // 255, None, "black is the hole"),  # 0 and 1
        (BLACK // 255 + 1, None, "black is the hole"),  # 1 and 2
        (BLACK // 2 + 60, None, "black is the hole"),
        (~HOLE, None, "black is the hole"),
        (WHITE, "white", "white is the hole"),
        (np.dstack([BLACK] * 3 + [NONE + 255]), None, "black is the hole"),
        (np.dstack([NONE] * 3 + [WHITE]), None, "what is painted is the hole"),
        (np.dstack([NONE + 255, NONE, NONE, WHITE]), None, "what is painted is the hole"),
        (np.dstack([NONE + 255] * 3 + [BLACK]), "transparent", "what is transparent is the hole"),
        (np.dstack([NONE] * 3 + [WHITE]), "black", "black is the hole"),
        (np.dstack([NONE + 255] * 3 + [WHITE]), "white", "white is the hole"),
        (np.where(HOLE[..., None], [255, 0, 0], 255).astype(np.uint8), None, "black is the hole"),
        (np.where(HOLE[..., None], [255, 0, 0], [0, 255, 0]).astype(np.uint8), "white", "white is the hole"),
        (PAINTED, None, "what differs from the picture is the hole"),
        (np.dstack([PAINTED, NONE + 255]), None, "what differs from the picture is the hole"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_hole_is_what_was_drawn(
    picture: np.ndarray, hole: str | None, note: str, suffix: str, tmp_path: Path
) -> None:
    missing, said = read(save(tmp_path, picture, f"mask.{suffix}"), hole)
    np.testing.assert_array_equal(missing, HOLE)
    assert said == note


def test_indexed_and_jpeg(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.where(HOLE, 0, 1).astype(np.uint8), mode="P")
    indexed.putpalette([0, 0, 0, 255, 255, 255])
    np.testing.assert_array_equal(read(save(tmp_path, indexed, "a.png"))[0], HOLE)
    np.testing.assert_array_equal(read(save(tmp_path, indexed, "b.png", transparency=1))[0], HOLE)
    jpeg = save(tmp_path, BLACK, "c.jpg", quality=60)
    np.testing.assert_array_equal(read(jpeg)[0], HOLE)
    assert np.mean(read_mask(jpeg, (PHOTO / 255).astype(np.float32)).known == 1) > 0.9  # ringing is no soft edge
    painted, _ = read(save(tmp_path, PAINTED, "d.jpg", quality=95, subsampling=0))
    assert np.mean(painted == HOLE) > 0.99


def test_soft_edges_are_missing_from_half_on_and_blend(tmp_path: Path) -> None:
    levels = np.full((8, 8), 255, np.uint8)
    levels[0, :5] = [0, 10, 102, 153, 245]  # 0, 0.04, 0.4, 0.6, 0.96 of the range
    mask = read_mask(save(tmp_path, levels), np.zeros((8, 8, 1), np.float32))
    # Stretched by (v - 0.1) / 0.8: a tenth at either end is what compression leaves.
    np.testing.assert_allclose(mask.known[0, :6], [0, 0, 0.375, 0.625, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(mask.observed[0, :6], [False, False, False, True, True, True])


@pytest.mark.parametrize("picture", [WHITE, np.dstack([NONE] * 3 + [BLACK])])
def test_what_is_unclear_is_asked(picture: np.ndarray, tmp_path: Path) -> None:
    words = ("black", "white") if picture.ndim == 2 else ("painted", "transparent")
    fraction = 100 * HOLE.mean()
    message = (
        rf"{100 - fraction:.1f} % would be missing with {words[0]} as the hole, {fraction:.1f} % with {words[1]}; say"
        rf" which with --mask-hole {words[1]} or --mask-hole {words[0]}"
    )
    path = save(tmp_path, picture)
    with pytest.raises(PeakError, match=message):
        read(path)
    for hole in words:
        assert (read(path, hole)[0] == ((hole == words[1]) == HOLE)).all()


@pytest.mark.parametrize("scale", [2, 0.5])
def test_another_size_of_the_same_shape_is_resized(scale: float, tmp_path: Path) -> None:
    hole = np.zeros((H, W), dtype=bool)
    hole[10:20, 30:40] = True
    picture = Image.fromarray(np.where(hole, 0, 255).astype(np.uint8))
    size = (round(W * scale), round(H * scale))
    missing, said = read(save(tmp_path, picture.resize(size, Image.Resampling.NEAREST)))
    np.testing.assert_array_equal(missing, hole)
    assert said == f"black is the hole; mask resized from {size[0]} x {size[1]}"


def test_a_rounded_side_is_the_same_shape(tmp_path: Path) -> None:
    path = save(tmp_path, np.where(np.eye(34, 50, dtype=bool), 0, 255).astype(np.uint8))
    assert read(path, photo=np.zeros((101, 150, 3)))[0].any()  # 33.67 x 50


@pytest.mark.parametrize(
    ("picture", "hole", "message"),
    [
        (BLACK[:, :60], None, "the mask is 60 x 60 pixels and the picture 80 x 60, of another shape; .*to 80 x 60"),
        (
            BLACK.T,
            None,
            "the mask is 60 x 80 pixels and the picture 80 x 60, .*; turn the mask as the picture is shown",
        ),
        (PHOTO, None, "is a picture with shades, not a mask of two values; draw the hole black on white"),
        (np.dstack([NONE] * 4), None, "is transparent everywhere, so nothing is painted"),
        (BLACK, "painted", "--mask-hole painted: .* has no transparency"),
    ],
)
def test_what_is_no_mask_for_the_picture_is_refused(
    picture: np.ndarray, hole: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(PeakError, match=message):
        read(save(tmp_path, picture), hole)


def test_a_white_photo_is_no_reason_to_take_a_mask_for_a_painted_one(tmp_path: Path) -> None:
    photo = np.full((H, W, 3), 255, np.uint8)
    photo[20:40, 20:40] = PHOTO[20:40, 20:40]  # an object before white
    assert (read(save(tmp_path, np.dstack([BLACK] * 3)), photo=photo)[0] == HOLE).all()


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.0342, "3.4 %"), (0.966, "96.6 %"), (0.00012, "0.012 %"), (0, "0.0 %")]
)
def test_percent(fraction: float, text: str) -> None:
    assert percent(fraction) == text


def test_a_thin_line_blends_where_a_mask_shrinks(tmp_path: Path) -> None:
    """One column of two: half."""
    large = np.full((2 * H, 2 * W), 255, dtype=np.uint8)
    large[:, 40] = 0
    known = read_mask(save(tmp_path, large), (PHOTO / 255).astype(np.float32)).known
    assert known[:, 20].tolist() == [0.5] * H
    assert known.sum() == H * (W - 0.5)
