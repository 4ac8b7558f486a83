"""Runs that were moved, names that lead elsewhere, and two trainings in one folder."""

import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from nerfstudio.utils.eval_utils import eval_setup

from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.train.run_folder import config_file, given_data, hold, release, scene_now
from peak_nerf.nerf.train.viewer import say_who_may_look
from tests.nerf.runs import start, tiny_config, train
from tests.nerf.scene_factory import write_blender_scene


def relative_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run, made by somebody who named scene and output folder from where he stood."""
    monkeypatch.chdir(folder)
    config = tiny_config(Path(), steps=1, kar_weight=0.0)
    config.vis = "none"  # tensorboard writes on, from another thread, to the path as it is
    train(config)
    return folder / config.get_base_dir()


def evaluate(run: Path) -> None:
    config, pipeline, checkpoint, _ = eval_setup(run / "config.yml")
    assert checkpoint.parent == run / "nerfstudio_models"
    assert config.get_base_dir() == run
    assert len(pipeline.datamanager.eval_dataset) == 2


def test_a_run_is_found_from_any_folder_and_wherever_it_was_moved(tmp_path, monkeypatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run = relative_run(home, monkeypatch)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    evaluate(run)
    moved = tmp_path / "moved"
    shutil.move(run, moved)
    evaluate(moved)  # its scene is where it was
    (tmp_path / "machine").mkdir()
    shutil.move(moved, tmp_path / "machine" / "renamed")
    shutil.move(home / "scene", tmp_path / "machine" / "scene")
    evaluate(tmp_path / "machine" / "renamed")


def test_a_project_that_was_moved_whole(tmp_path, monkeypatch, capsys) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run = relative_run(home, monkeypatch)
    monkeypatch.chdir(tmp_path)
    shutil.move(home, tmp_path / "other home")
    evaluate(tmp_path / "other home" / run.relative_to(home))
    assert f"is now {tmp_path / 'other home' / 'scene'}" in capsys.readouterr().out


def test_a_scene_that_is_gone_and_one_that_is_given_anew(tmp_path, monkeypatch, capsys) -> None:
    run = relative_run(tmp_path, monkeypatch)
    shutil.move(tmp_path / "scene", tmp_path / "another name")
    with pytest.raises(SystemExit) as ended:
        eval_setup(run / "config.yml")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'scene'}: the scene of the run {run} is no longer there" in said
    assert said.count("\n") == 1
    monkeypatch.setattr("peak_nerf.nerf.train.trainer.given_data", lambda: tmp_path / "another name")
    evaluate(run)


def test_sparse_points_move_with_their_run(tmp_path) -> None:
    from tests.nerf.data.test_found_points import photos_config

    config = photos_config(tmp_path, kar_weight=0.0)
    config.vis = "none"
    trained = train(config).pipeline
    shutil.move(config.get_base_dir(), tmp_path / "moved")
    _, pipeline, _, _ = eval_setup(tmp_path / "moved" / "config.yml")
    assert pipeline.model.scene_box.aabb.tolist() == trained.model.scene_box.aabb.tolist()


def test_a_scene_is_only_taken_for_one_that_is_one(tmp_path) -> None:
    scene = write_blender_scene(tmp_path / "data" / "ball", n_train=2, n_val=1, n_test=1, size=8)
    run = tmp_path / "runs" / "ball" / "peak" / "t"
    run.mkdir(parents=True)
    assert scene_now(scene, run) == scene
    assert scene_now(Path("ball"), run) == Path("ball")  # runs/ball holds runs, no scene
    assert scene_now(Path("/old/place/data/ball"), run) == scene
    assert scene_now(Path("/old/data/ball/transforms_train.json"), run) == scene / "transforms_train.json"
    assert scene_now(Path("/old/data/cube"), run) == Path("/old/data/cube")


@pytest.mark.parametrize("name", ["experiment_name", "timestamp"])
def test_names_do_not_lead_out_of_the_output_folder(tmp_path, name, capsys) -> None:
    config = tiny_config(tmp_path, steps=1)
    setattr(config, name, "../../../../y")
    with pytest.raises(SystemExit) as ended:
        config.save_config()
    assert ended.value.code == 2
    assert "lead out of --output-dir" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
    setattr(config, name, "deep/er")
    config.save_config()
    assert (config.get_base_dir() / "config.yml").is_file()
    release(config.get_base_dir())


HOLD = """
import sys, time
from pathlib import Path
from peak_nerf.nerf.train.run_folder import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_training_in_a_folder_is_refused(tmp_path, capsys) -> None:
    config = tiny_config(tmp_path, steps=1)
    run = config.get_base_dir()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SystemExit) as ended:
            config.save_config()
        other.kill()
    assert ended.value.code == 2
    assert "another training is at work here; wait for it or give another --timestamp" in capsys.readouterr().err
    assert not (run / "config.yml").exists()
    (run / ".checkpoint-abc").write_text("half of one")  # of a training that was killed
    train(config)  # and lets go of it in the end
    assert not (run / ".checkpoint-abc").exists()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        other.kill()
    hold(run)
    hold(run)  # the same process may come back
    release(run)


