"""Builds data manager and model; turns errors a user can mend into one line; keeps evaluation results strict JSON."""

import contextlib
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.logging import RichHandler

from peak_nerf.errors import PeakError, exit_on_peak_error
from peak_nerf.nerf.data.datamanager import PeakDataManager, PeakDataManagerConfig
from peak_nerf.nerf.data.dataparser import PeakDataParser, say_once
from peak_nerf.nerf.model import PeakModel, PeakModelConfig
from peak_nerf.nerf.progress import progress_callback
from peak_nerf.nerf.render.visual_hull import carve_occupancy
from peak_nerf.nerf.train.camera_path_file import check_camera_path
from peak_nerf.nerf.train.checkpoint_file import check_command_checkpoint, load_weights
from peak_nerf.nerf.train.exports import check_export, mend_export
from peak_nerf.nerf.train.outcome import line_of, look
from peak_nerf.nerf.train.training_views import attach, fix_gauge, forget, make_room
from peak_nerf.nerf.train.viewer import FirstView
from peak_nerf.system.waiting import sleep_when_busy

MIN_RAYS, MAX_RAYS = 256, 1 << 16
"""Bounds of the number of rays of a training step."""
OTHER_PARSER = (
    "the scene is read by nerfstudio's {}, which does not say what is empty, where the scene ends or what sparse points"
    " it has, so it trains as a bounded scene in that parser's box; peak-data, the default, reads the same scene with"
    " all of that"
)
"""What is missed by other data parsers."""


@dataclass
class PeakPipelineConfig(VanillaPipelineConfig):
    """Pipeline of all our methods."""

    _target: type = field(default_factory=lambda: PeakPipeline)
    """target class to instantiate"""
    datamanager: DataManagerConfig = field(default_factory=PeakDataManagerConfig)
    """Reads the scene and draws rays."""
    model: ModelConfig = field(default_factory=PeakModelConfig)
    """The radiance field and how it is rendered."""


class PeakPipeline(VanillaPipeline):
    """nerfstudio's pipeline, offline and on any device."""

    def __init__(self, config: PeakPipelineConfig, device: str, *args: Any, **kwargs: Any) -> None:
        show_log()
        sleep_when_busy()
        if torch.device(device).type == "cpu":
            # Adam's second moments of rarely touched table rows sink into denormals, which CPUs handle slowly.
            torch.set_flush_denormal(True)
        with exit_on_peak_error():
            if torch.device(device).type == "mps":
                raise PeakError(
                    "--machine.device-type mps: peak_nerf does not run on Apple's GPUs, which have no float64; give"
                    " --machine.device-type cpu, for which there are compiled kernels"
                )
            check_camera_path()
            check_export(config.model)
            check_command_checkpoint()
            super().__init__(config, device, *args, **kwargs)
            mend_export(self)
        datamanager: Any = self.datamanager
        if not isinstance(datamanager.dataparser, PeakDataParser):
            say_once(OTHER_PARSER.format(type(datamanager.dataparser).__name__))
        self.first_view = FirstView(datamanager.train_dataset.cameras, datamanager.train_dataset.scene_box.get_center())

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint's state; one of another grid layout, or of before version 0.3, ends in one line."""
        with exit_on_peak_error():
            if any(name.startswith("_model.far.") for name in loaded_state):
                raise PeakError(
                    "the checkpoint has a background field of its own, as unbounded scenes had before version 0.3;"
                    " train the scene again, or look at it with version 0.2"
                )
            load_weights(self, super().load_pipeline, make_room(self.model, loaded_state), step)
            attach(self.model, self.datamanager)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Those of data manager and model; of `peak` and `peak-lite` also what the one must know of the other."""
        callbacks: list[TrainingCallback] = super().get_training_callbacks(training_callback_attributes)
        model, datamanager = self.model, self.datamanager
        if not isinstance(model, PeakModel) or not isinstance(datamanager, PeakDataManager):
            return callbacks
        datamanager.draws_virtual_rays = model.kar_form is not None and model.kar_form.needs_virtual_rays
        datamanager.draws_sightings = bool(model.config.depth_weight)
        datamanager.find_depth()
        if datamanager.sighted:
            ends = (datamanager.sighted.points.xyz, datamanager.sighted.origins)
            model.occupancy.expect(*((x - model.centre) / model.half_extent for x in ends))
        fix_gauge(model, datamanager)
        forget(model)
        if model.config.cull_cells:
            # Before a fixed background, training must not be told by an alpha channel what is empty.
            silhouettes = datamanager.silhouettes() if model.config.train_background == "random" else None
            enough = max(1, min(model.config.min_cameras, round(len(datamanager.cameras) / 16)))
            model.occupancy.restrict(
                torch.stack(
                    [
                        carve_occupancy(
                            datamanager.cameras,
                            silhouettes,
                            model.centre,
                            model.half_extent * 2**k,
                            model.occupancy.resolution,
                            enough if model.renderer.unbounded else 1,
                        )
                        for k in range(model.occupancy.n_cascades)
                    ]
                )
            )

        def after(step: int) -> None:
            sampler = datamanager.train_pixel_sampler
            rays = sampler.num_rays_per_batch
            wanted = rays * model.config.target_samples / max(1, model.n_samples)
            # Damped, since the count of one batch is noisy.
            sampler.num_rays_per_batch = int(min(max(0.7 * rays + 0.3 * wanted, MIN_RAYS), MAX_RAYS))

        trainer = training_callback_attributes.trainer

        def at_end(step: int) -> None:
            with getattr(trainer, "clock_stopped", contextlib.nullcontext)():
                line = line_of(look(model, datamanager.train_dataset), step + 1)
            if line is not None and getattr(trainer, "local_rank", 0) == 0:
                CONSOLE.print(f"peak: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)

        return [
            *callbacks,
            progress_callback(datamanager, trainer),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], at_end),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], after),
        ]

    def get_average_image_metrics(
        self,
        data_loader: Any,
        image_prefix: str,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
    ) -> dict[str, Any]:
        """As nerfstudio's, less what is not a number: the deviation of a single image would be NaN in the JSON."""
        metrics = super().get_average_image_metrics(data_loader, image_prefix, step, output_path, get_std)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}


def show_log() -> None:
    """Let the package's log lines reach the terminal, once, unless the application has set up logging itself."""
    logger = logging.getLogger("peak_nerf")
    if not logger.handlers and not logging.getLogger().handlers:
        logger.addHandler(RichHandler(show_path=False, show_time=False, show_level=False))
        logger.setLevel(logging.INFO)
