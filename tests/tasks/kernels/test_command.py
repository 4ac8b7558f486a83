import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peak_nerf import cli
from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.core.kernels.ntk import empirical_ntk
from peak_nerf.tasks.field_file import load_field, save_field
from peak_nerf.tasks.inpainting import inpaint
from peak_nerf.tasks.inpainting.settings import InpaintSettings

SMALL = ["--seeds", "2", "--steps", "10", "--samples", "12", "--points", "10"]


def load(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def check_pictures(folder: Path, name: str) -> None:
    assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "<svg" in (folder / f"{name}.svg").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.json", f"{name}.png", f"{name}.svg"]


def test_figure2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernel", "figure2", "--out", str(tmp_path), *SMALL]) == 0
    check_pictures(tmp_path, "figure2")
    numbers = load(tmp_path / "figure2.json")
    assert (numbers["seeds"], numbers["steps"], numbers["points"]) == (2, 10, 10)
    assert list(numbers["methods"]) == ["mlp", "fourier", "peak"]
    for method, values in numbers["methods"].items():
        assert values["cka_mean"] == pytest.approx(np.mean(values["cka"]))
        assert values["cka_sd"] == pytest.approx(np.std(values["cka"], ddof=1))
        assert [run["seed"] for run in values["course"]] == [0, 1]
        assert [run["cka"][-1] for run in values["course"]] == values["cka"]
        assert f"{method:<8} CKA {values['cka_mean']:.3f}" in capsys.readouterr().out or method != "mlp"
    assert "CKA" in (tmp_path / "figure2.svg").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["figure2", "--seeds", "0"], "--seeds: must be from 1 to 1000, got 0"),
        (["figure2", "--points", "2"], "--points: must be from 8 to 4096, got 2"),
        (["encode", "--target", "exp(c-1)"], "negative coefficients"),
        (["encode", "--target", "c**3"], "not in B"),
        (["encode", "--target", "x"], "'x' is unknown"),
        (["encode", "--target", "c", "--eps", "0"], "--eps: must be above 0 and at most 1000000, got 0.0"),
        (["encode", "--target", "c", "--n-hidden", "0"], "--n-hidden: must be from 1 to 100, got 0"),
        (["spectrum", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["spectrum", "nowhere.safetensors", "--points", "1"], "--points: must be from 4 to 8192, got 1"),
        (["spectrum", "nowhere.safetensors", "--chunk-size", "0"], "--chunk-size: must be from 1 to 8192, got 0"),
    ],
)
def test_mistakes_end_with_one_line_and_nothing_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["kernel", *options, "--out", str(out)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        cli.main(["kernel", "figure2", "--out", str(tmp_path / "file" / "out")])
    assert "cannot be written" in capsys.readouterr().err


def test_encode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["kernel", "encode", "--target", "1-sqrt((1-c)/2)", "--base", "relu", "--eps", "2e-2"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    check_pictures(tmp_path, "encode")
    numbers = load(tmp_path / "encode.json")
    assert numbers["sup_error"] < numbers["eps"] == 2e-2
    assert len(numbers["coefficients"]) == numbers["degree"] + 1
    assert min(numbers["coefficients"]) >= 0
    assert sum(numbers["coefficients"]) == pytest.approx(numbers["squared_norm"]) == pytest.approx(0.25, rel=1e-4)
    assert f"degree {numbers['degree']}" in capsys.readouterr().out


@pytest.mark.parametrize("grid", [HashGridConfig(2, 2, 6, 3, 6, 0.1), None])
def test_spectrum_of_a_saved_field(tmp_path: Path, grid: HashGridConfig | None) -> None:
    values = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    settings = InpaintSettings(FieldConfig(hash_grid=grid, hidden_dim=8, n_hidden=1), None, steps=5)
    path = tmp_path / "field.safetensors"
    field = inpaint(values[..., None], settings=settings, steps=5).field
    assert field is not None
    save_field(path, field)
    out = tmp_path / "out"
    assert cli.main(["kernel", "spectrum", str(path), "--points", "48", "--out", str(out)]) == 0
    check_pictures(out, "spectrum")
    numbers = load(out / "spectrum.json")
    assert numbers["grid"] == [6, 8]
    eigenvalues = np.array(numbers["eigenvalues"])
    assert len(eigenvalues) == 48
    assert (np.diff(eigenvalues) <= 0).all()
    assert numbers["fraction_of_f"][-1] == pytest.approx(1)
    assert len(numbers["polynomial_coefficients"]) == 2
    # All 48 pixels, so the trace can be had directly, longer side from -1 to 1.
    module = load_field(path)[0].double()
    rows, columns = torch.linspace(-5 / 7, 5 / 7, 6).double(), torch.linspace(-1, 1, 8).double()
    k = empirical_ntk(module, torch.cartesian_prod(rows, columns))
    assert numbers["trace"] == pytest.approx(float(k.trace()), rel=1e-5)
