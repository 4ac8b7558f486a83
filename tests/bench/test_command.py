"""The help pages of `peak bench` and `peak report`, and of the measurement scripts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def help_page(module: str, *command: str) -> str:
    """What `python -m MODULE COMMAND --help` prints, run from the root of the repository."""
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", module, *command, "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("bench", {"out", "data-root", "jobs", "only", "engine", "address", "ship-data", "retries"}),
        ("report", {"out"}),
    ],
)
def test_help_is_one_plain_list_of_options(command: str, options: set[str]) -> None:
    text = help_page("peak_nerf.cli", command)
    assert text.startswith(f"usage: peak {command} [-h]")
    assert re.findall(r"^╭─ (.*?) ─", text, flags=re.MULTILINE) == ["positional arguments", "options"]
    assert set(re.findall(r"^│ --([a-z-]+)", text, flags=re.MULTILINE)) == options
    assert "None" not in text
    assert "{" not in text.replace("{local,ray}", "")


@pytest.mark.parametrize("name", ["speed", "cost", "ntk"])
def test_benchmarks_run_from_the_root_of_the_repository(name: str) -> None:
    assert help_page(f"benchmarks.{name}").startswith(f"usage: python -m benchmarks.{name} [-h]")