def test_who_may_look_is_said(capsys) -> None:
    say_who_may_look("127.0.0.1", 7008)
    said = capsys.readouterr().out
    assert "this machine only" in said
    assert "ssh -L 7008:127.0.0.1:7008" in said
    say_who_may_look("0.0.0.0", 7007)
    assert "open to everybody" in capsys.readouterr().out
    assert tiny_config_host() == "127.0.0.1"


def tiny_config_host() -> str:
    from peak_nerf.nerf.methods import peak_method

    return peak_method.config.viewer.websocket_host


def test_what_other_data_parsers_miss_is_said(tmp_path, capsys, monkeypatch) -> None:
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    monkeypatch.setattr("peak_nerf.nerf.data.dataparser._said", set())
    config = tiny_config(tmp_path, steps=2, kar_weight=0.0)
    start(config)
    assert "nerfstudio's" not in capsys.readouterr().out
    config = tiny_config(tmp_path, steps=2, kar_weight=0.0)
    config.timestamp = "other"
    config.pipeline.datamanager.dataparser = BlenderDataParserConfig(data=config.data)
    pipeline = train(config).pipeline
    assert "read by nerfstudio's Blender" in capsys.readouterr().out
    pipeline.eval()
    assert pipeline.model.get_outputs_for_camera(pipeline.datamanager.eval_dataset.cameras[:1])["rgb"].isfinite().all()
    assert not isinstance(config.pipeline.datamanager.dataparser, PeakDataParserConfig)


def called_by(module: str, source: str, **names: Any) -> Any:
    """What a function of this name in nerfstudio's module would get."""
    space = {"__name__": module, **names}
    exec(source, space)
    return space["result"]


def test_what_nerfstudio_was_asked_for_is_known() -> None:
    """Where it reads a run's config.yml, and the scene that is named anew."""
    assert config_file() is None
    assert given_data() is None
    evaluated = "def eval_setup(config_path):\n    return ask()\nresult = eval_setup('moved/config.yml')"
    assert called_by("nerfstudio.utils.eval_utils", evaluated, ask=config_file) == Path("moved/config.yml")
    command = types.SimpleNamespace(load_config=Path("a.yml"), data=Path("new"))
    trained = "def main(config):\n    return ask()\nresult = main(command)"
    assert called_by("nerfstudio.scripts.train", trained, ask=config_file, command=command) == Path("a.yml")
    assert called_by("nerfstudio.scripts.train", trained, ask=given_data, command=command) == Path("new")
    rendered = "def main(self):\n    return ask()\nresult = main(command)"
    assert called_by("nerfstudio.scripts.render", rendered, ask=given_data, command=command) == Path("new")


def test_a_camera_path_is_looked_at_before_the_scene(tmp_path, capsys) -> None:
    (tmp_path / "path.json").write_text("{}")
    command = types.SimpleNamespace(camera_path_filename=tmp_path / "path.json")
    config = tiny_config(tmp_path)
    source = "def main(self):\n    make(device='cpu', test_mode='inference')\nresult = main(command)"
    with pytest.raises(SystemExit):
        called_by("nerfstudio.scripts.render", source, make=config.pipeline.setup, command=command)
    assert "path.json: camera_path: " in capsys.readouterr().err
