"""Frames of videos: sharpest of each interval, upright, from any container that PyAV reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.images.decode import upright
from peak_nerf.photos.hdr import HLG, PQ, hdr_to_srgb
from peak_nerf.photos.video import display_turn, is_video, sharpest_frames
from tests.images.pictures import scenery
from tests.photos.videos import write_sound, write_video

H, W = 96, 128
SHARP = scenery(0, H, W)
BLURRED = cv2.GaussianBlur(SHARP, (0, 0), 3)


def numbered(n: int) -> list[np.ndarray]:
    """Flat frames, brighter and brighter by 8 levels."""
    return [np.full((H, W, 3), 20 + 8 * i, np.uint8) for i in range(n)]


def level(rgb: np.ndarray) -> int:
    """Which of the numbered frames it is."""
    return round((float(rgb.mean()) - 20) / 8)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_the_sharpest_of_each_interval(name: str, tmp_path: Path) -> None:
    sharp = {2, 9, 10, 19}
    path = write_video(tmp_path / name, [SHARP if i in sharp else BLURRED for i in range(20)])
    told: list[tuple[int, int]] = []
    frames = list(sharpest_frames(path, 4, lambda done, total: told.append((done, total))))
    assert [round(10 * frame.seconds) for frame in frames] == [2, 9, 10, 19]
    assert [frame.name for frame in frames] == [
        "frame_00001_t00.20s",
        "frame_00002_t00.90s",
        "frame_00003_t01.00s",
        "frame_00004_t01.90s",
    ]
    assert all(np.abs(frame.rgb.astype(int) - SHARP).mean() < 12 for frame in frames)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("n", [5, 6, 60])
def test_a_short_video_gives_what_it_has(n: int, tmp_path: Path) -> None:
    frames = list(sharpest_frames(write_video(tmp_path / "a.mp4", numbered(5)), n))
    assert [level(frame.rgb) for frame in frames] == [0, 1, 2, 3, 4]


def test_intervals_are_of_equal_time_not_of_equal_count(tmp_path: Path) -> None:
    times = [0, 10, 20, 30, 40, 50, 60, 600, 1000, 1250]  # variable frame rate; intervals of 463 ms
    path = write_video(tmp_path / "a.mkv", numbered(10), times=times)
    frames = list(sharpest_frames(path, 3))
    assert [round(1000 * frame.seconds) for frame in frames] == [0, 600, 1000]  # flat: the first of each


def test_a_file_without_times_or_duration(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.h264", numbered(12), codec="libx264", options={"bf": "0"})
    frames = list(sharpest_frames(path, 3))
    assert len(frames) == 3
    assert 0 <= level(frames[0].rgb) < 4 <= level(frames[1].rgb) < 8 <= level(frames[2].rgb)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_phone_held_upright(angle: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [SHARP] * 3, rotation=angle)
    (frame,) = sharpest_frames(path, 1)
    expected = np.rot90(SHARP, angle // 90)  # both counterclockwise
    assert frame.rgb.shape == expected.shape
    assert np.abs(frame.rgb.astype(int) - expected).mean() < 12
    assert frame.converted == "rotated"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_display_matrices_by_their_definition(orientation: int) -> None:
    picture = np.arange(6).reshape(2, 3)
    expected = upright(picture, orientation)
    # Solve for where two steps in the picture lead, from where its numbers come to lie.
    where = {int(value): np.array([x, y]) for (y, x), value in np.ndenumerate(expected)}
    (a, b), (c, d) = where[1] - where[0], where[3] - where[0]
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 7 << 16, 0, 1 << 30], np.int32)
    assert np.array_equal(display_turn(matrix.tobytes())(picture), expected)


@pytest.mark.parametrize(("transfer", "words"), [(1, "10 bits"), (PQ, "10 bits, HDR"), (HLG, "10 bits, HDR")])
def test_ten_bits(transfer: int, words: str, tmp_path: Path) -> None:
    colors = {
        "color_trc": transfer,
        "color_primaries": 9 if transfer > 1 else 1,
        "colorspace": 9 if transfer > 1 else 1,
    }
    tiles = np.random.default_rng(0).integers(40, 180, (6, 8, 3)).repeat(16, axis=0).repeat(16, axis=1)
    path = write_video(
        tmp_path / "a.mkv", [tiles.astype(np.uint8)] * 3, codec="libx265", pixel_format="yuv420p10le", colors=colors,
        options={"x265-params": "log-level=none:pools=none:frame-threads=1", "crf": "10"},
    )  # fmt: skip
    (frame,) = sharpest_frames(path, 1)
    assert frame.converted == words
    expected = tiles if transfer == 1 else hdr_to_srgb((tiles * 257).astype(np.uint16), transfer)
    assert np.median(np.abs(frame.rgb - expected.astype(int))) <= 4


@pytest.mark.parametrize(("transfer", "white", "half"), [(PQ, 0.58069, 179.6), (HLG, 0.75, 136.8)])
def test_hdr_black_white_and_half_the_signal(transfer: int, white: float, half: float) -> None:
    signal = np.zeros((1, 4, 3), np.uint16)
    signal[0, 1] = round(65535 * white)  # 203 cd/m2; 75 %
    signal[0, 2] = 65535
    signal[0, 3] = 32768  # PQ: 92.2 of 203 cd/m2; HLG: ((1 / 12) / 0.265) ** 1.2
    black, diffuse, brightest, middle = hdr_to_srgb(signal, transfer)[0].astype(int)
    # 1.0 lies 0.2 above the knee: 0.8 + 0.2 / 2 = 0.9 in linear light, 243.4 encoded.
    assert black.tolist() == [0, 0, 0]
    assert np.abs(diffuse - 243).max() <= 1
    assert np.abs(middle - half).max() <= 1
    assert brightest.min() >= 251


def test_damaged_packets_are_passed_over_and_a_cut_file_ends_early(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", [SHARP] * 20, codec="mjpeg", pixel_format="yuvj420p")
    data = path.read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    assert 3 <= len(list(sharpest_frames(tmp_path / "cut.avi", 20))) < 20
    starts = [i for i in range(len(data)) if data.startswith(b"\xff\xd8\xff", i)]
    broken = bytearray(data)
    broken[starts[3] : starts[4] - 40] = bytes(starts[4] - 40 - starts[3])
    (tmp_path / "hole.avi").write_bytes(broken)
    assert len(list(sharpest_frames(tmp_path / "hole.avi", 20))) == 19
    for start, end in zip(starts, [*starts[1:], starts[-1] + starts[1] - starts[0] - 60], strict=True):
        broken[start : end - 40] = bytes(end - 40 - start)
    (tmp_path / "dead.avi").write_bytes(broken)
    with pytest.raises(PeakError, match="none of its frames"):
        list(sharpest_frames(tmp_path / "dead.avi", 4))


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    images = [Image.fromarray(rgb) for rgb in numbered(6)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=200)
    images[0].save(tmp_path / "still.gif")
    assert is_video(tmp_path / "a.gif")
    assert not is_video(tmp_path / "still.gif")
    assert [level(frame.rgb) for frame in sharpest_frames(tmp_path / "a.gif", 6)] == list(range(6))


def test_what_is_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(3)).rename(tmp_path / "nameless")
    Image.fromarray(SHARP).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "picture")
    write_sound(tmp_path / "a.m4a")
    (tmp_path / "text").write_text("no video at all\n" * 100)
    (tmp_path / "broken.MOV").write_bytes(b"nothing")
    assert is_video(tmp_path / "nameless")
    assert is_video(tmp_path / "broken.MOV")
    assert not any(is_video(tmp_path / name) for name in ("picture", "a.m4a", "text", "missing"))
    assert not is_video(tmp_path)


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing" * 50)
    sound = write_sound(tmp_path / "a.mp4")
    for path, words in (
        (tmp_path / "missing.mp4", "no such file"),
        (tmp_path / "broken.mp4", "cannot be read as a video"),
        (sound, "only audio"),
    ):
        with pytest.raises(PeakError, match=words) as caught:
            list(sharpest_frames(path, 3))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
