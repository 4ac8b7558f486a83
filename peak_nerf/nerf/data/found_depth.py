"""Depth between the sparse points of photos, found before the training."""

from __future__ import annotations

import time
from typing import Any, Literal

from nerfstudio.cameras.cameras import Cameras, CameraType

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.dataparser import say
from peak_nerf.nerf.data.found_points import MOST_PICTURES
from peak_nerf.nerf.data.multi_view_stereo import DenseDepth, dense_depth
from peak_nerf.nerf.data.pixels import PixelTable
from peak_nerf.nerf.data.points import knows_sightings

Stereo = Literal["auto", "always", "never"]


def find_depth(
    stereo: Stereo, cameras: Cameras, metadata: dict[str, Any], table: PixelTable, depth_loss: bool
) -> DenseDepth | None:
    """Depth that the training pictures tell together; None where it is not wanted. Says what came of it, and shows how
    far it is.

    Args:
        stereo: whether it is wanted; see `PeakDataManagerConfig.stereo`.
        cameras: of the training pictures.
        metadata: of the scene.
        table: all pixels of the pictures, of the full size.
        depth_loss: whether there is one; nothing else has use for it.

    Raises: PeakError where it is wanted always, and the scene cannot have it.
    """
    if stereo == "never":
        return None
    lack = None
    if not bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all()):
        lack = "wants perspective cameras; leave the option out"
    elif not knows_sightings(metadata):
        lack = (
            "wants sparse points of which it is known who saw them; leave the option out, or add peak-data"
            " --triangulate always"
        )
    elif not depth_loss:
        lack = "is for the depth loss, which --pipeline.model.depth-weight 0 switches off; leave one of the two out"
    if stereo == "always" and lack is not None:
        raise PeakError(f"--pipeline.datamanager.stereo always: {lack}")
    photos = metadata.get("unbounded", False) and len(cameras) <= MOST_PICTURES
    if lack is not None or not (stereo == "always" or photos):
        return None
    from rich.progress import Progress

    begin, cameras = time.monotonic(), cameras.to("cpu")
    with Progress(transient=True) as bar:
        task = bar.add_task("Depth", total=None)
        found = dense_depth(
            lambda i: table.picture(i, int(cameras.height[i])),
            cameras,
            metadata["points"],
            metadata["sightings"],
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    say(
        f"depth at {len(found.points.xyz)} pixels between the sparse points, which photos agree on, in "
        f"{time.monotonic() - begin:.0f} s; --pipeline.datamanager.stereo never does without"
    )
    return found
