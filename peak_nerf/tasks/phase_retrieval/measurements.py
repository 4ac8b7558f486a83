"""Magnitudes y = |A x| and the operator A that they come from: simulated from a picture, or a user's own in a file."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from peak_nerf.errors import PeakError, first_line
from peak_nerf.system.files import check_file, write_atomically
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator, GaussianOperator, Operator

logger = logging.getLogger(__name__)

MIN_RATIO = {"fourier": math.sqrt(2), "gaussian": 0.5}
"""Below, there are fewer independent magnitudes than unknowns (Fourier: m^2 / 2 of n^2 pixels), or than half as many
(Gaussian: where a picture's own regularity has nothing left to work with)."""
MIN_SIDE = 16
MAX_SIDE = 4096
MAX_MAGNITUDE = 1e30
"""Squares of larger ones overflow."""
MAX_SEED = 2**63 - 1
MAX_UNPACKED, MOST_PACKED = 2**28, 50
"""A file that unpacks to more bytes than that, and to so many times its own size, holds no measurements."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """All that a solver is handed."""

    operator: Operator
    magnitudes: Tensor
    """y of the operator's shape, float32, at least 0."""

    @property
    def weights(self) -> Tensor:
        """How often each magnitude counts, broadcastable to y."""
        return self.operator.weights

    @property
    def energy(self) -> float:
        """Sum of weights y^2."""
        return float((self.magnitudes.square() * self.weights).sum())

    def relative_residual(self, picture: Tensor, mask: Tensor | None = None) -> float:
        """|| |A x| - y || / ||y||, at least 0; pictures that fit equally well may differ by an ambiguity, or more.

        Args:
            picture: x, (n, n).
            mask: of y's shape, bool: the magnitudes that take part; None for all.
        """
        with torch.no_grad():
            error = (self.operator.apply(picture).abs() - self.magnitudes).square()
        counts = self.weights if mask is None else self.weights * mask
        return math.sqrt(float((error * counts).sum() / (self.magnitudes.square() * counts).sum()))


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
            noise = _full_plane(noise, operator.padded)[:, : noise.shape[1]]
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
        return FourierOperator(size, int(ratio * size))
    if int(ratio * size * size) < 1:
        raise PeakError(f"--ratio {ratio:g}: leaves no measurement; give 0.8 to 1")
    return GaussianOperator(size, int(ratio * size * size), seed, complex_matrix, storage)


def ratio_of(measurements: Measurements) -> float:
    """Fourier: padded side over side; Gaussian: rows over pixels."""
    operator = measurements.operator
    if isinstance(operator, FourierOperator):
        return operator.padded / operator.size
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


# --------------------------------------------------------------------------------------------------------- files


def write_measurements(path: Path, measurements: Measurements) -> None:
    """Write what `read_measurements` reads. Raises: PeakError when it cannot be written."""
    operator = measurements.operator
    content: dict[str, Any] = {"problem": operator.name, "size": operator.size}
    if isinstance(operator, FourierOperator):
        content["magnitudes"] = _full_plane(measurements.magnitudes, operator.padded).numpy() * operator.padded
    else:
        content["magnitudes"] = measurements.magnitudes.numpy()
        if operator.given:
            assert operator.matrix is not None  # a given matrix is dense
            content["matrix"] = operator.matrix.numpy()
        else:
            content |= {"seed": operator.seed, "complex_matrix": operator.complex_valued}
    write_atomically(path, lambda file: np.savez(file, **content))


def read_measurements(path: Path) -> Measurements:
    """The measurements in a .npz file with the arrays

        problem     "fourier" or "gaussian"
        size        n, the side of the picture
        magnitudes  Fourier: (m, m), |fft2| of the picture in the corner of m x m zeros, numpy's order and scale;
                    Gaussian: (m,), |G vec(x)|
        matrix      Gaussian: G (m, n^2), real or complex; or, of measurements simulated here, its seed

    Raises: PeakError with the file, what is wrong and what it takes.
    """
    content = _load(path)
    problem = _word(path, content, "problem")
    if problem not in MIN_RATIO:
        raise PeakError(f"{path}: problem is {problem!r}; it must be 'fourier' or 'gaussian'")
    size = _whole(path, content, "size")
    if size < MIN_SIDE:
        raise PeakError(f"{path}: size is {size}; pictures have a side of at least {MIN_SIDE}")
    if size > MAX_SIDE:
        raise PeakError(f"{path}: size is {size}; pictures have a side of at most {MAX_SIDE}")
    y = content.get("magnitudes")
    if y is None:
        raise PeakError(f"{path}: has no array 'magnitudes'; it holds {', '.join(content) or 'nothing'}")
    if y.dtype.kind not in "iuf":
        raise PeakError(f"{path}: magnitudes are {y.dtype}; they must be real numbers (take the absolute value)")
    y = y.astype(np.float64)
    if not np.isfinite(y).all():
        raise PeakError(f"{path}: {int((~np.isfinite(y)).sum())} magnitudes are NaN or infinite; mend the file")
    if (y < 0).any():
        raise PeakError(f"{path}: {int((y < 0).sum())} magnitudes are negative; magnitudes are |A x|, clip noise at 0")
    if y.size and y.max() > MAX_MAGNITUDE:
        raise PeakError(f"{path}: magnitudes are up to {y.max():g}; scale them, {MAX_MAGNITUDE:g} is the most")
    if not (y > 0).any():
        raise PeakError(f"{path}: all magnitudes are 0, there is nothing to reconstruct")
    return _fourier(path, y, size) if problem == "fourier" else _gaussian(path, content, y, size)


def _fourier(path: Path, y: np.ndarray, size: int) -> Measurements:
    if y.ndim != 2 or y.shape[0] != y.shape[1] or y.shape[0] < size:
        raise PeakError(
            f"{path}: Fourier magnitudes have shape {y.shape}; they must be (m, m) with m at least the size {size}"
        )
    operator = FourierOperator(size, len(y))
    # A real picture's magnitudes are symmetric; measured ones are so but for noise, which the mean halves.
    mirrored = np.roll(y[::-1, ::-1], 1, axis=(0, 1))
    half = ((y + mirrored) / 2)[:, : operator.shape[1]] / len(y)
    return Measurements(operator, torch.from_numpy(half.astype(np.float32)))


def _gaussian(path: Path, content: dict[str, np.ndarray], y: np.ndarray, size: int) -> Measurements:
    if y.ndim != 1:
        raise PeakError(
            f"{path}: Gaussian magnitudes have shape {y.shape}; they must be (m,), one per row of the matrix"
        )
    matrix = content.get("matrix")
    if matrix is None:
        if "seed" not in content:
            raise PeakError(f"{path}: has neither the array 'matrix' nor the 'seed' of a simulated one; add the matrix")
        seed = _whole(path, content, "seed")
        if seed > MAX_SEED:
            raise PeakError(f"{path}: seed is {seed}; {MAX_SEED} is the most")
        operator = GaussianOperator(size, len(y), seed, bool(content.get("complex_matrix", np.zeros(())).any()))
    else:
        if matrix.shape != (len(y), size * size):
            raise PeakError(
                f"{path}: matrix has shape {matrix.shape}; {len(y)} magnitudes of a picture of side {size} need"
                f" {(len(y), size * size)}"
            )
        if matrix.dtype.kind not in "iufc" or not np.isfinite(matrix).all():
            raise PeakError(f"{path}: matrix must hold finite numbers; mend the file")
        operator = GaussianOperator.from_matrix(torch.from_numpy(matrix), size)
    return Measurements(operator, torch.from_numpy(y.astype(np.float32)))


def _full_plane(half: Tensor, padded: int) -> Tensor:
    """(m, m) magnitudes from the half with k_2 >= 0: |X(-k)| = |X(k)|."""
    rows, columns = torch.arange(padded)[:, None], torch.arange(padded)
    # Of k and -k the one in the half; of two in its first or middle column, the one with k_1 <= m / 2.
    mirrored = (-columns) % padded
    turn = (columns > mirrored) | ((columns == mirrored) & (rows > padded // 2))
    return half[torch.where(turn, (-rows) % padded, rows), torch.where(turn, mirrored, columns)]


def _load(path: Path) -> dict[str, np.ndarray]:
    check_file(path, "give a .npz file with problem, size and magnitudes")
    try:
        with path.open("rb") as file:  # numpy leaves it open where the archive is broken
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise PeakError(f"{path}: holds a single array; save problem, size and magnitudes with numpy.savez")
            unpacked, packed = sum(member.file_size for member in arrays.zip.infolist()), path.stat().st_size
            if unpacked > MAX_UNPACKED and unpacked > MOST_PACKED * packed:
                raise PeakError(
                    f"{path}: would unpack to {unpacked / 2**30:.1f} GiB of zeros and the like; mend the file"
                )
            return {name: arrays[name] for name in arrays.files}
    except PeakError:
        raise
    except Exception as error:  # of zip files, their compressions and numpy's headers; MemoryError of a false header
        raise PeakError(f"{path}: cannot be read ({first_line(error)}); save it with numpy.savez") from error


def _word(path: Path, content: dict[str, np.ndarray], name: str) -> str:
    if name not in content or content[name].ndim != 0:
        raise PeakError(f"{path}: has no text {name!r}; it holds {', '.join(content) or 'nothing'}")
    return str(content[name])


def _whole(path: Path, content: dict[str, np.ndarray], name: str) -> int:
    value = content.get(name)
    if value is None or value.ndim != 0 or value.dtype.kind not in "iu" or value < 0:
        raise PeakError(f"{path}: has no whole number {name!r}; add it")
    return int(value)
