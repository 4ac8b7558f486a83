"""The `peak` command: quick to answer, one line on a user's mistake, exit codes that scripts can trust."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

from peak_nerf import __version__, cli
from peak_nerf.errors import PeakError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module whose `run` stands behind `peak try`."""
    module = ModuleType("peak_nerf_test_command")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "try", cli.Command(module.__name__, "run", "a test"))
    return module


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "peak_nerf.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", answer.stdout, re.MULTILINE)
    assert max(map(len, answer.stdout.splitlines())) <= 80
    imported = {line.rsplit("|", 1)[-1].strip() for line in answer.stderr.splitlines()}
    assert "peak_nerf.errors" in imported
    assert not imported & {
        "torch",
        "numpy",
        "numba",
        "nerfstudio",
        "rich",
        "tyro",
        "ctypes.util",
    }  # doctor imports the last


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"peak_nerf {__version__}\n"


def test_no_command_is_an_error_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "doctor" in output.err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("docter", "did you mean `peak doctor`?"),
        ("render", "did you mean `peak render-image`?"),
        ("--json", "unknown option '--json'"),  # a single command must not swallow its name
    ],
)
def test_unknown_command_ends_in_one_line(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([name])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


def test_peak_error_of_a_command_ends_in_one_line(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> None:
        raise PeakError("mask.png: not an image; give a PNG.")

    monkeypatch.setattr(command, "run", run, raising=False)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["try"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "peak_nerf: error: mask.png: not an image; give a PNG.\n"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_arguments_reach_the_command_and_its_exit_code_comes_back(
    command: ModuleType, returned: int | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def run(size: int, loud: bool = False) -> int | None:
        seen.append((size, loud))
        return returned

    monkeypatch.setattr(command, "run", run, raising=False)
    assert cli.main(["try", "--size", "7", "--loud"]) == code
    assert seen == [(7, True)]


def test_how_threads_wait_is_settled_where_torch_is(command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[str] = []
    monkeypatch.setattr("peak_nerf.system.waiting.sleep_when_busy", lambda: settled.append("before the command"))
    monkeypatch.setattr(command, "run", lambda: settled.append("the command"), raising=False)
    assert cli.main(["try"]) == 0
    assert settled == ["before the command", "the command"]
    monkeypatch.delitem(sys.modules, "torch")
    cli.main(["try"])
    assert settled[2:] == ["the command"]


def test_unknown_option_of_a_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["doctor", "--jsn"])
    assert exit_.value.code == 2
    assert "--jsn" in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = cli.COMMANDS[name]
    assert getattr(import_module(command.module), command.function).__doc__
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    assert exit_.value.code == 0
    assert f"peak {name}" in capsys.readouterr().out
