"""The fit loop of every stand-alone task: Adam with a schedule, averaged weights, and a stopping point of its own.

A task hands over a `Problem`: a loss to step on and a score on held-out measurements. The loop never steers by a
ground truth.

The stopping rule, the same for every method:
1. Until `FINISH` of the run, train without the held-out measurements and remember the averaged weights that predict
   them best; of scores that differ by less than `TOLERANCE`, the latest counts as best. Without such a score for
   `PATIENCE` of the run, this phase ends early.
2. Return to the best weights, let the held-out measurements join, and train out the schedule's falling tail.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from peak_nerf.core.weight_average import WeightAverage
from peak_nerf.errors import PeakError, first_line
from peak_nerf.system.files import write_atomically
from peak_nerf.system.interrupts import interrupts_deferred

# Fractions of the run: where phase 2 starts, and how long phase 1 waits for a better score.
FINISH = 0.8
PATIENCE = 0.3
# In dB. Some hundred held-out measurements cannot tell less apart, and what is far from any measurement, as the middle
# of a large hole, is still getting better when they are as good as they will be.
TOLERANCE = 0.1
# Scores are taken this often in a run; more often at its start, where methods differ most.
N_CHECKS = 60
CHECKPOINT_SECONDS = 15.0


@runtime_checkable
class Problem(Protocol):
    """What a task brings to `fit`."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adam's parameter groups with their learning rates."""

    def loss(self, progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        """The loss of one step at `progress` in [0, 1], with or without the held-out measurements."""

    def validation_psnr(self) -> float:
        """PSNR on the held-out measurements, in dB."""

    def test_psnr(self) -> float | None:
        """PSNR against a ground truth for the history; None where there is none. The loop only records it."""


@dataclass
class Progress:
    """Where a fit stands; one of these per check is its history."""

    step: int
    """Steps done."""
    n_steps: int | None
    """Steps to do; None under a time budget."""
    seconds: float
    """Training time so far, scoring excluded."""
    fraction: float
    """Of the run, in [0, 1]."""
    psnr_validation: float
    """On held-out measurements, in dB; in phase 2 they are trained on. NaN where nothing is held out."""
    psnr: float | None = None
    """Against the ground truth, in dB, where there is one."""


@dataclass
class FitResult:
    """How a fit went. The module that was fitted holds the result."""

    steps: int
    seconds: float
    history: list[Progress] = field(default_factory=list)
    best_step: int = 0
    """The stopping point: the step with the best held-out score, up to `TOLERANCE`."""
    partial: bool = False
    """Interrupted before its end; the module holds the best weights so far."""
    stopping_point: list[Tensor] = field(default_factory=list, repr=False)
    """Parameters as they were there, which never saw what was held out; none where the module holds such."""


@dataclass
class FitSettings:
    """How long to fit, and how."""

    steps: int | None = None
    """Steps to do; a fixed seed then gives the same result. Exactly one of steps and budget_seconds."""
    budget_seconds: float | None = None
    """Training time instead of steps, in seconds."""
    most_seconds: float | None = None
    """Beside steps: the run ends by then, its schedule going by whichever is ahead."""
    warmup: float = 0.02
    """Fraction of the run in which the learning rates rise from 0."""
    final_rate: float = 0.02
    """Learning rates fall along a cosine to this fraction."""
    earliest: float = 0.0
    """Fraction of the run before which no stopping point is sought: for losses that are annealed."""
    average: float = 0.02
    """Weights are averaged over about this fraction of the run; 0 for none."""


class _Clock:
    """Seconds of training, with pauses for scoring, going on from `start`."""

    def __init__(self, start: float) -> None:
        self.offset = start - time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() + self.offset

    @contextmanager
    def paused(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.offset -= time.perf_counter() - before


def learning_rate_factor(progress: float, settings: FitSettings) -> float:
    """Linear warm-up, then a cosine from 1 to `final_rate`; progress in [0, 1]."""
    if progress < settings.warmup:
        return max(progress / settings.warmup, 1e-3)
    phase = (progress - settings.warmup) / (1 - settings.warmup)
    return settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * phase)) / 2


