"""`benchmarks/gpu.py` runs to its end without a GPU, and fails when a kernel is wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_kernels
from tests.interpreted import needs_triton, run
from tests.nerf.scene_factory import write_blender_scene, write_nerfstudio_scene


def write_photos(path: Path) -> Path:
    """Through a lens; two of nine are held out."""
    return write_nerfstudio_scene(path, n=9, k1=0.05, p1=0.01, aabb_scale=4)


@needs_triton
@pytest.mark.parametrize("write", [write_blender_scene, write_photos])
def test_all_of_it_runs_from_few_packages(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    scene = write(tmp_path / "scene")
    printed = run(["-m", "tests.benchmarks.gpu_without", str(scene), "--out", str(tmp_path / "out")], tmp_path)
    content = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert content["stand-ins"] == "jaxtyping, pydantic, tyro"
    assert (tmp_path / "out" / "test_view.png").is_file()
    rows = {row["what"]: row for row in content["rows"]}
    assert sum(name.startswith("error: ") for name in rows) == 11
    assert all(row["good"] for row in rows.values())
    assert all(row["value"] < 1e-5 for name, row in rows.items() if name.startswith("error: "))
    for name in ("copy", "grid, 2^7 rows, backward", "compositing, forward + backward", "training, 600 s: PSNR"):
        assert rows[name]["value"] > 0
    # The table is what it prints last.
    assert printed.splitlines()[-1].startswith("KAR's share of a step, 2^7 rows")


@pytest.mark.parametrize(("good", "code"), [(True, 0), (False, 1)])
def test_an_error_above_its_bound_is_exit_code_1(
    good: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(gpu, "measure", lambda *_: [gpu.Row("error: grid", 3e-4, "", "bound 0.0001", good)])
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--data", str(tmp_path)])
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # put back afterwards
    assert gpu.main() == code
    assert ("ABOVE ITS BOUND" in capsys.readouterr().out) is not good


def test_errors_are_relative_to_the_largest_value() -> None:
    truth = torch.tensor([0.0, -4.0], dtype=torch.float64)
    assert gpu_kernels.relative(torch.tensor([0.1, -4.0]), truth) == pytest.approx(0.025)
    assert gpu_kernels.error("x", torch.tensor([0.1, -4.0]), truth).good is False
    assert gpu_kernels.error("x", torch.tensor([1e-4, -4.0]), truth).good is True


def test_without_a_gpu_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "torch sees no GPU here; --quick" in capsys.readouterr().err
