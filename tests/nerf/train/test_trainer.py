"""Every way out of a training is clean, and a checkpoint is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.utils.eval_utils import eval_setup

from peak_nerf.errors import PeakError
from peak_nerf.nerf.train import trainer as trainer_module
from peak_nerf.nerf.train.checkpoint_file import latest_checkpoint, write_checkpoint
from peak_nerf.nerf.train.trainer import NO_CUDA
from tests.nerf.runs import start, tiny_config, train


def checkpoints(config) -> list[str]:
    return sorted(path.name for path in config.get_checkpoint_dir().iterdir())


def test_resume_finishes_the_run(tmp_path) -> None:
    """20 steps, stopped after 12 and resumed, end at step 19 with the schedule of 20."""
    config = tiny_config(tmp_path, steps=20)
    trainer = start(config)
    for step in range(12):
        trainer.train_iteration(step)
    trainer.save_checkpoint(11)
    again = tiny_config(tmp_path, steps=20)
    again.load_dir = config.get_checkpoint_dir()
    again.timestamp = "again"
    resumed = train(again)
    assert checkpoints(again) == ["step-000000019.ckpt"]
    whole = tiny_config(tmp_path, steps=20)
    whole.timestamp = "whole"
    uninterrupted = train(whole)
    for name, optimizer in resumed.optimizers.optimizers.items():
        other = uninterrupted.optimizers.optimizers[name]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])
        assert type(optimizer.param_groups[0]["lr"]) is float


def test_peak_says_that_it_has_the_smaller_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path)
    assert config.method_name == "peak-lite"
    start(config)
    assert NO_CUDA not in capsys.readouterr().out
    config.method_name = "peak"
    start(config)
    assert capsys.readouterr().out.count(NO_CUDA) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    start(config)
    assert NO_CUDA not in capsys.readouterr().out


def test_apples_gpus_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tmp_path)
    config.machine.device_type = "mps"
    with pytest.raises(SystemExit, match="2"):
        config.pipeline.setup(device="mps")
    said = capsys.readouterr().err
    assert said.startswith("peak_nerf: error: --machine.device-type mps: ")
    assert said.count("\n") == 1


def test_how_threads_wait_is_settled_with_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[int] = []
    monkeypatch.setattr("peak_nerf.nerf.train.pipeline.sleep_when_busy", lambda: settled.append(1))
    start(tiny_config(tmp_path))
    assert settled == [1]


def test_a_finished_run_says_so(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tmp_path, steps=2)
    train(config)
    again = tiny_config(tmp_path, steps=2)
    again.load_dir = config.get_checkpoint_dir()
    with pytest.raises(SystemExit) as stopped:
        start(again)
    assert stopped.value.code == 2
    assert "has all of its 2 steps" in capsys.readouterr().err


def test_checkpoints_load_with_weights_only_and_evaluate(tmp_path) -> None:
    config = tiny_config(tmp_path, steps=3, num_views=5)
    train(config)
    path = latest_checkpoint(config.get_checkpoint_dir())
    assert torch.load(path, weights_only=True)["step"] == 2
    saved = config.get_base_dir() / "config.yml"
    loaded = yaml.load(saved.read_text(), Loader=yaml.Loader)
    assert loaded.pipeline.datamanager.dataparser.chosen_views == (0, 3, 6, 8, 11)
    _, pipeline, checkpoint, step = eval_setup(saved)
    assert (checkpoint, step) == (path, 2)
    assert len(pipeline.datamanager.eval_dataset) == 2  # the test split, not the one frame of val
    metrics = pipeline.get_average_eval_image_metrics(get_std=True)
    json.dumps(metrics, allow_nan=False)
    assert {"psnr", "ssim", "psnr_std"} <= set(metrics)
    assert "lpips" not in metrics


def test_older_checkpoints_with_numpy_scalars_load(tmp_path) -> None:
    """nerfstudio's own schedulers leave such scalars; importing our plug-in makes them loadable."""
    import numpy as np

    import peak_nerf.nerf.registration  # noqa: F401

    torch.save({"lr": np.float64(0.5)}, tmp_path / "old.ckpt")
    assert torch.load(tmp_path / "old.ckpt", weights_only=True)["lr"] == 0.5


