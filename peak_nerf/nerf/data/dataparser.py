"""The `peak-data` data parser: Blender, nerfstudio, instant-ngp, COLMAP and LLFF scenes, and few of their views."""

# No `from __future__ import annotations`: tyro reads this module's dataclass fields as types.
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.rich_utils import CONSOLE
from pydantic import Field
from torch import Tensor

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import scene_files
from peak_nerf.nerf.data.camera_checks import check_cameras, check_views
from peak_nerf.nerf.data.intrinsics import cameras_of, full_size, half_angle
from peak_nerf.nerf.data.placement import Placement, depth_bounds, in_own_frame, oriented, own_space
from peak_nerf.nerf.data.plain_background import BEFORE_WHITE, all_before_white
from peak_nerf.nerf.data.points import Cloud, has_points, read_cloud
from peak_nerf.nerf.data.scene_box import SceneSpace, Space, choose_space
from peak_nerf.nerf.data.scene_masks import MaskFile
from peak_nerf.nerf.data.scene_pictures import ScenePicture
from peak_nerf.nerf.data.split_pictures import pictures_of_split, usable_frames
from peak_nerf.nerf.data.transforms_file import Scene, SceneFile

_said: set[str] = set()


def say(line: str) -> None:
    """Print `line`."""
    CONSOLE.print(f"peak-data: {line}", markup=False, highlight=False, soft_wrap=True)


def say_once(line: str) -> None:
    """Print `line`, unless this process has already."""
    if line not in _said:
        _said.add(line)
        say(line)


@dataclass
class PeakDataParserConfig(DataParserConfig):
    """Blender, nerfstudio, instant-ngp, COLMAP and LLFF scenes, with few-view training subsets."""

    _target: type = field(default_factory=lambda: PeakDataParser)
    """The data parser to set up."""
    data: Path = Path()
    """Folder of the scene, which may be one of COLMAP, or its transforms .json file, or its poses_bounds.npy (LLFF)."""
    num_views: Annotated[int | None, Field(ge=1, le=10**6)] = None
    """Train on this many views, evenly spaced over the train split; 1 takes the middle one, None all."""
    view_indices: tuple[int, ...] | None = None
    """Train on these views of the train split, counted from 0 (transforms.json, LLFF: in order of file name)."""
    background: Literal["white", "black", "random"] = "white"
    """What the model puts behind images that have an alpha channel."""
    use_alpha: bool = True
    """Off, images with an alpha channel are put before `background`, white or black, as they are read: nothing tells
    the training what is empty but colours, white by `plain_background`. The space stays that of images with alpha."""
    downscale_factor: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Read the images shrunk by this factor, from images_2/, images_4/, ...; None reads the full size, and of an LLFF
    scene the images whose longer side is nearest to 500 to 1000 pixels, and says which."""
    eval_interval: Annotated[int, Field(ge=2, le=10**6)] = 8
    """Every so many frames one is for evaluation, from the first on: of LLFF and COLMAP scenes, and where transforms
    files leave nothing else for it."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """How to turn the poses of a transforms.json or an LLFF scene. Files with aabb_scale, and Blender scenes, keep
    their own axes."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """How to centre the poses of a transforms.json or an LLFF scene. Files with aabb_scale, and Blender scenes, keep
    their origin where it is in the middle of their cameras."""
    auto_scale_poses: bool = True
    """Scale the cameras of a transforms.json or an LLFF scene into [-1, 1]. Files with aabb_scale, and Blender scenes,
    keep their unit where it puts the cameras about 4 from what they look at."""
    space: Space = "auto"
    """What a transforms.json or an LLFF scene shows: a scene that fits its box, or an unbounded one, contracted beyond
    its cube; auto takes pictures with alpha for the first and photos for the second, and says so."""
    scene_scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Factor on the box or cube of a transforms.json or an LLFF scene."""
    triangulate: Literal["auto", "always", "never"] = "auto"
    """Where 2 to 100 photos come without sparse points that say who saw them, look for some before the training, in
    seconds: they say where the scene is, where samples go first, and what the depth loss wants. always: also for scenes
    that fit their box."""
    found_points: tyro.conf.Suppress[Path | None] = None
    """These points: observations.npz of the run, filled in before the training by `found_points`."""
    for_others: tyro.conf.Suppress[bool] = False
    """Refuse pictures and masks that nerfstudio's own data sets would read otherwise than `PeakDataset`: set where
    `peak-data` is registered for all methods, taken back by our data managers."""
    plain_background: bool = True
    """Pictures without alpha before plain white (PNG, TIFF or BMP, their borders exactly white) are of an object: what
    is white from the border on is transparent in training. False: they are photos, of a white wall maybe."""
    opaque_is_photo: tyro.conf.Suppress[bool] = True
    """Pictures whose alpha is 255 everywhere are photos; runs of before took them for those of an object."""
    chosen_views: tyro.conf.Suppress[tuple[int, ...]] = ()
    """The train views in use: filled in by `resolve_views` and by the parser, never read."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"opaque_is_photo": False, "plain_background": False} | state)

    def resolve_views(self, data: Path | None = None) -> tuple[int, ...]:
        """Fill `chosen_views` from the scene's files alone, so that a config saved before training names its views.

        data: read this scene instead of `self.data`; `ns-train --data` leaves its path with the data manager.
        """
        self.training_frames(scene_files.find_scene(self.data if data is None else data, say_once))
        return self.chosen_views

    def training_frames(self, scene: Scene) -> tuple[SceneFile, list[int], int]:
        """The file of the train split, those of its frames that are trained on, and of how many that there are."""
        scene_file, indices = scene_files.split_of_scene(
            scene, "train", self.eval_interval, say_once, self.downscale_factor
        )
        indices = usable_frames(scene, scene_file, indices, self.downscale_factor or 1, say_once)
        self.chosen_views = choose_views(len(indices), self.num_views, self.view_indices, scene_file.path)
        return scene_file, [indices[view] for view in self.chosen_views], len(indices)


@dataclass(frozen=True)
class Source:
    """Where the images of a split come from."""

    names: list[str]
    """`file_path` of their frames."""
    ratios: np.ndarray
    """(n, 2): their width and height as they are read, over those of the full size."""
    placement: Placement
    """Of the file's coordinates."""


