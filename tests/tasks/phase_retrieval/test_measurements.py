"""Simulated magnitudes, and every way in which a file of them can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peak_nerf.errors import PeakError
from peak_nerf.tasks.phase_retrieval import operators
from peak_nerf.tasks.phase_retrieval.measured import DataOptions
from peak_nerf.tasks.phase_retrieval.measurements import (
    ratio_of,
    read_measurements,
    simulate,
    warnings_for,
    write_measurements,
)

PICTURE = np.random.default_rng(0).random((16, 16)).astype(np.float32)


def fourier_content() -> dict[str, Any]:
    return {"problem": "fourier", "size": 16, "magnitudes": np.abs(np.fft.fft2(PICTURE, s=(29, 29)))}


def gaussian_content() -> dict[str, Any]:
    matrix = np.random.default_rng(1).standard_normal((200, 256))
    return {"problem": "gaussian", "size": 16, "magnitudes": np.abs(matrix @ PICTURE.reshape(-1)), "matrix": matrix}


def test_fourier_magnitudes_of_a_file_are_those_simulated(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **fourier_content())
    read = read_measurements(tmp_path / "m.npz", DataOptions(scale="known"))
    simulated = simulate(PICTURE, "fourier", 1.85)
    assert read.operator.shape == (29, 15)
    assert ratio_of(read) == pytest.approx(29 / 16)
    np.testing.assert_allclose(read.magnitudes, simulated.magnitudes, atol=1e-5)
    assert read.relative_residual(torch.from_numpy(PICTURE)) < 1e-5
    assert read.relative_residual(torch.from_numpy(PICTURE[::-1, ::-1].copy())) < 1e-5


def test_a_matrix_of_a_file_is_used(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **gaussian_content())
    read = read_measurements(tmp_path / "m.npz")
    assert read.relative_residual(torch.from_numpy(PICTURE)) < 1e-5
    assert read.relative_residual(torch.from_numpy(-PICTURE)) < 1e-5


@pytest.mark.parametrize(("problem", "ratio"), [("fourier", 1.9), ("fourier", 2.0), ("gaussian", 0.9)])
@pytest.mark.parametrize("noise", [None, 20.0])
def test_written_measurements_are_read_again(problem: Any, ratio: float, noise: float | None, tmp_path: Path) -> None:
    measurements = simulate(PICTURE, problem, ratio, seed=5, noise_snr=noise)
    write_measurements(tmp_path / "m.npz", measurements)
    read = read_measurements(tmp_path / "m.npz")
    np.testing.assert_allclose(read.magnitudes, measurements.magnitudes, atol=1e-6)
    x = torch.from_numpy(PICTURE)
    np.testing.assert_allclose(read.operator.apply(x), measurements.operator.apply(x), atol=1e-6)


def test_a_given_matrix_is_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **gaussian_content())
    read = read_measurements(tmp_path / "m.npz")
    write_measurements(tmp_path / "again.npz", read)
    again = read_measurements(tmp_path / "again.npz")
    assert torch.equal(again.magnitudes, read.magnitudes)
    assert again.relative_residual(torch.from_numpy(PICTURE)) < 1e-5


def test_noise_has_the_ratio_asked_for() -> None:
    picture = np.random.default_rng(0).random((48, 48)).astype(np.float32)
    clean, noisy = (simulate(picture, "gaussian", 1.0, noise_snr=snr).magnitudes for snr in (None, 30.0))
    assert noisy.min() >= 0
    snr = 10 * np.log10(float(clean.square().mean() / (noisy - clean).square().mean()))
    assert snr == pytest.approx(30, abs=0.5)


def test_a_low_ratio_warns_and_goes_on() -> None:
    assert warnings_for(simulate(PICTURE, "fourier", 1.9)) == []
    assert "ratio 1.25 is below 1.41" in warnings_for(simulate(PICTURE, "fourier", 1.25))[0]
    assert "below 0.5" in warnings_for(simulate(PICTURE, "gaussian", 0.4))[0]


def test_a_chunked_matrix_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "free_memory", lambda: 1000)
    assert "drawn anew at each use" in warnings_for(simulate(PICTURE, "gaussian", 1.0))[0]


def test_a_ratio_without_measurements_is_refused() -> None:
    with pytest.raises(PeakError, match=r"--ratio 0\.9: the padded picture would be smaller"):
        simulate(PICTURE, "fourier", 0.9)
    with pytest.raises(PeakError, match=r"--ratio 0\.001: leaves no measurement"):
        simulate(PICTURE, "gaussian", 0.001)


def test_a_simulation_takes_squares_only() -> None:
    with pytest.raises(ValueError, match="must be"):
        simulate(PICTURE[:8], "fourier", 1.9)


def changed(**changes: Any) -> Callable[[], dict[str, Any]]:
    def content() -> dict[str, Any]:
        return {**fourier_content(), **changes}

    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(problem="sonar"), "problem is 'sonar'"),
        (changed(size=16.5), "size is 16.5; it must be a whole number, or rows and columns"),
        (changed(size=np.array([1, 2])), "size is 1 x 2; pictures have a side of at least 16"),
        (changed(size=5000), "size is 5000; pictures have a side of at most 4096"),
        (changed(quantity="power"), "quantity is 'power'"),
        (changed(size=4), "size is 4"),
        (changed(magnitudes=None), "has no array 'magnitudes'"),
        (changed(magnitudes=np.ones(30)), r"shape \(30,\)"),
        (changed(magnitudes=np.ones((15, 15))), "at least the size 16"),
        (changed(magnitudes=np.zeros((29, 29))), "all magnitudes are 0"),
        (changed(support=np.zeros((16, 16))), "is no mask with white in it"),
        (changed(support=np.ones((16, 17))), "is 16 x 17, the object 16 x 16"),
        (lambda: {**gaussian_content(), "size": None}, "has no whole number 'size'"),
        (lambda: {**gaussian_content(), "magnitudes": np.full(200, np.nan)}, "200 magnitudes are NaN or infinite"),
        (lambda: {**gaussian_content(), "magnitudes": np.full(200, 1e31)}, "magnitudes are up to 1e\\+31"),
        (lambda: {**gaussian_content(), "magnitudes": np.ones((200, 2))}, r"shape \(200, 2\)"),
        (lambda: {**gaussian_content(), "magnitudes": np.ones(100)}, r"need \(100, 256\)"),
        (lambda: {**gaussian_content(), "matrix": np.full((200, 256), np.nan)}, "finite numbers"),
        (lambda: {k: v for k, v in gaussian_content().items() if k != "matrix"}, "neither the array 'matrix'"),
    ],
)
def test_a_bad_file_is_one_clear_line(content: Callable[[], dict[str, Any]], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: value for name, value in content().items() if value is not None})
    with pytest.raises(PeakError, match=message) as raised:
        read_measurements(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("write", [lambda p: None, lambda p: p.write_bytes(b"PK\x03\x04 nothing"), Path.touch])
def test_a_file_that_is_none_is_refused(write: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(PeakError, match=r"no such file|cannot be read"):
        read_measurements(path)


def test_a_lone_array_is_a_pattern(tmp_path: Path) -> None:
    with open(tmp_path / "m.npz", "wb") as file:
        np.save(file, fourier_content()["magnitudes"])
    assert read_measurements(tmp_path / "m.npz", DataOptions(object_size="16")).operator.box == (16, 16)
