"""The methods `peak` and `peak-lite` as nerfstudio wants them."""

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.plugins.types import MethodSpecification

from peak_nerf.nerf.data.datamanager import PeakDataManagerConfig
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.nerfacto import PeakNerfactoModelConfig
from peak_nerf.nerf.options import PeakModelConfig
from peak_nerf.nerf.train.optimizers import ExponentialScheduleConfig, FusedAdamConfig
from peak_nerf.nerf.train.pipeline import PeakPipelineConfig
from peak_nerf.nerf.train.trainer import PeakTrainerConfig


def _machine() -> MachineConfig:
    """CUDA where there is one, the CPU otherwise: nerfstudio's own default is CUDA on every machine."""
    return MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu")


def _optimizers() -> dict:
    """Tables and a_k, networks, and KAR's g each have a rate of their own."""
    return {"encoding": _group(4e-2), "networks": _group(1e-2), "kar": _group(1e-3)}


def _group(rate: float) -> dict:
    return {"optimizer": FusedAdamConfig(lr=rate), "scheduler": ExponentialScheduleConfig()}


peak_method = MethodSpecification(
    config=PeakTrainerConfig(
        method_name="peak",
        steps_per_eval_batch=0,
        steps_per_eval_image=2000,
        steps_per_eval_all_images=0,
        steps_per_save=2000,
        max_num_iterations=20000,
        machine=_machine(),
        pipeline=PeakPipelineConfig(datamanager=PeakDataManagerConfig(), model=PeakModelConfig()),
        optimizers=_optimizers(),
        logging=LoggingConfig(steps_per_log=20),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",
    ),
    description="PEAK: hash grid ++ polynomial encoding with Kernel Alignment Regularizer, full size.",
)

peak_lite_method = MethodSpecification(
    config=PeakTrainerConfig(
        method_name="peak-lite",
        steps_per_eval_batch=0,
        steps_per_eval_image=1000,
        steps_per_eval_all_images=0,
        steps_per_save=500,
        max_num_iterations=2800,
        machine=_machine(),
        pipeline=PeakPipelineConfig(
            datamanager=PeakDataManagerConfig(),
            model=PeakModelConfig(
                n_levels=8,
                n_features=4,
                log2_table_size=17,
                finest_resolution=512,
                steps_per_side=200,
                occupancy_probes=1 << 15,
                target_samples=1 << 15,
                kar_queries=128,
            ),
        ),
        optimizers=_optimizers(),
        logging=LoggingConfig(steps_per_log=20),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",
    ),
    description="PEAK for two CPU cores: a 25-view scene in about 5 minutes, no GPU needed.",
)

peak_nerfacto_method = MethodSpecification(
    config=PeakTrainerConfig(
        method_name="peak-nerfacto",
        steps_per_eval_batch=0,
        steps_per_eval_image=2000,
        steps_per_eval_all_images=0,
        steps_per_save=2000,
        max_num_iterations=30000,
        machine=_machine(),
        pipeline=PeakPipelineConfig(
            # A CPU takes seconds for the 4096 rays that nerfacto takes on a GPU.
            datamanager=VanillaDataManagerConfig(
                dataparser=PeakDataParserConfig(),
                train_num_rays_per_batch=4096 if torch.cuda.is_available() else 1024,
                eval_num_rays_per_batch=1024,
            ),
            model=PeakNerfactoModelConfig(eval_num_rays_per_chunk=1 << 15, average_init_density=0.01),
        ),
        optimizers={
            "proposal_networks": _group(1e-2),
            "fields": _group(1e-2),
            "camera_opt": _group(1e-3),
            "kar": _group(1e-3),
        },
        logging=LoggingConfig(steps_per_log=20),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",
    ),
    description="nerfstudio's nerfacto with PEAK's polynomial encoding and KAR, by the mixin of peak_nerf.nerf.mixin.",
)
