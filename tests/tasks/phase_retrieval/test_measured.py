"""What is made of measured data: scale, object, support, noise; and the picture that comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from peak_nerf.cli import main
from peak_nerf.errors import PeakError
from peak_nerf.metrics import psnr
from peak_nerf.tasks.phase_retrieval import retrieve
from peak_nerf.tasks.phase_retrieval.align import align
from peak_nerf.tasks.phase_retrieval.magnitudes import OPEN
from peak_nerf.tasks.phase_retrieval.measured import DataOptions, measurements_of, read_measurements
from peak_nerf.tasks.phase_retrieval.measurements import write_measurements
from peak_nerf.tasks.phase_retrieval.settings import PhaseSettings, settings_for
from tests.tasks.phase_retrieval.pictures import scene

N, M = 24, 46
TRUTH = scene(N) / scene(N).max()
SPECTRUM = np.fft.fft2(TRUTH, s=(M, M))
Y = np.abs(SPECTRUM)


def aligned(picture: np.ndarray, truth: np.ndarray = TRUTH) -> float:
    return psnr(float(((align(picture, truth).picture - truth) ** 2).mean()))


def beam_stop(y: np.ndarray, reach: int, value: float) -> np.ndarray:
    rows, columns = (np.minimum(np.arange(m), m - np.arange(m)) for m in y.shape)
    return np.where((rows[:, None] < reach) & (columns < reach), value, y)


def test_magnitudes_of_any_scale_are_brought_to_the_same() -> None:
    one, other = measurements_of(Y, size=N), measurements_of(1e40 * Y, size=N)
    np.testing.assert_allclose(one.magnitudes, other.magnitudes, rtol=1e-6)
    assert other.unit == pytest.approx(1e40 * one.unit)
    assert one.energy == pytest.approx(0.3 * N * N, rel=1e-5)
    assert (one.scale_known, one.height) == (False, OPEN)
    x = torch.from_numpy(TRUTH.astype(np.float32))
    ranged = one.in_units_of(2 / one.unit)
    assert ranged.unit == pytest.approx(2)
    assert ranged.relative_residual(x / 2) < 1e-5
    assert ranged.height == 1


def test_intensities_taken_for_amplitudes_are_told() -> None:
    assert not any("intensities" in note for note in measurements_of(Y, size=N).notes)
    notes = measurements_of(Y**2, size=N).notes
    assert notes[-1].startswith("no amplitudes of 576 pixels have so much at zero frequency")


def test_the_deviation_of_counts_is_half_a_count_over_a_pair() -> None:
    counts = measurements_of(np.random.default_rng(0).poisson(Y**2 * 5), size=N, quantity="intensity", noise="poisson")
    exact = measurements_of(Y * np.sqrt(5), size=N)
    error = counts.magnitudes * counts.unit - exact.magnitudes * exact.unit
    assert float(error[:, 1:-1].std()) == pytest.approx(counts.sigma * counts.unit, rel=0.1)


@pytest.mark.parametrize(
    ("size", "support", "box"),
    [
        (20, None, (20, 20)),
        ((18, 30), None, (18, 30)),
        (None, np.ones((17, 19)), (17, 19)),
        (None, np.pad(np.ones((17, 19)), ((9, 20), (3, 24))), (17, 19)),
        (None, None, (24, 24)),  # 46 / 1.9
    ],
)
def test_the_object_is_as_large_as_is_said(size: Any, support: Any, box: tuple[int, int]) -> None:
    measurements = measurements_of(Y, size=size, support=support)
    assert measurements.operator.box == box
    assert (measurements.operator.support is None) == (support is None)
    assert not measurements.find_support


def test_what_is_written_is_read_with_its_mask_and_support(tmp_path: Path) -> None:
    support = np.ones((N, N))
    support[:4, :6] = 0
    y = beam_stop(Y, 2, np.nan)
    measurements = measurements_of(y, size=N, support=support)
    write_measurements(tmp_path / "m.npz", measurements)
    read = read_measurements(tmp_path / "m.npz")
    np.testing.assert_allclose(read.magnitudes, measurements.magnitudes, atol=1e-6)
    assert read.known is not None
    assert measurements.known is not None
    assert torch.equal(read.known, measurements.known)
    assert read.operator.support is not None
    assert int(read.operator.support.sum()) == N * N - 24


def test_what_the_file_says_is_right(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", magnitudes=Y**2, size=float(N), quantity="intensity")
    read = read_measurements(tmp_path / "m.npz", DataOptions(quantity="amplitude"))
    np.testing.assert_allclose(read.magnitudes, measurements_of(Y, size=N).magnitudes, rtol=1e-5)


SHORT = PhaseSettings(search_rounds=150, refinement_rounds=20)

FORMS: dict[str, tuple[np.ndarray, dict[str, Any], float]] = {
    "exposure": (0.01 * Y, {}, 35),
    "intensity": (Y**2, {"quantity": "intensity"}, 35),
    "centred": (np.fft.fftshift(Y), {}, 35),
    "complex": (SPECTRUM, {}, 35),
    "half": (np.abs(np.fft.rfft2(TRUTH, s=(M, M))), {}, 35),
    "oblong": (7 * np.abs(np.fft.fft2(TRUTH, s=(M, 52))), {}, 35),
    "stop": (beam_stop(Y, 2, 0.0), {}, 25),
    "counts": (
        np.random.default_rng(0).poisson(Y**2 * 50),
        {"quantity": "intensity", "noise": "poisson"},
        25,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_measured_data_give_the_picture(form: str) -> None:
    """By an array, its scale unknown. Whether a single seed finds a picture hangs on rounding: one of three does."""
    data, known, least = FORMS[form]
    for seed in range(3):
        result = retrieve(data, "multiscale-hio", restarts=1, seed=seed, settings=SHORT, size=N, **known)
        if aligned(result.reconstruction) >= least:
            break
    assert aligned(result.reconstruction) >= least
    assert result.reconstruction.max() == 1
    assert result.relative_residual < 0.05


def test_what_cannot_be_explained_is_not_black() -> None:
    result = retrieve(Y**2, "multiscale-hio", restarts=1, settings=SHORT, size=N)
    assert result.relative_residual > 0.3
    assert result.reconstruction.max() == 1


@pytest.mark.parametrize("unit", [1e298, 1e-300])
def test_units_whose_squares_are_beyond_all_numbers(unit: float, tmp_path: Path) -> None:
    known = {"size": N, "budget_seconds": 0.05, "folder": tmp_path}
    y = np.fft.fftshift(Y) * unit
    result = retrieve(y, "error-reduction", **known)
    assert measurements_of(y, size=N).notes[-1] == "zero frequency is in the middle, by its energy"
    assert result.relative_residual < 0.3


def test_the_scale_is_that_of_the_data() -> None:
    result = retrieve(250 * Y, "hio", size=N)
    x = np.abs(np.fft.fft2(result.reconstruction, s=(M, M)))
    assert float((x * 250 * Y).sum() / (x**2).sum()) == pytest.approx(result.scale, rel=0.01)


def test_an_oblong_object_within_a_support() -> None:
    rows, columns = np.mgrid[:20, :30]
    support = ((rows - 9.5) / 10) ** 2 + ((columns - 14.5) / 15) ** 2 < 1
    support &= rows < 26 - columns / 2  # an object that is its own half turn is the hard case
    truth = np.where(support, scene(30)[:20], 0)
    truth /= truth.max()
    y = np.abs(np.fft.fft2(truth, s=(40, 58)))
    result = retrieve(y, "multiscale-hio", settings=SHORT, support=support)
    assert result.reconstruction.shape == (20, 30)
    assert not result.reconstruction[~support].any()
    assert aligned(result.reconstruction, truth) > 35


def test_a_field_takes_measured_data() -> None:
    support = np.ones((N, N))
    support[:3, :3] = 0
    truth = TRUTH * support
    y = 30 * beam_stop(np.abs(np.fft.fft2(truth, s=(M, M))), 2, np.nan)
    settings = replace(settings_for("peak", "fourier", N), steps=100, search_rounds=150, refinement_rounds=30)
    result = retrieve(y, "peak", support=support, settings=settings)
    assert result.field is not None
    assert not result.reconstruction[support == 0].any()
    assert aligned(result.reconstruction, truth) > 25


def test_gaussian_magnitudes_of_unknown_scale(tmp_path: Path) -> None:
    truth = scene(16) / scene(16).max()
    matrix = np.random.default_rng(1).standard_normal((800, 256))
    np.savez(
        tmp_path / "m.npz", problem="gaussian", size=16, matrix=matrix, magnitudes=70 * np.abs(matrix @ truth.ravel())
    )
    measurements = read_measurements(tmp_path / "m.npz", DataOptions(scale="auto"))
    result = retrieve(measurements, "amplitude-flow")
    assert aligned(result.reconstruction, truth) > 35
    assert result.scale == pytest.approx(70, rel=0.02)
    with pytest.raises(PeakError, match="--centred: is for Fourier magnitudes"):
        read_measurements(tmp_path / "m.npz", DataOptions(centred="yes"))


def test_data_belong_to_an_array() -> None:
    with pytest.raises(ValueError, match="quantity: of an array"):
        retrieve(measurements_of(Y, size=N), "hio", quantity="intensity")


def run(tmp_path: Path, data: np.ndarray, *arguments: str) -> tuple[int, dict[str, Any]]:
    np.save(tmp_path / "m.npy", data)
    out = tmp_path / "out"
    code = main(["phase", "--measurements", str(tmp_path / "m.npy"), "--out", str(out), "--method", "hio", *arguments])
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return code, metrics


def test_the_command_says_what_it_made_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.full((M, M), 255, np.uint8)
    mask[0, 5] = 0
    Image.fromarray(np.fft.fftshift(mask)).save(tmp_path / "mask.png")
    options = ["--object-size", "24x24", "--data-mask", str(tmp_path / "mask.png")]
    code, metrics = run(tmp_path, np.fft.fftshift(Y), *options)
    assert code == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert "m.npy: a pattern of 46 x 46 of an object of 24 x 24 pixels; the mask leaves 100.0 % measured" in told
    assert "zero frequency is in the middle, by its energy" in told
    assert metrics["worked"]
    assert metrics["scale"] > 0
    assert metrics["size"] == 24
    assert len(metrics["notes"]) == 2


def test_what_did_not_work_is_said_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).random((M, M))
    code, metrics = run(tmp_path, noise, "--object-size", "16", "--budget-seconds", "0.3", "--centred", "no")
    assert code == 1
    assert not metrics["worked"]
    assert metrics["relative_residual"] > 0.3
    assert (tmp_path / "out" / "reconstruction.png").exists()
    error = capsys.readouterr().err
    assert "this did not work" in error
    assert "try --quantity intensity, another --object-size, or --support auto" in error
