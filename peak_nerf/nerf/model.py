"""The nerfstudio model: what nerfstudio asks of a method, answered with our field, renderer, occupancy grid and KAR."""

# No `from __future__ import annotations`: tyro reads this module's dataclass fields as types.
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.viewer.viewer_elements import ViewerSlider
from torch import Tensor
from torch.nn import Parameter

from peak_nerf.core.backbones import ReluInit
from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.core.kar import KernelAlignmentRegularizer, Norm
from peak_nerf.nerf.camera_refinement import CameraRefinement, CameraRefinementConfig, refinement_is_due
from peak_nerf.nerf.data.pixel_rays import rays_of_picture
from peak_nerf.nerf.data.points import knows_sightings
from peak_nerf.nerf.ddp import seen_by_ddp
from peak_nerf.nerf.evaluation import evaluated, without_background
from peak_nerf.nerf.exposure import Exposure, exposure_correction
from peak_nerf.nerf.losses.depth import loss_at_points
from peak_nerf.nerf.losses.kar import KarForm, KarStep
from peak_nerf.nerf.losses.kar_observed import KarObserved, SightLines
from peak_nerf.nerf.losses.kar_samples import KarAtSamples
from peak_nerf.nerf.losses.kar_unobserved import KarUnobserved
from peak_nerf.nerf.losses.regularizers import regularization_losses
from peak_nerf.nerf.options import ModelOptions, resolve_defaults
from peak_nerf.nerf.photo_residuals import PhotoResiduals, TrainingRenderings
from peak_nerf.nerf.progress import progress_callback
from peak_nerf.nerf.render.crop import crop_of, cropped
from peak_nerf.nerf.render.field import PeakRadianceField, networks_in_bfloat16
from peak_nerf.nerf.render.marcher import Steps
from peak_nerf.nerf.render.near_plane import before_points, near_of_view
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.pixel_selection import selected_pixels
from peak_nerf.nerf.render.renderer import RenderedRays, VolumeRenderer

FORMS: dict[str, type[KarForm]] = {"point": KarAtSamples, "unobserved": KarUnobserved}
RELU_INIT: ReluInit = "he"
"""With PyTorch's narrower default the grid's features, which start near zero, grow along one direction in the fog of
the first steps, and colours stay grey for long."""


