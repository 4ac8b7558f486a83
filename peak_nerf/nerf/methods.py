"""The methods `peak` and `peak-lite` as nerfstudio wants them."""

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.plugins.types import MethodSpecification

from peak_nerf.nerf.data.datamanager import PeakDataManagerConfig, PictureDataManager
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.model import PeakModelConfig
from peak_nerf.nerf.nerfacto import PeakNerfactoModelConfig
from peak_nerf.nerf.train.optimizers import ExponentialScheduleConfig, FusedAdamConfig
from peak_nerf.nerf.train.pipeline import PeakPipelineConfig
from peak_nerf.nerf.train.trainer import PeakTrainerConfig

CAMERA_RATE, CAMERA_WARMUP = 3e-4, 500
"""Of poses: a step is about a fifth of a pixel, and full only once there is something to align with."""


def _machine() -> MachineConfig:
    """CUDA where there is one, the CPU otherwise: nerfstudio's own default is CUDA on every machine."""
    return MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu")


def _optimizers() -> dict:
    """Tables and a_k, networks, KAR's g, poses and exposures each have a rate of their own."""
    return {
        "encoding": _group(4e-2),
        "networks": _group(1e-2),
        "kar": _group(1e-3),
        "camera_opt": _group(CAMERA_RATE, warmup_steps=CAMERA_WARMUP),
        "exposure": _group(1e-2),
    }


def _group(rate: float, warmup_steps: int = 20) -> dict:
    return {"optimizer": FusedAdamConfig(lr=rate), "scheduler": ExponentialScheduleConfig(warmup_steps=warmup_steps)}


def _method(
    name: str,
    description: str,
    pipeline: PeakPipelineConfig,
    optimizers: dict,
    length: tuple[int, int, int],
) -> MethodSpecification:
    """A preset. length: its steps, after how many a test view is rendered each time, and a checkpoint written."""
    config = PeakTrainerConfig(
        method_name=name,
        steps_per_eval_batch=0,
        steps_per_eval_image=length[1],
        steps_per_eval_all_images=0,
        steps_per_save=length[2],
        max_num_iterations=length[0],
        machine=_machine(),
        pipeline=pipeline,
        optimizers=optimizers,
        logging=LoggingConfig(steps_per_log=20),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host="127.0.0.1"),
        vis="viewer+tensorboard",
    )
    return MethodSpecification(config=config, description=description)


def _peak(name: str, description: str, full: bool) -> MethodSpecification:
    """PEAK in full size, for a GPU, or in that for two CPU cores."""
    if full:
        model, length = PeakModelConfig(), (20000, 2000, 2000)
    else:
        model, length = (
            PeakModelConfig(
                n_levels=8,
                n_features=4,
                log2_table_size=17,
                finest_resolution=512,
                steps_per_side=200,
                target_samples=1 << 15,
            ),
            (2800, 1000, 500),
        )
    pipeline = PeakPipelineConfig(datamanager=PeakDataManagerConfig(), model=model)
    return _method(name, description, pipeline, _optimizers(), length)


def _peak_of_this_machine() -> MethodSpecification:
    """`peak`, whose size is settled when `ns-train` lists its methods, before any option is read."""
    description = (
        "PEAK: hash grid ++ polynomial encoding with Kernel Alignment Regularizer. Full size on a machine with CUDA"
        " (with --machine.device-type cpu too), the sizes and steps of peak-lite on any other."
    )
    return _peak("peak", description, full=torch.cuda.is_available())


peak_method = _peak_of_this_machine()
peak_lite_method = _peak(
    "peak-lite",
    "PEAK for two CPU cores, on any machine: a 25-view scene in about 5 minutes, no GPU needed.",
    full=False,
)

_nerfacto_pipeline = PeakPipelineConfig(
    # A CPU takes seconds for the 4096 rays that nerfacto takes on a GPU.
    datamanager=VanillaDataManagerConfig(
        _target=PictureDataManager,
        dataparser=PeakDataParserConfig(),
        train_num_rays_per_batch=4096 if torch.cuda.is_available() else 1024,
        eval_num_rays_per_batch=1024,
    ),
    model=PeakNerfactoModelConfig(eval_num_rays_per_chunk=1 << 15, average_init_density=0.01),
)
peak_nerfacto_method = _method(
    "peak-nerfacto",
    "nerfstudio's nerfacto with PEAK's polynomial encoding and KAR, by the mixin of peak_nerf.nerf.mixin.",
    _nerfacto_pipeline,
    {
        "proposal_networks": _group(1e-2),
        "fields": _group(1e-2),
        "camera_opt": _group(1e-3),
        "kar": _group(1e-3),
    },
    (30000, 2000, 2000),
)
