"""nerfstudio's trainer with checkpoints that survive anything, runs that resume to their end, and clean exits."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE
from pydantic import Field

from peak_nerf.errors import PeakError, exit_on_peak_error, first_line
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.found_points import find_points
from peak_nerf.nerf.data.observations import read_observations, write_observations
from peak_nerf.nerf.data.points import OBSERVATIONS
from peak_nerf.nerf.data.space_figure import write_space_figure
from peak_nerf.nerf.train.checkpoint_file import latest_checkpoint, read_checkpoint, write_checkpoint
from peak_nerf.nerf.train.finite import LossWatch, NotANumber
from peak_nerf.nerf.train.optimizers import ExponentialScheduleConfig, multiplier
from peak_nerf.nerf.train.ranges import check_config
from peak_nerf.nerf.train.run_folder import check_inside, config_file, given_data, hold, reattach, release
from peak_nerf.nerf.train.training_views import add_photo_residuals
from peak_nerf.system.choices import check_types
from peak_nerf.system.interrupts import interrupts_ignored, termination_interrupts

NO_END = 10**9
"""Steps of a run that the clock ends."""
NO_CUDA = "peak: no CUDA on this machine, so the sizes and steps are by default those of peak-lite"


@dataclass
class PeakTrainerConfig(TrainerConfig):
    """Training of `peak` and `peak-lite`."""

    _target: type = field(default_factory=lambda: PeakTrainer)
    """target class to instantiate"""
    max_seconds: Annotated[float | None, Field(gt=0, le=1e9)] = None
    """Train for so long instead of --max-num-iterations; schedules follow the clock, which stands still during
    evaluations and checkpoints."""
    run_folder: tyro.conf.Suppress[Path | None] = None
    """Where a run is that was read from its config.yml, whatever its output folder was called."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        path = config_file()
        if path is not None:
            with exit_on_peak_error():
                reattach(self, path.parent, given_data())

    def problem_of_saved(self) -> str:
        """What keeps a configuration that was read from its config.yml from being of use, or nothing."""
        try:
            check_types(self, skip=("vis",))  # whoever reads it does not train
            check_config(self)
        except PeakError as error:
            return str(error)
        groups = self.optimizers.values() if isinstance(self.optimizers, dict) else [None]
        whole = all(isinstance(group, dict) and {"optimizer", "scheduler"} <= group.keys() for group in groups)
        return "" if whole else "its optimizers are not a table"

    def get_base_dir(self) -> Path:
        """The run's folder."""
        return super().get_base_dir() if self.run_folder is None else self.run_folder

    def save_config(self) -> None:
        """Write config.yml, with the training views that `--num-views` or `--view-indices` stand for, with sparse
        points that are looked for where the scene has none, and with paths that do not depend on the present folder.

        From here on, no other process trains in the run's folder.
        """
        with exit_on_peak_error():
            datamanager: Any = self.pipeline.datamanager
            parser = datamanager.dataparser
            check_config(self)
            if self.run_folder is None:
                check_inside(self.get_base_dir(), self.output_dir)
            hold(self.get_base_dir())
            for owner in (self, datamanager, parser):
                data = getattr(owner, "data", None)
                if data is not None and data != Path():
                    owner.data = data.absolute()
            try:
                if isinstance(parser, PeakDataParserConfig):  # the user may choose another
                    parser.resolve_views(datamanager.data)
                    parser.found_points = self._found_points(parser, datamanager.data)
                super().save_config()
            except OSError as error:
                raise PeakError(f"{self.get_base_dir()}: cannot write config.yml ({error.strerror})") from None
            except KeyboardInterrupt:
                raise SystemExit(130) from None

    def _found_points(self, parser: PeakDataParserConfig, data: Path | None) -> Path | None:
        """Those of the run that this one goes on with, if there is one: its space is theirs."""
        if parser.found_points is not None and parser.found_points.is_file():  # --load-config
            return parser.found_points
        run = self.get_base_dir().absolute()
        checkpoints = self.load_checkpoint.parent if self.load_checkpoint is not None else self.load_dir
        if checkpoints is None:
            return find_points(parser, data, run)
        before = checkpoints.parent / OBSERVATIONS
        if not before.is_file():
            return None
        run.mkdir(parents=True, exist_ok=True)
        write_observations(run / OBSERVATIONS, read_observations(before))
        return run / OBSERVATIONS


