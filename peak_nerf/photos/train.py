"""`--train`: a radiance field of the posed photos, how good it is, and a flight through it.

Each step is a program of its own, as a user would run it: `ns-train`, `ns-eval`, `python -m peak_nerf.nerf.flythrough`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from peak_nerf.errors import PeakError
from peak_nerf.system.programs import run_program
from peak_nerf.system.record import write_json

METHOD = "peak"
RUN = Path("runs", "photos", METHOD, "run")
"""nerfstudio's folder of the run, relative to the scene's."""
RESULTS = Path("training")
"""What is made of the run, relative to the scene's folder: training.json, eval.json, flythrough.gif and so on."""
LONGEST_SIDE = 1000
"""Of the copies that are trained on, in pixels, where the scene has copies so small: the CPU renders some 30 thousand
pixels a second, and each held-out photo is rendered whole."""
FRAMES = 40
"""Of the GIF."""
FRAME_WIDTH = 280
"""Longer side of the GIF's frames in pixels; the CPU renders some 30 thousand pixels a second."""

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class TrainingSummary:
    """What came of the training. Paths are relative to the scene's folder."""

    method: str
    """As `ns-train` knows it."""
    psnr: float
    """Of the test views, in dB."""
    ssim: float
    lpips: float | None
    """None where the network behind it is not there."""
    n_test: int
    """Test views."""
    steps: int
    seconds: float
    """Of `ns-train`, start and compiling included."""
    seconds_evaluation: float
    seconds_pictures: float
    gif: str
    """The flight."""
    comparison: str
    """Test views beside their renderings."""
    run: str
    """nerfstudio's folder, with config.yml."""


@dataclass(frozen=True)
class Training:
    """training.json: what was asked for, and how far it came."""

    scene: str
    """Digest of transforms.json."""
    seed: int
    max_seconds: float | None
    """Training seconds that were asked for; None is the method's own number of steps."""
    state: Literal["training", "trained", "evaluated", "shown"] = "training"
    seconds: float = 0.0
    seconds_evaluation: float = 0.0
    seconds_pictures: float = 0.0

    def continued(self, wanted: Training) -> Training | None:
        """Where to go on for what is wanted; None when this is of no use for it.

        A shorter training than this is not trained again.
        """
        clocks = (self.max_seconds is None) == (wanted.max_seconds is None)
        if (self.scene, self.seed) != (wanted.scene, wanted.seed) or not clocks:
            return None
        if wanted.max_seconds is not None and self.max_seconds is not None and wanted.max_seconds > self.max_seconds:
            return dataclasses.replace(self, max_seconds=wanted.max_seconds, state="training")
        return self


def train_scene(scene: Path, *, seconds: float | None, seed: int, say: Say, resume: bool) -> TrainingSummary:
    """Train `peak` on the scene, evaluate it, and render the flight and the comparison.

    Args:
        scene: folder with transforms.json.
        seconds: of training; None takes the method's own number of steps.
        seed: of the training.
        say: is handed each command before it runs; what the programs print passes through.
        resume: keep what a former call has finished, and go on with a training that was interrupted. A training of
            other photos, another seed or another kind of end begins anew, as all do without `resume`.

    Raises: PeakError when there is no scene, or a program fails: one line with its command. KeyboardInterrupt on
        Ctrl-C; the run is kept.
    """
    done = _start(scene, seconds, seed, resume)
    run, results = scene / RUN, scene / RESULTS
    config = str(run / "config.yml")
    if done.state == "training":
        begin = time.perf_counter()
        try:
            run_program(train_command(scene, done.max_seconds, seed), say)
        finally:
            done = dataclasses.replace(done, seconds=done.seconds + time.perf_counter() - begin)
            _save(scene, done)
        done = _save(scene, dataclasses.replace(done, state="trained"))
    if done.state == "trained":
        took = run_program(["ns-eval", "--load-config", config, "--output-path", str(results / "eval.json")], say)
        done = _save(scene, dataclasses.replace(done, state="evaluated", seconds_evaluation=took))
    if done.state == "evaluated":
        took = run_program(flythrough_command(config, results), say)
        done = _save(scene, dataclasses.replace(done, state="shown", seconds_pictures=took))
    return read_summary(scene)


