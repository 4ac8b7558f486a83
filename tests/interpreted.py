"""Runs checks in processes of their own, where Triton's interpreter stands for a GPU, or its compiler has none."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux and Windows")


def run(arguments: list[str], tmp_path: Path, interpret: bool = True, timeout: float = 600) -> str:
    """What `python ARGUMENTS` prints; fails with that and its errors unless it ends with exit code 0."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    child = subprocess.run(
        [sys.executable, *arguments], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    return child.stdout