def test_full_disk_at_a_checkpoint_keeps_the_last_one(tmp_path, monkeypatch, capsys) -> None:
    config = tiny_config(tmp_path, steps=4)
    trainer = start(config)
    trainer.save_checkpoint(1)
    before = (config.get_checkpoint_dir() / "step-000000001.ckpt").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
    assert checkpoints(config) == ["step-000000001.ckpt"]
    assert (config.get_checkpoint_dir() / "step-000000001.ckpt").read_bytes() == before
    assert not list(config.get_base_dir().glob(".checkpoint-*"))


def test_nan_loss_stops_before_it_is_saved(tmp_path, capsys) -> None:
    config = tiny_config(tmp_path, steps=10)
    trainer = start(config)
    trainer.save_checkpoint(0)
    with torch.no_grad():
        trainer.pipeline.model.field.colour_network.output.weight.fill_(float("nan"))
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 2
    assert "the loss is not a number" in capsys.readouterr().err
    assert checkpoints(config) == ["step-000000000.ckpt"]


def test_ctrl_c_saves_what_there_is(tmp_path, monkeypatch, capsys) -> None:
    config = tiny_config(tmp_path, steps=100)
    trainer = start(config)
    plain = trainer.train_iteration

    def interrupted(step: int):
        if step == 5:
            raise KeyboardInterrupt
        return plain(step)

    monkeypatch.setattr(trainer, "train_iteration", interrupted)
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 130
    assert checkpoints(config) == ["step-000000005.ckpt"]
    assert "--load-dir" in capsys.readouterr().out


