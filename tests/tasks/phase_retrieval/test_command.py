"""`peak phase` from the outside: files, JSON keys, errors, the suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peak_nerf.bench.suite.file import read_suite
from peak_nerf.cli import main
from peak_nerf.errors import PeakError
from peak_nerf.system.locks import locked_folder
from peak_nerf.tasks.phase_retrieval import operators
from peak_nerf.tasks.phase_retrieval.command import PhaseOptions, run_phase_retrieval
from tests.tasks.phase_retrieval.pictures import scene

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.fromarray((scene(32) * 255).astype(np.uint8)).save(path)
    return path


def read_metrics(out: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def test_a_field_leaves_everything(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["phase", str(image), "--problem", "gaussian", "--size", "16", "--budget-seconds", "2", "--save-field"]
    assert main([*arguments, "--out", str(out)]) == 0
    metrics = read_metrics(out)
    for key in ("task", "method", "data", "seed", "settings", "psnr", "psnr_aligned", "ssim", "relative_residual"):
        assert key in metrics
    assert metrics["measurement_misfit"] == metrics["relative_residual"]  # the names of before, for one version
    assert all(point["misfit"] == point["relative_residual"] for point in metrics["history"])
    for key in ("seconds", "n_parameters", "versions", "history", "partial"):
        assert key in metrics
    assert metrics["task"] == "phase"
    assert metrics["psnr_aligned"] >= metrics["psnr"] - 1e-6
    assert metrics["settings"]["fit"]["kar"]["weight"] > 0
    files = {"metrics.json", "reconstruction.png", "comparison.png", "relative_residual.png", "field.safetensors"}
    assert {path.name for path in out.iterdir()} == files
    with Image.open(out / "reconstruction.png") as picture:
        assert picture.size == (16, 16)
    assert "dB aligned" in capsys.readouterr().out
    assert (
        main(["render-image", str(out / "field.safetensors"), "--size", "40", "--out", str(tmp_path / "big.png")]) == 0
    )
    with Image.open(tmp_path / "big.png") as picture:
        assert picture.size == (40, 40)


def test_a_saved_field_holds_the_refined_picture(image: Path, tmp_path: Path) -> None:
    """A Fourier run ends with the refinement; the field must not lag behind it."""
    out, again = tmp_path / "out", tmp_path / "again.png"
    arguments = ["phase", str(image), "--problem", "fourier", "--ratio", "1.9", "--size", "32", "--save-field"]
    assert main([*arguments, "--budget-seconds", "3", "--out", str(out)]) == 0
    assert read_metrics(out)["field_psnr"] > 35  # 6 dB without the distillation
    assert main(["render-image", str(out / "field.safetensors"), "--size", "32", "--out", str(again)]) == 0
    # The reconstruction is shown aligned with the truth; the field lies as the magnitudes left it.
    rendered, shown = (np.asarray(Image.open(path), dtype=np.float64) for path in (again, out / "reconstruction.png"))
    assert min(np.abs(turned - shown).mean() for turned in (rendered, rendered[::-1, ::-1])) < 3


def test_ctrl_c_while_the_field_is_saved_costs_the_field_alone(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peak_nerf.tasks.phase_retrieval import problems

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(problems, "distil", interrupted)
    (tmp_path / "field.safetensors").write_bytes(b"of an earlier run")
    arguments = ["phase", str(image), "--problem", "gaussian", "--size", "16", "--budget-seconds", "1", "--save-field"]
    assert main([*arguments, "--out", str(tmp_path)]) == 130
    assert "field_psnr" not in read_metrics(tmp_path)
    assert (tmp_path / "reconstruction.png").exists()
    assert not (tmp_path / "field.safetensors").exists()


def test_measurements_alone(image: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["phase", str(image), "--size", "16", "--ratio", "1.9", "--method", "hio", "--budget-seconds", "0.5"]
    assert main([*arguments, "--save-measurements", "--out", str(first)]) == 0
    arguments = ["phase", "--measurements", str(first / "measurements.npz"), "--method", "hio"]
    assert main([*arguments, "--budget-seconds", "1", "--out", str(second)]) == 0
    metrics = read_metrics(second)
    assert "psnr" not in metrics
    assert "psnr_aligned" not in metrics
    assert metrics["relative_residual"] < 0.05
    assert metrics["size"] == 16


def test_problem_and_ratio_in_one_word(image: Path, tmp_path: Path) -> None:
    options = PhaseOptions(image, problem="gaussian@0.75", size=16, method="spectral")
    metrics = run_phase_retrieval(options, tmp_path / "out")
    assert metrics["n_measurements"] == 192
    assert metrics["ratio"] == 0.75


def test_colours_become_grey_and_noise_is_added(image: Path, tmp_path: Path) -> None:
    grey = np.asarray(Image.open(image))
    Image.fromarray(np.stack([grey, grey, grey], axis=2)).save(tmp_path / "rgb.png")
    run = [
        run_phase_retrieval(
            PhaseOptions(path, method="spectral", problem="gaussian", size=16, noise_snr=snr), tmp_path / n
        )
        for path, snr, n in ((image, None, "a"), (tmp_path / "rgb.png", None, "b"), (image, 20.0, "c"))
    ]
    assert run[0]["psnr"] == pytest.approx(run[1]["psnr"], abs=1e-6)
    assert run[0]["psnr"] != run[2]["psnr"]


def test_kar_off_is_the_same_field_without_it(image: Path, tmp_path: Path) -> None:
    options = PhaseOptions(image, problem="gaussian", size=16, kar_weight=0.0, budget_seconds=1.0)
    metrics = run_phase_retrieval(options, tmp_path / "out")
    assert metrics["settings"]["fit"]["kar"]["weight"] == 0


def test_ctrl_c_leaves_a_partial_result_and_resume_ends_it(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = PhaseOptions(image, size=16, method="hio", budget_seconds=30.0)

    def interrupt(progress: Any) -> None:
        raise KeyboardInterrupt

    assert run_phase_retrieval(options, out, interrupt)["partial"]
    assert (out / "search.pt").exists()
    assert (out / "reconstruction.png").exists()
    metrics = run_phase_retrieval(PhaseOptions(image, size=16, method="hio", budget_seconds=0.5), out, resume=True)
    assert not metrics["partial"]
    assert not (out / "search.pt").exists()


def test_a_low_ratio_and_a_chunked_matrix_are_said(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operators, "free_memory", lambda: 1000)
    options = PhaseOptions(image, problem="gaussian@0.4", size=16, method="spectral")
    metrics = run_phase_retrieval(options, tmp_path / "out")
    assert len(metrics["warnings"]) == 2
    error = capsys.readouterr().err
    assert "peak_nerf: warning: ratio 0.398 is below 0.5" in error
    assert "drawn anew at each use" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a picture or --measurements"),
        (["{image}", "--measurements", "x.npz"], "give either a picture or --measurements"),
        (["{image}", "--problem", "sonar"], "--problem sonar: is neither fourier nor gaussian"),
        (["{image}", "--problem", "fourier@x"], "give the ratio once"),
        (["{image}", "--problem", "fourier@1.8", "--ratio", "1.9"], "give the ratio once"),
        (["{image}", "--ratio", "0.5"], "padded picture would be smaller"),
        (["{image}", "--ratio", "1000"], "peak phase: these sizes need about "),
        (["{image}", "--problem", "fourier@1e308"], "--ratio: must be above 0 and at most 1000, got 1e+308"),
        (["{image}", "--problem", "gaussian@900", "--size", "512"], "the Gaussian matrix would have 6.2e+13 entries"),
        (["{image}", "--ratio", "-1"], "--ratio: must be above 0"),
        (["{image}", "--ratio", "nan"], "--ratio: must be above 0"),
        (["{image}", "--budget-seconds", "0"], "--budget-seconds: must be above 0"),
        (["{image}", "--restarts", "0"], "--restarts: must be from 1 to 1000, got 0"),
        (["{image}", "--size", "4"], "--size: must be from 16 to 4096, got 4"),
        (["{image}", "--seed", "-1"], "--seed: must be from 0"),
        (["{image}", "--noise-snr", "inf"], "--noise-snr: must be from -100 to 300, got inf"),
        (["{image}", "--matrix", "compex"], "must be one of real, complex, got compex; did you mean 'complex'?"),
        (["{image}", "--method", "amplitude-flow"], "no such method for fourier"),
        (["{image}", "--method", "hio", "--kar-weight", "1"], "hio has no KAR"),
        (["{image}", "--method", "hash", "--kar-weight", "1"], "has no KAR"),
        (["{image}", "--kar-weight", "-1"], "--kar-weight: must be from 0 to 1000000, got -1.0"),
        (["{image}", "--method", "hio", "--save-field"], "hio fits no field"),
        (["{folder}/nothing.png"], "no such file"),
        (["{folder}/wide.png"], "is 40 x 32 pixels; phase retrieval takes square pictures"),
        (["{folder}/holes.png"], "transparent or NaN pixels"),
        (["{folder}/black.png"], "is black"),
        (["--measurements", "{folder}/nothing.npz"], "no such file"),
        (["--measurements", "{folder}/negative.npz"], "all magnitudes are 0"),
        (["--measurements", "{folder}/negative.npz", "--size", "32"], "--size: belongs to a simulation"),
        (["{image}", "--quantity", "intensity"], "--quantity: belongs to measured data"),
        (["--measurements", "x", "--quantity", "intensities"], "one of amplitude, intensity, got intensities; did you"),
        (["--measurements", "x", "--centred", "maybe"], "--centred: must be one of auto, yes, no"),
        (
            ["--measurements", "{folder}/good.npy", "--object-size", "4"],
            "--object-size 4: sides must be from 16 to 4096",
        ),
        (["--measurements", "{folder}/good.npy", "--object-size", "big"], "--object-size big: not a size"),
        (["--measurements", "{folder}/good.npy", "--object-size", "31"], "must be at least the size 31"),
        (["--measurements", "{folder}/good.npy", "--support", "{folder}/no.png"], "no.png: no such file"),
        (
            ["--measurements", "{folder}/good.npy", "--data-mask", "{image}"],
            "good.npy: the data mask is 32 x 32, the pattern 30 x 30",
        ),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    arguments: list[str], message: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (40, 32), 99).save(tmp_path / "wide.png")
    Image.new("L", (32, 32), 0).save(tmp_path / "black.png")
    Image.new("LA", (32, 32), (99, 0)).save(tmp_path / "holes.png")
    np.savez(tmp_path / "negative.npz", problem="fourier", size=16, magnitudes=-np.ones((30, 30)))
    np.save(tmp_path / "good.npy", np.abs(np.fft.fft2(scene(16), s=(30, 30))))
    filled = [argument.format(image=image, folder=tmp_path) for argument in arguments]
    with pytest.raises(SystemExit) as raised:
        main(["phase", *filled, "--out", str(tmp_path / "out")])
    assert raised.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.startswith("peak_nerf: error: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_found_before_the_fit(image: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PeakError, match="cannot be written"):
        run_phase_retrieval(PhaseOptions(image, size=16, budget_seconds=1000.0), tmp_path / "out")


@pytest.mark.parametrize(
    "path", [CONFIGS / "paper" / "table2.yaml", *sorted(CONFIGS.glob("studies/phase_*.yaml"))], ids=lambda p: p.stem
)
def test_the_suites_are_valid(path: Path) -> None:
    suite = read_suite(path)
    assert suite.task == "phase"
    assert suite.metric == "psnr_aligned"


def test_table_2_keeps_the_row_of_the_picture_that_nobody_has() -> None:
    suite = read_suite(CONFIGS / "paper" / "table2.yaml")
    assert "boston" in suite.data["image"]
    assert suite.paper is not None
    assert len(suite.paper.values) == 18


def test_two_at_once_into_one_folder(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked_folder(tmp_path / "out", "--out", "`peak phase`"), pytest.raises(SystemExit) as exit_:
        main(["phase", str(image), "--out", str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert "another `peak phase` is at work here; wait for it or give another --out" in capsys.readouterr().err
