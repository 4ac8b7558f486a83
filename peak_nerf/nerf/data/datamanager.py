"""Feeds the model: pixels of all training images in flat uint8 tables, rays made on the fly, batch size as asked.

nerfstudio's own sampler collates float images and runs the general camera model for every batch, which costs more on
a CPU than our whole training step. Evaluation, rendering and export still go through nerfstudio's data manager.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from pydantic import Field
from torch import Tensor

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.dataset import PeakDataset
from peak_nerf.nerf.data.found_depth import Stereo, find_depth
from peak_nerf.nerf.data.pixel_rays import PixelRays, ray_bundle, rotate
from peak_nerf.nerf.data.pixels import PixelTable, pixel_tables
from peak_nerf.nerf.data.points import together
from peak_nerf.nerf.data.sighted_pixels import SightedPixels
from peak_nerf.nerf.exposure import exposures_differ
from peak_nerf.nerf.options import renamed


@dataclass
class PeakDataManagerConfig(VanillaDataManagerConfig):
    """Data manager of `peak` and `peak-lite`."""

    _target: type = field(default_factory=lambda: PeakDataManager)
    """target class to instantiate"""
    dataparser: AnnotatedDataParserUnion = field(default_factory=PeakDataParserConfig)
    """Reads the scene: `peak-data` recognises Blender, nerfstudio, instant-ngp and LLFF folders."""
    train_num_rays_per_batch: Annotated[int, Field(ge=1, le=1 << 22)] = 4096
    """Rays of the first step; later steps take as many as give the model's `target_samples`."""
    virtual_rays: Annotated[
        int, Field(ge=0, le=1 << 20), tyro.conf.arg(aliases=["--pipeline.datamanager.unseen-rays"])
    ] = 128
    """Rays per step of virtual views between the training cameras, for KAR's point form; 0 for none."""
    sighted_rays: Annotated[int, Field(ge=0, le=1 << 20)] = 256
    """Rays per step, at most a quarter of all, through pixels that saw sparse points, for the depth loss."""
    stereo: Stereo = "auto"
    """Whether depth is found at pixels between the sparse points too, for the depth loss, by comparing photos before
    the training, for a second or two each. auto: of up to 100 photos of an unbounded scene."""
    coarse_to_fine: bool = False
    """Begin on copies of the pictures of a quarter, then of half their size: until 10 and 30 % of the training."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(renamed(state))


class PictureDataManager(VanillaDataManager[PeakDataset]):
    """nerfstudio's, with pictures and masks as `peak-data` says that they are read."""

    def __init__(self, config: VanillaDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        if isinstance(config.dataparser, PeakDataParserConfig):
            config.dataparser.for_others = False
        super().__init__(config, *args, **kwargs)


class PeakDataManager(PictureDataManager):
    """Batches of rays with RGBA ground truth, and rays of virtual views for KAR."""

    config: PeakDataManagerConfig
    draws_virtual_rays = False
    """Whether batches bring rays of virtual views; the pipeline says."""
    draws_sightings = False
    """Whether batches end with rays through pixels that saw sparse points; the pipeline says."""

    progress = 0.0
    """The finished fraction of the training; the pipeline says."""
    tables: Sequence[tuple[float, PixelTable]] = ()
    """Of the training pictures. None yet where nerfstudio neither trains nor scores, as in `ns-render camera-path`."""

    def setup_train(self) -> None:
        """Load the training images once, as bytes."""
        data = [self.train_dataset.get_data(i, image_type="uint8") for i in range(len(self.train_dataset))]
        channels = max(item["image"].shape[-1] for item in data)
        # A scene may mix RGB and RGBA files: RGB counts as opaque.
        images = [_with_channels(item["image"], channels) for item in data]
        # Pixels that a mask leaves out are never drawn.
        masks = [item["mask"][..., 0].bool() for item in data] if "mask" in data[0] else None
        self.tables = pixel_tables(images, masks, self.device, self.config.coarse_to_fine)
        if len(self.full_size) == 0:
            raise PeakError(
                f"{self.get_datapath()}: masks hide all pixels of all training images; invert or remove them"
            )
        # An alpha channel that is opaque throughout tells nothing.
        self.has_alpha = channels == 4 and bool((self.full_size.colours[:, 3] < 255).any())
        self.cameras: Cameras = self.train_dataset.cameras.to(self.device)
        self.cameras.camera_to_worlds = self.cameras.camera_to_worlds.float()
        self.pixel_rays = PixelRays(self.cameras)
        # The model is built from this, after the data manager.
        self.train_dataset.metadata["exposures_differ"] = channels == 3 and exposures_differ(
            images, self.cameras.camera_to_worlds
        )
        positions = self.cameras.camera_to_worlds[:, :, 3]
        # The first column is each camera itself.
        self.neighbours = torch.cdist(positions, positions).topk(min(4, len(positions)), largest=False).indices[:, 1:]
        metadata = self.train_dataset.metadata
        self.sighted: SightedPixels | None = None
        if "sightings" in metadata:
            self.sighted = SightedPixels(metadata["sightings"], metadata["points"], self.full_size, self.pixel_rays)
        # nerfstudio reads and sets the batch size here (point cloud export does), so it lives here for us too.
        self.train_pixel_sampler = self._get_pixel_sampler(self.train_dataset, self.config.train_num_rays_per_batch)

    def find_depth(self) -> None:
        """Adds pixels between the sparse points to those whose depth is known, where `stereo` asks for it."""
        metadata = self.train_dataset.metadata
        found = find_depth(self.config.stereo, self.cameras, metadata, self.full_size, self.draws_sightings)
        if found is not None:
            points, seen = together(metadata["points"], metadata["sightings"], found.points, found.seen)
            self.sighted = SightedPixels(seen, points, self.full_size, self.pixel_rays, found.guesses)

    @property
    def full_size(self) -> PixelTable:
        """All pixels of the training images as they are."""
        return self.tables[-1][1]

    def silhouettes(self) -> list[Tensor] | None:
        """Per training image, (h, w): where it is not wholly transparent.

        None where nothing is transparent, or with masks, which leave pixels out whose transparency means nothing.
        """
        if not self.has_alpha or self.full_size.drawable is not None:
            return None
        sizes = [(int(h), int(w)) for h, w in zip(self.cameras.height, self.cameras.width, strict=True)]
        opaque = (self.full_size.colours[:, 3] > 0).split([h * w for h, w in sizes])
        return [part.reshape(size) for part, size in zip(opaque, sizes, strict=True)]

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Random pixels of all training images: their rays, and their colours as (n, 3 or 4) bytes.

        The last of them, as many as `sighted` says (`SightedPoints`), are of pixels that saw sparse points.
        """
        self.train_count += 1
        table = next((table for end, table in self.tables if self.progress < end), self.full_size)
        n = self.get_train_rays_per_batch()
        n_sighted = min(self.config.sighted_rays, n // 4) if self.draws_sightings and self.sighted else 0
        drawn = table.draw(n - n_sighted)
        batch: dict[str, Any] = {}
        if self.sighted and n_sighted > 0:
            seen, batch["sighted"] = self.sighted.draw(n_sighted)
            drawn = drawn.and_then(seen)
        batch["image"] = drawn.colour
        if self.draws_virtual_rays and self.config.virtual_rays > 0 and len(self.cameras) > 1:
            batch["virtual_rays"] = self.virtual_rays(self.config.virtual_rays)
        return self.pixel_rays.bundle(drawn.camera, drawn.u, drawn.v), batch

    def virtual_rays(self, n: int) -> RayBundle:
        """Rays of views between training cameras: a random camera and one of its 3 nearest, a random blend of both.

        Positions are blended linearly and pulled out to the blended distance from the cameras' mean focus, rotations
        by normalised sum of matrices (projected back to a rotation), so that the view looks where its neighbours do.
        """
        count = len(self.cameras)
        poses = self.cameras.camera_to_worlds
        a = torch.randint(count, (n,), device=poses.device)
        b = self.neighbours[a, torch.randint(self.neighbours.shape[1], (n,), device=poses.device)]
        blend = torch.rand(n, 1, device=poses.device)
        position = torch.lerp(poses[a, :, 3], poses[b, :, 3], blend)
        u, v = (torch.rand(n, device=poses.device) * size[a, 0] for size in (self.cameras.width, self.cameras.height))
        local, area = self.pixel_rays.local(a, u, v).split((3, 1), -1)
        # Blending the two rotated directions equals rotating by the blended matrix, up to the length taken out below.
        directions = torch.lerp(rotate(poses[a, :, :3], local), rotate(poses[b, :, :3], local), blend)
        return ray_bundle(position, directions, area, a)


def _with_channels(image: Tensor, channels: int) -> Tensor:
    missing = channels - image.shape[-1]
    return F.pad(image, (0, missing), value=255) if missing else image
