"""The nerfstudio model: what nerfstudio asks of a method, answered with our field, renderer, occupancy grid and KAR."""

from typing import Any

import torch
import torch.nn.functional as F
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model
from nerfstudio.utils import colormaps
from nerfstudio.viewer.viewer_elements import ViewerSlider
from torch import Tensor
from torch.nn import Parameter

from peak_nerf.core.backbones import ReluInit
from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.core.kar import KernelAlignmentRegularizer, Norm
from peak_nerf.errors import PeakError
from peak_nerf.metrics import scores
from peak_nerf.nerf.ddp import seen_by_ddp
from peak_nerf.nerf.losses.kar import KarForm, KarStep, UnseenRays
from peak_nerf.nerf.losses.kar_planes import KarOnPlanes
from peak_nerf.nerf.losses.kar_rays import KarOnRays
from peak_nerf.nerf.losses.kar_samples import KarAtPoints
from peak_nerf.nerf.losses.kar_unobserved import KarInFreeSpace
from peak_nerf.nerf.losses.regularizers import comparator_losses
from peak_nerf.nerf.options import PeakModelConfig, settled
from peak_nerf.nerf.render.background import FarField
from peak_nerf.nerf.render.field import PeakRadianceField, multiplies_bfloat16
from peak_nerf.nerf.render.marcher import box_intersection
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.renderer import OPAQUE, VolumeRenderer
from peak_nerf.nerf.render.visual_hull import carve_occupancy

FORMS: dict[str, type[KarForm]] = {
    "point": KarAtPoints, "free-space": KarInFreeSpace, "rays": KarOnRays, "planes": KarOnPlanes
}  # fmt: skip
RELU_INIT: ReluInit = "he"
"""With PyTorch's narrower default the grid's features, which start near zero, grow along one direction in the fog of
the first steps, and colours stay grey for long."""
MIN_RAYS, MAX_RAYS = 256, 1 << 16
"""Bounds of the number of rays of a training step."""


