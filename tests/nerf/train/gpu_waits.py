"""How often a training step waits for a GPU, which Triton's interpreter stands for.

`TRITON_INTERPRET=1 python -m tests.nerf.train.gpu_waits FOLDER`
"""

import sys
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation

from tests.nerf.runs import start, tiny_config
from tests.nerf.scene_factory import write_nerfstudio_scene
from tests.quick_interpreter import quicken
from tests.waits import waits

LOSSES = {"bounded": ("tv", "occlusion"), "unbounded": ("entropy", "distortion"), "unobserved": ()}
"""That are on beside colour and KAR."""
SMALL = {
    "implementation": "triton", "n_levels": 2, "log2_table_size": 8, "finest_resolution": 32, "steps_per_side": 16,
    "target_samples": 1024, "samples_per_ray": 4, "occupancy_probes": 64, "occupancy_interval": 2, "kar_queries": 8,
    "kar_anchors": 2, "kar_weight": 0.01, "network_precision": "float32", "cascades": 2,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "bounded": {"kar_form": "point", "tv_weight": 0.1, "occlusion_weight": 0.1, "level_annealing": 1.0},
    "unbounded": {"kar_form": "point", "entropy_weight": 0.1, "distortion_weight": 0.1},
    "unobserved": {"kar_form": "unobserved"},
}
STEPS = 4


def trained(folder: Path, kind: str) -> list[list[str]]:
    """What waits in each step of a training."""
    if kind == "unbounded":
        write_nerfstudio_scene(folder / "scene", n=6, size=32)
    config = tiny_config(folder, steps=STEPS, **SMALL, **KINDS[kind])
    config.pipeline.datamanager.virtual_rays = 16
    trainer = start(config)
    model = trainer.pipeline.model
    assert model.renderer.unbounded == (kind == "unbounded")
    if kind == "unobserved":
        model.kar_form.seen.step = 1000  # all cells are hidden

    def callbacks(step: int, at: TrainingCallbackLocation) -> None:
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=at)

    steps, names, before = [], set(), 0
    with waits() as found:
        for step in range(STEPS):
            trainer.pipeline.train()
            callbacks(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            names |= trainer.train_iteration(step)[1].keys()
            callbacks(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
            assert model.n_samples > 0
            steps.append(found[before:])
            before = len(found)
    assert {"rgb", "kar", *LOSSES[kind]} <= names, names
    return steps


if __name__ == "__main__":
    quicken()
    torch.set_num_threads(1)
    for kind in KINDS:
        for step, found in enumerate(trained(Path(sys.argv[1]) / kind, kind)):
            print(f"{kind} {step}: {len(found)}", *found, sep="; ")
