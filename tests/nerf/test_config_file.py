"""config.yml of a run, damaged: one line in every command, and nothing is run."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from nerfstudio.utils.eval_utils import eval_setup

from peak_nerf.nerf.config_file import read_config
from tests.nerf.runs import tiny_config, train


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    config = tiny_config(tmp_path_factory.mktemp("run"), steps=1, kar_weight=0.0)
    config.vis = "none"
    train(config)
    return config.get_base_dir()


def refused(capsys: pytest.CaptureFixture, run: Path, text: str) -> str:
    path = run / "other.yml"
    path.write_text(text)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        eval_setup(path)
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert said.startswith(f"peak_nerf: error: {path}: is no configuration of a run ("), said
    assert said.count("\n") == 1, said
    return said


def test_a_whole_one_is_read(run: Path) -> None:
    config, *_ = eval_setup(run / "config.yml")
    assert config.method_name == "peak-lite"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("method_name: peak-lite", "method_name: peek", "its method_name is 'peek'"),
        ("method_name: peak-lite", "method_name: [1, 2]", "its method_name is"),
        ("n_levels: 4", "n_levels: 100000", "--pipeline.model.n-levels: must be"),
        ("n_levels: 4", "n_levels: .nan", "--pipeline.model.n-levels: is 'nan'"),
        ("n_levels: 4", "n_levels: '4'", "--pipeline.model.n-levels: is '4'"),
        ("n_levels: 4", "n_levels: [4, 4", ": expected"),
        ("kar_form: ", "kar_form: no_", "--pipeline.model.kar-form: is 'no_"),
        ("PeakPipelineConfig", "PeakPipelineConfigs", "PeakPipelineConfigs" ),
        ("peak_nerf.nerf.model.PeakModelConfig", "os.PathLike", "it names os.PathLike"),
        ("max_num_iterations:", "max_num_iterationz:", ""),
    ],
)  # fmt: skip
def test_values_of_no_configuration(run: Path, capsys: pytest.CaptureFixture, old: str, new: str, said: str) -> None:
    text = (run / "config.yml").read_text()
    assert old in text
    if old == "max_num_iterations:":  # what is lacking is as the method has it
        (run / "other.yml").write_text(text.replace(old, new))
        eval_setup(run / "other.yml")
        return
    assert said in refused(capsys, run, text.replace(old, new, 1))


def test_a_file_that_is_cut_short_anywhere(run: Path, capsys: pytest.CaptureFixture) -> None:
    text = (run / "config.yml").read_text()
    for length in (0, 1, 30, 80, 500, len(text) // 2, len(text) * 9 // 10):
        refused(capsys, run, text[:length])


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system",
        "!<tag:yaml.org,2002:python/object/apply:os.system>",
        "!!python/object/new:subprocess.Popen",
        "!!python/module:antigravity",
        "!!python/object/apply:nerfstudio.utils.scripts.run_command",
        "!!python/object/new:nerfstudio.utils.scripts.run_command",
    ],
)
def test_nothing_is_called(run: Path, capsys: pytest.CaptureFixture, tag: str) -> None:
    made = run / "made"
    text = (run / "config.yml").read_text() + f"\nmore: {tag} ['touch {made}']\n"
    assert "as no configuration does: nothing was run" in refused(capsys, run, text)
    assert not made.exists()


def test_a_deep_nest(run: Path, capsys: pytest.CaptureFixture) -> None:
    text = (run / "config.yml").read_text()
    assert "brackets" in refused(capsys, run, text + "\nmore: " + "[" * 5000 + "]" * 5000)
    assert "recursion" in refused(capsys, run, text + "\nmore:\n  " + "- " * 2000 + "1")


def test_other_methods_and_other_readers_of_yaml_are_left_alone(tmp_path: Path) -> None:
    made: list[Any] = []
    assert read_config(tmp_path, "!!python/object:nerfstudio.X", lambda: made.append(1)) is None
    assert made == [1]
    assert yaml.load("[1, !!python/name:os.sep ]", Loader=yaml.Loader) == [1, "/"]


def test_no_text_and_no_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """By Python's hook for what nobody has caught; nerfstudio reads the file before anybody can look at it."""
    (tmp_path / "config.yml").write_bytes(b"!!python/object:peak_nerf.nerf\xff\xfe")
    for name, said in (("config.yml", "it is no UTF-8 text"), ("none.yml", "No such file or directory")):
        with pytest.raises((OSError, UnicodeDecodeError)) as error:
            eval_setup(tmp_path / name)
        with pytest.raises(SystemExit) as ended:
            sys.excepthook(error.type, error.value, error.tb)
        assert ended.value.code == 2
        wanted = f"{tmp_path / name}: cannot be read ({said}); give --load-config the config.yml of a run"
        assert capsys.readouterr().err == f"peak_nerf: error: {wanted}\n"
