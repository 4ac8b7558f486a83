"""Feeds the model: pixels of all training images in one flat uint8 table, rays made on the fly, batch size as asked.

nerfstudio's own sampler collates float images and runs the general camera model for every batch, which costs more on
a CPU than our whole training step. Evaluation, rendering and export still go through nerfstudio's data manager.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.options import renamed


@dataclass
class PeakDataManagerConfig(VanillaDataManagerConfig):
    """Data manager of `peak` and `peak-lite`."""

    _target: type = field(default_factory=lambda: PeakDataManager)
    """target class to instantiate"""
    dataparser: AnnotatedDataParserUnion = field(default_factory=PeakDataParserConfig)
    """Reads the scene: `peak-data` recognises Blender, nerfstudio, instant-ngp and LLFF folders."""
    train_num_rays_per_batch: int = 4096
    """Rays of the first step; later steps take as many as give the model's `target_samples`."""
    virtual_rays: Annotated[int, tyro.conf.arg(aliases=["--pipeline.datamanager.unseen-rays"])] = 128
    """Rays per step of virtual views between the training cameras, for KAR's point form; 0 for none."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(renamed(state))


class PeakDataManager(VanillaDataManager[InputDataset]):
    """Batches of rays with RGBA ground truth, and rays of virtual views for KAR."""

    config: PeakDataManagerConfig
    draws_virtual_rays = False
    """Whether batches bring rays of virtual views; the pipeline says."""

    def setup_train(self) -> None:
        """Load the training images once, as bytes."""
        images, masks = [], []
        for index in range(len(self.train_dataset)):
            data = self.train_dataset.get_data(index, image_type="uint8")
            image = data["image"]
            images.append(image.reshape(-1, image.shape[-1]))
            if "mask" in data:
                masks.append(data["mask"].reshape(-1).bool())
        channels = max(image.shape[-1] for image in images)
        # A scene may mix RGB and RGBA files: RGB counts as opaque.
        images = [_with_channels(image, channels) for image in images]
        self.pixels = torch.cat(images).to(self.device)
        sizes = torch.tensor([len(image) for image in images])
        self.first_pixel = (sizes.cumsum(0) - sizes).to(self.device)
        # An alpha channel that is opaque throughout tells nothing.
        self.has_alpha = channels == 4 and bool((self.pixels[:, 3] < 255).any())
        # Of images of one size, a division tells whose pixel it is, faster than a search.
        self.pixels_per_image = int(sizes[0]) if bool((sizes == sizes[0]).all()) else None
        # Pixels that a mask leaves out are never drawn.
        self.drawable = torch.cat(masks).nonzero()[:, 0].to(self.device) if masks else None
        self.cameras: Cameras = self.train_dataset.cameras.to(self.device)
        self.widths = self.cameras.width.flatten()
        positions = self.cameras.camera_to_worlds[:, :, 3]
        # The first column is each camera itself.
        self.neighbours = torch.cdist(positions, positions).topk(min(4, len(positions)), largest=False).indices[:, 1:]
        self.is_pinhole = _all_pinhole(self.cameras)
        # nerfstudio reads and sets the batch size here (point cloud export does), so it lives here for us too.
        self.train_pixel_sampler = self._get_pixel_sampler(self.train_dataset, self.config.train_num_rays_per_batch)

    def silhouettes(self) -> list[Tensor] | None:
        """Per training image, (h, w): where it is not wholly transparent.

        None where nothing is transparent, or with masks, which leave pixels out whose transparency means nothing.
        """
        if not self.has_alpha or self.drawable is not None:
            return None
        sizes = [(int(h), int(w)) for h, w in zip(self.cameras.height, self.cameras.width, strict=True)]
        opaque = (self.pixels[:, 3] > 0).split([h * w for h, w in sizes])
        return [part.reshape(size) for part, size in zip(opaque, sizes, strict=True)]

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Random pixels of all training images: their rays, and their colours as (n, 3 or 4) bytes."""
        self.train_count += 1
        n = self.get_train_rays_per_batch()
        total = len(self.pixels) if self.drawable is None else len(self.drawable)
        pixel = torch.randint(total, (n,), device=self.device)
        if self.drawable is not None:
            pixel = self.drawable[pixel]
        camera = self._camera_of(pixel)
        within = pixel - self.first_pixel[camera]
        row, column = within // self.widths[camera], within % self.widths[camera]
        batch: dict[str, Any] = {"image": self.pixels[pixel]}
        if self.draws_virtual_rays and self.config.virtual_rays > 0 and len(self.cameras) > 1:
            batch["virtual_rays"] = self.virtual_rays(self.config.virtual_rays)
        return self.rays(camera, row, column), batch

    def _camera_of(self, pixel: Tensor) -> Tensor:
        if self.pixels_per_image is not None:
            return torch.div(pixel, self.pixels_per_image, rounding_mode="floor")
        return torch.searchsorted(self.first_pixel, pixel, right=True) - 1

    def rays(self, camera: Tensor, row: Tensor, column: Tensor) -> RayBundle:
        """The rays through the centres of pixels (row, column) of training cameras, each with shape (n,)."""
        if not self.is_pinhole:
            coords = torch.stack((row, column), -1) + 0.5
            return self.cameras.generate_rays(camera_indices=camera[:, None], coords=coords)
        c = self.cameras
        x = (column + 0.5 - c.cx[camera, 0]) / c.fx[camera, 0]
        y = -(row + 0.5 - c.cy[camera, 0]) / c.fy[camera, 0]
        pose = c.camera_to_worlds[camera]
        directions = rotate(pose[:, :, :3], torch.stack((x, y, -torch.ones_like(x)), -1))
        return pinhole_bundle(pose[:, :, 3], directions, c.fx[camera] * c.fy[camera], camera)

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
        fx, fy = self.cameras.fx[a, 0], self.cameras.fy[a, 0]
        u, v = torch.rand(2, n, device=poses.device)
        x = (u * self.cameras.width[a, 0] - self.cameras.cx[a, 0]) / fx
        y = -(v * self.cameras.height[a, 0] - self.cameras.cy[a, 0]) / fy
        local = torch.stack((x, y, -torch.ones_like(x)), -1)
        # Blending the two rotated directions equals rotating by the blended matrix, up to the length taken out below.
        directions = torch.lerp(rotate(poses[a, :, :3], local), rotate(poses[b, :, :3], local), blend)
        return pinhole_bundle(position, directions, (fx * fy)[:, None], a)


def rotate(matrix: Tensor, vector: Tensor) -> Tensor:
    """Per row, matrix @ vector; (n, 3, 3) and (n, 3). An elementwise sum beats a batched product on the CPU."""
    return (matrix * vector[:, None, :]).sum(-1)


def pinhole_bundle(origins: Tensor, directions: Tensor, focal_area: Tensor, camera: Tensor) -> RayBundle:
    """A ray bundle with unit directions; the pixel area is the solid angle of a pixel."""
    length = directions.norm(dim=-1, keepdim=True)
    return RayBundle(
        origins=origins,
        directions=directions / length,
        pixel_area=1 / (focal_area * length**3),
        camera_indices=camera[:, None],
        metadata={"directions_norm": length},
    )


def _with_channels(image: Tensor, channels: int) -> Tensor:
    missing = channels - image.shape[-1]
    return torch.cat((image, image.new_full((len(image), missing), 255)), -1) if missing else image


def _all_pinhole(cameras: Cameras) -> bool:
    perspective = bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all())
    distortion: Tensor | None = cameras.distortion_params
    return perspective and (distortion is None or not bool(distortion.any()))
