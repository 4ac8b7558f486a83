import itertools
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peak_nerf.core import fit as fit_module
from peak_nerf.core.fit import (
    FINISH,
    TOLERANCE,
    FitResult,
    FitSettings,
    Progress,
    check_points,
    fit,
    learning_rate_factor,
)
from peak_nerf.errors import PeakError


class Line:
    """y = 3 x + 1 with noise; the odd points are held out."""

    def __init__(self, rate: float = 0.1) -> None:
        self.module = nn.Linear(1, 1)
        with torch.no_grad():
            self.module.weight.fill_(0.0)
            self.module.bias.fill_(0.0)
        self.x = torch.linspace(-1, 1, 64)[:, None]
        self.y = 3 * self.x + 1
        self.rate = rate
        self.asked: list[tuple[float, bool]] = []
        self.interrupt_at: int | None = None
        self.validation: Callable[[int], float] | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "lr": self.rate}]

    def loss(self, progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        if self.interrupt_at is not None and len(self.asked) == self.interrupt_at:
            raise KeyboardInterrupt
        self.asked.append((progress, include_held_out))
        pick = torch.randint(64, (16,), generator=generator)
        if not include_held_out:
            pick = pick // 2 * 2
        return (self.module(self.x[pick]) - self.y[pick]).square().mean()

    def validation_psnr(self) -> float:
        if self.validation is not None:
            return self.validation(len(self.asked))
        return -10 * math.log10(float((self.module(self.x[1::2]) - self.y[1::2]).square().mean()) + 1e-12)

    def test_psnr(self) -> float | None:
        return None


def run(problem: Line, settings: FitSettings | None = None, **options: Any) -> FitResult:
    settings = settings or FitSettings(steps=300)
    return fit(problem.module, problem, settings, torch.Generator().manual_seed(0), **options)


def test_finds_the_line_and_writes_its_history() -> None:
    problem = Line()
    reports: list[Progress] = []
    result = run(problem, on_progress=reports.append)
    assert problem.module.weight.item() == pytest.approx(3, abs=0.05)
    assert problem.module.bias.item() == pytest.approx(1, abs=0.05)
    assert result.steps == len(problem.asked) == 300
    assert result.history == reports
    assert reports[-1].fraction == 1
    assert not result.partial
    assert all(a.seconds < b.seconds and a.step < b.step for a, b in itertools.pairwise(reports))


def test_held_out_measurements_join_for_the_last_part_only() -> None:
    problem = Line()
    run(problem)
    joined = [progress for progress, include_held_out in problem.asked if include_held_out]
    assert min(joined) >= FINISH
    assert len(joined) == pytest.approx(300 * (1 - FINISH), abs=3)
    assert problem.asked[-1][1]


def test_stops_early_when_the_held_out_score_gets_worse_and_goes_back_to_the_best() -> None:
    problem = Line()
    problem.validation = lambda steps: -abs(steps - 100)
    result = run(problem)
    assert result.best_step == pytest.approx(100, abs=6)
    # PATIENCE more of phase 1, then the tail.
    assert 185 < [include_held_out for _, include_held_out in problem.asked].index(True) < 200
    assert result.steps < 260
    # The learning rate falls to its end all the same.
    assert problem.asked[-1][0] > 0.98


def test_of_scores_that_cannot_be_told_apart_the_latest_is_the_best() -> None:
    problem = Line()
    problem.validation = lambda steps: steps if steps <= 60 else 60 - TOLERANCE * (0.9 if steps < 180 else 1.1)
    assert run(problem).best_step == pytest.approx(177, abs=4)


def test_goes_back_to_the_best_weights_before_the_tail() -> None:
    problem = Line(rate=0.01)
    weights: dict[int, float] = {}

    def validation(steps: int) -> float:
        weights[steps] = problem.module.weight.item()
        return -abs(steps - 100)

    problem.validation = validation
    seen: list[float] = []
    loss = problem.loss

    def watch(progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        if include_held_out and not seen:
            seen.append(problem.module.weight.item())
        return loss(progress, include_held_out, generator)

    problem.loss = watch  # type: ignore[method-assign]
    result = run(problem)
    assert seen == [weights[result.best_step]]


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = Line(), Line()
    run(first)
    run(second)
    assert torch.equal(first.module.weight, second.module.weight)


def test_a_time_budget_is_kept() -> None:
    problem = Line()
    problem.validation = float  # ever better, so that nothing ends early
    result = run(problem, FitSettings(budget_seconds=0.3))
    assert 0.3 <= result.seconds < 1.5  # a shared machine may stand still for a while
    assert result.history[-1].fraction == 1
    assert result.history[-1].n_steps is None


def test_interrupted_and_resumed_is_the_same_as_never_interrupted(tmp_path: Path) -> None:
    whole, broken = Line(), Line()
    run(whole)
    broken.interrupt_at = 137
    path = tmp_path / "checkpoint.pt"
    result = run(broken, checkpoint=path)
    assert result.partial
    assert result.steps == 137
    resumed = Line()
    result = run(resumed, checkpoint=path, resume=True)
    assert not result.partial
    assert len(resumed.asked) == 300 - 137
    assert torch.equal(resumed.module.weight, whole.module.weight)
    assert [p.step for p in result.history] == [p.step for p in run(Line()).history]


def test_what_of_a_budget_is_left_is_the_checkpoints(tmp_path: Path) -> None:
    """What comes before a fit takes another time in a run that goes on; its budget is the same."""
    path, settings = tmp_path / "checkpoint.pt", FitSettings(budget_seconds=50.0)
    broken, resumed = Line(), Line()
    broken.interrupt_at = 20
    run(broken, settings, checkpoint=path, spent=49.8)
    resumed.validation = float  # type: ignore[method-assign]  # ever better, so that nothing ends early
    result = run(resumed, settings, checkpoint=path, resume=True, spent=1.0)
    assert not result.partial
    assert 0.2 <= result.seconds < 20
    with pytest.raises(ValueError, match="less what is spent"):
        run(Line(), settings, spent=50.0)


def test_ctrl_c_waits_for_the_end_of_the_step_so_that_resuming_changes_nothing(tmp_path: Path) -> None:
    whole, broken = Line(), Line()
    run(whole)
    path = tmp_path / "checkpoint.pt"
    backward = torch.Tensor.backward

    def pressed(self: Tensor) -> None:
        # In the middle of a step: its random numbers are drawn, its update is not made.
        if len(broken.asked) == 137:
            os.kill(os.getpid(), signal.SIGINT)
        backward(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", pressed)
        result = run(broken, checkpoint=path)
    assert result.partial
    assert result.steps == 137
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = Line()
    run(resumed, checkpoint=path, resume=True)
    assert torch.equal(resumed.module.weight, whole.module.weight)


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    problem = Line()
    path = tmp_path / "checkpoint.pt"
    reached: list[bool] = []
    loss = problem.loss

    def pressed_twice(progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        if len(problem.asked) == 50:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            reached.append(True)
        return loss(progress, include_held_out, generator)

    problem.loss = pressed_twice  # type: ignore[method-assign]
    assert run(problem, checkpoint=path).partial
    assert not reached
    assert path.exists()


def test_a_fit_in_another_thread_is_left_alone_by_signals() -> None:
    results: list[FitResult] = []
    thread = threading.Thread(target=lambda: results.append(run(Line(), FitSettings(steps=20))))
    thread.start()
    thread.join()
    assert results[0].steps == 20


def test_interrupted_leaves_the_best_weights_so_far() -> None:
    problem = Line()
    best: list[Tensor] = []

    def validation(steps: int) -> float:
        if steps <= 100:
            best[:] = [p.detach().clone() for p in problem.module.parameters()]
            return steps
        return 0.0

    problem.validation, problem.interrupt_at = validation, 140
    assert run(problem).partial
    assert all(torch.equal(a, b) for a, b in zip(best, problem.module.parameters(), strict=True))


def test_a_checkpoint_of_other_settings_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    problem = Line()
    problem.interrupt_at = 50
    run(problem, checkpoint=path)
    with pytest.raises(PeakError, match=r"checkpoint\.pt: was written with other settings"):
        run(Line(), FitSettings(steps=400), checkpoint=path, resume=True)
    with pytest.raises(PeakError, match=r"checkpoint\.pt: belongs to other data"):
        run(Line(), checkpoint=path, resume=True, fingerprint="another")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(PeakError, match=r"checkpoint\.pt: cannot be resumed"):
        run(Line(), checkpoint=path, resume=True)


def test_checkpoints_are_written_during_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "checkpoint.pt"
    run(Line(), checkpoint=path)
    assert torch.load(path, weights_only=True)["numbers"]["steps"] == 300


def test_a_loss_that_is_not_finite_is_an_error_that_says_when() -> None:
    problem = Line()
    problem.y = problem.y * math.inf
    with pytest.raises(PeakError, match=r"the loss is .* at step 0"):
        run(problem)


@pytest.mark.parametrize("settings", [FitSettings(), FitSettings(3, 4.0), FitSettings(0), FitSettings(None, -1.0)])
def test_a_length_that_makes_no_sense_is_refused(settings: FitSettings) -> None:
    with pytest.raises(ValueError, match="steps"):
        run(Line(), settings)


def test_the_result_is_an_average_of_the_last_weights() -> None:
    # A rate far too high: the last weights jump about the optimum, their average does not.
    jumping, averaged = Line(), Line()
    steady = FitSettings(steps=400, final_rate=1.0, average=0.0)
    run(jumping, steady)
    run(averaged, FitSettings(steps=400, final_rate=1.0, average=0.05))
    truth = torch.tensor([[3.0]])
    assert (averaged.module.weight - truth).abs() <= (jumping.module.weight - truth).abs() + 1e-3


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    settings = FitSettings(steps=1, warmup=0.1, final_rate=0.02)
    assert learning_rate_factor(0.05, settings) == pytest.approx(0.5)
    assert learning_rate_factor(0.1, settings) == pytest.approx(1)
    assert learning_rate_factor(0.55, settings) == pytest.approx((1 + 0.02) / 2)
    assert learning_rate_factor(1.0, settings) == pytest.approx(0.02)
    assert learning_rate_factor(0.0, settings) > 0


def test_checks_are_in_order_and_end_with_the_run() -> None:
    points = check_points()
    assert points == sorted(points)
    assert points[-1] == 1
