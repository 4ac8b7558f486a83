"""The nerfstudio model: occupancy-guided sampling, packed rendering, and KAR on ray samples.

Symbols:
    x          position, normalised so that the scene box's longest side is [-1, 1]
    t, dt      distance and step length along a ray in normalised units; one unit is `half_extent` in the world
    f          what KAR compares: (opacity of one step, colour), with shape (n, 4)
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils import colormaps
from nerfstudio.viewer.viewer_elements import ViewerSlider
from torch import Tensor
from torch.nn import Parameter

from peak_nerf.core.anchors import LocalAnchors
from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.core.hash_grid import Implementation
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.errors import PeakError
from peak_nerf.nerf.field import PeakRadianceField
from peak_nerf.nerf.metrics import ImageMetrics
from peak_nerf.nerf.rendering import accumulate, packed_weights
from peak_nerf.nerf.sampler import OccupancyGrid, PackedSamples, RayMarcher

MIN_RAYS, MAX_RAYS = 256, 1 << 16
"""Bounds of the number of rays of a training step."""
FIRST_WAVE, LAST_WAVE = 4, 64
"""When rendering, a ray takes this many samples first, then twice as many each time up to the last."""
OPAQUE = 1e-3
"""A ray whose transmittance has fallen below this is finished, and a sample whose weight is below it has no colour."""


@dataclass
class PeakModelConfig(ModelConfig):
    """PEAK: hash grid ++ polynomial encoding, and the Kernel Alignment Regularizer (KAR)."""

    _target: type = field(default_factory=lambda: PeakModel)
    """target class to instantiate"""
    enable_collider: bool = False
    """Not used: rays begin and end at the scene box."""
    eval_num_rays_per_chunk: int = 1 << 13
    """Rays rendered at a time; on a CPU, few enough that a wave of samples stays in its cache."""

    kar_weight: float = 1e-2
    """Weight lambda of KAR; 0 trains the plain baseline."""
    kar_warmup: float = 0.1
    """Share of the training over which KAR's weight rises from 0."""
    kar_queries: int = 256
    """Query points a step, half from the batch's ray samples and half from rays of unseen views."""
    kar_anchors: int = 8
    """Anchors of each query (local), or of all queries (global)."""
    kar_sampler: Literal["local", "global"] = "local"
    """Anchors near each query, or a random subset of the batch's samples."""
    kar_radius: float = 0.015
    """Reach of local anchors; the scene box has side 2."""
    kar_rank: int = 100
    """Number r of features of the similarity network g."""
    kar_residual_stride: int = 4
    """The output `kar_residual` is computed on every so many pixels in each direction, and enlarged."""

    n_levels: int = 16
    """Levels of the hash grid."""
    n_features: int = 2
    """Features per level."""
    log2_table_size: int = 19
    """Rows of a hashed level, as a power of two."""
    base_resolution: int = 16
    """Cells per side of the coarsest level."""
    finest_resolution: int = 2048
    """Cells per side of the finest level."""
    polynomial_degree: int | None = 1
    """Degree of the learnable polynomial encoding of position; None leaves it out."""
    hidden_dim: int = 64
    """Width of the density network."""
    n_hidden: int = 1
    """Hidden layers of the density network."""
    colour_hidden_dim: int = 64
    """Width of the colour network."""
    colour_n_hidden: int = 2
    """Hidden layers of the colour network."""
    sh_levels: int = 4
    """Levels of the spherical harmonics of direction, 1 to 4; fewer make colour depend less on where one looks from."""
    n_geometry: int = 15
    """Features handed from the density to the colour network."""
    implementation: Implementation = "auto"
    """Who computes the hash grid: tcnn (CUDA), numba (CPU), torch, or auto."""
    density_bias: float = -2.0
    """Density starts at exp(this) per unit of the box's half side: thin, or a scene may stay fog."""

    steps_per_side: int = 256
    """Ray steps along one side of the scene box."""
    occupancy_resolution: int = 128
    """Cells per side of the occupancy grid."""
    occupancy_threshold: float = 0.002
    """Opacity of one step below which a cell counts as empty; lower keeps thin parts and costs samples."""
    occupancy_interval: int = 16
    """Steps between refreshes of the occupancy grid."""
    occupancy_probes: int = 1 << 15
    """Random cells probed at a refresh, so that matter can appear where no ray samples."""
    target_samples: int = 1 << 18
    """Ray samples a step; the number of rays follows."""
    coarse_steps: int = 200
    """Over so many first steps the step length shrinks from four times its final value: fog clears sooner."""
    near_plane: float = 0.05
    """Rays begin no nearer to the camera than this, in world units."""
    train_background: Literal["random", "white", "black"] = "random"
    """What stands behind training rays; random teaches opacity. Evaluation uses the data parser's `background`."""
    loss: Literal["huber", "mse"] = "huber"
    """Colour loss."""


