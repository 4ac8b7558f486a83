import json
from pathlib import Path

import pytest
import torch

from benchmarks import ntk


def test_the_recipe_and_ours_agree_and_every_figure_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ntk.json"
    ntk.main(ntk.Settings(points=16, hidden_dim=8, n_hidden=2, repeats=1, wide=64, wide_steps=50, out=out))
    figures = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert figures["relative_difference"] < 1e-12
    assert figures["n_parameters"] == 8 * 3 + 8 * 9 + 9
    assert figures["wide_rms"] < figures["target_rms"]
    for name in ("ours_s", "recipe_s", "time_ratio", "memory_ratio", "recipe_mib"):
        assert name in figures


def test_peak_bytes_sees_a_tensor_that_came_and_went() -> None:
    megabytes = 64
    rise = ntk.peak_bytes(lambda: torch.ones(megabytes * 2**18).sum())
    assert rise > 0.8 * megabytes * 2**20
