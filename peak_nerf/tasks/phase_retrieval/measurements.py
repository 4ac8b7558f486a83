"""Magnitudes simulated from a picture, what is to be said of them, and the file in which they are kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically
from peak_nerf.system.memory import check_memory
from peak_nerf.tasks.phase_retrieval.magnitudes import Measurements, full_plane
from peak_nerf.tasks.phase_retrieval.measured import read_measurements as read_measurements  # beside what writes it
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator, GaussianOperator, Operator

MIN_RATIO = {"fourier": math.sqrt(2), "gaussian": 0.5}
"""Below, there are fewer independent magnitudes than unknowns (Fourier: m^2 / 2 of n^2 pixels), or than half as many
(Gaussian: where a picture's own regularity has nothing left to work with)."""
PATTERN_BYTES = 80
"""For each of the m^2 frequencies, what a search holds at once: some twenty half planes of complex numbers."""
MAX_ENTRIES = 2**36
"""Of a Gaussian matrix, which is drawn anew at each use where memory does not hold it: some minutes a use."""


def simulate(
    picture: np.ndarray,
    problem: Literal["fourier", "gaussian"],
    ratio: float,
    seed: int = 0,
    noise_snr: float | None = None,
    complex_matrix: bool = False,
    storage: Literal["auto", "dense", "chunked"] = "auto",
) -> Measurements:
    r"""y = max(|A x| + e, 0), e independent N(0, s^2), s^2 = mean |A x|^2 / 10^(noise_snr / 10).

    Args:
        picture: (n, n) in [0, 1].
        problem: which A; Fourier magnitudes of a real picture are symmetric, and so is their noise.
        ratio: Fourier: side of the padded picture over n; Gaussian: rows over n^2.
        seed: of the matrix and of the noise.
        noise_snr: in dB; None for none.
        complex_matrix: Gaussian: whether A is complex.
        storage: Gaussian: of the matrix, see `GaussianOperator`.

    Raises: PeakError on a ratio that leaves no measurement; ValueError on a picture that is not square.
    """
    if picture.ndim != 2 or picture.shape[0] != picture.shape[1]:
        raise ValueError(f"the picture must be (n, n), got {picture.shape}")
    x = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32))
    operator = make_operator(problem, len(x), ratio, seed, complex_matrix, storage)
    with torch.no_grad():
        y = operator.apply(x).abs()
    if noise_snr is not None:
        generator = torch.Generator().manual_seed(seed + 1)
        counts = operator.weights.expand(y.shape)
        power = float((y.square() * counts).sum() / counts.sum())
        noise = torch.randn(y.shape, generator=generator) * math.sqrt(power * 10 ** (-noise_snr / 10))
        if isinstance(operator, FourierOperator):
            noise = full_plane(noise, operator.frame)[:, : noise.shape[1]]
        y = (y + noise).clamp_min(0)
    return Measurements(operator, y)


def make_operator(
    problem: str,
    size: int,
    ratio: float,
    seed: int,
    complex_matrix: bool = False,
    storage: Literal["auto", "dense", "chunked"] = "auto",
) -> Operator:
    """The operator of a ratio. Raises: PeakError when it leaves no measurement."""
    if problem == "fourier":
        if int(ratio * size) < size:
            raise PeakError(
                f"--ratio {ratio:g}: the padded picture would be smaller than the picture; give at least 1, better 1.7"
            )
        check_memory({"pattern (--size, --ratio)": PATTERN_BYTES * int(ratio * size) ** 2}, "peak phase")
        return FourierOperator(size, int(ratio * size))
    if int(ratio * size * size) < 1:
        raise PeakError(f"--ratio {ratio:g}: leaves no measurement; give 0.8 to 1")
    if (n_entries := int(ratio * size * size) * size * size) > MAX_ENTRIES:
        raise PeakError(
            f"peak phase: the Gaussian matrix would have {n_entries:.1e} entries, and {MAX_ENTRIES:.1e} are the most;"
            " lower --size or --ratio"
        )
    return GaussianOperator(size, int(ratio * size * size), seed, complex_matrix, storage)


def ratio_of(measurements: Measurements) -> float:
    """Fourier: padded side over side, of oblong ones the geometric mean; Gaussian: rows over pixels."""
    operator = measurements.operator
    if isinstance(operator, FourierOperator):
        return math.sqrt(math.prod(operator.frame)) / math.sqrt(math.prod(operator.box))
    return operator.n_rows / operator.size**2


def warnings_for(measurements: Measurements) -> list[str]:
    """What a user should know before trusting the result."""
    operator, ratio = measurements.operator, ratio_of(measurements)
    found = []
    if ratio < MIN_RATIO[operator.name]:
        found.append(
            f"ratio {ratio:.3g} is below {MIN_RATIO[operator.name]:.3g}, where too few magnitudes are left to"
            " determine a picture; going on, but do not trust the result"
        )
    if isinstance(operator, GaussianOperator) and operator.storage == "chunked":
        found.append(
            f"the dense {operator.n_rows} x {operator.size**2} matrix would take {operator.n_bytes / 2**30:.1f} GiB,"
            " more than half of the free memory: its rows are drawn anew at each use, which is slow"
        )
    return found


def write_measurements(path: Path, measurements: Measurements) -> None:
    """Write what `measured.read_measurements` reads. Raises: PeakError when it cannot be written."""
    operator = measurements.operator
    size = operator.size if operator.box[0] == operator.box[1] else np.array(operator.box)
    content: dict[str, Any] = {"problem": operator.name, "size": size, "quantity": "amplitude"}
    if isinstance(operator, FourierOperator):
        whole = full_plane(measurements.magnitudes, operator.frame).numpy()
        content["magnitudes"] = whole * math.sqrt(math.prod(operator.frame)) * measurements.unit
        content |= {"centred": "no", "half_plane": "no"}
        if measurements.scale_known and measurements.unit == 1:
            content["scale"] = "known"
        if measurements.known is not None:
            content["data_mask"] = full_plane(measurements.known, operator.frame).numpy()
        if operator.support is not None:
            content["support"] = operator.support.numpy()
    else:
        content["magnitudes"] = measurements.magnitudes.numpy() * measurements.unit
        content["scale"] = "known" if measurements.scale_known else "auto"
        if operator.given:
            assert operator.matrix is not None  # a given matrix is dense
            content["matrix"] = operator.matrix.numpy()
        else:
            content |= {"seed": operator.seed, "complex_matrix": operator.complex_valued}
    write_atomically(path, lambda file: np.savez(file, **content))