def read_summary(scene: Path) -> TrainingSummary:
    """What `train_scene` has left in a scene's folder.

    Raises: PeakError when it has not run to its end there, or its files are damaged.
    """
    done = _read(scene / RESULTS / "training.json", Training)
    if done.state != "shown":
        raise PeakError(f"{scene}: its training is not finished; go on with --train --resume")
    quality = _read(scene / RESULTS / "eval.json", _Evaluation).results
    flight = _read(scene / RESULTS / "flythrough.json", _Flight)
    if not {"psnr", "ssim"} <= set(quality):
        raise PeakError(f"{scene / RESULTS / 'eval.json'}: has no psnr and ssim; train again, without --resume")
    return TrainingSummary(
        METHOD,
        quality["psnr"],
        quality["ssim"],
        quality.get("lpips"),
        flight.test_views,
        int(_checkpoints(scene / RUN)[-1].stem.removeprefix("step-")) + 1,
        done.seconds,
        done.seconds_evaluation,
        done.seconds_pictures,
        (RESULTS / "flythrough.gif").as_posix(),
        (RESULTS / "side_by_side.png").as_posix(),
        RUN.as_posix(),
    )


# ------------------------------------------------------------------------------------------------------- commands


def train_command(scene: Path, seconds: float | None, seed: int) -> list[str]:
    """ns-train's arguments; a checkpoint that is there is where it goes on."""
    where = ["--data", str(scene), "--output-dir", str(scene / "runs")]
    name = ["--experiment-name", "photos", "--timestamp", RUN.name]
    plain = ["--vis", "tensorboard", "--machine.seed", str(seed)]  # which of nerfstudio's choices has no viewer
    end = [] if seconds is None else ["--max-seconds", f"{seconds:g}"]
    models = scene / RUN / "nerfstudio_models"
    begin = ["--load-dir", str(models)] if _checkpoints(scene / RUN) else []
    size = ["peak-data", "--downscale-factor", str(factor)] if (factor := _factor(scene)) > 1 else []
    return ["ns-train", METHOD, *where, *name, *plain, *end, *begin, *size]


def _factor(scene: Path) -> int:
    """By which the copies are smaller that are trained on: the first whose longer side is at most `LONGEST_SIDE`."""
    from PIL import Image

    factor = 1
    for factor, folder in ((1, "images"), (2, "images_2"), (4, "images_4")):
        picture = next(iter(sorted((scene / folder).glob("*.*"))), None)
        if picture is None:
            return max(factor // 2, 1)
        with Image.open(picture) as image:
            if max(image.size) <= LONGEST_SIDE:
                return factor
    return factor


def flythrough_command(config: str, out: Path) -> list[str]:
    """The arguments of `peak_nerf.nerf.flythrough`, which this package may not import."""
    program = [Path(sys.executable).name, "-m", "peak_nerf.nerf.flythrough"]
    size = ["--frames", str(FRAMES), "--width", str(FRAME_WIDTH)]
    return [*program, "--load-config", config, "--out", str(out), *size]


# --------------------------------------------------------------------------------------------------------- record


@dataclass(frozen=True)
class _Evaluation:
    """What ns-eval writes, as far as it is needed."""

    results: dict[str, float]


@dataclass(frozen=True)
class _Flight:
    """What flythrough writes, as far as it is needed."""

    test_views: int


def _start(scene: Path, seconds: float | None, seed: int, resume: bool) -> Training:
    """How far the training is; what cannot be used of a former one is deleted."""
    transforms = scene / "transforms.json"
    try:
        digest = hashlib.sha256(transforms.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise PeakError(f"{transforms}: cannot be read ({error.strerror}); pass a scene of `peak photos`") from error
    wanted = Training(digest, seed, seconds)
    record = scene / RESULTS / "training.json"
    if resume and record.is_file():
        found = _read(record, Training).continued(wanted)
        if found is not None and (found.state == "training" or _checkpoints(scene / RUN)):
            return _save(scene, found)
    for folder in (scene / RUN, scene / RESULTS):
        if folder.exists():
            shutil.rmtree(folder)
    return _save(scene, wanted)


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "nerfstudio_models").glob("step-*.ckpt"))


def _save(scene: Path, training: Training) -> Training:
    write_json(scene / RESULTS / "training.json", dataclasses.asdict(training))
    return training


def _read(path: Path, kind: type[T]) -> T:
    from pydantic import TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return adapter.validate_json(path.read_bytes())
    except OSError as error:
        raise PeakError(f"{path}: cannot be read ({error.strerror}); train again, with --train") from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise PeakError(f"{path}: damaged ({reason}); delete it and train again, with --train") from error
