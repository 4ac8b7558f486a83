"""Scenes for `benchmarks/gpu.py` from torch, numpy and Pillow alone: a Blender scene, or photos with a transforms.json.

Of photos, one lens has taken all, of OpenCV's model; every eighth is held out. Their cube is the product's.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.placement import Placement, in_own_frame, own_space
from peak_nerf.nerf.data.scene_box import SceneSpace, choose_space
from peak_nerf.nerf.data.transforms_file import Frame, SceneFile, number, read_scene_file
from peak_nerf.nerf.distortion import undistort_by_newton

BOX = 1.5
"""Half the side of a Blender scene's box."""
HELD_OUT = 8
"""One photo of so many is a test view."""
MODELS = (None, "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""Camera models of photos."""
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
WHAT = "a Blender scene, such as nerf_synthetic/lego, or photos with a transforms.json"


class Lens(NamedTuple):
    """That took all pictures, in pixels of a picture of some size."""

    size: tuple[float, float]
    """Width and height."""
    focal: tuple[float, float]
    centre: tuple[float, float]
    distortion: tuple[float, ...] = (0.0,) * 9
    """As in `peak_nerf.nerf.distortion`."""

    @property
    def half_angle(self) -> float:
        """Half the wider angle of view, in radians."""
        return max(math.atan(0.5 * n / f) for n, f in zip(self.size, self.focal, strict=True))

    def directions(self, width: int, height: int) -> Tensor:
        """Where the pixels of a picture of this size look, row by row, (h * w, 3): x right, y up, z backward."""
        v, u = torch.meshgrid(
            *((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (height, width)), indexing="ij"
        )
        plane = [(along.flatten() * self.size[i] - self.centre[i]) / self.focal[i] for i, along in enumerate((u, v))]
        x, y = undistort_by_newton(torch.stack(plane, -1), torch.tensor(self.distortion)).unbind(-1)
        return torch.stack((x, -y, -torch.ones_like(x)), -1).float()


class Pictures(NamedTuple):
    """Pictures of one size with their cameras, in the scene's cube [-1, 1]^3."""

    rgba: Tensor
    """(n, h, w, 4) uint8."""
    poses: Tensor
    """(n, 3, 4), camera to world; OpenGL axes."""
    lens: Lens
    directions: Tensor
    """(h * w, 3) of the lens."""
    half: float
    """Half the side of the cube, in the world's units."""
    unbounded: bool
    """Whether there is something beyond the cube."""

    def rays(self, picture: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions through pixels, by their flat indices."""
        pose = self.poses[picture]
        local = self.directions[pixel]
        return pose[:, :, 3], F.normalize((pose[:, :, :3] * local[:, None]).sum(-1), dim=-1)

    def square(self, size: int) -> Pictures:
        """One empty picture of size x size pixels, by the same lens."""
        directions = self.lens.directions(size, size).to(self.directions)
        return self._replace(rgba=self.rgba.new_zeros(1, size, size, 4), directions=directions)


def read_pictures(
    data: Path, split: str, blender_size: int, photo_size: int, most: int, device: torch.device
) -> Pictures:
    """At most so many views of a split, train or test, evenly spaced, with so many pixels along their longer side.

    Raises: PeakError on what is neither kind of scene.
    """
    if (data / f"transforms_{split}.json").is_file():
        return _read_blender(data, split, blender_size, most, device)
    if (data / "transforms.json").is_file():
        return _read_photos(data / "transforms.json", split, photo_size, most, device)
    raise PeakError(f"{data}: has no transforms_{split}.json and no transforms.json; --data takes {WHAT}")


def _read_blender(data: Path, split: str, size: int, most: int, device: torch.device) -> Pictures:
    scene = json.loads((data / f"transforms_{split}.json").read_text())
    frames = _evenly(scene["frames"], most)
    names = [data / frame["file_path"] for frame in frames]
    rgba = _read([name if name.suffix else name.with_suffix(".png") for name in names], "RGBA", size)
    h, w = rgba.shape[1:3]
    focal = w / (2 * math.tan(scene["camera_angle_x"] / 2))
    lens = Lens((w, h), (focal, focal), (w / 2, h / 2))
    poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float32)[:, :3]
    poses[:, :, 3] /= BOX
    return Pictures(rgba.to(device), poses.to(device), lens, lens.directions(w, h).to(device), BOX, False)


def _read_photos(path: Path, split: str, size: int, most: int, device: torch.device) -> Pictures:
    scene_file = read_scene_file(path, sort=True)
    n = len(scene_file.frames)
    if n < 2:
        raise PeakError(f"{path}: has {n} frame, and one of {HELD_OUT} is held out; give at least 2")
    lens = _lens_of(scene_file)
    placement, space = _space_of(scene_file, lens.half_angle)
    poses = placement.poses(_poses(scene_file))
    poses[:, :, 3] = (poses[:, :, 3] - space.centre) / space.half
    chosen = _evenly([i for i in range(n) if (i % HELD_OUT == 0) == (split == "test")], most)
    rgba = _read([path.parent / scene_file.frames[i].name for i in chosen], "RGB", size)
    h, w = rgba.shape[1:3]
    if abs(h * lens.size[0] - w * lens.size[1]) > max(lens.size):
        raise PeakError(f"{path}: its pictures are {w} x {h}, another shape than its w x h; correct these")
    return Pictures(
        rgba.to(device), poses[chosen].float().to(device), lens, lens.directions(w, h).to(device), space.half, True
    )


def _lens_of(scene_file: SceneFile) -> Lens:
    """The one lens of all frames. Raises: PeakError where there are several, or one that is not of OpenCV's model."""
    lenses = set()
    for frame in scene_file.frames:
        model = frame.values.get("camera_model", scene_file.values.get("camera_model"))
        if model not in MODELS:
            raise PeakError(f"{scene_file.path}: camera_model is {model!r}; benchmarks/gpu.py takes OPENCV or PINHOLE")

        def given(key: str, frame: Frame = frame) -> float | None:
            return number(scene_file, frame, key)

        w, h, angle, f = given("w"), given("h"), given("camera_angle_x"), given("fl_x")
        if w is None or h is None or (f is None and angle is None):
            raise PeakError(f"{scene_file.path}: benchmarks/gpu.py needs w, h and fl_x or camera_angle_x; add them")
        f_x = w / (2 * math.tan((angle or 0) / 2)) if f is None else f
        f_y, c_x, c_y = given("fl_y"), given("cx"), given("cy")
        lenses.add(
            Lens(
                (w, h),
                (f_x, f_x if f_y is None else f_y),
                (w / 2 if c_x is None else c_x, h / 2 if c_y is None else c_y),
                (*(given(key) or 0.0 for key in DISTORTION), 0.0, 0.0, 0.0),
            )
        )
    if len(lenses) > 1:
        raise PeakError(f"{scene_file.path}: {len(lenses)} lenses; benchmarks/gpu.py takes photos of one")
    return lenses.pop()


def _poses(scene_file: SceneFile) -> Tensor:
    return torch.from_numpy(np.stack([frame.pose for frame in scene_file.frames]))


def _space_of(scene_file: SceneFile, half_angle: float) -> tuple[Placement, SceneSpace]:
    """As `peak-data` has it, but for the orientation of files without `aabb_scale`, and without sparse points."""
    poses = _poses(scene_file)
    if scene_file.values.get("aabb_scale") is not None:
        placement = in_own_frame(scene_file, poses, half_angle, False)
        placed = placement.poses(poses)
        return placement, own_space(scene_file, "unbounded", placement, placed, half_angle, False, None, False)
    middle = poses[:, :3, 3:].mean(0)
    centred = Placement(torch.cat((torch.eye(3, dtype=torch.float64), -middle), 1), 1.0)
    reach = float(centred.poses(poses)[:, :, 3].abs().max()) or 1.0
    placement = Placement(centred.transform, 1 / reach)
    return placement, choose_space("unbounded", placement.poses(poses), half_angle, False, 1.0)


def _evenly(values: list, most: int) -> list:
    return [values[len(values) * i // most] for i in range(most)] if len(values) > most else values


def _read(paths: list[Path], mode: str, size: int) -> Tensor:
    """Pictures as (n, h, w, 4), opaque where they are of three channels. Raises: PeakError unless of one size."""
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as file:
                picture = file.convert(mode).convert("RGBA")
        except OSError as error:
            raise PeakError(f"{path}: cannot be read ({error})") from None
        longer = max(picture.size)
        if longer > size:
            picture = picture.resize(
                (round(size * picture.width / longer), round(size * picture.height / longer)), Image.Resampling.BOX
            )
        pictures.append(np.asarray(picture))
        if pictures[-1].shape != pictures[0].shape:
            raise PeakError(f"{path}: is of another size than {paths[0].name}; benchmarks/gpu.py takes one size")
    return torch.from_numpy(np.stack(pictures))
