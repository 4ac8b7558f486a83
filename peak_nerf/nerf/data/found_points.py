"""Sparse points of photos that come without: found in the pictures before a training, and kept in its folder.

They are in the coordinates of the scene's file, so that the data parser reads them as those of `peak photos`, in the
training and in every evaluation of it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peak_nerf.nerf.data.dataparser import PeakDataParserConfig, PeakDataparserOutputs, Source, say
from peak_nerf.nerf.data.dataset import PeakDataset
from peak_nerf.nerf.data.observations import Observations, write_observations
from peak_nerf.nerf.data.pixel_rays import PixelRays
from peak_nerf.nerf.data.points import OBSERVATIONS, Sightings, SparsePoints
from peak_nerf.nerf.data.triangulation import triangulate

MOST_PICTURES = 100
"""With more of them the pictures themselves say enough, and it would take minutes."""
FEWEST = 50
"""Points, or they are left out."""


def find_points(config: PeakDataParserConfig, data: Path | None, run: Path) -> Path | None:
    """`observations.npz` in the folder `run`, of what the scene's training views show; None where it is not wanted or
    comes to nothing. Says what came of it.

    Args:
        config: of the scene; its `found_points` are not read.
        data: the scene, instead of `config.data`.
        run: folder of the training; made where it is not there.
    """
    if config.triangulate == "never":
        return None
    parser = replace(config, data=config.data if data is None else data, found_points=None, for_others=False).setup()
    outputs: PeakDataparserOutputs = parser.get_dataparser_outputs("train", say_space=_say_nothing)
    assert outputs.source is not None
    wanted = config.triangulate == "always" or outputs.metadata["unbounded"]
    known = "sightings" in outputs.metadata
    if known or not wanted or not 2 <= len(outputs.image_filenames) <= MOST_PICTURES:
        return None
    begin = time.monotonic()
    points, seen = _triangulated(PeakDataset(outputs))
    count = len(points.xyz)
    if count < FEWEST:
        say(f"the scene has no sparse points, and only {count} were found in its pictures: left out")
        return None
    run.mkdir(parents=True, exist_ok=True)
    write_observations(run / OBSERVATIONS, observations(points, seen, outputs.source))
    say(
        f"the scene has no sparse points; {count} found in its pictures in {time.monotonic() - begin:.0f} s; peak-data "
        "--triangulate never does without"
    )
    return run / OBSERVATIONS


def _say_nothing(line: str) -> None:
    """The space that is chosen without points is not that of the training."""


def _triangulated(dataset: PeakDataset) -> tuple[SparsePoints, Sightings]:
    """With a progress bar."""
    from rich.progress import Progress

    def read(i: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        data: dict[str, Any] = dataset.get_data(i, image_type="uint8")
        return data["image"], data["mask"][..., 0].bool() if "mask" in data else None

    rays = PixelRays(dataset.cameras.to("cpu"))
    with Progress(transient=True) as bar:
        task = bar.add_task("Sparse points", total=None)
        return triangulate(read, rays, lambda i, n: bar.update(task, completed=i, total=n))


def observations(points: SparsePoints, seen: Sightings, source: Source) -> Observations:
    """Points and sightings of a split's images, where they are used, in the terms of the scene's file.

    Pixels, and errors in them, are then those of the full size.
    """
    scale = source.placement.scale
    order = torch.argsort(seen.point, stable=True).numpy()
    image, point = seen.image.numpy()[order], seen.point.numpy()[order]
    ratio = source.ratios[image]
    per_pixel = 1 / ratio.mean(1)
    error, count = seen.error.numpy()[order] * per_pixel, np.bincount(point, minlength=len(points.xyz))
    return Observations(
        image_names=np.array(source.names),
        points=source.placement.inverse(points.xyz.double()).numpy(),
        colors=points.rgb.numpy(),
        errors=(np.bincount(point, error, len(points.xyz)) / np.maximum(count, 1)).astype(np.float32),
        image_index=image.astype(np.int32),
        point_index=point.astype(np.int32),
        pixels=(seen.xy.numpy()[order] / ratio).astype(np.float32),
        pixel_errors=error.astype(np.float32),
        depths=(seen.depth.numpy()[order] / scale).astype(np.float32),
    )
