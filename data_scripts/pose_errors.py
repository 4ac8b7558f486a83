"""How far a scene's poses are from given ones, after the similarity transform that brings the positions together.

    python data_scripts/pose_errors.py SCENE TRUTH

SCENE is what `peak photos` left, TRUTH another transforms.json, or an LLFF folder with its poses_bounds.npy; frames
belong together by the names of their pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from peak_nerf.errors import PeakError, exit_on_peak_error
from peak_nerf.nerf.data import llff

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PoseErrors:
    """Found poses against true ones, after the similarity that brings the cameras' places closest together."""

    n_found: int
    rotation_degrees: float
    """Median."""
    position_percent: float
    """Median, of the diagonal of the box around the true cameras."""


def pose_errors(found: dict[str, Array], truth: dict[str, Array]) -> PoseErrors:
    """Compare camera-to-world matrices (4, 4) by name. Raises: PeakError with fewer than 3 in common."""
    names = sorted(found.keys() & truth.keys())
    if len(names) < 3:
        raise PeakError(f"{len(names)} of {len(truth)} photos have a pose: too few to compare; see the scene's page")
    a, b = (np.stack([poses[name] for name in names]) for poses in (found, truth))
    x, y = a[:, :3, 3], b[:, :3, 3]
    # Umeyama 1991: y = scale * rotation x + shift with the least squares.
    centred = x - x.mean(0)
    u, d, vt = np.linalg.svd((y - y.mean(0)).T @ centred / len(x))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation, scale = u * sign @ vt, (d * sign).sum() / centred.var(0).sum()
    distance = np.linalg.norm(scale * centred @ rotation.T + y.mean(0) - y, axis=1)
    between = np.einsum("nji,njk->nik", rotation @ a[:, :3, :3], b[:, :3, :3])
    angle = np.arccos(np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1))
    extent = np.linalg.norm(np.ptp(y, axis=0))
    return PoseErrors(len(names), float(np.degrees(np.median(angle))), float(100 * np.median(distance) / extent))


def read_truth(path: Path) -> dict[str, Array]:
    """Camera-to-world matrices (4, 4), OpenGL axes, by the stem of the picture's name.

    Raises: PeakError when it cannot be read.
    """
    if (path / llff.NAME).is_file():
        folder = next(iter(llff.picture_folders(path).values()))
        poses, _, _ = llff.read_poses_bounds(path / llff.NAME)
        return {file.stem: pose for file, pose in zip(llff.pictures(folder), poses, strict=True)}
    file = path / "transforms.json" if path.is_dir() else path
    try:
        frames = json.loads(file.read_text(encoding="utf8"))["frames"]
        return {Path(frame["file_path"]).stem: np.array(frame["transform_matrix"], float) for frame in frames}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PeakError(f"{file}: cannot be read ({error}); name a scene with a transforms.json") from error


def main(
    scene: Annotated[Path, tyro.conf.Positional],
    truth: Annotated[Path, tyro.conf.Positional],
) -> None:
    """Print the median errors of a scene's poses.

    Args:
        scene: A scene's folder or transforms.json.
        truth: Given poses: a folder or transforms.json, or an LLFF folder.
    """
    with exit_on_peak_error():
        found, given = read_truth(scene), read_truth(truth)
        errors = pose_errors(found, given)
        print(
            f"{errors.n_found} of {len(given)} pictures; medians: {errors.rotation_degrees:.3f} degrees, "
            f"{errors.position_percent:.3f} % of the cameras' extent"
        )


if __name__ == "__main__":
    tyro.cli(main)
