"""A scene's sparse points where they are used, and which training view saw which of them, how far away.

They come from `observations.npz` of `peak photos` beside the transforms file, or else from the point cloud that
`ply_file_path` names, which does not say who saw its points. What only held-out views saw is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peak_nerf.errors import PeakError, first_line
from peak_nerf.nerf.data.observations import Observations, read_observations
from peak_nerf.nerf.data.placement import Placement
from peak_nerf.nerf.data.scene_box import Views
from peak_nerf.nerf.data.transforms_file import SceneFile, can_be_path

OBSERVATIONS = "observations.npz"
PHOTOS_AGAIN = "run `peak photos` again, or remove it"
HEADER = 1 << 16
"""Bytes of a PLY file that its header is in."""
SEEN_BY = 2
"""Training views that saw a point, at least: one alone does not say how far away it is."""
DEPTH_TOLERANCE = 0.01
"""Of the median depth as written to that by the poses; files of another reconstruction differ by far more."""
MANY_POINTS = 10_000
"""Of a point cloud, so many at most are looked for in each camera to choose the space."""


@dataclass(frozen=True)
class SparsePoints:
    """Points of structure from motion."""

    xyz: Tensor
    """(m, 3) float32, in the units of the cameras."""
    rgb: Tensor
    """(m, 3) uint8"""
    error: Tensor
    """(m,) float32: mean reprojection error in pixels of the full-size pictures; NaN where the file does not say."""


@dataclass(frozen=True)
class Sightings:
    """Which image saw which point where."""

    image: Tensor
    """(n,) int64 into the split's images."""
    point: Tensor
    """(n,) int64 into the points."""
    xy: Tensor
    """(n, 2) float32: pixels of the images as they are read, to the right and down; the centre of the upper left one is
    (0.5, 0.5)."""
    depth: Tensor
    """(n,) float32: of the point along the camera's optical axis, in the units of the cameras."""
    error: Tensor
    """(n,) float32: distance in pixels, of the images as they are read, to the point's projection."""


@dataclass(frozen=True)
class Guesses:
    """Points that one image alone is thought to show."""

    image: Tensor
    """(n,) int64 into the split's images."""
    xy: Tensor
    """(n, 2) float32: pixels, as in `Sightings`."""
    xyz: Tensor
    """(n, 3) float32, in the units of the cameras."""


@dataclass(frozen=True)
class Cloud:
    """Points in float64 where they are used, and the sightings of the training views in use, if they are known."""

    points: SparsePoints
    sightings: Sightings | None
    """Pixels are those of the full-size pictures."""
    views: Views

    def metadata(self, ratios: np.ndarray) -> dict[str, SparsePoints | Sightings]:
        """`points` and, where they are known, `sightings`, of the data parser's training split.

        ratios: (n_images, 2): width and height as the image is read, over those of the full size.
        """
        points = SparsePoints(self.points.xyz.float(), self.points.rgb, self.points.error)
        if self.sightings is None:
            return {"points": points}
        seen = self.sightings
        ratio = torch.from_numpy(ratios)[seen.image]
        sightings = Sightings(
            image=seen.image,
            point=seen.point,
            xy=(seen.xy * ratio).float(),
            depth=seen.depth.float(),
            error=(seen.error * ratio.mean(1)).float(),
        )
        return {"points": points, "sightings": sightings}


def together(
    points: SparsePoints, seen: Sightings, more: SparsePoints, more_seen: Sightings
) -> tuple[SparsePoints, Sightings]:
    """All points of two sets, and all sightings of them."""
    more_seen = replace(more_seen, point=more_seen.point + len(points.xyz))
    joined = (
        {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(parts[0])}
        for parts in ((points, more), (seen, more_seen))
    )
    return SparsePoints(**next(joined)), Sightings(**next(joined))


def knows_sightings(metadata: Mapping[str, Any]) -> bool:
    """Whether it is known which view saw which sparse points, by the metadata of the training views."""
    return "sightings" in metadata and len(metadata["sightings"].point) > 0