@dataclass
class PeakDataparserOutputs(DataparserOutputs):
    """With a transform in float64: map coordinates need more digits than float32 has."""

    pictures: list[ScenePicture] = field(default_factory=list)
    """How each image is read; nerfstudio's own data sets read only some of them right."""
    masks: list[MaskFile | None] | None = None
    """Of each image; None where none has one. `mask_filenames` has them where all images do."""
    source: Source | None = None
    """What is needed to say something about these images in the terms of the scene's file."""

    def transform_poses_to_original_space(
        self, poses: Tensor, camera_convention: Literal["opengl", "opencv"] = "opencv"
    ) -> Tensor:
        """As nerfstudio's, in float64."""
        return super().transform_poses_to_original_space(poses.double(), camera_convention)


class PeakDataParser(DataParser):
    """Turns a scene's files into cameras and image paths; see `PeakDataParserConfig`.

    The outputs' metadata: `background`, `kind` (blender, nerfstudio or llff), `has_alpha`, `unbounded`; of LLFF scenes
    `bounds`, (n, 2) float32: depths near and far that each of the split's views sees, in units of its cameras. Of the
    train split of scenes with sparse points `points` (`SparsePoints`), `camera_positions`, (n, 3) of its images, and,
    where it is known which view saw which of them, `sightings` (`Sightings`).
    `solid_background`: whether the images show `background` where the scene is empty, as those of a Blender scene
    without alpha do, and those put before it here. `plain_background`: whether what is white in the images is to be
    made transparent; only of the train split, since truth is left as it is.
    """

    config: PeakDataParserConfig

    def _generate_dataparser_outputs(
        self, split: str = "train", say_space: Callable[[str], None] = say_once
    ) -> PeakDataparserOutputs:
        config = self.config
        downscale = 1 if config.downscale_factor is None else config.downscale_factor
        if downscale < 1:
            raise PeakError(f"--downscale-factor is {downscale}; give a whole number from 1 on, or leave it out")
        if not (config.scene_scale > 0 and math.isfinite(config.scene_scale)):
            raise PeakError(f"--scene-scale is {config.scene_scale}; give a positive number")
        if not config.use_alpha and config.background == "random":
            raise PeakError("--use-alpha False puts the images before one colour; give --background white or black")
        scene = scene_files.find_scene(config.data, say_once)
        if split == "train":
            scene_file, indices, n_available = config.training_frames(scene)
            training = indices
            say_once(_views_line(config.chosen_views, n_available))
        else:
            scene_file, indices = scene_files.split_of_scene(
                scene, split, config.eval_interval, say_once, config.downscale_factor
            )
            indices = usable_frames(scene, scene_file, indices, downscale, say_once)
            training = indices
            if scene.files.get("train") == scene_file.path and scene.kind != "blender":
                training = config.training_frames(scene)[1]
        frames = [scene_file.frames[i] for i in indices]
        split_pictures = pictures_of_split(
            scene, scene_file, indices, training, downscale, config.opaque_is_photo, config.for_others, say_once
        )
        sizes = split_pictures.sizes
        plain = config.plain_background and not config.for_others
        if split_pictures.has_alpha:  # which may have been put before white
            plain &= not config.use_alpha and config.background == "white"
        plain = plain and all_before_white(split_pictures.training)
        if plain:
            say_once(BEFORE_WHITE.format(len(training)))
        with_alpha = split_pictures.has_alpha or plain

        # Where splits have a file each, all of them are placed by that of the training views.
        placed_by = scene_file
        if "train" in scene.files and scene.files["train"] != scene_file.path:
            placed_by = scene_files.split_of_scene(scene, "train", config.eval_interval, say_once)[0]
        of_file = None if scene.kind == "llff" else downscale
        half_fov = half_angle(placed_by, sizes[0], of_file)
        check_cameras(placed_by, _poses(placed_by), half_fov, config.space, say_once)
        placement = _placement(scene, placed_by, config, half_fov)
        cloud = _cloud(scene, placed_by, placement, config, half_fov)
        bounds = depth_bounds(scene_file, placement.scale) if scene.kind == "llff" else None
        space = _space(scene, placed_by, config, placement, bounds, cloud, half_fov, with_alpha)
        if scene.kind != "blender" or placement.scale != 1 or bool(placement.transform[:, 3].any()):
            say_space(space.line())
        has_alpha = plain or (with_alpha and config.use_alpha)
        metadata: dict[str, Any] = {
            "background": "white" if plain else config.background,
            "plain_background": plain and split == "train",
            "kind": scene.kind,
            "has_alpha": has_alpha,
            "solid_background": not has_alpha and (with_alpha or scene.kind == "blender"),
            "unbounded": space.unbounded,
        }
        if bounds is not None:
            metadata["bounds"] = bounds[indices].float()
        full = [full_size(scene_file, frame, size, of_file) for frame, size in zip(frames, sizes, strict=True)]
        poses = placement.poses(_poses(scene_file))[indices].float()
        ratios = np.divide(sizes, full)
        if split == "train" and cloud is not None:
            metadata |= {**cloud.metadata(ratios), "camera_positions": poses[:, :, 3]}
        of_capture = placement.of_capture(scene_file)
        cameras = cameras_of(scene_file, frames, split_pictures.paths, sizes, full, of_file, poses, say_once)
        if split == "train" and not space.unbounded:
            check_views(cameras, space.centre.float(), space.half, frames, scene_file)
        return PeakDataparserOutputs(
            image_filenames=split_pictures.paths,
            cameras=cameras,
            # None, so that the dataset yields RGBA: the model composites, on `metadata["background"]`.
            alpha_color=None if config.use_alpha else torch.full((3,), float(config.background == "white")),
            scene_box=SceneBox(aabb=torch.stack((space.centre - space.half, space.centre + space.half)).float()),
            mask_filenames=split_pictures.mask_paths,
            pictures=split_pictures.pictures,
            masks=split_pictures.masks,
            metadata=metadata,
            dataparser_transform=of_capture.transform,
            dataparser_scale=of_capture.scale,
            source=Source([frame.name for frame in frames], ratios, placement),
        )