class PeakTrainer(Trainer):
    """Trainer whose every way out is clean: finished, Ctrl-C, a full disk, a loss that is no number, kill -9."""

    config: PeakTrainerConfig

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """As nerfstudio's; errors a user can mend end in one line."""
        self.seconds = self.seconds_photo_residuals = 0.0
        self._running_since: float | None = None
        self.losses = LossWatch()
        with exit_on_peak_error():
            limit = self.config.max_seconds
            if limit is not None and not 0 < limit < math.inf:
                raise PeakError(f"--max-seconds {limit}: give a number of seconds above 0")
            if limit is not None and self.world_size > 1:  # clocks differ, and who is ahead would wait for ever
                raise PeakError("--max-seconds: is for one process; with several GPUs give --max-num-iterations")
            if limit is not None:
                self.config.max_num_iterations = NO_END
            if self.config.method_name == "peak" and not torch.cuda.is_available():
                CONSOLE.print(NO_CUDA, markup=False, highlight=False, soft_wrap=True)
            try:
                super().setup(test_mode)
            except KeyboardInterrupt:
                raise SystemExit(130) from None

    def progress(self, step: int) -> float:
        """The finished fraction of the run, from 0 to 1: of its steps or, with `max_seconds`, of its time."""
        if self.config.max_seconds is not None:
            return min(1.0, self.elapsed() / self.config.max_seconds)
        return min(1.0, step / max(1, self.config.max_num_iterations + self._start_step))

    def elapsed(self) -> float:
        """Seconds of training so far, without evaluations and checkpoints."""
        running = 0.0 if self._running_since is None else time.perf_counter() - self._running_since
        return self.seconds + running

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """What is done within does not count as training."""
        self.seconds, running, self._running_since = self.elapsed(), self._running_since is not None, None
        try:
            yield
        finally:
            self._running_since = time.perf_counter() if running else None

    def setup_optimizers(self) -> Optimizers:
        """Schedules without a length of their own get that of the run; the networks' rate, the model's factor."""
        # A preset is shared by all trainers of a process.
        self.config.optimizers = copy.deepcopy(self.config.optimizers)
        for group in self.config.optimizers.values():
            schedule = group["scheduler"]
            if isinstance(schedule, ExponentialScheduleConfig) and schedule.max_steps is None:
                schedule.max_steps = self.config.max_num_iterations
        rate = getattr(self.pipeline.model.config, "network_rate", None)
        if rate is not None and "networks" in self.config.optimizers:
            self.config.optimizers["networks"]["optimizer"].lr *= rate
        optimizers = super().setup_optimizers()
        if self.config.max_seconds is not None:
            for name, scheduler in optimizers.schedulers.items():
                schedule = self.config.optimizers[name]["scheduler"]
                if isinstance(schedule, ExponentialScheduleConfig):
                    scheduler.lr_lambdas = [multiplier(schedule, self.progress)] * len(scheduler.lr_lambdas)
        return optimizers

    def _load_checkpoint(self) -> None:
        """Resume to the end of the run: nerfstudio would train max_num_iterations *more* steps."""
        if self.config.load_dir is not None:
            self.config.load_checkpoint = latest_checkpoint(self.config.load_dir, self.config.load_step)
            self.config.load_dir = None
        checkpoint = self.config.load_checkpoint
        if checkpoint is not None:
            state = read_checkpoint(checkpoint)
            try:
                super()._load_checkpoint()
                self._check_optimizers()
            except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
                reason = first_line(error)
                if isinstance(error, KeyError) and error.args[0] in self.config.optimizers:
                    reason = f"it has also trained {reason}, which these settings leave out"
                raise PeakError(
                    f"{checkpoint}: cannot be loaded ({reason}); is it of this method and these settings?"
                ) from None
            if self.config.max_seconds is not None:
                self._resume_clock(checkpoint, state.get("seconds", 0.0), self.config.max_seconds)
                return
            total = self.config.max_num_iterations
            if self._start_step >= total:
                raise PeakError(
                    f"{checkpoint}: has all of its {self._start_step} steps; ask for more with"
                    f" --max-num-iterations {2 * self._start_step}"
                )
            self.config.max_num_iterations = total - self._start_step
        else:
            super()._load_checkpoint()

    def _check_optimizers(self) -> None:
        """Raises: ValueError when what they remember is not of these parameters, or not finite."""
        for name, optimizer in self.optimizers.optimizers.items():
            for parameter, remembered in optimizer.state.items():
                for what, value in remembered.items():
                    whole = isinstance(value, torch.Tensor) and value.ndim > 0
                    if whole and (value.shape != parameter.shape or not bool(torch.isfinite(value).all())):
                        raise ValueError(f"{what} of the optimizer of {name} is not finite, or of another shape")

    def _resume_clock(self, checkpoint: Path, seconds: float, limit: float) -> None:
        self.seconds = seconds
        if self.seconds >= limit:
            raise PeakError(
                f"{checkpoint}: has had all of its {limit:g} seconds; ask for more with --max-seconds {2 * limit:g}"
            )

    def train(self) -> None:
        """Train; Ctrl-C and SIGTERM save what there is before they end it."""
        with exit_on_peak_error(), termination_interrupts():
            try:
                self.draw_space()
                super().train()
            except KeyboardInterrupt:
                if self.training_state == "completed":  # the viewer of a finished run was closed
                    return
                with interrupts_ignored():
                    self.save_checkpoint(self.step)
                CONSOLE.print(
                    f"Stopped at step {self.step}. Go on with the same command and --load-dir {self.checkpoint_dir}",
                    markup=False, highlight=False, soft_wrap=True,
                )  # fmt: skip
                raise SystemExit(130) from None
            finally:
                self.seconds, self._running_since = self.elapsed(), None
                release(self.base_dir)

    def _after_train(self) -> None:
        """As nerfstudio's; the last checkpoint has what renderings take from the training photos."""
        if self.local_rank == 0:
            begin = time.perf_counter()
            with self.clock_stopped():
                add_photo_residuals(getattr(self.pipeline, "module", self.pipeline))
            self.seconds_photo_residuals = time.perf_counter() - begin
        super()._after_train()

    @check_main_thread
    def draw_space(self) -> None:
        """space.png beside config.yml, once. A picture that cannot be drawn is said, and training goes on."""
        path, datamanager = self.base_dir / "space.png", getattr(self.pipeline, "datamanager", None)
        outputs = getattr(datamanager, "train_dataparser_outputs", None)
        if path.exists() or outputs is None:
            return
        test = getattr(datamanager, "eval_dataset", None)
        try:
            write_space_figure(path, outputs, None if test is None else test.cameras)
        except Exception as error:
            reason = first_line(error)
            CONSOLE.print(f"{path}: not drawn ({reason})", markup=False, highlight=False, soft_wrap=True)

    def train_iteration(self, step: int) -> Any:
        """One step. A loss that is not a number stops the run before it is saved over a good checkpoint."""
        loss, loss_dict, metrics_dict = super().train_iteration(step)
        if self._running_since is None:  # the first step has waited for numba's compiler, which is no training
            self._running_since = time.perf_counter()
        with self._losses_are_numbers():
            self.losses.look(step, loss, loss_dict)
        if self.config.max_seconds is not None:
            if self.elapsed() >= self.config.max_seconds:
                self.stop_training = True
            # What nerfstudio's table shows as the end of the run.
            writer.GLOBAL_BUFFER["max_iter"] = round((step + 1) / max(self.progress(step), 1e-3))
        return loss, loss_dict, metrics_dict

    @contextmanager
    def _losses_are_numbers(self) -> Iterator[None]:
        """Says what to do about one that is not, when it is looked at within."""
        try:
            yield
        except NotANumber as found:
            raise PeakError(
                f"step {found.step}: the loss is not a number ({found.parts}); the last good checkpoint, if any, is in"
                f" {self.checkpoint_dir}; lower the learning rates (--optimizers.encoding.optimizer.lr) or look at the"
                " images"
            ) from None

    def eval_iteration(self, step: int) -> None:
        """As nerfstudio's, off the clock."""
        with self.clock_stopped():
            super().eval_iteration(step)

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside its final name, sync, rename; only then delete older ones.

        Raises: PeakError when it cannot be written; earlier checkpoints stay as they are.
        """
        with self._losses_are_numbers():
            self.losses.finish()
        with self.clock_stopped():
            self._save_checkpoint(step)

    def _save_checkpoint(self, step: int) -> None:
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        pipeline: Any = self.pipeline
        state = {
            "step": step,
            "seconds": self.seconds,
            "pipeline": getattr(pipeline, "module", pipeline).state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.optimizers.items()},
            "schedulers": {name: s.state_dict() for name, s in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }
        try:
            write_checkpoint(state, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            reason = str(error).strip().split("\n")[0]
            raise PeakError(
                f"{path}: cannot write the checkpoint ({reason}); free some space or choose another --output-dir;"
                " earlier checkpoints are untouched"
            ) from None
        if self.config.save_only_latest_checkpoint:
            for older in self.checkpoint_dir.glob("*.ckpt"):
                if older != path:
                    older.unlink()
