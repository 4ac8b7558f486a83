"""Still pictures from a video: the sharpest frame of each of n intervals, upright, by PyAV alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images.photo import PICTURE_SUFFIXES
from peak_nerf.images.sharpness import grey_sharpness
from peak_nerf.photos.hdr import hdr_to_srgb, is_hdr

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".ts", ".3gp", ".mpg", ".mpeg", ".wmv", ".flv")
)
_JUDGED_SIDE = 640
# Of long intervals so many frames are judged, evenly spread; more cost time and gain next to nothing.
_JUDGED_PER_INTERVAL = 16
_UNSPECIFIED_COLORS, _HD = 2, 720


@dataclass(frozen=True, eq=False)
class StillFrame:
    """One frame of a video."""

    name: str
    """frame_00012_t03.40s: the twelfth that was kept, and its time."""
    seconds: float
    """Since the first frame."""
    rgb: np.ndarray
    """(h, w, 3) uint8, upright."""
    converted: str = ""
    """Such as "rotated", "10 bits", "HDR"."""


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix, or else by its content; an animated GIF is one."""
    suffix = path.suffix.lower()
    if path.is_dir() or (suffix in PICTURE_SUFFIXES and suffix != ".gif"):
        return False
    if suffix in VIDEO_SUFFIXES:
        return True
    import av

    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container)
            return stream is not None and len(_packet_times(container, stream)) > 1
    except (av.FFmpegError, OSError):
        return False


def sharpest_frames(
    path: Path, n_frames: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[StillFrame]:
    """The sharpest frame of each of `n_frames` intervals of equal time; all frames of a video that has no more.

    Reads the file twice: once for the times of its frames, since a header may lie or lack them, and once to decode.
    Frames that fail to decode are passed over. Turned as the video's display matrix says, with square pixels; 10 bits
    become 8, HDR becomes sRGB.

    Args:
        path: the video.
        n_frames: at least 1.
        on_progress: told after each frame how many intervals are done, of how many.

    Raises: PeakError when there is no such file, it is not a video, has sound only, or none of its frames decodes.
    """
    import av

    if not path.is_file():
        raise PeakError(f"{path}: no such file; name a video or a folder of pictures")
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container)
            if stream is None:
                raise PeakError(f"{path}: has no pictures, only {_other_streams(container)}; name a video")
            times = _packet_times(container, stream)
        with av.open(str(path)) as container:
            stream = _video_stream(container)
            assert stream is not None  # the same file as above
            yield from _sharpest(path, _frames(container, stream, times, n_frames), times, n_frames, on_progress)
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PeakError(f"{path}: cannot be read as a video ({reason}); copy it again or convert it to MP4") from error


def display_turn(matrix: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """How a picture is made upright, by a display matrix: nine 32-bit numbers a b u c d v x y w.

    The pixel (p, q), p to the right and q down, is shown at (a p + c q, b p + d q), up to a shift. What is no
    multiple of 90 degrees is taken as the nearest.
    """
    a, b, _, c, d = np.frombuffer(matrix, np.int32, count=5).tolist()
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    to_the_left, upwards = (c < 0, b < 0) if swapped else (a < 0, d < 0)

    def turn(rgb: np.ndarray) -> np.ndarray:
        rgb = rgb.swapaxes(0, 1) if swapped else rgb
        return np.ascontiguousarray(rgb[:: -1 if upwards else 1, :: -1 if to_the_left else 1])

    return turn


# ------------------------------------------------------------------------------------------------------ reading


def _video_stream(container: InputContainer) -> VideoStream | None:
    """The first that is no cover of a song."""
    import av

    attached = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & attached), None)


def _other_streams(container: InputContainer) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams if stream.type != "video"})) or "a cover"


def _packet_times(container: InputContainer, stream: VideoStream) -> np.ndarray:
    """(n_packet,) seconds, sorted; by the frame rate where the file has no times, and up to where it is damaged."""
    import av

    times: list[float | None] = []
    try:
        for packet in container.demux(stream):
            if packet.size:
                time = packet.dts if packet.pts is None else packet.pts
                times.append(None if time is None or packet.time_base is None else float(time * packet.time_base))
    except av.FFmpegError:  # cut short: what came before counts
        if not times:
            raise
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return np.arange(len(times)) / _frame_rate(stream)
    return np.sort(known)


