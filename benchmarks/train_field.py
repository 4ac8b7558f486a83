"""Trains a radiance field with `core`, `nerf/render` and `nerf/losses` alone: no nerfstudio.

It is what `python benchmarks/gpu.py` measures, and an example of how the parts fit together. Against `ns-train peak` it
lacks the visual hull, sparse points, and poses and exposures to refine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes import Pictures
from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.nerf.losses.kar import KarStep
from peak_nerf.nerf.losses.kar_samples import KarAtSamples
from peak_nerf.nerf.losses.regularizers import regularization_losses
from peak_nerf.nerf.options import (
    FEW_VIEWS,
    KAR_QUERIES,
    KAR_WEIGHTS,
    NEAR_PLANE,
    POINT_QUERIES_IN_A_BOX,
    ModelOptions,
)
from peak_nerf.nerf.render.field import PeakRadianceField, networks_in_bfloat16
from peak_nerf.nerf.render.marcher import Steps
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.renderer import VolumeRenderer

RATES = {"encoding": 4e-2, "networks": 1e-2, "kar": 1e-3}
FINAL, WARMUP = 0.03, 20
"""Of the learning rates: what is left at the end, and steps of the warm-up."""
VIRTUAL_RAYS = 64
MIN_RAYS, MAX_RAYS = 256, 1 << 16


def for_scene(options: ModelOptions, n_views: int, unbounded: bool) -> ModelOptions:
    """The options with what `peak` chooses by the scene, as `resolve_defaults` does, which needs pydantic."""
    few = n_views <= FEW_VIEWS
    return replace(
        options, sh_levels=2 if few else 4, occupancy_threshold=0.0005 if unbounded else 0.002,
        distortion_weight=0.03 if few or unbounded else 0.0, distortion_warmup=0.5 if unbounded else 0.0,
        network_rate=0.25 if few and unbounded else 1.0,
        kar_queries=options.kar_queries or (KAR_QUERIES if unbounded else POINT_QUERIES_IN_A_BOX),
        near_plane=NEAR_PLANE if options.near_plane is None else options.near_plane,
    )  # fmt: skip


class Training:
    """A field on its way, with the settings of `peak`.

    Args:
        pictures: the training views.
        options: of the model; `table_precision`, `implementation` and sizes among them.
        kar: whether KAR's point form is on.
    """

    def __init__(self, pictures: Pictures, options: ModelOptions, kar: bool = False) -> None:
        unbounded, device = pictures.unbounded, pictures.rgba.device
        c = for_scene(options, len(pictures.rgba), unbounded)
        self.pictures, self.options = pictures, c
        finest = c.finest_resolution * (2 if unbounded else 1)
        grid = HashGridConfig(c.n_levels, c.n_features, c.log2_table_size, c.base_resolution, finest)
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
            c.occupancy_resolution, c.occupancy_threshold or 0.0, n_cascades=c.cascades if unbounded else 1, step=step,
            thin=math.exp(c.density_bias),
        ).to(device)  # fmt: skip
        self.renderer = VolumeRenderer(
            self.field, self.occupancy, Steps(step, c.cone if unbounded else 0.0, c.samples_per_ray),
            (c.near_plane or 0.0) / pictures.half, 1.0, c.render_substeps, c.render_samples,
            c.gradient_reach if unbounded else 0.0,
        )  # fmt: skip
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
        rates = RATES | {"networks": RATES["networks"] * (c.network_rate or 1.0)}
        self.optimizer = torch.optim.Adam(
            [{"params": parameters, "lr": 0.0, "rate": rates[name]} for name, parameters in groups.items()],
            betas=(0.9, 0.99), eps=1e-15, fused=True,
        )  # fmt: skip
        self.n_rays, self.steps, self.rays_seen, self.samples_seen = min(4096, c.target_samples), 0, 0, 0

    def step(self, progress: float) -> Tensor:
        """One step at this fraction of the training; its loss, which nobody need wait for."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (self.steps + 1) / WARMUP) * FINAL**progress
        self.renderer.least_coarseness = 1 + 3 * max(0.0, 1 - self.steps / self.options.coarse_steps)
        self.renderer.withheld = max(0.0, 1 - progress / self.options.near_annealing)
        n, device = self.n_rays, self.pictures.rgba.device
        n_pictures, h, w = self.pictures.rgba.shape[:3]
        picture, pixel = (torch.randint(most, (n,), device=device) for most in (n_pictures, h * w))
        origins, directions = self.pictures.rays(picture, pixel)
        rgba = self.pictures.rgba.view(n_pictures, h * w, 4)[picture, pixel].float() / 255
        rendered = self.renderer.training_rays(origins, directions)
        self.occupancy.observe(rendered.samples.cell, rendered.density.detach())
        if self.renderer.unbounded:
            background = self.renderer.background_of(directions, rendered.accumulation)
        else:
            background = torch.rand(n, 3, device=device)
        predicted = rendered.foreground + (1 - rendered.accumulation) * background
        loss = F.smooth_l1_loss(predicted, torch.lerp(background, rgba[:, :3], rgba[:, 3:]), beta=0.1)
        for regularizer in regularization_losses(self.options, self.field.grid, rendered, progress).values():
            loss = loss + regularizer
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
        at = self.renderer.to_field(self.occupancy.points_in(cells))
        self.occupancy.observe(cells, self.renderer.density(at)[0])
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
        """A picture (h, w, 3) as one of `pictures` is, over white where the scene is bounded."""
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
