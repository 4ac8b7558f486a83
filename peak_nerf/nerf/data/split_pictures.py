"""The frames of a split that can be used, and their pictures and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peak_nerf.nerf.data.picture_paths import Say, check_exist, picture_paths, without_missing
from peak_nerf.nerf.data.scene_masks import MaskFile, check_masks_of_others, mask_paths, masks_of, without_hidden
from peak_nerf.nerf.data.scene_pictures import (
    ScenePicture,
    Size,
    check_one_size,
    check_read_by_others,
    choose_reading,
    look_at,
    say_readings,
)
from peak_nerf.nerf.data.transforms_file import Scene, SceneFile, number


@dataclass(frozen=True)
class SplitPictures:
    """Of the frames of a split, in their order."""

    pictures: list[ScenePicture]
    masks: list[MaskFile | None] | None
    """None where no frame has one."""
    training: list[ScenePicture]
    """Of the frames that decided how these are read: those that are trained on."""

    @property
    def has_alpha(self) -> bool:
        """Whether they are read with an alpha channel."""
        return self.pictures[0].n_channels == 4

    @property
    def paths(self) -> list[Path]:
        """Of the pictures."""
        return [picture.file.path for picture in self.pictures]

    @property
    def sizes(self) -> list[Size]:
        """Of the pictures as they are read."""
        return [picture.size for picture in self.pictures]

    @property
    def mask_paths(self) -> list[Path] | None:
        """None unless all frames have a mask."""
        paths = [mask.path for mask in self.masks or [] if mask is not None]
        return paths if paths and len(paths) == len(self.pictures) else None


def usable_frames(scene: Scene, scene_file: SceneFile, indices: list[int], downscale: int, say: Say) -> list[int]:
    """Those that have an image, and are not hidden wholly by their mask; says which are left out.

    Raises: PeakError when none is left.
    """
    indices = without_missing(scene, scene_file, indices, downscale, say)
    return without_hidden(scene_file, indices, _masks(scene, scene_file, downscale, say), say)


def pictures_of_split(
    scene: Scene,
    scene_file: SceneFile,
    indices: Sequence[int],
    training: Sequence[int],
    downscale: int,
    opaque_is_photo: bool,
    for_others: bool,
    say: Say,
) -> SplitPictures:
    """The pictures of some frames, read alike in all splits of a scene; says what is converted, turned or resized.

    Args:
        scene: whose frames they are.
        scene_file: of the split.
        indices: its frames that are used.
        training: frames of the same file that are trained on, which decide. `indices` for the training split itself,
            and for all of a Blender scene, which have a file each.
        downscale: how many times smaller than what the file says the pictures are.
        opaque_is_photo: an alpha channel that is opaque in all training pictures is none.
        for_others: refuse what nerfstudio's own data sets would read otherwise.
        say: takes the lines.

    Raises: PeakError when a picture or mask cannot be read, or has another size than it must have.
    """
    all_paths = _paths(scene, scene_file, downscale, say)
    frames = list(dict.fromkeys([*indices, *training]))
    check_exist([all_paths[i] for i in indices], scene_file.path)
    files = dict(zip(frames, look_at([all_paths[i] for i in frames]), strict=True))

    def fits(n: int, size: Size) -> bool:
        return _fits(scene_file, frames[n], size, None if scene.kind == "llff" else downscale)

    deciding = [files[i] for i in training]
    by_channel = scene.kind == "blender" or not opaque_is_photo
    of_all_files = choose_reading(list(files.values()), deciding, fits, by_channel)
    read = of_all_files[: len(indices)]
    say_readings(read, fits, say, [] if list(training) == list(indices) else deciding)
    if not all("w" in scene_file.frames[i].values and "h" in scene_file.frames[i].values for i in indices):
        check_one_size(read, scene_file.path)
    mask_of_frame = _masks(scene, scene_file, downscale, say)
    masks = masks_of([mask_of_frame[i] for i in indices], read, scene_file.path, say) if mask_of_frame else None
    if for_others:
        check_read_by_others(read)
        check_masks_of_others(masks or [], read)
    return SplitPictures(read, masks, [of_all_files[frames.index(i)] for i in training])


def _paths(scene: Scene, scene_file: SceneFile, downscale: int, say: Say) -> list[Path]:
    return picture_paths(scene, scene_file, [frame.name for frame in scene_file.frames], downscale, say)


def _masks(scene: Scene, scene_file: SceneFile, downscale: int, say: Say) -> list[Path | None] | None:
    return mask_paths(scene, scene_file, lambda: _paths(scene, scene_file, downscale, say), downscale, say)


def _fits(scene_file: SceneFile, index: int, size: Size, downscale: int | None) -> bool:
    """Whether a picture may have that size by what the file says of it, as `cameras_of` decides it."""
    w, h = (number(scene_file, scene_file.frames[index], key, low=0.0) for key in "wh")
    if w is None or h is None:
        return True
    if downscale is None:
        return abs(w * size[1] - h * size[0]) <= w + h
    return all(abs(n_full / downscale - n) <= (downscale > 1) for n_full, n in zip((w, h), size, strict=True))
