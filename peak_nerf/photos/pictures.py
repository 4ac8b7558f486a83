"""Stage 1 of `peak photos`: from a folder of pictures or a video to upright copies, and which of them are of use."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.images.photo import PhotoError, PhotoFile, is_picture_name, list_pictures, read_photo
from peak_nerf.images.sharpness import sharpness, thumbnail_signature
from peak_nerf.photos import copies
from peak_nerf.photos.model import Photo
from peak_nerf.photos.selection import MIN_PICTURES, Prepared, judge, too_few
from peak_nerf.photos.video import VIDEO_SUFFIXES, is_video, sharpest_frames
from peak_nerf.system.files import write_atomically

Camera = Literal["auto", "single", "per-image"]

_MIN_SIDE = 96
_THUMBNAIL_SIDE = 320
_LEAST_USED = 0.005
_RAW_SUFFIXES = frozenset(".cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .pef .srw".split())  # noqa: SIM905
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Source:
    """One picture to be read."""

    name: str
    copy: str
    read: Callable[[], PhotoFile]


def prepare_pictures(
    source: Path,
    scene: Path,
    *,
    max_size: int,
    video_frames: int,
    masks: Path | None,
    camera: Camera,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], None],
) -> list[Photo]:
    """Write upright copies of all pictures of use to scene/images, images_2, images_4 and masks, and judge the rest.

    Copies of JPEGs are JPEGs with the EXIF that tells the camera; everything else becomes PNG. What is left out has a
    thumbnail in scene/left_out as its `file`, if it can be read. When one picture has a mask, or alpha, all have masks.

    Args:
        source: a folder of pictures, at any depth, or a video.
        scene: where to write; what is in it and masks are not read as pictures when they lie in `source`.
        max_size: longest side of a copy in pixels.
        video_frames: how many frames to take of a video.
        masks: a folder of masks: white is used. NAME.png, NAME.jpg.png, or by relative path.
        camera: which pictures share intrinsics, see `Photo.camera`: "auto" by EXIF and size; "single" all, and those
            of another size are left out; "per-image" none.
        on_progress: told how many pictures are done, of how many.
        should_stop: called between pictures; what it raises ends the work.

    Returns: all pictures, used or left out, in natural order of their names.
    Raises: PeakError when there is nothing to read, fewer than 3 pictures are of use, a mask does not fit, or the disk
        is full.
    """
    if source.is_dir():
        paths = _pictures_of(source, [scene, *filter(None, [masks])])
        names = [path.relative_to(source).as_posix() for path in paths]
        reads = (partial(read_photo, path, at_least=2 * max_size) for path in paths)
        sources: Iterable[_Source] = map(_Source, names, copies.copy_names(names), reads)
    else:
        names, sources = [], _frames_of(source, video_frames, on_progress)
    mask_folder = None if masks is None else copies.MaskFolder(masks, names)
    if mask_folder and names and not any(map(mask_folder.find, names, copies.copy_names(names))):
        raise _no_mask_fits(mask_folder, names[0])
    jobs = (partial(_prepare, one, scene, max_size, mask_folder, camera) for one in sources)
    prepared: list[Prepared] = []
    for one in _in_order(jobs, should_stop):
        prepared.append(one)
        if names:
            on_progress(len(prepared), len(names))
    if mask_folder and not any(mask_folder.find(one.photo.name, one.copy) for one in prepared):
        raise _no_mask_fits(mask_folder, prepared[0].photo.name)

    judge(prepared, single_camera=camera == "single")
    for one in prepared:
        if one.photo.state == "left out":
            _leave_out(scene, one)
    used = [one for one in prepared if one.photo.state == "used"]
    if len(used) < MIN_PICTURES:
        raise too_few(source, [one.photo for one in prepared])
    _finish(scene, used, should_stop)
    return [one.photo for one in prepared]


# ------------------------------------------------------------------------------------------------------ source


def _pictures_of(folder: Path, skip: list[Path]) -> list[Path]:
    paths = list_pictures(folder, skip)
    if not paths:
        raise _without_pictures(folder)
    if len(paths) < MIN_PICTURES:
        n = "one picture" if len(paths) == 1 else f"{len(paths)} pictures"
        raise PeakError(f"{folder}: holds {n}; take at least {MIN_PICTURES}, from different places")
    return paths


def _without_pictures(folder: Path) -> PeakError:
    suffixes = Counter(
        path.suffix.lower() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    )
    for kind, remedy in (
        (VIDEO_SUFFIXES, "{} file{}; give one of them instead of the folder"),
        (_RAW_SUFFIXES, "{} raw file{}; export them as JPEG"),
    ):
        if found := [(suffix, n) for suffix, n in suffixes.most_common() if suffix in kind]:
            suffix, n = found[0]
            return PeakError(f"{folder}: holds no pictures but {n} {remedy.format(suffix, '' if n == 1 else 's')}")
    what = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common(3))
    return PeakError(
        f"{folder}: {f'holds no pictures (but {what})' if what else 'is empty'}; "
        "name a folder of JPEG, PNG, WebP, TIFF or HEIC pictures, or a video"
    )


def _frames_of(source: Path, n_frames: int, on_progress: Callable[[int, int], None]) -> Iterator[_Source]:
    if not source.exists():
        raise PeakError(f"{source}: no such folder or video; name what holds your pictures")
    if not is_video(source):
        if is_picture_name(source):
            raise PeakError(f"{source}: is one picture; name the folder that holds all of them")
        raise PeakError(f"{source}: is neither a folder of pictures nor a video that can be read; name one of these")
    for frame in sharpest_frames(source, n_frames, on_progress):
        h, w = frame.rgb.shape[:2]
        photo = PhotoFile(frame.rgb, converted=frame.converted, size=(w, h))
        yield _Source(frame.name, frame.name, lambda photo=photo: photo)  # type: ignore[misc]


def _in_order(jobs: Iterable[Callable[[], _Result]], should_stop: Callable[[], None]) -> Iterator[_Result]:
    """What jobs return, in their order; 2 to 4 are under way at a time, which bounds the memory of large pictures."""
    n_threads = min(4, max(2, os.cpu_count() or 2))
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(n_threads, thread_name_prefix="peak-photos") as pool:
        try:
            for job in jobs:
                should_stop()
                waiting.append(pool.submit(job))
                if len(waiting) >= n_threads:
                    yield waiting.popleft().result()
            while waiting:
                should_stop()
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _no_mask_fits(masks: copies.MaskFolder, name: str) -> PeakError:
    stem = Path(name).stem
    return PeakError(f"--masks {masks.folder}: no mask is named as a picture; the mask of {name} would be {stem}.png")


# ------------------------------------------------------------------------------------------------------ one picture


def _prepare(source: _Source, scene: Path, max_size: int, masks: copies.MaskFolder | None, camera: Camera) -> Prepared:
    photo = Photo(source.name)
    try:
        file = source.read()
    except PhotoError as error:
        problem = error.problem if error.problem.startswith("broken") else f"broken ({error.problem})"
        photo.state, photo.reason = "left out", problem
        return Prepared(photo, source.copy)
    photo.size = copies.size_within(file.size, max_size)
    photo.converted = file.converted
    rgb, alpha = copies.resized(file.rgb, file.alpha, photo.size)
    seen = rgb if alpha is None else _on_grey(rgb, alpha)
    photo.sharpness = sharpness(seen)
    photo.camera = _camera(camera, file.exif, photo)
    photo.digest = _digest(rgb, alpha)
    prepared = Prepared(photo, source.copy, file.size, thumbnail_signature(seen), _thumbnail(seen), alpha is not None)

    used = None if alpha is None else alpha >= 128
    if masks and (path := masks.find(source.name, source.copy)):
        given = copies.read_mask(path, photo.size, file.size, source.name)
        used = given if used is None else used & given
    if min(photo.size) < _MIN_SIDE:
        photo.state, photo.reason = "left out", f"too small ({_by(file.size)})"
    elif used is not None and used.mean() < _LEAST_USED:
        photo.state, photo.reason = "left out", "wholly masked"
    else:
        photo.file = copies.write_copy(scene, source.copy, rgb, alpha, file)
        if used is not None:
            photo.mask = f"{copies.MASKS}/{source.copy}.png"
            copies.write_picture(scene / photo.mask, np.where(used, np.uint8(255), np.uint8(0)))
    return prepared


def _camera(camera: Camera, exif: bytes, photo: Photo) -> str:
    if camera != "auto":
        return "one camera" if camera == "single" else photo.name
    tags = Image.Exif()
    tags.load(exif)
    details = tags.get_ifd(0x8769)
    make, model, lens = tags.get(0x10F, ""), tags.get(0x110, ""), details.get(0xA434, "")
    body = model if model.lower().startswith(make.lower()) else f"{make} {model}"
    focal, equivalent = details.get(0x920A), details.get(0xA405)
    parts = [
        body.strip() or "unknown camera",
        lens,
        f"{float(focal):.4g} mm" if focal else "",
        f"{float(equivalent):.4g} mm equivalent" if equivalent else "",
        _by(photo.size),
    ]
    return ", ".join(filter(None, parts))


def _digest(rgb: np.ndarray, alpha: np.ndarray | None) -> str:
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(np.ascontiguousarray(rgb).data)
    if alpha is not None:
        digest.update(np.ascontiguousarray(alpha).data)
    return digest.hexdigest()


def _on_grey(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What is transparent may hold anything: it must not count as sharp."""
    weight = alpha[..., None].astype(np.float32) / 255
    return np.rint(rgb * weight + 128 * (1 - weight)).astype(np.uint8)


