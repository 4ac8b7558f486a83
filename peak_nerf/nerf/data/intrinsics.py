"""Cameras from what a scene file says of them: focal lengths, principal points, distortion, kinds.

# f: focal length, c: principal point, both in pixels of the image that is read, whatever `downscale_factor`
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.lenses import Lens, check_lens, focal_of_panorama, lens_cameras, lens_of
from peak_nerf.nerf.data.transforms_file import Frame, SceneFile, number


def cameras_of(
    scene_file: SceneFile,
    frames: list[Frame],
    paths: list[Path],
    sizes: list[tuple[int, int]],
    full_sizes: list[tuple[float, float]],
    downscale: int | None,
    poses: Tensor,
    say: Callable[[str], None] = print,
) -> Cameras:
    """Cameras of the images as they are read, each with its own intrinsics.

    full_sizes: of the images to which the file's numbers refer, by `full_size`.
    downscale: how many times smaller than what the file says the images are; None for any number of times.
    """
    focal, centre, lenses = [], [], []
    checked: set[tuple[float, ...]] = set()
    for frame, path, size, full in zip(frames, paths, sizes, full_sizes, strict=True):
        # Shrunken images may be rounded either way.
        if downscale is None:
            if abs(full[0] * size[1] - full[1] * size[0]) > full[0] + full[1]:
                raise PeakError(
                    f"{path} is {size[0]}x{size[1]}, another shape than the {full[0]:g}x{full[1]:g} of "
                    f"{scene_file.path}; use the images that the poses were computed from, not turned, not cropped"
                )
        elif any(abs(n_full / downscale - n) > (downscale > 1) for n_full, n in zip(full, size, strict=True)):
            raise PeakError(
                f"{path} is {size[0]}x{size[1]} but {scene_file.path} says {full[0]:g}x{full[1]:g} over "
                f"{downscale}; correct w, h and the focal length there, or use another --downscale-factor"
            )
        ratio = [n / n_full for n, n_full in zip(size, full, strict=True)]
        lens = lens_of(scene_file, frame)
        f = _focal_lengths(scene_file, frame, lens, full, say)
        c_x, c_y = number(scene_file, frame, "cx"), number(scene_file, frame, "cy")
        middle = (full[0] / 2, full[1] / 2)
        c = middle if lens.whole else (middle[0] if c_x is None else c_x, middle[1] if c_y is None else c_y)
        if (key := (*f, *c, *full, *lens.distortion.tolist())) not in checked:
            checked.add(key)
            check_lens(scene_file, frame, lens, f, c, full, say)
        focal.append([f[i] * ratio[i] for i in range(2)])
        centre.append([c[i] * ratio[i] for i in range(2)])
        lenses.append(lens)
    focals, centres = torch.tensor(focal), torch.tensor(centre)
    width_height = torch.tensor(sizes, dtype=torch.int64)
    return lens_cameras(
        lenses,
        camera_to_worlds=poses,
        fx=focals[:, :1],
        fy=focals[:, 1:],
        cx=centres[:, :1],
        cy=centres[:, 1:],
        width=width_height[:, :1],
        height=width_height[:, 1:],
    )


def full_size(scene_file: SceneFile, frame: Frame, size: tuple[int, int], downscale: int | None) -> tuple[float, float]:
    """Width and height of the image to which the file's numbers refer; `size` is that of the image as it is read."""
    factor = downscale or 1
    w, h = (number(scene_file, frame, key, low=0.0) or float(n * factor) for key, n in zip("wh", size, strict=True))
    return w, h


def _focal_lengths(
    scene_file: SceneFile, frame: Frame, lens: Lens, full: tuple[float, float], say: Callable[[str], None]
) -> tuple[float, float]:
    if lens.kind == CameraType.EQUIRECTANGULAR:
        return focal_of_panorama(scene_file, frame, lens, full, say)
    f_x = _focal_length(scene_file, frame, "x", full[0])
    f_y = _focal_length(scene_file, frame, "y", full[1])
    if f_x is None:
        raise PeakError(f"{scene_file.path}: no focal length for {frame.name}; add fl_x or camera_angle_x")
    return f_x, f_x if f_y is None else f_y


def _focal_length(scene_file: SceneFile, frame: Frame, axis: str, extent: float) -> float | None:
    """In pixels of the full-size image, from fl_x, camera_angle_x (radians) or x_fov (degrees); y alike."""
    keys = (f"fl_{axis}", f"camera_angle_{axis}", f"{axis}_fov")
    own = [key for key in keys if key in frame.values] or [key for key in keys if key in scene_file.values]
    for key in own:
        high = {keys[0]: math.inf, keys[1]: math.pi, keys[2]: 180.0}[key]
        value = number(scene_file, frame, key, low=0.0, high=high)
        if value is not None:
            angle = math.radians(value) if key == keys[2] else value
            return value if key == keys[0] else 0.5 * extent / math.tan(0.5 * angle)
    return None


def half_angle(scene_file: SceneFile, size: tuple[int, int], downscale: int | None) -> float:
    """Half the wider angle of view of the file's first frame, in radians; size and downscale as for `full_size`.

    Of a panorama pi: what looks all around looks at nothing in particular.
    """
    frame, angles = scene_file.frames[0], []
    if lens_of(scene_file, frame).kind == CameraType.EQUIRECTANGULAR:
        return math.pi
    for axis, extent in zip("xy", full_size(scene_file, frame, size, downscale), strict=True):
        focal = _focal_length(scene_file, frame, axis, extent) or _focal_length(scene_file, frame, "x", extent)
        angles += [] if focal is None else [math.atan(0.5 * extent / focal)]
    return max(angles, default=0.5)