def _frame_rate(stream: VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 30)


def _frames(
    container: InputContainer, stream: VideoStream, times: np.ndarray, n_frames: int
) -> Iterator[tuple[float, av.VideoFrame]]:
    """All frames that decode, with their times."""
    import av

    stream.thread_type = "AUTO"
    if len(times) > 2 * _JUDGED_PER_INTERVAL * n_frames:
        stream.codec_context.skip_frame = "NONREF"  # frames that no other needs: twice as fast
    rate, count = _frame_rate(stream), 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:  # cut short
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            time = count / rate if frame.time is None else float(frame.time)
            count += 1
            if isinstance(frame, av.VideoFrame) and not frame.is_corrupt:
                yield time, frame


def _sharpest(
    path: Path,
    frames: Iterator[tuple[float, Any]],
    times: np.ndarray,
    n_frames: int,
    on_progress: Callable[[int, int], None],
) -> Iterator[StillFrame]:
    n = min(n_frames, max(1, len(times)))
    start, end = (float(times[0]), float(times[-1])) if len(times) else (0.0, 0.0)
    step = (end - start) / max(1, len(times) - 1)
    length = max(end - start + step, 1e-9) / n
    stride = max(1, len(times) // (n * _JUDGED_PER_INTERVAL))
    kept = interval = 0
    best: tuple[float, float, Any] | None = None
    for index, (time, frame) in enumerate(frames):
        # Where every frame is kept, rounded times must not put two into one interval.
        now = index if len(times) <= n_frames else math.floor((time - start) / length + 1e-6)
        now = max(interval, min(now, n - 1) if len(times) > n_frames else now)
        if now > interval:
            if best is not None:
                kept += 1
                yield _still(best[1] - start, best[2], kept)
            on_progress(min(now, n), n)
            best, interval = None, now
        if best is None or index % stride == 0:
            score = grey_sharpness(_small_grey(frame)) if len(times) > n_frames else 0.0
            if best is None or score > best[0]:
                best = (score, time, frame)
    if best is None and kept == 0:
        raise PeakError(f"{path}: none of its frames can be decoded; copy it again or convert it to MP4 (H.264)")
    if best is not None:
        yield _still(best[1] - start, best[2], kept + 1)
    on_progress(n, n)


def _small_grey(frame: Any) -> np.ndarray:
    shrink = min(1.0, _JUDGED_SIDE / max(frame.width, frame.height))
    w, h = (max(2, round(side * shrink)) for side in (frame.width, frame.height))
    return frame.reformat(width=w, height=h, format="gray", interpolation="AREA").to_ndarray()


def _still(seconds: float, frame: Any, number: int) -> StillFrame:
    seconds = max(0.0, seconds)
    notes = []
    options: dict[str, Any] = {}
    depth = max((component.bits for component in frame.format.components), default=8)
    if depth > 8:
        notes.append(f"{depth} bits")
    if frame.colorspace == _UNSPECIFIED_COLORS and frame.height >= _HD:
        options["src_colorspace"] = "ITU709"  # what HD video has, where its file does not say
    if is_hdr(frame.color_trc):
        notes.append("HDR")
        rgb = hdr_to_srgb(frame.to_ndarray(format="rgb48le", **options), frame.color_trc)
    else:
        rgb = frame.to_ndarray(format="rgb24", **options)
    if turn := _turn(frame):
        turned = turn(rgb)
        if turned.shape != rgb.shape or not np.array_equal(turned, rgb):
            notes.append("rotated")
        rgb = turned
    name = f"frame_{number:05d}_t{seconds:05.2f}s"
    return StillFrame(name, seconds, np.ascontiguousarray(rgb), ", ".join(notes))


def _turn(frame: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    for data in (frame.side_data[i] for i in range(len(frame.side_data))):  # its `values` fails in PyAV 18
        if data.type.name == "DISPLAYMATRIX":
            return display_turn(bytes(data))
    return None
