"""How far a training is, by nerfstudio's trainer or by ours."""

from __future__ import annotations

from typing import Any

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation


def progress_callback(owner: Any, trainer: Any) -> TrainingCallback:
    """Sets `owner.progress` before each step to the finished fraction of `trainer`'s run.

    By the clock where the trainer has one (`PeakTrainer.progress`), else of its steps.
    """
    total = trainer.config.max_num_iterations + trainer._start_step
    by_clock = getattr(trainer, "progress", None)  # nerfstudio's own trainer has none

    def before(step: int) -> None:
        owner.progress = step / max(1, total) if by_clock is None else by_clock(step)

    return TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], before)
