"""The help pages of the tasks' commands: groups in the order of use, no type that only a programmer reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from peak_nerf import cli

GROUPS = {
    ("inpaint",): ["positional arguments", "options", "picture", "fit", "KAR", "network", "output"],
    ("phase",): ["positional arguments", "options", "measurement", "measured data", "solver", "output"],
    ("kernel", "figure2"): ["options"],
    ("kernel", "spectrum"): ["positional arguments", "options"],
    ("kernel", "encode"): ["options"],
}


def help_of(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", GROUPS, ids=" ".join)
def test_groups_have_names_and_the_order_of_use(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = help_of(command, capsys)
    # Away from a terminal, tyro underlines a title with dashes instead of framing it.
    titles = [title.removesuffix(" options") for title in re.findall(r"^ (\S.*?) *\n -{20,} *$", text, re.MULTILINE)]
    assert titles == GROUPS[command]
    usage = text.split("\n\n")[0]
    assert usage.startswith(f"usage: peak {' '.join(command)} [-h]")
    assert "{None}" not in usage


def test_a_renamed_option_keeps_its_old_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(["inpaint"], capsys)
    for name in ("--kar-n-features", "--kar-features", "--kar-similarity", "--kar-activation"):
        assert name in text