def test_sigterm_saves_too_and_nothing_disturbs_that(tmp_path, monkeypatch) -> None:
    """As clusters send it; a Ctrl-C while the checkpoint is written comes too late to harm it."""
    config = tiny_config(tmp_path, steps=100)
    trainer = start(config)
    plain, save = trainer.train_iteration, trainer.save_checkpoint

    def terminated(step: int):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(step)

    def impatient(step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(step)

    monkeypatch.setattr(trainer, "train_iteration", terminated)
    monkeypatch.setattr(trainer, "save_checkpoint", impatient)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as stopped:
            trainer.train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 130
    assert checkpoints(config) == ["step-000000005.ckpt"]


def test_kill_in_the_middle_of_a_checkpoint(tmp_path) -> None:
    """kill -9 between writing and renaming: the old file is whole, and nothing that looks like a step is left."""
    target = tmp_path / "models" / "step-000000001.ckpt"
    write_checkpoint({"step": 1}, target)
    program = f"""
        import os, signal, torch
        from pathlib import Path
        from peak_nerf.nerf.train import checkpoint_file
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        checkpoint_file.write_checkpoint({{"step": 2, "data": torch.rand(1000)}}, Path({str(target)!r}))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert torch.load(target, weights_only=True) == {"step": 1}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_latest_checkpoint(tmp_path) -> None:
    with pytest.raises(PeakError, match="no such checkpoint folder"):
        latest_checkpoint(tmp_path / "none")
    with pytest.raises(PeakError, match=r"holds no step-\*"):
        latest_checkpoint(tmp_path)
    for step in (5, 20, 100):
        Path(tmp_path / f"step-{step:09d}.ckpt").touch()
    assert latest_checkpoint(tmp_path).name == "step-000000100.ckpt"
    assert latest_checkpoint(tmp_path, 20).name == "step-000000020.ckpt"
    with pytest.raises(PeakError, match="step-000000021"):
        latest_checkpoint(tmp_path, 21)


def test_broken_and_foreign_checkpoints(tmp_path, capsys) -> None:
    config = tiny_config(tmp_path, steps=2)
    train(config)
    path = latest_checkpoint(config.get_checkpoint_dir())
    for options, said in (
        ({"finest_resolution": 32}, "hash grid has the layout"),
        ({"hidden_dim": 16}, "cannot be loaded"),
        ({"kar_weight": 0.0}, "it has also trained 'kar', which these settings leave out"),
    ):
        other = tiny_config(tmp_path, steps=9, **options)
        other.load_checkpoint = path
        with pytest.raises(SystemExit) as stopped:
            start(other)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"step": 1}, foreign)
    other = tiny_config(tmp_path, steps=9)
    other.load_checkpoint = foreign
    with pytest.raises(SystemExit):
        start(other)
    assert "cannot be loaded (it has no pipeline)" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:1000])
    cut = tiny_config(tmp_path, steps=9)
    cut.load_checkpoint = path
    with pytest.raises(SystemExit):
        start(cut)
    assert str(path) in capsys.readouterr().err


def test_what_trained_with_kar_is_shown_without(tmp_path) -> None:
    """As where a run of before has KAR, and its configuration leaves it to us, who would not use it now.

    nerfstudio's pipeline passes over what a checkpoint has and the model does not; this pins that it does.
    """
    config = tiny_config(tmp_path, steps=2)
    field = train(config).pipeline.model.field.state_dict()
    saved = torch.load(latest_checkpoint(config.get_checkpoint_dir()), weights_only=True)
    assert any(".kar." in name for name in saved["pipeline"])
    pipeline = start(tiny_config(tmp_path, kar_weight=0.0)).pipeline
    pipeline.load_pipeline(saved["pipeline"], saved["step"])
    assert all(torch.equal(value, field[name]) for name, value in pipeline.model.field.state_dict().items())


def test_the_clock_ends_a_run_and_drives_its_schedules(tmp_path, capsys) -> None:
    """Two seconds by the clock, whatever the number of steps; a resumed run has what is left of them."""
    config = tiny_config(tmp_path)
    config.max_seconds = 2.0
    for group in config.optimizers.values():
        group["scheduler"].warmup_steps = 1  # a stalling machine may do fewer steps than the usual 20
    trainer = train(config)
    assert 2.0 <= trainer.elapsed() < 3.0
    assert trainer.progress(7) == 1.0
    assert trainer.pipeline.model.progress > 0.9
    rates = [o.param_groups[0]["lr"] for o in trainer.optimizers.optimizers.values()]
    starts = [config.optimizers[name]["optimizer"].lr for name in trainer.optimizers.optimizers]
    assert rates == pytest.approx([0.03 * rate for rate in starts], rel=0.2)
    saved = latest_checkpoint(config.get_checkpoint_dir())
    assert torch.load(saved, weights_only=True)["seconds"] == pytest.approx(trainer.elapsed(), abs=0.1)
    again = tiny_config(tmp_path)
    again.max_seconds, again.load_checkpoint = 3.0, saved
    resumed = start(again)
    assert resumed.elapsed() == pytest.approx(trainer.elapsed(), abs=0.1)
    over = tiny_config(tmp_path)
    over.max_seconds, over.load_checkpoint = 1.0, saved
    with pytest.raises(SystemExit):
        start(over)
    assert "has had all of its 1 seconds; ask for more with --max-seconds 2" in capsys.readouterr().err


def test_evaluations_are_off_the_clock(tmp_path) -> None:
    trainer = start(tiny_config(tmp_path))
    trainer.train_iteration(0)
    with trainer.clock_stopped():
        before = trainer.elapsed()
        time.sleep(0.05)
        assert trainer.elapsed() == before
    time.sleep(0.01)
    assert before < trainer.elapsed() < before + 0.05


def test_a_preset_is_not_written_to(tmp_path: Path) -> None:
    """All trainers of a process share it."""
    config = tiny_config(tmp_path, steps=7)
    groups = config.optimizers
    start(config)
    assert all(group["scheduler"].max_steps is None for group in groups.values())


def test_the_space_is_drawn_once_and_a_failure_stops_nothing(tmp_path, monkeypatch, capsys) -> None:
    trainer = train(tiny_config(tmp_path, steps=2))
    picture = trainer.base_dir / "space.png"
    assert picture.is_file()
    picture.write_bytes(b"drawn")
    trainer.draw_space()
    assert picture.read_bytes() == b"drawn"
    picture.unlink()

    def fail(*_: object) -> None:
        raise RuntimeError("no fonts\nat all")

    monkeypatch.setattr(trainer_module, "write_space_figure", fail)
    trainer.draw_space()
    assert "space.png: not drawn (no fonts)" in capsys.readouterr().out