class PeakModel(Model):
    """PEAK on radiance fields; the paper's section 4.5 with an occupancy-guided sampler that needs no GPU."""

    config: PeakModelConfig

    def populate_modules(self) -> None:
        """Field, occupancy grid, KAR."""
        super().populate_modules()
        metadata: dict[str, Any] = self.kwargs.get("metadata") or {}
        unbounded = bool(metadata.get("unbounded"))
        c = self.config = settled(self.config, self.num_train_data, unbounded)
        assert c.sh_levels is not None  # settled
        device = self.kwargs.get("device", "cpu")
        grid = HashGridConfig(c.n_levels, c.n_features, c.log2_table_size, c.base_resolution, c.finest_resolution)
        field_config = FieldConfig(
            hash_grid=grid,
            polynomial_degree=c.polynomial_degree,
            hidden_dim=c.hidden_dim,
            n_hidden=c.n_hidden,
            bias=False,
            relu_init=RELU_INIT,
            implementation=c.implementation,
        )
        self.field = PeakRadianceField(
            field_config,
            n_geometry=c.n_geometry,
            colour_hidden_dim=c.colour_hidden_dim,
            colour_n_hidden=c.colour_n_hidden,
            sh_levels=c.sh_levels,
            density_bias=c.density_bias,
            bfloat16=c.network_precision == "bfloat16"
            or (c.network_precision == "auto" and multiplies_bfloat16(device)),
            device=device,
        )
        self.far = self._far_field() if unbounded and c.far_samples > 0 else None
        self.occupancy = OccupancyGrid(c.occupancy_resolution, c.occupancy_threshold)
        self.kar: KernelAlignmentRegularizer | None = None
        if c.kar_weight:
            norm: Norm = "huber" if c.kar_form == "free-space" else "l2"
            self.kar = KernelAlignmentRegularizer(
                3, n_features=c.kar_rank, norm=norm, weight=c.kar_weight, warmup=c.kar_warmup
            )
            self.kar_weight_control = ViewerSlider(
                name="KAR weight", default_value=c.kar_weight, min_value=0.0, max_value=1.0, step=0.001,
                hint="Weight of the Kernel Alignment Regularizer from now on", cb_hook=self._set_kar_weight,
            )  # fmt: skip
        low, high = self.scene_box.aabb
        self.register_buffer("centre", (low + high) / 2, persistent=False)
        # One unit of normalised space is this long in the world.
        self.half_extent = float((high - low).max() / 2)
        background = metadata.get("background", "white")
        # What is behind an unbounded scene's box is added by the far field.
        self.background_colour = 0.0 if background == "black" or self.far is not None else 1.0
        near = c.near_plane / self.half_extent
        self.renderer = VolumeRenderer(
            self.field, self.occupancy, 2 / c.steps_per_side, near, self.background_colour, c.render_substeps
        )
        self.kar_form = None if self.kar is None else FORMS[c.kar_form](self.kar, self.renderer, c)
        self.progress = 0.0
        self.n_samples = 0

    def _far_field(self) -> FarField:
        """Sees what is behind the box of an unbounded scene."""
        grid = HashGridConfig(n_levels=6, n_features=4, log2_table_size=15, base_resolution=16, finest_resolution=256)
        config = FieldConfig(
            hash_grid=grid,
            polynomial_degree=self.config.polynomial_degree,
            hidden_dim=32,
            n_hidden=1,
            bias=False,
            relu_init=RELU_INIT,
            implementation=self.config.implementation,
        )
        device = self.kwargs.get("device", "cpu")
        return FarField(config, self.config.far_samples, self.field.in_bfloat16, device)

    def _set_kar_weight(self, handle: ViewerSlider) -> None:
        assert self.kar is not None
        self.kar.weight = float(handle.value)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """`encoding`: tables and a_k; `networks`: the MLPs; `kar`: g."""
        networks = [*self.field.base.backbone.parameters(), *self.field.colour_network.parameters()]
        groups = {"encoding": list(self.field.base.encoding.parameters()), "networks": networks}
        if self.far is not None:
            far = self.far.field
            groups["encoding"] += list(far.base.encoding.parameters())
            groups["networks"] += [*far.base.backbone.parameters(), *far.colour_network.parameters()]
        if self.kar is not None:
            groups["kar"] = list(self.kar.parameters())
        return groups

    # Rays

    def _normalised(self, ray_bundle: RayBundle) -> tuple[Tensor, Tensor]:
        """Origins and unit directions in normalised space, each (r, 3)."""
        origins = (ray_bundle.origins.reshape(-1, 3) - self.centre) / self.half_extent
        return origins, ray_bundle.directions.reshape(-1, 3)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Per ray: rgb over the background, accumulation and depth (world units); in training what losses need."""
        origins, directions = self._normalised(ray_bundle)
        if not self.training:
            return {**self._render(origins, directions), "normals": self.renderer.normals(origins, directions)}
        samples = self.renderer.training_samples(origins, directions)
        foreground, accumulation, density = self.renderer.composite(samples, directions)
        self.n_samples = len(samples)
        training: dict[str, Any] = {}  # what only losses and DDP want
        if self.kar is not None:
            training["kar_parameters"] = seen_by_ddp(self.kar)
        if self.far is not None:
            training["background"] = self._background(origins, directions, accumulation)
        self.occupancy.observe(self.occupancy.cells(samples.x), density.detach())
        return {
            "foreground": foreground, "accumulation": accumulation, "density": density, "samples": samples,
            "origins": origins, "directions": directions, **training,
        }  # fmt: skip

    def _render(self, origins: Tensor, directions: Tensor) -> dict[str, Tensor]:
        outputs = self.renderer.render(origins, directions)
        if self.far is not None:
            behind = self._background(origins, directions, outputs["accumulation"])
            outputs["background"] = behind
            outputs["rgb"] = outputs["rgb"] + (1 - outputs["accumulation"]) * behind
        return {**outputs, "depth": outputs["depth"] * self.half_extent}

    def _background(self, origins: Tensor, directions: Tensor, accumulation: Tensor) -> Tensor:
        """Colour (r, 3) behind the box, asked for only where a ray is not opaque."""
        assert self.far is not None
        through = (accumulation.detach()[:, 0] < 1 - OPAQUE).nonzero()[:, 0]
        self.n_samples += len(through) * self.far.n_samples
        colour = self.far(origins[through], directions[through], self.renderer.near)
        return origins.new_zeros(len(origins), 3).index_put((through,), colour)

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
        if self.kar_form is not None:
            stride = self.config.kar_residual_stride
            coarse = camera_ray_bundle[::stride, ::stride].to(self.device)
            residual = self.kar_form.render(*self._normalised(coarse)).reshape(1, 1, *coarse.shape)
            enlarged = F.interpolate(residual, size=(height, width), mode="bilinear", align_corners=False)
            outputs["kar_residual"] = enlarged[0, 0, :, :, None]
        return outputs

    # Losses

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """`rgb`: colour loss; `kar`: the weighted Kernel Alignment Regularizer; and the comparators that are on."""
        predicted, target = self._colours(outputs, batch)
        if self.config.loss == "huber":
            losses = {"rgb": F.smooth_l1_loss(predicted, target, beta=0.1)}
        else:
            losses = {"rgb": F.mse_loss(predicted, target)}
        if not self.training:
            return losses
        t_enter, _ = box_intersection(outputs["origins"], outputs["directions"], self.renderer.near)
        losses |= comparator_losses(self.config, self.field.grid, outputs["samples"], outputs["density"], t_enter)
        if self.kar_form is not None:
            unseen = self._unseen(batch["unseen"]) if "unseen" in batch else None
            step = KarStep(outputs["samples"], outputs["density"], outputs["directions"], unseen, self.progress)
            kar = self.kar_form.loss(step)
            if kar is not None:
                losses["kar"] = kar
        return losses

    def _unseen(self, ray_bundle: RayBundle) -> UnseenRays:
        assert ray_bundle.camera_indices is not None
        near = self._near_cameras(ray_bundle.camera_indices[:, 0])
        return UnseenRays(*self._normalised(ray_bundle), near, self._look_at)

    def _look_at(self, x: Tensor, camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `UnseenRays.look_at`."""
        position, recorded, inside = self._record_at(x * self.half_extent + self.centre, camera)
        recorded = recorded.float() / 255 if recorded.dtype == torch.uint8 else recorded
        return (position - self.centre) / self.half_extent, recorded, inside

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
        if "background" in outputs:
            background = outputs["background"]
        elif self.config.train_background == "random":
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
            metrics["occupancy"] = self.occupancy.fraction
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
        return scores(*(picture.cpu().numpy() for picture in (rgb, truth))), images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Colour without the background, and accumulation as alpha."""
        accumulation = outputs["accumulation"]
        foreground = outputs[output_name] - (1 - accumulation) * outputs.get("background", self.background_colour)
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
        datamanager: Any = attributes.pipeline.datamanager
        # Not the data manager itself: it is a module, and would become a part of this one.
        self._near_cameras, self._record_at = datamanager.near_cameras, datamanager.look_at
        datamanager.draws_unseen = self.kar_form is not None and self.kar_form.asks_unseen
        if isinstance(self.kar_form, KarOnRays):
            option = "--pipeline.model.kar-form rays"
            _check_unseen(option, datamanager)
            if not datamanager.is_pinhole:
                raise PeakError(f"{option}: the images have lens distortion; undistort them, or take another form")
        elif datamanager.draws_unseen and self.config.kar_query_rays == "unseen":
            _check_unseen("--pipeline.model.kar-query-rays unseen", datamanager)
        sampler = datamanager.train_pixel_sampler
        if self.config.cull_cells and datamanager.is_pinhole:
            # Before a fixed background, training must not be told by an alpha channel what is empty.
            silhouettes = datamanager.silhouettes() if self.config.train_background == "random" else None
            self.occupancy.restrict(
                carve_occupancy(
                    datamanager.cameras, silhouettes, self.centre, self.half_extent, self.occupancy.resolution
                )
            )

        by_clock = getattr(attributes.trainer, "progress", None)  # nerfstudio's own trainer has none

        def before(step: int) -> None:
            self.progress = step / max(1, total) if by_clock is None else by_clock(step)
            if self.config.level_annealing > 0:
                self.field.open_levels(self.progress / self.config.level_annealing)
            remaining = max(0.0, 1 - step / max(1, self.config.coarse_steps))
            self.renderer.dt = self.renderer.final_dt * (1 + 3 * remaining)

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
        self.occupancy.refresh(self.renderer.dt)


def _check_unseen(option: str, datamanager: Any) -> None:
    """Raises: PeakError where there are no rays of unseen views, which `option` asks for."""
    if len(datamanager.cameras) < 2:
        raise PeakError(f"{option}: one training view has no views beside it; give two or more, or leave it out")
    if datamanager.config.unseen_rays < 1:
        raise PeakError(f"{option}: --pipeline.datamanager.unseen-rays is 0; give 1 or more, or leave it out")