def check_points() -> list[float]:
    """Fractions of the run at which the held-out score is taken."""
    early = [0.0025 * 2**k for k in range(3)]
    return early + [k / N_CHECKS for k in range(1, N_CHECKS + 1)]


def fit(
    module: nn.Module,
    problem: Problem,
    settings: FitSettings,
    generator: torch.Generator,
    on_progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    fingerprint: str = "",
    spent: float = 0.0,
) -> FitResult:
    """Fit `module` in place; afterwards it holds the averaged weights of the run's end.

    Args:
        module: everything that trains; its parameters are those of `problem.parameter_groups()`.
        problem: the loss, and what is validated.
        settings: steps or seconds, and how the rate decays.
        generator: draws all random numbers of the fit.
        on_progress: called now and then with how far the fit is.
        checkpoint: where the state is kept during the run, for `resume`; deleted by nobody.
        resume: go on from `checkpoint`, which must be of the same module and settings; without the file, start anew.
        fingerprint: names the problem, data included; a checkpoint of another one is refused.
        spent: seconds of the budget that were needed before; those of the checkpoint where the fit goes on.

    KeyboardInterrupt ends the fit with the best weights so far and `partial` set, the checkpoint on disk. Ctrl-C waits
    for the end of the step, so that a resumed run equals one that was never interrupted; a second one does not wait.

    Raises: ValueError unless exactly one of steps and budget_seconds is given and above 0; PeakError on a loss that is
        not finite, a checkpoint that does not fit, or a disk that cannot take it.
    """
    if (settings.steps is None) == (settings.budget_seconds is None):
        raise ValueError("give either steps or budget_seconds")
    if not (settings.steps or (settings.budget_seconds or 0) - spent) > 0:
        raise ValueError("steps and budget_seconds, less what is spent, must be above 0")
    run = _Run(module, problem, settings, generator, fingerprint, spent)
    if resume and checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    clock = _Clock(run.seconds)
    saved = time.perf_counter()
    try:
        with interrupts_deferred() as raise_if_interrupted:
            while run.fraction < 1:
                run.step(clock)
                if run.at_check():
                    with clock.paused():
                        progress = run.check()
                        if on_progress is not None:
                            on_progress(progress)
                        if checkpoint is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                            run.save(checkpoint)
                            saved = time.perf_counter()
                if run.fraction < 1:
                    raise_if_interrupted()
    except KeyboardInterrupt:
        if checkpoint is not None:
            run.save(checkpoint)
        run.keep_best()
        return run.result(partial=True)
    run.average.exchange()
    return run.result(partial=False)


