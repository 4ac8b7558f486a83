"""`--train`: which programs run with which arguments, what is kept, what is resumed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.photos import train
from peak_nerf.photos.train import TrainingSummary, read_summary, train_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "transforms.json").write_text('{"frames": []}')
    return tmp_path / "scene"


class Programs:
    """Stands for the programs: leaves what they would, or fails as `fail` says."""

    def __init__(self, scene: Path) -> None:
        self.scene, self.commands = scene, []  # type: ignore[var-annotated]
        self.fail: dict[str, BaseException] = {}
        self.results = {"psnr": 24.5, "ssim": 0.8, "lpips": 0.2, "fps": 1.0}

    def __call__(self, command: Sequence[str], say: Callable[[str], None] | None = None) -> float:
        name = "flythrough" if "-m" in command else command[0]
        self.commands.append((name, list(command)))
        options = dict(itertools.pairwise(command))
        if name == "ns-train":
            models = self.scene / "runs" / "photos" / "peak" / options["--timestamp"] / "nerfstudio_models"
            models.mkdir(parents=True, exist_ok=True)
            for old in models.iterdir():
                old.unlink()
            (models / ("step-000000120.ckpt" if name in self.fail else "step-000000499.ckpt")).touch()
        if name in self.fail:
            raise self.fail.pop(name)
        if name == "ns-eval":
            Path(options["--output-path"]).write_text(json.dumps({"results": self.results, "method_name": "peak"}))
        if name == "flythrough":
            out = Path(options["--out"])
            (out / "flythrough.json").write_text('{"test_views": 3, "frames": 40}')
        return 2.5

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.commands]

    def last(self, name: str) -> str:
        return " ".join(next(command for n, command in reversed(self.commands) if n == name))


@pytest.fixture
def programs(scene: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs(scene)
    monkeypatch.setattr(train, "run_program", made)
    return made


def run(scene: Path, resume: bool = False, seconds: float | None = 60.0, seed: int = 7) -> TrainingSummary:
    return train_scene(scene, seconds=seconds, seed=seed, say=print, resume=resume)


def test_photos_are_trained_on_evaluated_and_shown(scene: Path, programs: Programs) -> None:
    summary = run(scene)
    assert programs.names == ["ns-train", "ns-eval", "flythrough"]
    assert programs.last("ns-train") == (
        f"ns-train peak --data {scene} --output-dir {scene}/runs --experiment-name photos --timestamp run"
        " --vis tensorboard --machine.seed 7 --max-seconds 60"
    )
    config = f"{scene}/runs/photos/peak/run/config.yml"
    assert f"--load-config {config} --output-path {scene}/training/eval.json" in programs.last("ns-eval")
    assert f"-m peak_nerf.nerf.flythrough --load-config {config} --out {scene}/training" in programs.last("flythrough")
    assert dataclasses.replace(summary, seconds=0) == TrainingSummary(
        method="peak", psnr=24.5, ssim=0.8, lpips=0.2, n_test=3, steps=500, seconds=0, seconds_evaluation=2.5,
        seconds_pictures=2.5, gif="training/flythrough.gif", comparison="training/side_by_side.png",
        run="runs/photos/peak/run",
    )  # fmt: skip
    assert read_summary(scene) == summary


def test_without_seconds_the_method_takes_its_own_steps(scene: Path, programs: Programs) -> None:
    run(scene, seconds=None)
    assert "--max-seconds" not in programs.last("ns-train")


def test_lpips_may_be_absent_and_psnr_may_not(scene: Path, programs: Programs) -> None:
    programs.results = {"psnr": 20.0, "ssim": 0.5}
    assert run(scene).lpips is None
    programs.results = {"psnr": 20.0}
    with pytest.raises(PeakError, match=r"eval\.json: has no psnr and ssim"):
        run(scene)


def test_what_is_finished_is_not_done_again(scene: Path, programs: Programs) -> None:
    first = run(scene)
    assert run(scene, resume=True) == first
    assert run(scene, resume=True, seconds=30.0) == first
    assert len(programs.commands) == 3
    run(scene)
    assert programs.names[3:] == ["ns-train", "ns-eval", "flythrough"]
    assert "--load-dir" not in programs.last("ns-train")


def test_an_interrupted_training_goes_on_from_its_checkpoint(scene: Path, programs: Programs) -> None:
    programs.fail["ns-train"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(scene)
    before = json.loads((scene / "training" / "training.json").read_text())
    assert before["state"] == "training"
    assert before["seconds"] > 0
    with pytest.raises(PeakError, match="not finished; go on with --train --resume"):
        read_summary(scene)
    summary = run(scene, resume=True)
    assert programs.names == ["ns-train", "ns-train", "ns-eval", "flythrough"]
    models = scene / "runs" / "photos" / "peak" / "run" / "nerfstudio_models"
    assert programs.last("ns-train").endswith(f"--max-seconds 60 --load-dir {models}")
    assert summary.seconds > before["seconds"]


@pytest.mark.parametrize(("failing", "again"), [("ns-eval", ["ns-eval", "flythrough"]), ("flythrough", ["flythrough"])])
def test_a_program_that_fails_ends_it_and_is_where_it_goes_on(
    failing: str, again: list[str], scene: Path, programs: Programs
) -> None:
    programs.fail[failing] = PeakError(f"{failing}: ended with exit code 1")
    with pytest.raises(PeakError, match=f"{failing}: ended with exit code 1"):
        run(scene)
    assert programs.names[-1] == failing
    done = len(programs.commands)
    run(scene, resume=True)
    assert programs.names[done:] == again


def test_more_seconds_go_on_where_fewer_ended(scene: Path, programs: Programs) -> None:
    first = run(scene)
    second = run(scene, resume=True, seconds=90.0)
    assert "--max-seconds 90 --load-dir" in programs.last("ns-train")
    assert programs.names[3:] == ["ns-train", "ns-eval", "flythrough"]
    assert second.seconds > first.seconds


@pytest.mark.parametrize("change", ["seed", "kind", "scene", "deleted"])
def test_a_run_of_something_else_is_not_resumed(change: str, scene: Path, programs: Programs) -> None:
    run(scene)
    stale = scene / "training" / "stale.png"
    stale.touch()
    if change == "scene":
        (scene / "transforms.json").write_text('{"frames": [1]}')
    if change == "deleted":
        next(scene.rglob("*.ckpt")).unlink()
    run(scene, resume=True, seed=8 if change == "seed" else 7, seconds=None if change == "kind" else 60.0)
    assert programs.names[3:] == ["ns-train", "ns-eval", "flythrough"]
    assert "--load-dir" not in programs.last("ns-train")
    assert not stale.exists()


def test_files_that_are_missing_or_damaged_are_named(scene: Path, programs: Programs) -> None:
    with pytest.raises(PeakError, match=r"training\.json: cannot be read .*--train"):
        read_summary(scene)
    run(scene)
    (scene / "training" / "training.json").write_text('{"scene": "a", "seed": 1, "max_seconds": null, "state": "?"}')
    with pytest.raises(PeakError, match=r"training.json: damaged \(.*; delete it"):
        run(scene, resume=True)
    (scene / "transforms.json").unlink()
    with pytest.raises(PeakError, match=r"transforms.json: cannot be read .*pass a scene of `peak photos`"):
        run(scene)


@pytest.mark.parametrize(
    ("longer_sides", "factor"), [((640,), 1), ((1600, 800, 400), 2), ((4000, 2000, 1000), 4), ((1600,), 1)]
)
def test_copies_of_at_most_1000_pixels_are_trained_on(
    longer_sides: tuple[int, ...], factor: int, scene: Path, programs: Programs
) -> None:
    for folder, side in zip(("images", "images_2", "images_4"), longer_sides, strict=False):
        (scene / folder).mkdir(exist_ok=True)
        Image.new("RGB", (side, 10)).save(scene / folder / "a.png")
    run(scene)
    wanted = f"peak-data --downscale-factor {factor}"
    assert programs.last("ns-train").endswith(wanted) is (factor > 1)
