"""Shared by the tests of `peak inpaint`: a small picture, the command line, what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from peak_nerf import cli

H, W = 24, 32
SAME = {"steps": 6, "size": "original"}


def write_image(path: Path, values: np.ndarray, alpha: np.ndarray | None = None, deep: bool = False) -> Path:
    """As an 8- or 16-bit PNG, or a .npy."""
    if alpha is not None:
        values = np.concatenate([values, alpha[..., None].astype(values.dtype)], axis=2)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        scaled = np.rint(values * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
        order = [2, 1, 0, 3][: scaled.shape[2]] if scaled.shape[2] > 2 else [0]
        assert cv2.imwrite(str(path), scaled[..., order])
    return path


def peak(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def read_metrics(out: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no strict JSON")

    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(), parse_constant=refuse)
    return metrics


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        peak(*arguments)
    assert exit_.value.code == 2
    answer = capsys.readouterr()
    assert answer.err.startswith("peak_nerf: error: ")
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err + answer.out
    return answer.err