@dataclass
class PeakModelConfig(ModelOptions, ModelConfig):
    """PEAK: hash grid ++ polynomial encoding, and the Kernel Alignment Regularizer (KAR)."""

    _target: type = field(default_factory=lambda: PeakModel)
    """target class to instantiate"""
    enable_collider: bool = False
    """Not used: rays begin and end at the scene box."""
    camera_optimizer: CameraRefinementConfig = field(default_factory=CameraRefinementConfig)
    """Refinement of the training cameras' poses; those of evaluation stay as they are."""
    exposure: Exposure = "auto"
    """affine: each training picture has a gain and an offset of its own for each colour, and what is rendered is their
    mean. auto: where neighbouring photos of 16 or more differ in brightness. Not for pictures with alpha."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Runs of before had neither.
        before = {"camera_optimizer": CameraRefinementConfig(mode="off"), "exposure": "off"}
        super().__setstate__(before | state)


class PeakModel(Model):
    """PEAK on radiance fields; the paper's section 4.5 with an occupancy-guided sampler that needs no GPU."""

    config: PeakModelConfig

    def populate_modules(self) -> None:
        """Field, occupancy grid, KAR."""
        super().populate_modules()
        metadata: dict[str, Any] = self.kwargs.get("metadata") or {}
        unbounded = bool(metadata.get("unbounded"))
        sighted = knows_sightings(metadata)
        by_points = sighted and unbounded and self.config.near_plane is None
        near = before_points(metadata["sightings"].depth) if by_points else None
        c = self.config = resolve_defaults(self.config, self.num_train_data, unbounded, sighted, near)
        assert c.sh_levels is not None  # resolved
        assert c.occupancy_threshold is not None
        assert c.near_plane is not None
        device = self.kwargs.get("device", "cpu")
        finest = c.finest_resolution * (2 if unbounded else 1)
        grid = HashGridConfig(c.n_levels, c.n_features, c.log2_table_size, c.base_resolution, finest)
        field_config = FieldConfig(
            grid, c.polynomial_degree, hidden_dim=c.hidden_dim, n_hidden=c.n_hidden, bias=False, relu_init=RELU_INIT,
            implementation=c.implementation,
        )  # fmt: skip
        self.field = PeakRadianceField(
            field_config,
            n_geometry=c.n_geometry,
            colour_hidden_dim=c.colour_hidden_dim,
            colour_n_hidden=c.colour_n_hidden,
            sh_levels=c.sh_levels,
            density_bias=c.density_bias,
            bfloat16=networks_in_bfloat16(c.network_precision, device),
            half_tables=c.table_precision == "float16",
            device=device,
        )
        self.occupancy = OccupancyGrid(
            c.occupancy_resolution, c.occupancy_threshold, n_cascades=c.cascades if unbounded else 1,
            step=2 / c.steps_per_side, thin=math.exp(c.density_bias),
        )  # fmt: skip
        refinement = c.camera_optimizer.resolved(metadata.get("kind"), unbounded)
        self.camera_optimizer: CameraRefinement = refinement.setup(num_cameras=self.num_train_data, device=device)
        self.exposure, self.corrects_exposure = exposure_correction(c.exposure, self.num_train_data, metadata)
        self.kar: KernelAlignmentRegularizer | None = None
        if c.kar_weight:
            norm: Norm = "huber" if c.kar_form == "unobserved" else "l2"
            self.kar = KernelAlignmentRegularizer(
                3, n_features=c.kar_n_features, norm=norm, weight=c.kar_weight, warmup=c.kar_warmup
            )
            self.kar_weight_control = ViewerSlider(
                name="KAR weight", default_value=c.kar_weight, min_value=0.0, max_value=1.0, step=0.001,
                hint="Weight of the Kernel Alignment Regularizer from now on", cb_hook=self._set_kar_weight,
            )  # fmt: skip
        low, high = self.scene_box.aabb
        self.register_buffer("centre", ((low + high) / 2).float(), persistent=False)
        # One unit of normalised space is this long in the world.
        self.half_extent = float((high - low).max() / 2)
        self.background_colour = 0.0 if metadata.get("background") == "black" else 1.0
        # Images that show the background where the scene is empty teach a random one as matter, painted on the box.
        self.solid_background = bool(metadata.get("solid_background"))
        dt = 2 / c.steps_per_side
        self.renderer = VolumeRenderer(
            self.field, self.occupancy, Steps(dt, c.cone if unbounded else 0.0, c.samples_per_ray),
            c.near_plane / self.half_extent, self.background_colour, c.render_substeps, c.render_samples,
            c.gradient_reach if unbounded else 0.0,
        )  # fmt: skip
        self.points: Tensor | None = None  # where they say how near rays begin
        if by_points:
            self.points = (metadata["points"].xyz.to(device) - self.centre.to(device)) / self.half_extent
        self.kar_form: KarForm | None = None
        if self.kar is not None and c.kar_form == "observed":
            seen = SightLines.of_scene(metadata, self.centre.to(device), self.half_extent)
            self.kar_form = KarObserved(self.kar, self.renderer, c, seen)
        elif self.kar is not None:
            self.kar_form = FORMS[c.kar_form](self.kar, self.renderer, c)
        self.training_renderings: TrainingRenderings | None = None
        self.residuals: PhotoResiduals | None = None
        self.progress, self.refines_cameras, self.n_samples = 0.0, True, 0

    def _set_kar_weight(self, handle: ViewerSlider) -> None:
        assert self.kar is not None
        self.kar.weight = float(handle.value)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """`encoding`: tables and a_k; `networks`: the MLPs; `kar`: g; `camera_opt`: poses; `exposure`: colours."""
        networks = [*self.field.base.backbone.parameters(), *self.field.colour_network.parameters()]
        groups = {"encoding": list(self.field.base.encoding.parameters()), "networks": networks}
        if self.kar is not None:
            groups["kar"] = list(self.kar.parameters())
        self.camera_optimizer.get_param_groups(groups)
        if self.exposure is not None and self.corrects_exposure:
            groups["exposure"] = list(self.exposure.parameters())
        return groups

    # Rays

    def _normalised(self, ray_bundle: RayBundle) -> tuple[Tensor, Tensor]:
        """Origins and unit directions in normalised space, each (r, 3)."""
        # nerfstudio's blender-data has poses in float64.
        origins, directions = (x.reshape(-1, 3).float() for x in (ray_bundle.origins, ray_bundle.directions))
        return (origins - self.centre) / self.half_extent, directions

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Per ray: rgb over the background, accumulation and depth (world units); in training what losses need."""
        if self.training:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.refines_cameras):
                self.camera_optimizer.apply_to_raybundle(ray_bundle)
        origins, directions = self._normalised(ray_bundle)
        if not self.training:
            return {**self._render(ray_bundle), "normals": self.renderer.normals(origins, directions)}
        rendered = self.renderer.training_rays(origins, directions)
        self.n_samples = len(rendered.samples)
        self.occupancy.observe(rendered.samples.cell, rendered.density.detach())
        outputs = {
            "rendered": rendered,
            "directions": directions,
            "background": self._training_background(directions, rendered.accumulation),
            "origins": origins,
            "picture": ray_bundle.camera_indices,
        }
        return outputs if self.kar is None else {**outputs, "kar_parameters": seen_by_ddp(self.kar)}

    def _render(self, rays: RayBundle, near: float | None = None) -> dict[str, Tensor]:
        outputs = self.renderer.render(*self._normalised(rays), crop_of(rays, self.half_extent), near)
        return {**outputs, "depth": outputs["depth"] * self.half_extent}

    def _training_background(self, directions: Tensor, accumulation: Tensor) -> Tensor:
        """What stands behind the batch's rays, (r, 3) or (1, 3): its colour joins prediction and truth alike."""
        if self.renderer.unbounded:
            return self.renderer.background_of(directions, accumulation)
        if self.config.train_background == "random":
            if self.solid_background:
                return directions.new_full((1, 3), self.background_colour)
            return torch.rand(len(directions), 3, device=self.device)
        return directions.new_full((1, 3), 1.0 if self.config.train_background == "white" else 0.0)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Images of a camera; its rays as training's: nerfstudio undoes a lens for every pixel, in seconds."""
        rays = rays_of_picture(camera)
        if obb_box is not None:
            rays = cropped(rays, obb_box, self.near_of(rays) * self.half_extent)
        return self.get_outputs_for_camera_ray_bundle(rays)

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Images of a whole camera; adds `kar_residual`, |f - A f| along the ray weighted as colour is, and to `rgb`
        photo residuals, where there are some."""
        height, width = camera_ray_bundle.shape
        outputs = self.images(camera_ray_bundle)
        if self.kar_form is not None:
            stride = self.config.kar_residual_stride
            coarse = camera_ray_bundle[::stride, ::stride].to(self.device)
            residual = self.kar_form.render(*self._normalised(coarse)).reshape(1, 1, *coarse.shape)
            enlarged = F.interpolate(residual, size=(height, width), mode="bilinear", align_corners=False)
            outputs["kar_residual"] = enlarged[0, 0, :, :, None]
        if self.residuals is not None and crop_of(camera_ray_bundle, self.half_extent) is None:
            self.residuals.add_to(outputs, camera_ray_bundle)
        return outputs

    @torch.no_grad()
    def images(self, rays: RayBundle) -> dict[str, Tensor]:
        """What `_render` gives, (h, w, c) each; see `pixel_tolerance`."""
        rays, c = rays.to(self.device), self.config
        render = partial(self._render, near=self.near_of(rays))
        # Rays that texture a mesh, which have an end, are of no picture: what is between them may be something else.
        tolerance = c.pixel_tolerance if rays.fars is None else 0.0
        return selected_pixels(render, rays, tolerance, c.eval_num_rays_per_chunk)

    def near_of(self, rays: RayBundle) -> float:
        """Where a picture's rays begin, in normalised units."""
        return near_of_view(self.renderer.near, self.points, *self._normalised(rays))

    # Losses

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """`rgb`: colour loss; `kar`: the weighted Kernel Alignment Regularizer; and the regularisers that are on."""
        predicted, target = self._colours(outputs, batch)
        if self.config.loss == "huber":
            losses = {"rgb": F.smooth_l1_loss(predicted, target, beta=0.1)}
        else:
            losses = {"rgb": F.mse_loss(predicted, target)}
        if not self.training:
            return losses
        rendered: RenderedRays = outputs["rendered"]
        losses |= regularization_losses(self.config, self.field.grid, rendered, self.progress)
        if self.config.depth_weight and "sighted" in batch:
            points = (batch["sighted"].xyz - self.centre) / self.half_extent
            depth = loss_at_points(self.renderer, rendered, outputs["origins"], points, batch["sighted"].deviation)
            losses["depth"] = self.config.depth_weight * depth
        if self.refines_cameras:
            self.camera_optimizer.get_loss_dict(losses)
        if self.kar_form is not None:
            virtual_rays = self._normalised(batch["virtual_rays"]) if "virtual_rays" in batch else None
            kar = self.kar_form.loss(KarStep(rendered, outputs["directions"], virtual_rays, self.progress))
            if kar is not None:
                losses["kar"] = kar
        return losses

    def _colours(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Predicted and true colour over one and the same background."""
        image = batch["image"].to(self.device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        if not self.training:
            return outputs["rgb"], self.over_background(image)
        rendered, background = outputs["rendered"], outputs["background"]
        predicted = rendered.foreground + (1 - rendered.accumulation) * background
        if self.exposure is not None and self.corrects_exposure:
            predicted = self.exposure(predicted, outputs["picture"].reshape(-1))
        if image.shape[-1] == 3:
            return predicted, image
        alpha = image[:, 3:]
        return predicted, image[:, :3] * alpha + background * (1 - alpha)

    def over_background(self, image: Tensor) -> Tensor:
        """A picture (..., 3 or 4) in [0, 1] before what evaluation has behind a bounded scene."""
        if image.shape[-1] == 3:
            return image
        return image[..., :3] * image[..., 3:] + self.background_colour * (1 - image[..., 3:])

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """PSNR of the batch, occupancy, samples, rays and the polynomial's a_k."""
        predicted, target = self._colours(outputs, batch)
        metrics: dict[str, Any] = {"psnr": -10 * torch.log10(F.mse_loss(predicted.detach(), target))}
        if self.training:
            metrics["rays"] = torch.tensor(float(len(predicted)))
            metrics["samples"] = torch.tensor(float(len(outputs["rendered"].samples)))
            metrics["occupancy"] = self.occupancy.fraction
            self.camera_optimizer.get_metrics_dict(metrics)
            polynomial = self.field.base.polynomial
            coefficients: Any = [] if polynomial is None else polynomial.coefficients.detach()
            metrics.update({f"a_{k}": a_k for k, a_k in enumerate(coefficients)})
        return metrics

    # Evaluation

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR and SSIM, LPIPS when its weights are on this machine; truth beside rendering, accumulation, depth."""
        return evaluated(outputs, self.over_background(batch["image"].to(self.device)))

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Colour without the background, and accumulation as alpha."""
        return without_background(outputs, output_name, self.background_colour)

    # Training

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Keeps the schedules and the occupancy grid up to date."""

        def before(step: int) -> None:
            self.refines_cameras = refinement_is_due(step, self.progress)
            c = self.config
            self.renderer.least_coarseness = 1 + 3 * max(0.0, 1 - step / max(1, c.coarse_steps))
            self.renderer.withheld = max(0.0, 1 - self.progress / c.near_annealing) if c.near_annealing else 0.0
            if c.level_annealing > 0:
                self.field.open_levels(self.progress / c.level_annealing)

        def after(step: int) -> None:
            if step % self.config.occupancy_interval == 0:
                self._probe_occupancy()

        return [
            progress_callback(self, training_callback_attributes.trainer),
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], before),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], after),
        ]

    @torch.no_grad()
    def _probe_occupancy(self) -> None:
        """Look at random cells, so that matter can appear where no ray samples, then decide anew what is occupied."""
        cells = self.occupancy.random_cells(self.config.occupancy_probes)
        density, _ = self.renderer.density(self.renderer.to_field(self.occupancy.points_in(cells)))
        self.occupancy.observe(cells, density)
        self.occupancy.refresh(self.renderer.least_coarseness)
