"""The pictures and masks of a split, read the one way that `scene_pictures` and `scene_masks` say."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from peak_nerf.nerf.data.scene_masks import MaskFile
from peak_nerf.nerf.data.scene_pictures import ScenePicture


class PeakDataset(InputDataset):
    """nerfstudio's dataset of what `peak-data` found; of other data parsers, the very same as nerfstudio's."""

    @property
    def pictures(self) -> list[ScenePicture] | None:
        """How each picture is read; None where another data parser found them."""
        return getattr(self._dataparser_outputs, "pictures", None)

    @property
    def masks(self) -> list[MaskFile | None] | None:
        """Of each picture; None where no picture of the split has one."""
        return getattr(self._dataparser_outputs, "masks", None)

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """(h, w, 3 or 4) uint8, sRGB; the same number of channels for all pictures of a scene."""
        if self.pictures is None:
            return super().get_numpy_image(image_idx)
        array = self.pictures[image_idx].read()
        if self.scale_factor != 1.0:
            size = (int(array.shape[1] * self.scale_factor), int(array.shape[0] * self.scale_factor))
            array = np.array(Image.fromarray(array).resize(size, resample=Image.Resampling.BILINEAR))
        return array

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """`image`, and `mask`, (h, w, 1) bool, where any picture of the split has one."""
        if self.pictures is None:
            return super().get_data(image_idx, image_type)
        image = self.get_image_uint8(image_idx) if image_type == "uint8" else self.get_image_float32(image_idx)
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        if self.masks is not None:
            mask, (h, w) = self.masks[image_idx], image.shape[:2]
            data["mask"] = torch.ones(h, w, 1, dtype=torch.bool)
            if mask is not None:
                data["mask"] = torch.from_numpy(mask.read((w, h)))[..., None]
        return data | self.get_metadata(data)
