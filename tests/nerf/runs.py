"""Tiny runs of `peak-lite`, in this process, for tests."""

import copy
from pathlib import Path
from typing import Any

from nerfstudio.scripts.train import _set_random_seed

from peak_nerf.nerf.methods import peak_lite_method
from tests.nerf.scene_factory import write_blender_scene

TINY_MODEL = {
    "n_levels": 4,
    "log2_table_size": 12,
    "finest_resolution": 64,
    "steps_per_side": 48,
    "occupancy_resolution": 32,
    "occupancy_probes": 4096,
    "target_samples": 6000,
    "coarse_steps": 20,
    "kar_queries": 32,
}


def tiny_config(folder: Path, steps: int = 40, seed: int = 42, num_views: int | None = None, **model: Any) -> Any:
    """Configuration of a small run on a scene of 32 px, as ns-train would hold it."""
    scene = folder / "scene"
    if not scene.exists():
        write_blender_scene(scene, n_train=12, n_val=1, n_test=2, size=32)
    config: Any = copy.deepcopy(peak_lite_method.config)
    config.data = config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.dataparser.num_views = num_views
    config.pipeline.datamanager.train_num_rays_per_batch = 512
    config.output_dir, config.experiment_name, config.timestamp = folder / "out", "tiny", "run"
    config.vis, config.max_num_iterations, config.machine.seed = "tensorboard", steps, seed
    config.machine.device_type = "cpu"
    config.steps_per_eval_image = config.steps_per_save = 10**6
    for name, value in {**TINY_MODEL, **model}.items():
        assert hasattr(config.pipeline.model, name), name
        setattr(config.pipeline.model, name, value)
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