def has_points(scene_file: SceneFile) -> bool:
    """Whether the scene's files name sparse points."""
    if scene_file.observations is not None or (scene_file.path.parent / OBSERVATIONS).is_file():
        return True
    return bool(scene_file.values.get("ply_file_path"))


def read_cloud(
    scene_file: SceneFile,
    placement: Placement,
    poses: Tensor,
    training: Sequence[int],
    all_views: bool,
    half_fov: float,
    found: Path | None,
    say: Callable[[str], None],
) -> Cloud | None:
    """The sparse points that the training views saw; None where there are none.

    Args:
        scene_file: that of the training split.
        placement: of the file's coordinates.
        poses: (n, 3, 4) float64 of all of the file's frames, placed.
        training: which of these frames are the images of the training split, in order.
        all_views: whether these are all that there are for training. What fewer saw, a point cloud does not say.
        half_fov: half the wider angle of view, in radians.
        found: what the training has found in the pictures, where it has; before all that came with the scene.
        say: prints a line.

    Raises: PeakError when a file is broken or of other poses.
    """
    chosen = poses[torch.tensor(training, dtype=torch.int64)]
    if found is not None:
        return _observed(read_observations(found, "train again"), found, scene_file, placement, chosen, training)
    if scene_file.observations is not None:
        return _observed(scene_file.observations, scene_file.path, scene_file, placement, chosen, training)
    observations = scene_file.path.parent / OBSERVATIONS
    if observations.is_file():
        observed = read_observations(observations, PHOTOS_AGAIN)
        return _observed(observed, observations, scene_file, placement, chosen, training, PHOTOS_AGAIN)
    name = scene_file.values.get("ply_file_path")
    if not name:
        return None
    if not isinstance(name, str) or not can_be_path(name):
        raise PeakError(f"{scene_file.path}: ply_file_path is {name!r}; give the name of a .ply file, or remove it")
    if not all_views:
        say(f"{name} does not say which views saw its points, so a choice of views does without; {OBSERVATIONS} would")
        return None
    xyz, rgb = read_ply(scene_file.path.parent / name.replace("\\", "/"), scene_file.path)
    xyz = placement.points(xyz)
    points = SparsePoints(xyz, rgb, torch.full((len(xyz),), torch.nan))
    return Cloud(points, None, _in_pictures(xyz[:: -(-len(xyz) // MANY_POINTS) or 1], chosen, half_fov))


def read_ply(path: Path, source: Path) -> tuple[Tensor, Tensor]:
    """Positions (m, 3) float64 and colours (m, 3) uint8 of a PLY file, ASCII or binary.

    Raises: PeakError when it is missing or broken, or lacks either; `source` names it.
    """
    from plyfile import PlyData, PlyParseError

    remedy = f"write it again, or remove ply_file_path from {source}"
    if not path.is_file():
        raise PeakError(f"{path}: no such file, but {source} names it in ply_file_path; restore it, or remove the name")
    try:
        _check_counts(path)
        vertices = PlyData.read(str(path), mmap=False)["vertex"].data
    except (PlyParseError, OSError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = first_line(error)
        raise PeakError(f"{path}: cannot be read ({reason}); {remedy}") from error
    missing = [key for key in ("x", "y", "z", "red", "green", "blue") if key not in (vertices.dtype.names or ())]
    if missing:
        raise PeakError(f"{path}: its vertices have no {missing[0]}; {remedy}")
    if any(vertices.dtype[key] != np.uint8 for key in ("red", "green", "blue")):
        raise PeakError(f"{path}: its colours are {vertices.dtype['red']}, not uchar; {remedy}")
    xyz = np.stack([vertices[key].astype(np.float64) for key in "xyz"], axis=1)
    if not np.isfinite(xyz).all():
        raise PeakError(f"{path}: has positions that are not finite; {remedy}")
    rgb = np.stack([vertices[key] for key in ("red", "green", "blue")], axis=1)
    return torch.from_numpy(xyz), torch.from_numpy(rgb)


def _check_counts(path: Path) -> None:
    """Raises: ValueError when the header asks for more elements than the file has bytes: readers make room for them."""
    with path.open("rb") as file:
        header, end, _ = file.read(HEADER).partition(b"end_header")
    if not end and len(header) == HEADER:
        raise ValueError(f"its header has no end within {HEADER} bytes")
    counts = [int(count) for count in re.findall(rb"^element\s+\S+\s+(\d{1,4000})", header, re.MULTILINE)]
    if sum(counts) > path.stat().st_size:
        raise ValueError(f"its header asks for {sum(counts):.3g} elements, and it has {path.stat().st_size} bytes")


def _observed(
    observed: Observations,
    path: Path,
    scene_file: SceneFile,
    placement: Placement,
    poses: Tensor,
    training: Sequence[int],
    again: str = "train again",
) -> Cloud:
    """Points that at least `SEEN_BY` of the training views saw, of the file at `path`; poses (n, 3, 4) are theirs."""
    other = f"{path}: is not of the cameras of {scene_file.path}; {again}"
    place = {PurePosixPath(scene_file.frames[frame].name): i for i, frame in enumerate(training)}
    names = [PurePosixPath(str(name)) for name in observed.image_names]
    if not {PurePosixPath(frame.name) for frame in scene_file.frames} & set(names):
        raise PeakError(f"{other} (no image has the same name)")
    image = np.array([place.get(name, -1) for name in names], dtype=np.int64)[observed.image_index]
    xyz = placement.points(torch.from_numpy(np.asarray(observed.points, dtype=np.float64)))
    depth = _depths(poses, torch.from_numpy(image.clip(0)), xyz[observed.point_index]).numpy()
    _check_depths(depth[image >= 0], observed.depths[image >= 0] * placement.scale, other)
    return _selected(observed, xyz, image, depth)


def _selected(observed: Observations, xyz: Tensor, image: np.ndarray, depth: np.ndarray) -> Cloud:
    """Without sightings of other images (-1) or from behind, and points that too few have seen."""
    seen = (image >= 0) & (depth > 0)
    pairs = np.unique(np.stack([observed.point_index, image], axis=1)[seen], axis=0)
    kept = np.bincount(pairs[:, 0], minlength=len(xyz)) >= SEEN_BY
    seen &= kept[observed.point_index]
    new = torch.from_numpy(np.cumsum(kept) - 1)[observed.point_index[seen]]
    sightings = Sightings(
        image=torch.from_numpy(image[seen]),
        point=new,
        xy=torch.from_numpy(observed.pixels[seen].astype(np.float64)),
        depth=torch.from_numpy(depth[seen]),
        error=torch.from_numpy(observed.pixel_errors[seen].astype(np.float64)),
    )
    points = SparsePoints(
        xyz=xyz[kept],
        rgb=torch.from_numpy(observed.colors[kept].astype(np.uint8)),
        error=torch.from_numpy(observed.errors[kept].astype(np.float32)),
    )
    return Cloud(points, sightings, Views(sightings.image, points.xyz[new], sightings.depth))


def _depths(poses: Tensor, camera: Tensor, xyz: Tensor) -> Tensor:
    """Of points (n, 3) along the optical axes of the cameras (n,) that see them."""
    return -((xyz - poses[camera, :, 3]) * poses[camera, :, 2]).sum(1) / poses[camera, :, 2].norm(dim=1)


def _check_depths(depth: np.ndarray, written: np.ndarray, other: str) -> None:
    if len(depth) and np.median(np.abs(depth - written)) > DEPTH_TOLERANCE * np.median(written):
        raise PeakError(f"{other} (its depths are not those of the poses)")


def _in_pictures(xyz: Tensor, poses: Tensor, half_fov: float) -> Views:
    """Every point as seen by every camera in whose cone of view it lies, if at least `SEEN_BY` do."""
    axis = -poses[:, :, 2] / poses[:, :, 2].norm(dim=1, keepdim=True)
    towards = xyz[:, None] - poses[None, :, :, 3]
    depth = (towards * axis).sum(-1)
    inside = depth > towards.norm(dim=-1) * np.cos(half_fov)
    inside &= inside.sum(1, keepdim=True) >= SEEN_BY
    point, camera = inside.nonzero(as_tuple=True)
    return Views(camera, xyz[point], depth[point, camera])
