"""Checkpoints that are damaged, foreign, or made to do harm: one line, and nothing is run or filled."""

import io
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from peak_nerf.errors import PeakError
from peak_nerf.nerf.train.checkpoint_file import latest_checkpoint, read_checkpoint, write_checkpoint
from tests.nerf.runs import start, tiny_config, train


class Call:
    """Unpickled, it calls."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def small() -> dict[str, Any]:
    return {"step": 3, "pipeline": {"_model.w": torch.ones(2, 3)}, "optimizers": {}, "schedulers": {}, "scalers": {}}


def saved(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def with_pickle(path: Path, content: bytes) -> None:
    """The archive at `path` with another pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name.endswith("data.pkl") else old)


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    write_checkpoint(small(), tmp_path / "models" / "step-000000003.ckpt")
    state = read_checkpoint(tmp_path / "models" / "step-000000003.ckpt")
    assert state["step"] == 3
    assert torch.equal(state["pipeline"]["_model.w"], torch.ones(2, 3))


def test_bytes_that_changed_anywhere(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {**small(), "pipeline": {"_model.w": torch.rand(5000)}})
    whole = path.read_bytes()
    weights = torch.load(io.BytesIO(whole), weights_only=True)["pipeline"]["_model.w"]
    said = []
    for at in range(100, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            state = read_checkpoint(path)
        except PeakError as error:
            said.append(str(error))
        else:  # in what nobody reads, such as padding
            assert torch.equal(state["pipeline"]["_model.w"], weights)
    assert len(said) > 30
    assert all(line.startswith(f"{path}: cannot be loaded") for line in said)
    assert "\n" not in "".join(said)


@pytest.mark.parametrize("length", [0, 1, 3, 100, -1000, -1])
def test_cut_short(tmp_path: Path, length: int) -> None:
    path = saved(tmp_path / "a.ckpt", small())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(PeakError, match="it is empty" if length == 0 else r"cut short|no checkpoint|damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": None}, "its step is None"),
        ({"step": True}, "its step is True"),
        ({"step": -1}, "its step is -1"),
        ({"step": 10**30}, "its step is 10000"),
        ({"seconds": float("nan")}, "its seconds are nan"),
        ({"pipeline": [1]}, "its pipeline is not a table"),
        ({"pipeline": {"w": 5}}, "w is no tensor"),
        ({"pipeline": {"w": torch.tensor([1.0, float("nan")])}}, "its weights w are not finite"),
        ({"pipeline": {"w": torch.tensor([1.0, float("-inf")])}}, "its weights w are not finite"),
        ({"pipeline": {"w": torch.tensor([1.0, -1e300], dtype=torch.float64)}}, "its weights w are up to 1e+300"),
        ({"pipeline": {"w": torch.zeros(1).expand(10**9)}}, "w is larger than what the file holds of it"),
        ({"optimizers": 3}, "its optimizers are not a table"),
    ],
)
def test_states_of_no_training(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = saved(tmp_path / "a.ckpt", {**small(), **change})
    with pytest.raises(PeakError) as error:
        read_checkpoint(path)
    assert said in str(error.value)


@pytest.mark.parametrize("state", [5, [], {"step": 1}, {"pipeline": {}}])
def test_no_checkpoint_at_all(tmp_path: Path, state: Any) -> None:
    with pytest.raises(PeakError, match="cannot be loaded"):
        read_checkpoint(saved(tmp_path / "a.ckpt", state))


def test_nothing_is_called(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for call in (Call(Path.touch, made), Call(exec, f"open({str(made)!r}, 'w')")):
        with pytest.raises(PeakError, match="as no checkpoint does: nothing was run"):
            read_checkpoint(saved(tmp_path / "a.ckpt", {**small(), "more": call}))
    path = saved(tmp_path / "b.ckpt", small())
    with_pickle(path, pickle.dumps(Call(Path.touch, made), protocol=4))
    with pytest.raises(PeakError, match="STACK_GLOBAL"):
        read_checkpoint(path)
    assert not made.exists()


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps(small()["step"]))
        archive.writestr("a/data/0", bytes(10**8))


def large_buffer(path: Path) -> None:
    saved(path, {**small(), "more": Call(bytearray, 7 * 10**9)})


def false_storage(path: Path) -> None:
    """A tensor of 7 GB whose member has 24 bytes."""
    saved(path, small())
    with zipfile.ZipFile(path) as archive:
        name = next(member for member in archive.namelist() if member.endswith("data.pkl"))
        content = archive.read(name)
    assert content.count(b"K\x06") == 1  # the number of the storage's elements
    with_pickle(path, content.replace(b"K\x06", b"J" + (1_750_000_000).to_bytes(4, "little")))


@pytest.mark.parametrize("make", [compressed, large_buffer, false_storage])
def test_files_that_would_fill_memory(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").stat().st_size < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PeakError, match="cannot be loaded"):
        read_checkpoint(tmp_path / "a.ckpt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_the_newest_is_found_among_other_files(tmp_path: Path) -> None:
    for name in ("step-000000020.ckpt", "step-1000000000.ckpt", "step-000000030 (copy).ckpt", ".DS_Store", "a.txt"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path).name == "step-1000000000.ckpt"
    assert latest_checkpoint(tmp_path, 20).name == "step-000000020.ckpt"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    config = tiny_config(tmp_path_factory.mktemp("run"), steps=2)
    config.vis = "none"
    train(config)
    return config.get_base_dir()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {f"_model.other.{i}": value for i, value in enumerate(w.values())}, "it lacks"),
        (lambda w: dict(list(w.items())[1:]), "it lacks"),
        (lambda w: {n: v[..., :1].clone() if v.ndim == 2 else v for n, v in w.items()}, "these settings ask for"),
        (lambda w: {n: v * 1e14 if "network" in n or "backbone" in n else v for n, v in w.items()},
         "renders to NaN"),
    ],
)  # fmt: skip
def test_other_weights_than_the_run_s(run: Path, capsys: pytest.CaptureFixture, change: Any, said: str) -> None:
    path = latest_checkpoint(run / "nerfstudio_models")
    whole = path.read_bytes()
    try:
        state = torch.load(path, weights_only=True)
        torch.save({**state, "pipeline": change(state["pipeline"])}, path)
        with pytest.raises(SystemExit) as ended:
            eval_setup(run / "config.yml")
    finally:
        path.write_bytes(whole)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"peak_nerf: error: {path}: ")
    assert said in error
    assert error.count("\n") == 1