def _thumbnail(rgb: np.ndarray) -> bytes:
    h, w = rgb.shape[:2]
    small, _ = copies.resized(rgb, None, copies.size_within((w, h), _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


# ------------------------------------------------------------------------------------------------------ afterwards


def _leave_out(scene: Path, one: Prepared) -> None:
    """A thumbnail instead of the copy."""
    for file in filter(None, (one.photo.file, one.photo.mask)):
        (scene / file).unlink(missing_ok=True)
    one.photo.file = one.photo.mask = None
    if one.thumbnail:
        one.photo.file = f"{copies.LEFT_OUT}/{one.copy}.jpg"
        write_atomically(scene / one.photo.file, lambda file: file.write(one.thumbnail))


def _finish(scene: Path, used: list[Prepared], should_stop: Callable[[], None]) -> None:
    """What all copies must have in common: alpha, masks, smaller copies."""
    factors = copies.smaller_factors([one.photo.size for one in used])
    opaque = not all(one.has_alpha for one in used)  # nerfstudio's data parsers want one kind; masks say the rest
    masked = any(one.photo.mask for one in used)

    def finish(one: Prepared) -> None:
        assert one.photo.file is not None  # it is used
        if opaque and one.has_alpha:
            rgb, _, exif = copies.read_copy(scene / one.photo.file)
            copies.write_picture(scene / one.photo.file, rgb, exif)
        if masked and one.photo.mask is None:
            w, h = one.photo.size
            one.photo.mask = f"{copies.MASKS}/{one.copy}.png"
            copies.write_picture(scene / one.photo.mask, np.full((h, w), 255, np.uint8))
        copies.write_smaller(scene, one.photo.file, one.photo.mask, factors)

    for _ in _in_order((partial(finish, one) for one in used), should_stop):
        pass