class _Run:
    """The state of one fit: weights, their average, the best so far, Adam, the counters."""

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        settings: FitSettings,
        generator: torch.Generator,
        fingerprint: str,
        spent: float,
    ) -> None:
        self.module, self.problem, self.settings, self.generator = module, problem, settings, generator
        self.fingerprint, self.spent = fingerprint, spent
        groups = problem.parameter_groups()
        # fused: one pass over the parameters, where the default makes a dozen.
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = WeightAverage(self.parameters)
        self.best = [p.detach().clone() for p in self.parameters]
        self.best_score, self.best_step, self.best_fraction = -math.inf, 0, 0.0
        self.steps, self.fraction, self.seconds = 0, 0.0, 0.0
        self.skipped = 0.0
        self.finishing = False
        self.history: list[Progress] = []
        self.checks = check_points()
        self.next_check = 0

    def step(self, clock: _Clock) -> None:
        factor = learning_rate_factor(self.fraction, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        loss = self.problem.loss(self.fraction, self.finishing, self.generator)
        if not bool(loss.isfinite()):
            raise PeakError(
                f"fit: the loss is {loss.item()} at step {self.steps}; lower the learning rate, or check the data for"
                " values out of range"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        self.seconds = clock.seconds()
        steps, budget = self.settings.steps, self.settings.most_seconds
        if self.settings.budget_seconds:
            budget = self.settings.budget_seconds - self.spent
        done = max(self.steps / steps if steps else 0.0, self.seconds / budget if budget else 0.0)
        self.fraction = min(done + self.skipped, 1.0)
        if self.settings.average > 0:
            # Steps in the horizon; no longer than a tenth of those done, so that early weights drop out soon.
            per_run = self.steps / max(self.fraction, 1e-9)
            self.average.update(min(self.settings.average * per_run, self.steps / 10))
        else:
            self.average.update(1.0)

    def at_check(self) -> bool:
        return self.next_check < len(self.checks) and self.fraction >= self.checks[self.next_check] - 1e-9

    def check(self) -> Progress:
        while self.at_check():
            self.next_check += 1
        with self.average.swapped_in(), torch.no_grad():
            score, psnr = self.problem.validation_psnr(), self.problem.test_psnr()
        progress = Progress(self.steps, self.settings.steps, self.seconds, self.fraction, score, psnr)
        self.history.append(progress)
        if self.finishing:
            return progress
        if self.fraction < self.settings.earliest:
            self.best_score = -math.inf
        if score > self.best_score - TOLERANCE:
            self.best_score = max(score, self.best_score)
            self.best_step, self.best_fraction = self.steps, self.fraction
            torch._foreach_copy_(self.best, self.average.mean)
        if self.fraction >= FINISH or self.fraction - self.best_fraction >= PATIENCE:
            self.keep_best()
            self.average.mean = [p.detach().clone() for p in self.parameters]
            self.skipped += max(FINISH - self.fraction, 0.0)
            self.fraction = max(self.fraction, FINISH)
            self.finishing = True
        return progress

    @torch.no_grad()
    def keep_best(self) -> None:
        """Put the best weights into the module; in phase 2 the averaged ones, which have seen everything."""
        source = self.average.mean if self.finishing or self.best_score == -math.inf else self.best
        torch._foreach_copy_(self.parameters, source)

    def result(self, partial: bool) -> FitResult:
        at_best = self.best if self.finishing else []
        return FitResult(self.steps, self.seconds, self.history, self.best_step, partial, at_best)

    def save(self, path: Path) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.average.mean,
            "best": self.best,
            "generator": self.generator.get_state(),
            "numbers": {name: getattr(self, name) for name in _NUMBERS},
            "history": [asdict(p) for p in self.history],
            "settings": asdict(self.settings),
            "fingerprint": self.fingerprint,
            "spent": self.spent,
        }
        write_atomically(path, lambda file: torch.save(state, file))

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True)
            if {"most_seconds": None, **state["settings"]} != asdict(self.settings):
                raise PeakError(
                    f"{path}: was written with other settings ({state['settings']}); resume with the same, or start"
                    " anew without --resume"
                )
            if state.get("fingerprint") != self.fingerprint:
                raise PeakError(
                    f"{path}: belongs to other data, another method, seed or version; resume with the same, or start"
                    " anew without --resume"
                )
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch._foreach_copy_([*self.average.mean, *self.best], [*state["mean"], *state["best"]])
            self.generator.set_state(state["generator"])
            self.history = [Progress(**p) for p in state["history"]]
            for name in _NUMBERS:
                setattr(self, name, state["numbers"][name])
            self.spent = state.get("spent", 0.0)
        except PeakError:
            raise
        except Exception as error:
            raise PeakError(f"{path}: cannot be resumed from ({first_line(error)}); delete it to start anew") from error


_NUMBERS = (
    "best_score", "best_step", "best_fraction", "steps", "fraction", "seconds", "skipped", "finishing", "next_check",
)  # fmt: skip
