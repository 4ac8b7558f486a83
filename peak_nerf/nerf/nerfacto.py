"""`peak-nerfacto`: nerfstudio's own model and field with PEAK added by the mixin."""

# No `from __future__ import annotations`: tyro reads this module's dataclass fields as types.
import copy
import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.scene_colliders import AABBBoxCollider
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig

from peak_nerf.nerf.mixin import PeakModelMixin
from peak_nerf.nerf.options import PeakOptions

logger = logging.getLogger("peak_nerf.nerf")


@dataclass
class PeakNerfactoModelConfig(PeakOptions, NerfactoModelConfig):
    """nerfacto with the polynomial encoding and KAR."""

    _target: type = field(default_factory=lambda: PeakNerfactoModel)
    """target class to instantiate"""
    scale_to_box: bool = True
    """In an unbounded scene, work in units in which the scene box reaches from -1 to 1: nerfacto's contraction, its
    near plane and the distances that it samples at are made for that. Runs from before this option have it off."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"scale_to_box": False, **state})


class PeakNerfactoModel(PeakModelMixin, NerfactoModel):
    """nerfacto with PEAK; a scene that fits its box is trained as such, where nerfacto knows captures only."""

    config: PeakNerfactoModelConfig

    def populate_modules(self) -> None:
        """As nerfacto's. In a bounded scene: no contraction, no camera optimiser, no appearance, a plain background."""
        metadata: dict[str, Any] = self.kwargs.get("metadata") or {}
        bounded = not metadata.get("unbounded", True)
        changes: dict[str, Any] = {}
        if torch.device(self.kwargs.get("device", "cpu")).type == "cpu":
            changes["implementation"] = "torch"  # tiny-cuda-nn's warnings say nothing here
        if bounded:
            background = {"random": "random", "black": "black"}.get(str(metadata.get("background")), "white")
            changes |= {
                "disable_scene_contraction": True,
                "use_appearance_embedding": False,
                "proposal_initial_sampler": "uniform",
                "background_color": background,
                "camera_optimizer": CameraOptimizerConfig(mode="off"),
            }
            logger.info("peak-nerfacto: the scene fits its box: no contraction, appearance or camera optimiser")
        self.config = copy.copy(self.config)  # what the user has set stays as it is in config.yml
        for name, value in changes.items():
            setattr(self.config, name, value)
        super().populate_modules()
        low, high = self.scene_box.aabb
        scaled = self.config.scale_to_box and not bounded
        self.centre = (low + high) / 2 if scaled else torch.zeros(3)
        self.half_extent = float((high - low).max() / 2) if scaled else 1.0
        if bounded:
            self.collider = AABBBoxCollider(self.scene_box, near_plane=self.config.near_plane)

    def forward(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """As nerfacto's; rays of a crop or a texture say where they begin and end, in units of the world."""
        if ray_bundle.nears is not None and ray_bundle.fars is not None:
            near, far = ray_bundle.nears / self.half_extent, ray_bundle.fars / self.half_extent
            ray_bundle = dataclasses.replace(ray_bundle, nears=near, fars=far)
        return super().forward(ray_bundle)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """As nerfacto's, of rays in units of the scene box; depths are those of the world."""
        origins = (ray_bundle.origins - self.centre.to(ray_bundle.origins)) / self.half_extent
        outputs = super().get_outputs(dataclasses.replace(ray_bundle, origins=origins))
        depths = {name: self.half_extent * value for name, value in outputs.items() if "depth" in name}
        return {**outputs, **depths}
