"""Tiny runs of our methods, in this process, for tests."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nerfstudio.scripts.train import _set_random_seed

from peak_nerf.nerf.methods import peak_lite_method, peak_nerfacto_method
from tests.nerf.scene_factory import write_blender_scene

TINY: Mapping[str, Any] = {
    "n_levels": 4,
    "log2_table_size": 12,
    "finest_resolution": 64,
    "steps_per_side": 48,
    "occupancy_resolution": 32,
    "occupancy_probes": 4096,
    "target_samples": 6000,
    "kar_queries": 32,
}
"""The model of `peak-lite` that tests train."""
TINY_NERFACTO: Mapping[str, Any] = {
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


def tiny_config(folder: Path, steps: int = 40, seed: int = 42, num_views: int | None = None, **model: Any) -> Any:
    """Configuration of a small run of `peak-lite` on a scene of 32 px, as ns-train would hold it."""
    scene = folder / "scene"
    if not scene.exists():
        write_blender_scene(scene, n_train=12, n_val=1, n_test=2, size=32)
    config = _config(peak_lite_method, scene, folder / "out", steps, 512, {**TINY, **model})
    config.pipeline.datamanager.dataparser.num_views = num_views
    config.machine.seed = seed
    return config


def nerfacto_config(scene: Path, out: Path, steps: int = 20, **model: Any) -> Any:
    """Configuration of a small run of `peak-nerfacto`, as ns-train would hold it."""
    return _config(peak_nerfacto_method, scene, out, steps, 256, {**TINY_NERFACTO, **model})


def _config(method: Any, scene: Path, out: Path, steps: int, n_rays: int, model: dict[str, Any]) -> Any:
    config: Any = copy.deepcopy(method.config)
    config.data = config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.train_num_rays_per_batch = n_rays
    config.output_dir, config.experiment_name, config.timestamp = out, "tiny", "run"
    config.vis, config.max_num_iterations, config.machine.device_type = "tensorboard", steps, "cpu"
    config.steps_per_eval_image = config.steps_per_save = 10**6
    for name, value in model.items():
        assert hasattr(config.pipeline.model, name), name
        setattr(config.pipeline.model, name, copy.deepcopy(value))
    return config


def start(config: Any) -> Any:
    """The trainer, ready to train."""
    _set_random_seed(config.machine.seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def train(config: Any) -> Any:
    """The trainer after its training."""
    config.viewer.quit_on_train_completion = True
    trainer = start(config)
    trainer.train()
    return trainer