def test_evaluation_says_what_is_wrong_with_a_run_s_checkpoint(run: Path, capsys: pytest.CaptureFixture) -> None:
    path = latest_checkpoint(run / "nerfstudio_models")
    (run / "nerfstudio_models" / "step-000000001 (copy).ckpt").touch()  # nerfstudio alone would end in a traceback
    eval_setup(run / "config.yml")
    capsys.readouterr()
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole.replace(b"\x00\x00", b"\x00\x01", 4000), b"", None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(SystemExit) as ended:
            eval_setup(run / "config.yml")
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert error.startswith("peak_nerf: error: ")
        assert error.count("\n") == 1
    path.write_bytes(whole)


def test_an_optimizer_of_other_parameters(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = latest_checkpoint(run / "nerfstudio_models")
    for value in (torch.zeros(2, 2), None):
        state = torch.load(path, weights_only=True)
        moments = state["optimizers"]["networks"]["state"][0]
        moments["exp_avg"] = torch.full_like(moments["exp_avg"], float("nan")) if value is None else value
        config = tiny_config(run.parents[3], steps=9)
        config.timestamp, config.load_checkpoint = f"on{value is None}", saved(tmp_path / "a.ckpt", state)
        with pytest.raises(SystemExit) as ended:
            start(config)
        assert ended.value.code == 2
        assert "exp_avg of the optimizer of networks is not finite, or of another shape" in capsys.readouterr().err