class PeakModel(Model):
    """PEAK on radiance fields; the paper's section 4.5 with an occupancy-guided sampler that needs no GPU."""

    config: PeakModelConfig

    def populate_modules(self) -> None:
        """Field, occupancy grid, KAR."""
        super().populate_modules()
        c = self.config
        if c.kar_weight < 0:
            raise PeakError(f"--pipeline.model.kar-weight {c.kar_weight}: give 0 (plain baseline) or a positive weight")
        grid = HashGridConfig(c.n_levels, c.n_features, c.log2_table_size, c.base_resolution, c.finest_resolution)
        field_config = FieldConfig(
            hash_grid=grid,
            polynomial_degree=c.polynomial_degree,
            hidden_dim=c.hidden_dim,
            n_hidden=c.n_hidden,
            bias=False,
            implementation=c.implementation,
        )
        self.field = PeakRadianceField(
            field_config,
            n_geometry=c.n_geometry,
            colour_hidden_dim=c.colour_hidden_dim,
            colour_n_hidden=c.colour_n_hidden,
            sh_levels=c.sh_levels,
            density_bias=c.density_bias,
            device=self.kwargs.get("device", "cpu"),
        )
        self.occupancy = OccupancyGrid(c.occupancy_resolution, c.occupancy_threshold)
        self.kar: KernelAlignmentRegularizer | None = None
        if c.kar_weight > 0:
            self.kar = KernelAlignmentRegularizer(3, r=c.kar_rank, weight=c.kar_weight, warmup=c.kar_warmup)
            self.kar_weight_control = ViewerSlider(
                name="KAR weight", default_value=c.kar_weight, min_value=0.0, max_value=1.0, step=0.001,
                hint="Weight of the Kernel Alignment Regularizer from now on", cb_hook=self._set_kar_weight,
            )  # fmt: skip
        low, high = self.scene_box.aabb
        self.register_buffer("centre", (low + high) / 2, persistent=False)
        self.half_extent = float((high - low).max() / 2)
        self.final_dt = self.dt = 2 / c.steps_per_side
        self.near = c.near_plane / self.half_extent
        background = (self.kwargs.get("metadata") or {}).get("background", "white")
        self.background_colour = 0.0 if background == "black" else 1.0
        self.metrics = ImageMetrics()
        self.progress = 0.0
        self.n_samples = 0

    def _set_kar_weight(self, handle: ViewerSlider) -> None:
        assert self.kar is not None
        self.kar.weight = float(handle.value)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """`encoding`: tables and a_k; `networks`: the MLPs; `kar`: g."""
        networks = [*self.field.base.backbone.parameters(), *self.field.colour_network.parameters()]
        groups = {"encoding": list(self.field.base.encoding.parameters()), "networks": networks}
        if self.kar is not None:
            groups["kar"] = list(self.kar.parameters())
        return groups

    # Rays and samples

    def _normalised(self, ray_bundle: RayBundle) -> tuple[Tensor, Tensor]:
        """Origins and unit directions in normalised space, each (r, 3)."""
        origins = (ray_bundle.origins.reshape(-1, 3) - self.centre) / self.half_extent
        return origins, ray_bundle.directions.reshape(-1, 3)

    def _marcher(self, origins: Tensor, directions: Tensor, jitter: Tensor | None = None) -> RayMarcher:
        grid = self.occupancy
        return RayMarcher(origins, directions, grid.occupied, grid.blocks, self.dt, near=self.near, jitter=jitter)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Per ray: rgb over the background, accumulation and depth (world units); in training what losses need."""
        origins, directions = self._normalised(ray_bundle)
        if not self.training:
            return {**self._render(origins, directions), "normals": self._normals(origins, directions)}
        n_rays = len(origins)
        samples = self._marcher(origins, directions, torch.rand(n_rays, device=self.device)).next()
        density, geometry = self.field.density(samples.x)
        weights, _ = packed_weights(density * self.dt, samples.ray, n_rays)
        visible = (weights.detach() > 1e-4).nonzero()[:, 0]
        colour = self.field.colour(geometry[visible], directions, samples.ray[visible])
        foreground = accumulate(weights[visible], colour, samples.ray[visible], n_rays)
        accumulation = accumulate(weights, torch.ones_like(weights)[:, None], samples.ray, n_rays)
        self.n_samples = len(samples)
        self.occupancy.observe(self.occupancy.cells(samples.x), density.detach())
        return {"foreground": foreground, "accumulation": accumulation, "samples": samples, "directions": directions}

    @torch.no_grad()
    def _render(self, origins: Tensor, directions: Tensor) -> dict[str, Tensor]:
        """Render in waves of samples, front to back; rays that have become opaque drop out."""
        n = len(origins)
        marcher = self._marcher(origins, directions)
        t_far = marcher.t_exit.clone()
        transmittance = origins.new_ones(n)
        rgb, t_sum = origins.new_zeros(n, 3), origins.new_zeros(n, 1)
        for samples in _waves(marcher):
            density, geometry = self.field.density(samples.x)
            tau = density * self.dt
            weights = packed_weights(tau, samples.ray, n)[0] * transmittance[samples.ray]
            shown = (weights > OPAQUE).nonzero()[:, 0]
            colour = self.field.colour(geometry[shown], directions, samples.ray[shown])
            rgb += accumulate(weights[shown], colour, samples.ray[shown], n)
            t_sum += accumulate(weights, samples.t[:, None], samples.ray, n)
            transmittance = transmittance * torch.exp(
                -accumulate(tau, torch.ones_like(tau)[:, None], samples.ray, n)[:, 0]
            )
            marcher.stop(transmittance < OPAQUE)
        accumulation = 1 - transmittance[:, None]
        depth = t_sum / accumulation.clamp(min=1e-6) * self.half_extent
        # Where nothing is hit, depth is that of the far wall of the box, as far as a ray can see.
        far = t_far[:, None].clamp(min=0) * self.half_extent
        return {
            "rgb": rgb + transmittance[:, None] * self.background_colour,
            "accumulation": accumulation,
            "depth": torch.where(accumulation > 0.01, depth, far),
        }

    @torch.enable_grad()
    def _normals(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Direction in which density falls, averaged along the ray as colour is; in [0, 1], as ns-export wants it."""
        samples = self._marcher(origins, directions).next()
        x = samples.x.clamp(-1, 1).requires_grad_(True)
        density, _ = self.field.density(x)
        (slope,) = torch.autograd.grad(density.sum(), x)
        weights, _ = packed_weights(density.detach() * self.dt, samples.ray, len(origins))
        normal = accumulate(weights, -F.normalize(slope, dim=-1), samples.ray, len(origins))
        return (F.normalize(normal, dim=-1) + 1) / 2

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Images of a whole camera; adds `kar_residual`, |f - A f| along the ray weighted as colour is."""
        height, width = camera_ray_bundle.shape
        parts = []
        for start in range(0, height * width, self.config.eval_num_rays_per_chunk):
            end = start + self.config.eval_num_rays_per_chunk
            chunk = camera_ray_bundle.get_row_major_sliced_ray_bundle(start, end).to(self.device)
            parts.append(self._render(*self._normalised(chunk)))
        outputs = {name: torch.cat([part[name] for part in parts]).reshape(height, width, -1) for name in parts[0]}
        if self.kar is not None:
            stride = self.config.kar_residual_stride
            coarse = camera_ray_bundle[::stride, ::stride].to(self.device)
            residual = self._render_kar_residual(*self._normalised(coarse)).reshape(1, 1, *coarse.shape)
            enlarged = F.interpolate(residual, size=(height, width), mode="bilinear", align_corners=False)
            outputs["kar_residual"] = enlarged[0, 0, :, :, None]
        return outputs

    @torch.no_grad()
    def _render_kar_residual(self, origins: Tensor, directions: Tensor) -> Tensor:
        assert self.kar is not None
        n = len(origins)
        samples = self._marcher(origins, directions).next()
        density, _ = self.field.density(samples.x)
        weights, _ = packed_weights(density * self.dt, samples.ray, n)
        shown = (weights > 0.05).nonzero()[:, 0]
        if not len(shown):
            return origins.new_zeros(n)
        samples = samples.select(shown)
        residual = self._kar_residual(samples.x, directions[samples.ray])
        return accumulate(weights[shown], residual.norm(dim=-1, keepdim=True), samples.ray, n)[:, 0]

    # Losses

    def _radiance(self, x: Tensor, directions: Tensor) -> Tensor:
        """f(x): (opacity of one step, colour), with shape (n, 4)."""
        density, geometry = self.field.density(x)
        opacity = -torch.expm1(-density * self.dt)
        return torch.cat((opacity[:, None], self.field.colour(geometry, directions)), -1)

    def _kar_residual(self, x: Tensor, directions: Tensor) -> Tensor:
        """f - A f at points seen from `directions`; anchors are looked at from the direction of their query."""
        assert self.kar is not None
        c = self.config
        if c.kar_sampler == "global":
            f = self._radiance(x, directions)
            chosen = torch.randperm(len(x), device=x.device)[: c.kar_anchors]
            own = torch.full((len(x),), -1, device=x.device)
            own[chosen] = torch.arange(len(chosen), device=x.device)
            return self.kar.residual(x, f, x[chosen], f[chosen], own)
        anchors = LocalAnchors(c.kar_anchors, radius=c.kar_radius).sample(x.clamp(-1, 1))
        points = torch.cat((x, anchors.x.flatten(0, 1)))
        f = self._radiance(points, torch.cat((directions, directions.repeat_interleave(c.kar_anchors, 0))))
        return self.kar.residual(x, f[: len(x)], anchors.x, f[len(x) :].reshape(len(x), c.kar_anchors, -1))

    def _kar_points(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Query points and their directions: half from the batch's samples, half from rays of unseen views."""
        samples: PackedSamples = outputs["samples"]
        parts = [_random_samples(samples, outputs["directions"], self.config.kar_queries // 2)]
        if "unseen" in batch:
            origins, directions = self._normalised(batch["unseen"])
            unseen = self._marcher(origins, directions, torch.rand(len(origins), device=self.device)).next()
            parts.append(_random_samples(unseen, directions, self.config.kar_queries - self.config.kar_queries // 2))
        return torch.cat([x for x, _ in parts]), torch.cat([d for _, d in parts])

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """`rgb`: colour loss; `kar`: the weighted Kernel Alignment Regularizer."""
        predicted, target = self._colours(outputs, batch)
        if self.config.loss == "huber":
            losses = {"rgb": F.smooth_l1_loss(predicted, target, beta=0.1)}
        else:
            losses = {"rgb": F.mse_loss(predicted, target)}
        if self.kar is not None and self.training:
            x, directions = self._kar_points(outputs, batch)
            if len(x) > self.config.kar_anchors:
                norms = torch.linalg.vector_norm(self._kar_residual(x, directions), dim=-1)
                losses["kar"] = self.kar.weight_at(min(1.0, self.progress)) * norms.mean()
        return losses

    def _colours(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Predicted and true colour over one and the same background, drawn once for metrics and loss."""
        if "colours" not in outputs:
            outputs["colours"] = self._compose(outputs, batch)
        return outputs["colours"]

    def _compose(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        image = batch["image"].to(self.device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        if not self.training:
            return outputs["rgb"], self._over_background(image)
        if self.config.train_background == "random":
            background = torch.rand(len(image), 3, device=self.device)
        else:
            background = image.new_full((1, 3), 1.0 if self.config.train_background == "white" else 0.0)
        predicted = outputs["foreground"] + (1 - outputs["accumulation"]) * background
        if image.shape[-1] == 3:
            return predicted, image
        alpha = image[:, 3:]
        return predicted, image[:, :3] * alpha + background * (1 - alpha)

    def _over_background(self, image: Tensor) -> Tensor:
        if image.shape[-1] == 3:
            return image
        return image[..., :3] * image[..., 3:] + self.background_colour * (1 - image[..., 3:])

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """PSNR of the batch, occupancy, samples, rays and the polynomial's a_k."""
        predicted, target = self._colours(outputs, batch)
        metrics: dict[str, Any] = {"psnr": -10 * torch.log10(F.mse_loss(predicted.detach(), target))}
        if self.training:
            metrics["rays"] = torch.tensor(float(len(predicted)))
            metrics["samples"] = torch.tensor(float(len(outputs["samples"])))
            metrics["occupancy"] = self.occupancy.share
            polynomial = self.field.base.polynomial
            coefficients: Any = [] if polynomial is None else polynomial.coefficients.detach()
            metrics.update({f"a_{k}": a_k for k, a_k in enumerate(coefficients)})
        return metrics

    # Evaluation

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR and SSIM, LPIPS when its weights are on this machine; truth beside rendering, accumulation, depth."""
        truth = self._over_background(batch["image"].to(self.device))
        rgb = outputs["rgb"]
        images = {
            "img": torch.cat((truth, rgb), 1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
        }
        return self.metrics(rgb, truth), images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Colour without the background, and accumulation as alpha."""
        accumulation = outputs["accumulation"]
        foreground = outputs[output_name] - (1 - accumulation) * self.background_colour
        return torch.cat((foreground / accumulation.clamp(min=1e-6), accumulation), -1).clamp(0, 1)

    # Training

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Keeps the schedules, the occupancy grid and the number of rays up to date."""
        attributes = training_callback_attributes
        assert attributes.trainer is not None
        assert attributes.pipeline is not None
        total = attributes.trainer.config.max_num_iterations + attributes.trainer._start_step
        sampler = attributes.pipeline.datamanager.train_pixel_sampler

        def before(step: int) -> None:
            self.progress = step / max(1, total)
            remaining = max(0.0, 1 - step / max(1, self.config.coarse_steps))
            self.dt = self.final_dt * (1 + 3 * remaining)

        def after(step: int) -> None:
            if step % self.config.occupancy_interval == 0:
                self._probe_occupancy()
            rays = sampler.num_rays_per_batch
            wanted = rays * self.config.target_samples / max(1, self.n_samples)
            # Damped, since the count of one batch is noisy.
            sampler.num_rays_per_batch = int(min(max(0.7 * rays + 0.3 * wanted, MIN_RAYS), MAX_RAYS))

        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], before),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], after),
        ]

    @torch.no_grad()
    def _probe_occupancy(self) -> None:
        """Look at random cells, so that matter can appear where no ray samples, then decide anew what is occupied."""
        cells = self.occupancy.random_cells(self.config.occupancy_probes)
        density, _ = self.field.density(self.occupancy.points_in(cells))
        self.occupancy.observe(cells, density)
        self.occupancy.refresh(self.dt)


def _waves(marcher: RayMarcher) -> Iterator[PackedSamples]:
    """Samples of all live rays, a few at first, more and more later, until no ray has any left."""
    limit = FIRST_WAVE
    while len(samples := marcher.next(limit)):
        yield samples
        limit = min(2 * limit, LAST_WAVE)


def _random_samples(samples: PackedSamples, directions: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n positions drawn from the samples, and the directions of their rays; nothing when there are no samples."""
    chosen = torch.randint(max(1, len(samples)), (min(n, len(samples)),), device=directions.device)
    return samples.x[chosen], directions[samples.ray[chosen]]