def choose_views(
    n_available: int, num_views: int | None, view_indices: tuple[int, ...] | None, source: Path
) -> tuple[int, ...]:
    """Indices into the train split: `view_indices` as given, or round(i (N - 1) / (n - 1)), i = 0 .. n - 1, or all."""
    if num_views is not None and view_indices is not None:
        raise PeakError("--num-views and --view-indices are both given; keep one of them")
    if view_indices is not None:
        outside = [view for view in view_indices if not 0 <= view < n_available]
        if outside:
            raise PeakError(
                f"{source}: --view-indices names view {outside[0]}, but the train split has {n_available} views; "
                f"use 0 to {n_available - 1}"
            )
        if len(set(view_indices)) != len(view_indices) or not view_indices:
            raise PeakError(f"{source}: --view-indices is empty or names a view twice; name each view once")
        return tuple(view_indices)
    if num_views is None:
        return tuple(range(n_available))
    if not 1 <= num_views <= n_available:
        raise PeakError(
            f"{source}: --num-views is {num_views}, but the train split has {n_available} views; use 1 to {n_available}"
        )
    if num_views == 1:
        return (n_available // 2,)
    return tuple(round(i * (n_available - 1) / (num_views - 1)) for i in range(num_views))


def _views_line(views: tuple[int, ...], n_available: int) -> str:
    if len(views) == n_available:
        return f"all {n_available} training views"
    shown = [str(view) for view in views]
    if len(shown) > 32:
        shown = [*shown[:10], "...", shown[-1]]
    return f"{len(views)} of {n_available} training views: {', '.join(shown)}"


def _poses(scene_file: SceneFile) -> Tensor:
    """Of all frames, (n_frames, 4, 4) float64."""
    return torch.from_numpy(np.stack([frame.pose for frame in scene_file.frames]))


def _has_own_frame(scene: Scene, scene_file: SceneFile) -> bool:
    """Whether its axes, origin and unit mean something: Blender scenes, and files for instant-ngp."""
    return scene.kind == "blender" or scene_file.values.get("aabb_scale") is not None


def _placement(scene: Scene, scene_file: SceneFile, config: PeakDataParserConfig, half_fov: float) -> Placement:
    if _has_own_frame(scene, scene_file):
        return in_own_frame(scene_file, _poses(scene_file), half_fov, scene.kind == "blender")
    method = scene_file.values.get("orientation_override", config.orientation_method)
    if method not in ("pca", "up", "vertical", "none"):
        raise PeakError(f"{scene_file.path}: orientation_override is {method!r}; use pca, up, vertical or none")
    return oriented(_poses(scene_file), method, config.center_method, config.auto_scale_poses, scene_file)


def _cloud(
    scene: Scene, scene_file: SceneFile, placement: Placement, config: PeakDataParserConfig, half_fov: float
) -> Cloud | None:
    """What the training views saw, whichever split is asked for: all of them have one space."""
    found = config.found_points
    if found is None and (scene.kind == "llff" or not has_points(scene_file)):
        return None
    scene_file, training, n_available = config.training_frames(scene)
    poses = placement.poses(_poses(scene_file))
    all_views = len(training) == n_available
    return read_cloud(scene_file, placement, poses, training, all_views, half_fov, found, say_once)


def _space(
    scene: Scene,
    scene_file: SceneFile,
    config: PeakDataParserConfig,
    placement: Placement,
    bounds: Tensor | None,
    cloud: Cloud | None,
    half_fov: float,
    has_alpha: bool,
) -> SceneSpace:
    """The scene's box, and whether there is something beyond it."""
    poses = placement.poses(_poses(scene_file))
    views = None if cloud is None else cloud.views
    if _has_own_frame(scene, scene_file):
        blender = scene.kind == "blender"
        space = own_space(scene_file, config.space, placement, poses, half_fov, has_alpha, views, blender)
    else:
        own_cube = float(poses[:, :, 3].abs().max()) or 1.0
        space = choose_space(config.space, poses, half_fov, has_alpha, own_cube, bounds, views)
    if scene.kind != "blender":
        space = replace(space, half=space.half * config.scene_scale)
    return space


peak_dataparser = DataParserSpecification(
    config=PeakDataParserConfig(for_others=True),
    description="Blender, nerfstudio, instant-ngp, COLMAP, LLFF scenes, few-view sets (--num-views, --view-indices).",
)
