"""The pictures and masks of a split, read the one way that `scene_pictures` and `scene_masks` say."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from torch import Tensor

from peak_nerf.nerf.data.plain_background import with_alpha
from peak_nerf.nerf.data.scene_masks import MaskFile, mask_as_stored
from peak_nerf.nerf.data.scene_pictures import ScenePicture


class PeakDataset(InputDataset):
    """nerfstudio's dataset of what `peak-data` found. Of other data parsers pictures are read as nerfstudio's does, and
    masks as ours are."""

    @property
    def pictures(self) -> list[ScenePicture] | None:
        """How each picture is read; None where another data parser found them."""
        return getattr(self._dataparser_outputs, "pictures", None)

    @cached_property
    def masks(self) -> list[MaskFile | None] | None:
        """Of each picture; None where no picture of the split has one."""
        if self.pictures is not None:
            return getattr(self._dataparser_outputs, "masks", None)
        paths = self._dataparser_outputs.mask_filenames
        return None if paths is None else [mask_as_stored(path) for path in paths]

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """(h, w, 3 or 4) uint8, sRGB; the same number of channels for all pictures of a scene."""
        if self.pictures is None:
            return super().get_numpy_image(image_idx)
        array = self.pictures[image_idx].read()
        if self.scale_factor != 1.0:
            size = (int(array.shape[1] * self.scale_factor), int(array.shape[0] * self.scale_factor))
            array = np.array(Image.fromarray(array).resize(size, resample=Image.Resampling.BILINEAR))
        return array

    def get_image_uint8(self, image_idx: int) -> Tensor:
        """(h, w, 3 or 4); before a plain background, with the alpha that it tells."""
        image: Tensor = super().get_image_uint8(image_idx)
        return torch.from_numpy(with_alpha(image.numpy())) if self.metadata.get("plain_background") else image

    def get_image_float32(self, image_idx: int) -> Tensor:
        """(h, w, 3 or 4); before a plain background, with the alpha that it tells."""
        if self.metadata.get("plain_background"):
            return self.get_image_uint8(image_idx).float() / 255
        image: Tensor = super().get_image_float32(image_idx)
        return image

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """`image`, and `mask`, (h, w, 1) bool, where any picture of the split has one."""
        image = self.get_image_uint8(image_idx) if image_type == "uint8" else self.get_image_float32(image_idx)
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        if self.masks is not None:
            mask, (h, w) = self.masks[image_idx], image.shape[:2]
            data["mask"] = torch.ones(h, w, 1, dtype=torch.bool)
            if mask is not None:
                data["mask"] = torch.from_numpy(mask.read((w, h)))[..., None]
        if self.mask_color:  # of other data parsers
            data["image"] = torch.where(data["mask"], image, torch.ones_like(image) * torch.tensor(self.mask_color))
        return data | self.get_metadata(data)
