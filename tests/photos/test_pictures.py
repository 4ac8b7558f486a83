"""From a source to upright copies: names, sizes, masks, what is left out and why, and each refusal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.photos.copies import MaskFolder, copy_names, read_mask, resized, size_within, smaller_factors
from peak_nerf.photos.model import Photo
from peak_nerf.photos.pictures import prepare_pictures
from tests.images.pictures import camera_exif, scenery
from tests.photos.videos import write_video

H, W = 120, 160
SCENES = [scenery(seed, H, W) for seed in range(8)]


def save(folder: Path, pictures: dict[str, np.ndarray], **options: Any) -> Path:
    for name, rgb in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        jpeg = {"quality": 95, **options} if path.suffix.lower() == ".jpg" else options
        Image.fromarray(rgb).save(path, **jpeg)
    return folder


def prepare(source: Path, scene: Path, **options: Any) -> list[Photo]:
    settings: dict[str, Any] = {"max_size": 1600, "video_frames": 60, "masks": None, "camera": "auto"}
    settings |= {"on_progress": lambda done, total: None, "should_stop": lambda: None}
    return prepare_pictures(source, scene, **(settings | options))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def reasons(photos: list[Photo]) -> dict[str, str]:
    assert all((photo.state == "left out") == bool(photo.reason) for photo in photos)
    return {photo.name: photo.reason for photo in photos if photo.state == "left out"}


def test_copies_of_jpegs_and_of_others(tmp_path: Path) -> None:
    source = save(tmp_path / "in", {"b/img10.png": SCENES[0], "b/img2.tif": SCENES[1]})
    save(source, {"a.JPG.png": SCENES[3]})
    save(source, {"a b.jpg": SCENES[2]}, exif=camera_exif(6).tobytes())
    told: list[tuple[int, int]] = []
    photos = prepare(source, tmp_path / "out", on_progress=lambda done, total: told.append((done, total)))
    assert [photo.name for photo in photos] == ["a b.jpg", "a.JPG.png", "b/img2.tif", "b/img10.png"]
    assert [photo.file for photo in photos] == [
        "images/a_b.jpg",
        "images/a.JPG.png",
        "images/b__img2.png",
        "images/b__img10.png",
    ]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(photo.file or "" for photo in photos) == [f"images/{name}" for name in files(tmp_path / "out/images")]
    turned, *others = (pixels(tmp_path / "out" / str(photo.file)) for photo in photos)
    assert np.abs(turned.astype(int) - np.rot90(SCENES[2], -1)).mean() < 12
    for copy, rgb in zip(others, (SCENES[3], SCENES[1], SCENES[0]), strict=True):
        assert np.array_equal(copy, rgb)
    assert [photo.size for photo in photos] == [(H, W), (W, H), (W, H), (W, H)]
    assert all(photo.state == "used" and photo.mask is None and photo.sharpness > 1 for photo in photos)
    with Image.open(tmp_path / "out/images/a_b.jpg") as image:
        exif = image.getexif()
        assert (exif[0x110], exif.get_ifd(0x8769)[0x920A], 0x112 in exif, 0x8825 in exif) == (
            "EOS 5D",
            24.5,
            False,
            False,
        )
        assert image.layer[0][1:3] == image.layer[1][1:3] == (1, 1)  # type: ignore[attr-defined]  # 4:4:4


def test_copies_are_area_averages_and_smaller_ones_too(tmp_path: Path) -> None:
    large = [rgb.repeat(8, axis=0).repeat(8, axis=1) for rgb in SCENES[:3]]  # 1280 x 960
    source = save(tmp_path / "in", {f"{i}.png": rgb for i, rgb in enumerate(large)})
    scene = tmp_path / "out"
    photos = prepare(source, scene, max_size=640)
    assert files(scene) == ["images"]
    photos = prepare(source, scene, max_size=1280)
    assert files(scene) == ["images", "images_2"]  # 640, and 320 would be too small
    assert photos[0].size == (1280, 960)
    photos = prepare(source, scene, max_size=1601)
    assert np.array_equal(pixels(scene / "images/1.png"), large[1])
    assert np.array_equal(pixels(scene / "images_2/1.png"), SCENES[1].repeat(4, axis=0).repeat(4, axis=1))
    prepare(source, tmp_path / "small", max_size=160)
    assert np.array_equal(pixels(tmp_path / "small/images/1.png"), SCENES[1])


def test_sizes() -> None:
    assert size_within((4000, 3000), 1600) == (1600, 1200)
    assert size_within((300, 4001), 1600) == (120, 1600)
    assert size_within((640, 480), 1600) == (640, 480)
    assert smaller_factors([(1600, 1200)]) == (2, 4)
    assert smaller_factors([(1599, 1200)]) == (2,)
    assert smaller_factors([(100, 90), (800, 700), (801, 10)]) == (2,)
    assert smaller_factors([(799, 700)]) == ()


def test_transparent_colours_do_not_bleed() -> None:
    rgb = np.array([[[200, 100, 0], [0, 0, 255]]], np.uint8)
    small, alpha = resized(rgb, np.array([[255, 0]], np.uint8), (1, 1))
    assert small.tolist() == [[[200, 100, 0]]]
    assert alpha is not None
    assert int(alpha[0, 0]) in (127, 128)


def test_names_of_copies() -> None:
    names = ["a/b.jpg", "a__b.png", "A/B.jpg", "Église 2.JPG", "日本.png", "中国.png", "..x.jpg", "a.b.tar", "v1.5.jpg"]
    copies = copy_names(names)
    assert copies == ["a__b", "a__b_2", "A__B_3", "Eglise_2", "picture", "picture_2", "x", "a.b.tar", "v1.5"]
    assert len(copy_names(["x" * 300 + ".jpg", "x" * 299 + ".jpg"])[1]) <= 110


def test_cameras(tmp_path: Path) -> None:
    save(tmp_path / "in", {"1.jpg": SCENES[0], "2.jpg": SCENES[1]}, exif=camera_exif().tobytes())
    save(tmp_path / "in", {"3.jpg": SCENES[2]}, exif=camera_exif(8).tobytes())
    save(tmp_path / "in", {"4.jpg": SCENES[3], "5.png": SCENES[4]})
    cameras = [photo.camera for photo in prepare(tmp_path / "in", tmp_path / "out")]
    body = "Canon EOS 5D, EF 24-70, 24.5 mm, 39 mm equivalent"
    assert cameras == [f"{body}, 160 x 120"] * 2 + [f"{body}, 120 x 160"] + ["unknown camera, 160 x 120"] * 2
    cameras = [photo.camera for photo in prepare(tmp_path / "in", tmp_path / "out", camera="per-image")]
    assert cameras == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.png"]
    photos = prepare(tmp_path / "in", tmp_path / "out", camera="single")
    assert {photo.camera for photo in photos} == {"one camera"}
    assert reasons(photos) == {"3.jpg": "other resolution (120 x 160, most are 160 x 120)"}


def test_digests_are_of_pixels_not_of_names(tmp_path: Path) -> None:
    save(tmp_path / "a", {"1.png": SCENES[0], "2.png": SCENES[1], "3.png": SCENES[2]})
    save(tmp_path / "b", {"x.tif": SCENES[2], "y.png": SCENES[0], "z.png": SCENES[1]})
    first, second = (prepare(tmp_path / name, tmp_path / "out") for name in ("a", "b"))
    assert [photo.digest for photo in first] == [second[i].digest for i in (1, 2, 0)]
    assert len({photo.digest for photo in first}) == 3


def test_what_is_left_out_and_why(tmp_path: Path) -> None:
    source = tmp_path / "in"
    save(source, {f"{i}.png": SCENES[i] for i in range(4)})
    save(source, {"1.png": scenery(9, 360, 480)})
    save(source, {"again.jpg": scenery(9, 360, 480)}, quality=60)
    save(source, {"mirror.jpg": SCENES[2][:, ::-1].copy(), "tiny.png": scenery(20, 90, 120)})
    save(source, {"shaken.png": cv2.blur(SCENES[5], (25, 1))})
    (source / "broken.jpg").write_bytes((source / "again.jpg").read_bytes()[:700])
    (source / "text.png").write_text("no picture")
    photos = prepare(source, tmp_path / "out")
    found = reasons(photos)
    assert found.pop("shaken.png").startswith("too blurred (sharpness ")
    assert found.pop("broken.jpg").startswith("broken or truncated (image file is truncated")
    assert found == {
        "again.jpg": "duplicate of 1.png",
        "mirror.jpg": "mirror image of 2.png",
        "tiny.png": "too small (120 x 90)",
        "text.png": "broken or truncated, or not a picture",
    }
    assert files(tmp_path / "out/images") == ["0.png", "1.png", "2.png", "3.png"]
    assert files(tmp_path / "out/left_out") == ["again.jpg", "mirror.jpg", "shaken.jpg", "tiny.jpg"]
    by_name = {photo.name: photo for photo in photos}
    assert by_name["broken.jpg"].file is None
    assert by_name["mirror.jpg"].file == "left_out/mirror.jpg"
    assert pixels(tmp_path / "out/left_out/mirror.jpg").shape == (H, W, 3)


def test_the_larger_of_two_copies_stays(tmp_path: Path) -> None:
    large = scenery(9, 4 * H, 4 * W)
    small = cv2.resize(large, (W, H), interpolation=cv2.INTER_AREA)
    save(tmp_path / "in", {"1.png": small, "2.png": SCENES[1], "3.png": SCENES[2], "4.png": large})
    assert reasons(prepare(tmp_path / "in", tmp_path / "out")) == {"1.png": "duplicate of 4.png"}
    (file,) = files(tmp_path / "out/left_out")
    assert max(pixels(tmp_path / "out/left_out" / file).shape) == 160


def test_at_most_half_is_left_out_as_blurred(tmp_path: Path) -> None:
    blurred = {f"b{i}.png": cv2.blur(SCENES[i], (15, 15)) for i in range(5)}
    sharp = {f"s{i}.png": SCENES[i] for i in range(5, 8)}
    save(tmp_path / "in", blurred | sharp)
    assert reasons(prepare(tmp_path / "in", tmp_path / "out")) == {}  # the median is a blurred one's
    for name in ("b3.png", "b4.png"):
        (tmp_path / "in" / name).unlink()
    assert set(reasons(prepare(tmp_path / "in", tmp_path / "out"))) == {"b0.png", "b1.png", "b2.png"}


def test_masks_of_every_naming_and_mode(tmp_path: Path) -> None:
    large = {f"{i}.jpg": cv2.resize(SCENES[i], (960, 720)) for i in range(4)}
    source = save(tmp_path / "in", {**large, "sub/4.JPG": cv2.resize(SCENES[4], (960, 720))})
    left = np.zeros((720, 960), np.uint8)
    left[:, :480] = 255
    masks = tmp_path / "masks"
    save(masks, {"0.png": left, "1.jpg.png": left, "sub/4.png": np.dstack([left] * 3)})
    save(masks, {"2.jpg": left[::4, ::4].copy()}, quality=30)  # rings, and is smaller
    photos = prepare(source, tmp_path / "out", masks=masks, max_size=800)
    assert [photo.mask for photo in photos] == [f"masks/{name}.png" for name in ("0", "1", "2", "3", "sub__4")]
    for photo in photos:
        mask = pixels(tmp_path / "out" / str(photo.mask))
        expected = np.full((600, 800), 255, np.uint8)
        if photo.name != "3.jpg":  # which has none: wholly used
            expected[:, 400:] = 0
        assert np.array_equal(mask, expected)
        assert np.array_equal(pixels(tmp_path / "out" / str(photo.mask).replace("/", "_2/")), expected[::2, ::2])
    assert files(tmp_path / "out") == ["images", "images_2", "masks", "masks_2"]


def test_a_mask_of_zeros_and_ones_and_one_that_is_turned(tmp_path: Path) -> None:
    save(tmp_path, {"ones.png": np.eye(8, dtype=np.uint8), "tall.png": np.full((40, 20), 255, np.uint8)})
    assert np.array_equal(read_mask(tmp_path / "ones.png", (8, 8), (16, 16), "x"), np.eye(8, dtype=bool))
    assert read_mask(tmp_path / "tall.png", (10, 21), (41, 81), "x").all()  # as near as whole pixels allow
    with pytest.raises(PeakError, match="the mask is 20 x 40 pixels and a photo is 40 x 20 upright"):
        read_mask(tmp_path / "tall.png", (40, 20), (40, 20), "a photo")


def test_a_mask_by_name_alone_must_be_unambiguous(tmp_path: Path) -> None:
    save(tmp_path, {"1.png": SCENES[0], "a__2.png": SCENES[0]})
    masks = MaskFolder(tmp_path, ["a/1.jpg", "b/1.jpg"])
    assert masks.find("a/1.jpg", "a__1") is None
    assert MaskFolder(tmp_path, ["a/1.jpg", "a/2.jpg"]).find("a/1.jpg", "a__1") == tmp_path / "1.png"
    assert masks.find("a/2.jpg", "a__2") == tmp_path / "a__2.png"  # the name of a copy


def test_masks_that_fit_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "in", {f"{i}.png": SCENES[i] for i in range(3)})
    other = save(tmp_path / "other", {"x.png": SCENES[0]})
    wrong = save(tmp_path / "wrong", {"1.png": np.zeros((160, 120), np.uint8)})
    (tmp_path / "empty").mkdir()
    for masks, words in (
        (other, "no mask is named as a picture; the mask of 0.png would be 0.png"),
        (tmp_path / "empty", "holds no picture"),
        (tmp_path / "missing", "no such folder"),
        (wrong, "the mask is 120 x 160 pixels and 1.png is 160 x 120"),
    ):
        with pytest.raises(PeakError, match=words):
            prepare(source, tmp_path / "out", masks=masks)


def test_wholly_masked(tmp_path: Path) -> None:
    source = save(tmp_path / "in", {f"{i}.png": SCENES[i] for i in range(4)})
    masks = save(source / "masks", {"1.png": np.zeros((H, W), np.uint8)})  # within the source: no pictures
    photos = prepare(source, tmp_path / "out", masks=masks)
    assert reasons(photos) == {"1.png": "wholly masked"}
    assert len(photos) == 4


def test_alpha_becomes_a_mask(tmp_path: Path) -> None:
    alpha = np.full((H, W), 255, np.uint8)
    alpha[:60], alpha[60:70] = 0, 127
    cut = {f"{i}.png": np.dstack([SCENES[i], alpha]) for i in range(3)}
    photos = prepare(save(tmp_path / "in", cut), tmp_path / "out")
    for i, photo in enumerate(photos):
        assert np.array_equal(pixels(tmp_path / "out" / str(photo.file)), cut[f"{i}.png"])
        assert np.array_equal(pixels(tmp_path / "out" / str(photo.mask)), np.where(alpha > 127, 255, 0))
    # Beside a picture without alpha no copy has it, since data parsers want one kind; the masks stay.
    photos = prepare(save(tmp_path / "in", {"3.jpg": SCENES[3]}), tmp_path / "out")
    assert {pixels(tmp_path / "out" / str(photo.file)).shape for photo in photos} == {(H, W, 3)}
    assert [pixels(tmp_path / "out" / str(photo.mask)).mean() for photo in photos[:3]] == [255 * 50 / 120] * 3
    assert pixels(tmp_path / "out" / str(photos[3].mask)).min() == 255


def test_frames_of_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mov", [SCENES[i // 3] for i in range(18)], rotation=90)
    told: list[tuple[int, int]] = []
    photos = prepare(path, tmp_path / "out", video_frames=6, on_progress=lambda *done: told.append(done))
    assert [photo.name[:11] for photo in photos] == [f"frame_0000{i}" for i in range(1, 7)]
    assert all(photo.file == f"images/{photo.name}.png" and photo.size == (H, W) for photo in photos)
    assert {photo.camera for photo in photos} == {"unknown camera, 120 x 160"}
    assert {photo.converted for photo in photos} == {"rotated"}
    assert told[-1] == (6, 6)
    assert [photo.reason for photo in photos] == [""] * 6


def empty(folder: Path) -> None:
    """Nothing in it."""


def films(folder: Path) -> None:
    for i in range(12):
        (folder / f"{i}.MOV").write_bytes(b"")


def raws(folder: Path) -> None:
    (folder / "a.CR2").write_bytes(b"")


def texts(folder: Path) -> None:
    (folder / "a.txt").write_text("")


def one(folder: Path) -> None:
    save(folder, {"a.png": SCENES[0]})


def copies(folder: Path) -> None:
    save(folder, {f"{i}.png": SCENES[0] for i in range(5)})


def mixture(folder: Path) -> None:
    save(folder, {"1.png": SCENES[0], "2.png": SCENES[0], "3.png": SCENES[1]})
    (folder / "4.png").write_bytes(b"nothing")


def broken(folder: Path) -> None:
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (empty, "is empty; name a folder of JPEG"),
        (films, "holds no pictures but 12 .mov files; give one of them"),
        (raws, "holds no pictures but 1 .cr2 raw file; export them as JPEG"),
        (texts, r"holds no pictures \(but 1 .txt\); name a folder"),
        (one, "holds one picture; take at least 3"),
        (copies, r"1 of 5 pictures can be used \(all others are duplicates\); take at least 3"),
        (mixture, r"2 of 4 pictures can be used \(1 duplicate, 1 broken\)"),
        (broken, r"none of 3 pictures can be used \(3 broken\)"),
    ],
)
def test_folders_that_are_refused(fill: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    fill(tmp_path / "in")
    with pytest.raises(PeakError, match=words) as caught:
        prepare(tmp_path / "in", tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'in'}: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_refused(tmp_path: Path) -> None:
    save(tmp_path, {"a.png": SCENES[0]})
    (tmp_path / "notes").write_text("text")
    for name, words in (
        ("missing", "no such folder or video"),
        ("a.png", "is one picture"),
        ("notes", "neither a folder of pictures nor a video"),
    ):
        with pytest.raises(PeakError, match=words):
            prepare(tmp_path / name, tmp_path / "out")


def test_a_scene_within_its_source_is_not_read(tmp_path: Path) -> None:
    source = save(tmp_path / "in", {f"{i}.png": SCENES[i] for i in range(3)})
    names = [photo.name for photo in prepare(source, source / "scene")]
    assert [photo.name for photo in prepare(source, source / "scene")] == names == ["0.png", "1.png", "2.png"]


def test_it_stops_between_pictures(tmp_path: Path) -> None:
    source = save(tmp_path / "in", {f"{i}.png": SCENES[i] for i in range(8)})
    n_asked = 0

    def stop() -> None:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", should_stop=stop)
    assert len(files(tmp_path / "out/images")) <= 2
    again = prepare(source, tmp_path / "out")
    assert len(files(tmp_path / "out/images")) == len(again) == 8


def test_what_was_converted_is_said(tmp_path: Path) -> None:
    source = save(tmp_path / "in", {f"{i}.png": SCENES[i] for i in range(3)})
    buffer = io.BytesIO()
    Image.fromarray(SCENES[3]).convert("CMYK").save(buffer, "JPEG")
    (source / "3.png").write_bytes(buffer.getvalue())
    photo = prepare(source, tmp_path / "out")[3]
    assert (photo.converted, photo.file) == ("CMYK", "images/3.jpg")
