"""Trains a radiance field on a Blender scene with `core`, `nerf/render` and `nerf/losses` alone: no nerfstudio.

It is what `python benchmarks/gpu.py` measures, and an example of how the parts fit together. Against `ns-train peak` it
lacks the visual hull, poses and exposures to refine, and scenes other than Blender's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.errors import PeakError
from peak_nerf.nerf.losses.kar import KarStep
from peak_nerf.nerf.losses.kar_samples import KarAtSamples
from peak_nerf.nerf.options import KAR_WEIGHTS, ModelOptions
from peak_nerf.nerf.render.field import PeakRadianceField, networks_in_bfloat16
from peak_nerf.nerf.render.marcher import Steps
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.renderer import VolumeRenderer

BOX = 1.5
"""Half the side of a Blender scene's box."""
RATES = {"encoding": 4e-2, "networks": 1e-2, "kar": 1e-3}
FINAL, WARMUP = 0.03, 20
"""Of the learning rates: what is left at the end, and steps of the warm-up."""
VIRTUAL_RAYS = 64
MIN_RAYS, MAX_RAYS = 256, 1 << 16


class Pictures(NamedTuple):
    """Pictures of one size with their cameras, in the scene's box."""

    rgba: Tensor
    """(n, h, w, 4) uint8."""
    poses: Tensor
    """(n, 3, 4), camera to world; OpenGL axes, the box is [-1, 1]^3."""
    focal: float
    """In pixels."""

    def rays(self, picture: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions through pixels, by their flat indices."""
        h, w = self.rgba.shape[1:3]
        u, v = pixel % w + 0.5 - w / 2, h / 2 - 0.5 - torch.div(pixel, w, rounding_mode="floor")
        local = torch.stack((u / self.focal, v / self.focal, -torch.ones_like(u)), -1)
        pose = self.poses[picture]
        return pose[:, :, 3], F.normalize((pose[:, :, :3] * local[:, None]).sum(-1), dim=-1)


def read_pictures(data: Path, split: str, size: int, most: int, device: torch.device) -> Pictures:
    """At most so many views of a split, evenly spaced, as squares of `size` pixels at most.

    Raises: PeakError on what is no Blender scene.
    """
    path = data / f"transforms_{split}.json"
    if not path.is_file():
        raise PeakError(f"{path}: is not there; --data takes a Blender scene, such as nerf_synthetic/lego")
    scene = json.loads(path.read_text())
    frames = scene["frames"]
    chosen = [frames[len(frames) * i // most] for i in range(most)] if len(frames) > most else frames
    pictures = []
    for frame in chosen:
        name = data / frame["file_path"]
        with Image.open(name if name.suffix else name.with_suffix(".png")) as file:
            picture = file.convert("RGBA")
        if picture.width > size:
            picture = picture.resize((size, size * picture.height // picture.width), Image.Resampling.BOX)
        pictures.append(np.asarray(picture))
    poses = torch.tensor([frame["transform_matrix"] for frame in chosen], dtype=torch.float32)[:, :3]
    poses[:, :, 3] /= BOX
    focal = pictures[0].shape[1] / (2 * math.tan(scene["camera_angle_x"] / 2))
    return Pictures(torch.from_numpy(np.stack(pictures)).to(device), poses.to(device), focal)


class Training:
    """A field on its way, with the settings of `peak` for a bounded scene and many views.

    Args:
        pictures: the training views.
        options: of the model; `table_precision`, `implementation` and sizes among them.
        kar: whether KAR's point form is on.
    """

    def __init__(self, pictures: Pictures, options: ModelOptions, kar: bool = False) -> None:
        c, device = options, pictures.rgba.device
        self.pictures, self.options = pictures, options
        grid = HashGridConfig(c.n_levels, c.n_features, c.log2_table_size, c.base_resolution, c.finest_resolution)
        config = FieldConfig(
            grid, c.polynomial_degree, hidden_dim=c.hidden_dim, n_hidden=c.n_hidden, bias=False, relu_init="he",
            implementation=c.implementation,
        )  # fmt: skip
        in_bfloat16 = networks_in_bfloat16(c.network_precision, device)
        self.field = PeakRadianceField(
            config, c.n_geometry, c.colour_hidden_dim, c.colour_n_hidden, c.sh_levels or 4, c.density_bias,
            in_bfloat16, c.table_precision == "float16", device,
        ).to(device)  # fmt: skip
        step = 2 / c.steps_per_side
        self.occupancy = OccupancyGrid(
            c.occupancy_resolution, c.occupancy_threshold or 0.002, step=step, thin=math.exp(c.density_bias)
        ).to(device)
        self.renderer = VolumeRenderer(
            self.field, self.occupancy, Steps(step, 0.0, c.samples_per_ray), c.near_plane / BOX, 1.0, c.render_substeps
        )
        groups = {
            "encoding": [*self.field.base.encoding.parameters()],
            "networks": [*self.field.base.backbone.parameters(), *self.field.colour_network.parameters()],
        }
        self.kar: KarAtSamples | None = None
        if kar:
            regularizer = KernelAlignmentRegularizer(
                3, n_features=c.kar_n_features, norm="l2", weight=KAR_WEIGHTS["point"], warmup=c.kar_warmup
            ).to(device)
            self.kar = KarAtSamples(regularizer, self.renderer, c)
            groups["kar"] = [*regularizer.parameters()]
        self.optimizer = torch.optim.Adam(
            [{"params": parameters, "lr": RATES[name], "rate": RATES[name]} for name, parameters in groups.items()],
            betas=(0.9, 0.99), eps=1e-15, fused=True,
        )  # fmt: skip
        self.n_rays, self.steps, self.rays_seen, self.samples_seen = min(4096, c.target_samples), 0, 0, 0

    def step(self, progress: float) -> Tensor:
        """One step at this fraction of the training; its loss, which nobody need wait for."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (self.steps + 1) / WARMUP) * FINAL**progress
        self.renderer.least_coarseness = 1 + 3 * max(0.0, 1 - self.steps / self.options.coarse_steps)
        n, device = self.n_rays, self.pictures.rgba.device
        n_pictures, h, w = self.pictures.rgba.shape[:3]
        picture, pixel = (torch.randint(most, (n,), device=device) for most in (n_pictures, h * w))
        origins, directions = self.pictures.rays(picture, pixel)
        rgba = self.pictures.rgba.view(n_pictures, h * w, 4)[picture, pixel].float() / 255
        rendered = self.renderer.training_rays(origins, directions)
        self.occupancy.observe(rendered.samples.cell, rendered.density.detach())
        background = torch.rand(n, 3, device=device)
        predicted = rendered.foreground + (1 - rendered.accumulation) * background
        loss = F.smooth_l1_loss(predicted, torch.lerp(background, rgba[:, :3], rgba[:, 3:]), beta=0.1)
        if self.kar is not None:
            kar = self.kar.loss(KarStep(rendered, directions, self.virtual_rays(), progress))
            loss = loss if kar is None else loss + kar
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.steps % self.options.occupancy_interval == 0:
            self.probe()
        found = len(rendered.samples)
        self.steps, self.rays_seen, self.samples_seen = self.steps + 1, self.rays_seen + n, self.samples_seen + found
        wanted = n * self.options.target_samples / max(1, found)
        self.n_rays = int(min(max(0.7 * n + 0.3 * wanted, min(MIN_RAYS, n)), MAX_RAYS))
        return loss.detach()

    @torch.no_grad()
    def probe(self) -> None:
        """Look at random cells, then decide anew which are occupied."""
        cells = self.occupancy.random_cells(self.options.occupancy_probes)
        self.occupancy.observe(cells, self.renderer.density(self.occupancy.points_in(cells))[0])
        self.occupancy.refresh(self.renderer.least_coarseness)

    def virtual_rays(self) -> tuple[Tensor, Tensor]:
        """From between two training cameras towards points of the box."""
        poses = self.pictures.poses[:, :, 3]
        a, b = (torch.randint(len(poses), (VIRTUAL_RAYS,), device=poses.device) for _ in range(2))
        origins = torch.lerp(poses[a], poses[b], torch.rand(VIRTUAL_RAYS, 1, device=poses.device))
        towards = torch.rand(VIRTUAL_RAYS, 3, device=poses.device) - 0.5
        return origins, F.normalize(towards - origins, dim=-1)

    def run(self, seconds: float, most_steps: int, wait: Callable[[], Any]) -> float:
        """Train for so long or so many steps; how long it took."""
        wait()
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds and self.steps < most_steps:
            self.step(max(elapsed / seconds, self.steps / most_steps))
        wait()
        return time.perf_counter() - start

    @torch.no_grad()
    def render(self, pictures: Pictures, index: int, chunk: int = 1 << 16) -> Tensor:
        """A picture (h, w, 3) over white, as one of `pictures` is."""
        h, w = pictures.rgba.shape[1:3]
        device = pictures.rgba.device
        parts = []
        for start in range(0, h * w, chunk):
            pixel = torch.arange(start, min(start + chunk, h * w), device=device)
            parts.append(self.renderer.render(*pictures.rays(torch.full_like(pixel, index), pixel))["rgb"])
        return torch.cat(parts).reshape(h, w, 3).clamp(0, 1)

    def psnr(self, pictures: Pictures) -> float:
        """Mean over views, in dB."""
        found = []
        for i in range(len(pictures.rgba)):
            rgba = pictures.rgba[i].float() / 255
            truth = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
            found.append(-10 * math.log10(max(float(F.mse_loss(self.render(pictures, i), truth)), 1e-12)))
        return sum(found) / len(found)
