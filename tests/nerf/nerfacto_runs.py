"""Tiny runs of `peak-nerfacto`, in this process, for tests."""

import copy
from pathlib import Path
from typing import Any

from peak_nerf.nerf.methods import peak_nerfacto_method

TINY = {
    "num_levels": 4,
    "log2_hashmap_size": 12,
    "max_res": 64,
    "num_proposal_samples_per_ray": (32, 16),
    "num_nerf_samples_per_ray": 12,
    "proposal_net_args_list": [
        {"hidden_dim": 16, "log2_hashmap_size": 10, "num_levels": 3, "max_res": 32, "use_linear": False}
    ]
    * 2,
    "kar_queries": 32,
}


def nerfacto_config(scene: Path, out: Path, steps: int = 20, **model: Any) -> Any:
    """Configuration of a small run, as ns-train would hold it."""
    config: Any = copy.deepcopy(peak_nerfacto_method.config)
    config.data = config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.train_num_rays_per_batch = 256
    config.output_dir, config.experiment_name, config.timestamp = out, "tiny", "run"
    config.vis, config.max_num_iterations, config.machine.device_type = "tensorboard", steps, "cpu"
    config.steps_per_eval_image = config.steps_per_save = 10**6
    for name, value in {**TINY, **model}.items():
        assert hasattr(config.pipeline.model, name), name
        setattr(config.pipeline.model, name, value)
    return config
