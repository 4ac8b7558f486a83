"""The options of `peak photos`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from peak_nerf.photos.pairs import Matching
from peak_nerf.system.ranges import Seconds


@dataclass
class SourceOptions:
    """What the poses are for."""

    source: Annotated[Path, tyro.conf.Positional]
    """A folder of photos, at any depth, or a video; or poses of others: a COLMAP model (sparse/0), poses_bounds.npy."""
    out: Path
    """The scene's folder. It must not exist yet, or be empty."""
    video_frames: Annotated[int, Field(ge=3, le=10**5)] = 60
    """Of a video, so many frames: the sharpest of as many equal intervals."""
    max_size: Annotated[int, Field(ge=64, le=2**16)] = 1600
    """Longer side of the copies in pixels; larger pictures are shrunk."""
    masks: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: none)")] = None
    """A folder of masks named as the photos: white is used, black is not."""


@dataclass
class PoseOptions:
    """How the poses are found."""

    matching: Matching = "auto"
    """Which pictures are compared: every pair (exhaustive), each with those before it in time (sequential), or by
    their number and kind (auto)."""
    camera: Literal["auto", "single", "per-image"] = "auto"
    """Which pictures share a lens: those of one size, camera and focal length (auto), all (single) or none."""


@dataclass
class TrainOptions:
    """Going on to a radiance field."""

    train: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also run `ns-train peak`, evaluate it on held-out photos and render a moving picture along the cameras' path."""
    train_seconds: Annotated[
        Seconds | None,
        tyro.conf.arg(metavar="SECONDS", help_behavior_hint="(default: the method's own steps)"),
    ] = None
    """Length of the training."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with an interrupted run of the same command, or train a scene that is finished."""


@dataclass
class PhotosOptions(TrainOptions, PoseOptions, SourceOptions):
    """All options of `peak photos`."""
