"""Optimizer and schedule; the schedule follows the length of the run, whatever it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one fused kernel: several times faster on the CPU for tables of millions of rows."""

    _target: type = torch.optim.Adam
    """The optimizer class to use."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the moments; 0.99 for the second forgets early gradients sooner (Mueller et al. 2022)."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-15
    """Added to the denominator; tiny, since gradients of table rows are."""
    fused: bool = True
    """One kernel for all parameters."""


@dataclass
class ExponentialScheduleConfig(SchedulerConfig):
    """Linear warm-up, then exponential decay that ends with the run."""

    _target: type = field(default_factory=lambda: ExponentialSchedule)
    """target class to instantiate"""
    final_factor: Annotated[float, Field(gt=0, le=1)] = 0.03
    """Fraction of the learning rate that is left at the end."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 20
    """Steps of the warm-up."""
    max_steps: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Length of the decay; None follows --max-num-iterations."""


class ExponentialSchedule(Scheduler):
    """Multiplier min(1, (step + 1) / warmup) * final_factor ^ (step / max_steps), a Python float.

    A numpy scalar here would end up in the optimizer's state, and such checkpoints do not load with weights_only.
    """

    config: ExponentialScheduleConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """The schedule for `optimizer`. Raises: ValueError when the length of the run is not known."""
        c = self.config
        if c.max_steps is None:
            raise ValueError("the schedule has no max_steps; PeakTrainer sets it from max_num_iterations")
        total = max(1, c.max_steps)
        return LambdaLR(optimizer, multiplier(c, lambda step: step / total))


def multiplier(config: ExponentialScheduleConfig, progress: Callable[[int], float]) -> Callable[[int], float]:
    """The factor on the learning rate at a step; `progress` is the finished fraction of the run then."""
    decay, warmup = math.log(config.final_factor), max(1, config.warmup_steps)
    return lambda step: min(1.0, (step + 1) / warmup) * math.exp(decay * min(1.0, progress(step)))
