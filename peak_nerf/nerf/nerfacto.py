"""`peak-nerfacto`: nerfstudio's own model and field with PEAK added by the mixin."""

# No `from __future__ import annotations`: tyro reads this module's dataclass fields as types.
import copy
import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
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
        if bounded:
            self.collider = AABBBoxCollider(self.scene_box, near_plane=self.config.near_plane)
