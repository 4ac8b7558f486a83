"""A picture of a scene's space: cube, cameras, sparse points, from above and from the side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from peak_nerf.nerf.data.points import SparsePoints
from peak_nerf.system.files import write_atomically

Array = npt.NDArray[np.float64]
MOST_POINTS = 20_000
"""Points that are drawn."""
ROOM = 1.15
"""Of the frame around cube and cameras."""
ARROW = 0.12
"""Length of a viewing direction, as a fraction of the frame."""
TRAIN, TEST, BOX = "#0072b2", "#d55e00", "#000000"


def write_space_figure(path: Path, train: DataparserOutputs, test: Cameras | None = None) -> None:
    """Write a PNG: axes as in training, z up, but in the file's unit of length.

    Args:
        path: of the picture.
        train: of the training split; its `points`, if any, are drawn.
        test: cameras of the test split.

    Raises: MachineError when the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    unit = 1.0 / float(train.dataparser_scale)
    low, high = unit * train.scene_box.aabb.double().numpy()
    views = [("training views", TRAIN, train.cameras)]
    views += [] if test is None else [("test views", TEST, test)]
    cameras = [(label, colour, *_positions_and_axes(camera, unit)) for label, colour, camera in views]
    corners = np.concatenate([low[None], high[None], *[position for _, _, position, _ in cameras]])
    middle = (corners.max(0) + corners.min(0)) / 2
    reach = ROOM * float(np.ptp(corners, axis=0).max()) / 2
    unbounded = bool((train.metadata or {}).get("unbounded"))
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        for panel, (title, across, up) in enumerate((("from above", 0, 1), ("from the side", 0, 2))):
            axes = figure.add_subplot(1, 2, 1 + panel)
            axes.set_title(title)
            _draw_points(axes, train, unit, across, up)
            for label, colour, position, axis in cameras:
                arrows = 2 * reach * ARROW * axis
                axes.quiver(
                    position[:, across], position[:, up], arrows[:, across], arrows[:, up],
                    angles="xy", scale_units="xy", scale=1, color=colour, width=0.003,
                )  # fmt: skip
                axes.plot(position[:, across], position[:, up], "o", color=colour, markersize=3, label=label)
            square = [(low, low), (high, low), (high, high), (low, high), (low, low)]
            label = "cube, space is contracted beyond it" if unbounded else "box of the scene"
            axes.plot([a[across] for a, _ in square], [b[up] for _, b in square], color=BOX, linewidth=1, label=label)
            axes.set_xlim(middle[across] - reach, middle[across] + reach)
            axes.set_ylim(middle[up] - reach, middle[up] + reach)
            axes.set_aspect("equal")
            axes.set_xlabel(f"{'xyz'[across]}, in units of the file")
            axes.set_ylabel("xyz"[up])
        axes.legend(loc="upper right", framealpha=0.8)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _positions_and_axes(cameras: Cameras, unit: float) -> tuple[Array, Array]:
    """Each (n, 3): positions in the file's unit, and unit vectors along the optical axes."""
    poses = cameras.camera_to_worlds.double().cpu().numpy()
    axis = -poses[:, :, 2]
    return unit * poses[:, :, 3], axis / np.linalg.norm(axis, axis=1, keepdims=True)


def _draw_points(axes: Any, train: DataparserOutputs, unit: float, across: int, up: int) -> None:
    points = (train.metadata or {}).get("points")
    if not isinstance(points, SparsePoints) or len(points.xyz) == 0:
        return
    every = -(-len(points.xyz) // MOST_POINTS)
    xyz = unit * points.xyz[::every].double().numpy()
    colours = points.rgb[::every].numpy() / 255
    axes.scatter(xyz[:, across], xyz[:, up], s=2, c=colours, linewidths=0, label="sparse points")
