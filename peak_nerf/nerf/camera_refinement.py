"""Poses of training cameras are refined with the field, by nerfstudio's `CameraOptimizer`; the world stays where it is.

Moving all cameras and the scene together changes no picture. Left alone, the refined cameras drift along, and views
held out, whose cameras stay, are rendered from a wrong place though nothing is worse. So adjustments have no such part.

Symbols:
    c_i        position of training camera i, before refinement
    t_i, w_i   its adjustment: a translation, and a rotation about the camera itself, as a vector; both along world axes
    rho        distance at which cameras look, which makes a rotation comparable to a translation
"""

# No `from __future__ import annotations`: tyro reads this module's dataclass fields as types.
import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.lie_groups import exp_map_SO3xR3
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor, nn
from torch.nn.utils import parametrize

logger = logging.getLogger(__name__)

PHOTOS = ("nerfstudio", "llff")
"""Kinds of scenes whose poses come from structure from motion; a Blender scene's are exact."""
INTERVAL = 4
"""Steps from one refinement to the next: the hash grid's gradient towards positions costs, and poses move slowly."""
START = 0.3
"""Fraction of the training before the first: fog moves cameras at random, and the scene blurs with them."""


def refinement_is_due(step: int, progress: float) -> bool:
    """Whether this step, with `progress` in [0, 1] of the training behind it, moves cameras."""
    return step % INTERVAL == 0 and progress >= START


@dataclass
class CameraRefinementConfig(CameraOptimizerConfig):
    """Refinement of the training cameras' poses."""

    _target: type = field(default_factory=lambda: CameraRefinement)
    """target class to instantiate"""
    mode: Literal["auto", "off", "SO3xR3"] = "auto"
    """SO3xR3: a translation and a rotation of each training camera are learned. auto: for photos (transforms.json or
    LLFF, without alpha), whose poses were estimated; off for Blender scenes and objects with alpha."""

    def resolved(self, kind: str | None, unbounded: bool) -> "CameraRefinementConfig":
        """With `auto` decided for a scene of this kind (of the data parser's metadata); says so when it is on."""
        if self.mode != "auto":
            return self
        on = kind in PHOTOS and unbounded
        if on:
            logger.info(
                "camera poses: refined, as for all photos; --pipeline.model.camera-optimizer.mode off keeps them"
            )
        return dataclasses.replace(self, mode="SO3xR3" if on else "off")


class CameraRefinement(CameraOptimizer):
    """nerfstudio's optimizer, its `pose_adjustment` without the part that all cameras have in common."""

    def __init__(self, config: CameraRefinementConfig, num_cameras: int, device: torch.device | str, **_: Any) -> None:
        super().__init__(config, num_cameras, device)
        self.gauge = Gauge(num_cameras).to(device)
        if config.mode != "off":
            parametrize.register_parametrization(self, "pose_adjustment", self.gauge)

    def apply_to_raybundle(self, raybundle: RayBundle) -> None:
        """Move the rays of training cameras as their cameras are moved; rays then have a gradient towards poses.

        As nerfstudio's, which works out a rotation for every ray instead of every camera.
        """
        if self.config.mode == "off":
            return
        moves = exp_map_SO3xR3(self.pose_adjustment).reshape(-1, 12)
        # An embedding adds up gradients faster than an index does.
        move = F.embedding(raybundle.camera_indices.reshape(-1), moves).reshape(-1, 3, 4)
        shape = raybundle.origins.shape
        raybundle.origins = raybundle.origins + move[:, :, 3].reshape(shape)
        turned = (move[:, :, :3] * raybundle.directions.reshape(-1, 1, 3)).sum(-1)
        raybundle.directions = turned.reshape(shape)

    @torch.no_grad()
    def refined(self, poses: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
        """Poses of all training cameras after refinement, as `apply_to_raybundle` moves their rays."""
        if self.config.mode == "off":
            return poses
        moves = exp_map_SO3xR3(self.pose_adjustment)
        return torch.cat((moves[:, :, :3] @ poses[:, :, :3], poses[:, :, 3:] + moves[:, :, 3:]), -1)

    def get_metrics_dict(self, metrics_dict: dict[str, Any]) -> None:
        """Mean and maximum of translations and of rotations in degrees: nerfstudio's, without waiting for a GPU."""
        if self.config.mode != "off":
            moved, turned = self.pose_adjustment.detach().reshape(-1, 2, 3).norm(dim=-1).unbind(-1)
            for name, size in (("translation", moved), ("rotation", torch.rad2deg(turned))):
                metrics_dict[f"camera_opt_{name}_mean"] = size.mean()
                metrics_dict[f"camera_opt_{name}_max"] = size.max()


class Gauge(nn.Module):
    r"""Takes out of adjustments (n, 6) what moves, turns and scales all cameras in common: a - Q Q^T a.

    Columns of Q, orthonormal in |t|^2 + rho^2 |w|^2, span the seven similarities of the world: for each axis e,
    (t_i, w_i) = (e, 0) and (e x (c_i - c), e), c the mean; and (c_i - c, 0). The least-squares similarity between
    cameras before and after refinement (Umeyama 1991) is then the identity, to first order. One camera cannot be
    adjusted at all, of two it is their five relative parameters.

    Until `fix` is called, nothing is taken out.
    """

    basis: Tensor
    scale: Tensor

    def __init__(self, n_cameras: int) -> None:
        super().__init__()
        # The cameras are those of the data: not for the checkpoint.
        self.register_buffer("basis", torch.zeros(6 * n_cameras, 7), persistent=False)
        self.register_buffer("scale", torch.ones(6), persistent=False)

    def fix(self, positions: Float[Tensor, "n 3"], rho: float) -> None:
        """Set the cameras: their positions before refinement, and the distance at which they look."""
        n = len(positions)
        relative = (positions - positions.mean(0)).double().cpu()
        axes = torch.eye(3, dtype=torch.float64)
        columns = torch.zeros(n, 2, 3, 7, dtype=torch.float64)
        columns[:, 0, :, :3] = axes
        columns[:, 0, :, 3:6] = torch.linalg.cross(axes[None], relative[:, None].expand(n, 3, 3)).transpose(1, 2)
        columns[:, 1, :, 3:6] = rho * axes
        columns[:, 0, :, 6] = relative
        left, values, _ = torch.linalg.svd(columns.reshape(6 * n, 7), full_matrices=False)
        # Cameras in one place have no scale; fewer than two have less than seven.
        left = left * (values > 1e-6 * values[0])
        self.basis = F.pad(left, (0, 7 - left.shape[1])).to(self.basis)
        self.scale = torch.tensor([1.0] * 3 + [rho] * 3).to(self.scale)

    def forward(self, adjustment: Float[Tensor, "n 6"]) -> Float[Tensor, "n 6"]:
        """The adjustments without their common part."""
        a = (adjustment * self.scale).flatten()
        return (a - self.basis @ (self.basis.T @ a)).reshape(-1, 6) / self.scale
