"""From a measured array to the amplitudes of a whole plane with zero frequency in its corner, and which are known.

Every step that changes or leaves something out adds a line to `Pattern.notes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy.ndimage  # type: ignore[import-untyped]

from peak_nerf.errors import PeakError
from peak_nerf.tasks.phase_retrieval.magnitudes import MAX_SIDE, MIN_SIDE, mirrored

Quantity = Literal["amplitude", "intensity"]
Choice = Literal["auto", "yes", "no"]
MAX_STOP = 0.25
"""Fraction of the plane that a beam stop may take."""
PLATEAU = 3
"""Values equal to the largest that make a plateau: the brightest of a pattern is zero frequency, and that is one."""
NOT_SYMMETRIC = 0.3
"""Relative difference between y(k) and y(-k) above which a pattern is no real object's."""


@dataclass
class Pattern:
    """Amplitudes as solvers take them."""

    amplitudes: np.ndarray
    """(m_1, m_2) float64, at least 0, zero frequency at [0, 0], y(-k) = y(k); 0 where unknown."""
    known: np.ndarray
    """(m_1, m_2), bool."""
    notes: list[str] = field(default_factory=list)
    """What was converted, left out or recognised, one line each."""


def read_pattern(
    raw: np.ndarray,
    name: str,
    quantity: Quantity = "amplitude",
    centred: Choice = "auto",
    half_plane: Choice = "auto",
    data_mask: np.ndarray | None = None,
    saturation: float | None = None,
    counts: bool = False,
) -> Pattern:
    """Amplitudes of a measured array.

    Args:
        raw: (m_1, m_2), real or complex; of a half plane (m_1, m_2 // 2 + 1).
        name: of the file, for messages.
        quantity: whether `raw` holds amplitudes |F x| or intensities |F x|^2.
        centred: whether zero frequency is in the middle, [m_1 // 2, m_2 // 2]; `auto` looks where the energy is.
        half_plane: whether only the columns of `rfft2` are there; `auto` where that makes a square.
        data_mask: of raw's shape; what is more than half of its largest value was measured.
        saturation: values from it on are unknown.
        counts: whether intensities are Poisson counts: pairs y(k), y(-k) are then averaged as counts.

    Raises: PeakError on another shape, or where nothing is left.
    """
    notes: list[str] = []
    if raw.dtype.kind == "c":
        raw, quantity = np.abs(raw), "amplitude"
        notes.append("complex values: their magnitudes are taken")
    if raw.dtype.kind not in "iufb":
        raise PeakError(f"{name}: magnitudes are {raw.dtype}; they must be numbers")
    if raw.ndim != 2:
        raise PeakError(f"{name}: Fourier magnitudes have shape {raw.shape}; a pattern has two dimensions")
    if min(raw.shape) < MIN_SIDE // 2 + 1 or max(raw.shape) > 2 * MAX_SIDE:
        raise PeakError(
            f"{name}: the pattern is {raw.shape[0]} x {raw.shape[1]}; its sides must be from {MIN_SIDE} to"
            f" {2 * MAX_SIDE}, crop or bin it"
        )
    known = _known(raw, name, data_mask, saturation, notes)
    y = np.where(known, raw, 0).astype(np.float64)
    if (y < 0).any():
        notes.append(f"{int((y < 0).sum())} values below 0 are noise and taken as 0")
        y = y.clip(0)
    if not (y > 0).any():
        raise PeakError(f"{name}: all magnitudes are 0 or unknown, there is nothing to reconstruct")
    if quantity == "intensity":
        y = np.sqrt(y)
        notes.append("intensities: their square roots are the amplitudes")
    half = half_plane == "yes" or (half_plane == "auto" and raw.shape[1] == raw.shape[0] // 2 + 1)
    y, known = _in_corner(y, known, centred, half, notes)
    if half:
        y, known = _completed(y, known, notes)
    known = _without_beam_stop(y, known, notes)
    return Pattern(*_symmetric(y, known, name, counts, notes), notes)


def _known(
    raw: np.ndarray, name: str, data_mask: np.ndarray | None, saturation: float | None, notes: list[str]
) -> np.ndarray:
    known = np.isfinite(raw)
    if not known.all():
        notes.append(f"{int((~known).sum())} values are NaN or infinite: unknown")
    if data_mask is not None:
        if data_mask.shape != raw.shape:
            raise PeakError(
                f"{name}: the data mask is {data_mask.shape[0]} x {data_mask.shape[-1]}, the pattern {raw.shape[0]} x"
                f" {raw.shape[1]}; give a mask of the same size"
            )
        measured = data_mask > float(data_mask.max()) / 2
        notes.append(f"the mask leaves {100 * measured.mean():.1f} % measured")
        known &= measured
    if raw.dtype.kind == "i" and (known & (raw < 0)).any():
        notes.append(f"{int((known & (raw < 0)).sum())} whole numbers below 0 mark bad pixels: unknown")
        known &= raw >= 0
    if not known.any():
        raise PeakError(f"{name}: no magnitude is known, there is nothing to reconstruct; look at the mask")
    limit = saturation
    if limit is None:
        limit = _plateau(raw, known)
    saturated = known & (raw >= limit) if limit is not None else np.zeros_like(known)
    if limit is not None and saturated.any():
        told = "" if saturation is not None else ", the largest value,"
        notes.append(f"{int(saturated.sum())} values at {limit:g}{told} or above are saturated: unknown")
    return known & ~saturated


def _plateau(raw: np.ndarray, known: np.ndarray) -> float | None:
    """The largest value where it is that of a converter, or a plateau; None for a pattern that is not cut."""
    top = raw[known].max()
    n = int((raw[known] == top).sum())
    whole = raw.dtype.kind in "iu" or bool(np.all(raw[known] == np.floor(raw[known])))
    if raw.dtype.kind in "iu" and top == np.iinfo(raw.dtype).max:
        return float(top)
    if n < PLATEAU:
        return None
    # Few counts repeat; so do the largest of them.
    if whole and not (top >= 255 and (int(top) + 1) & int(top) == 0):
        return None
    return float(top)


def _in_corner(
    y: np.ndarray, known: np.ndarray, centred: Choice, half: bool, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    middle = (y.shape[0] // 2, 0 if half else y.shape[1] // 2)
    in_middle = centred == "yes"
    if centred == "auto":
        scaled = y / (float((y * known).max()) or 1.0)  # squares of other units may be beyond all numbers
        in_middle = _energy_at(scaled, known, middle) > _energy_at(scaled, known, (0, 0))
        notes.append(f"zero frequency is in the {'middle' if in_middle else 'corner'}, by its energy")
    if not in_middle:
        return y, known
    shift = (-middle[0], -middle[1])
    return np.roll(y, shift, (0, 1)), np.roll(known, shift, (0, 1))


def _energy_at(y: np.ndarray, known: np.ndarray, place: tuple[int, int]) -> float:
    """Mean of y^2, y at most 1, over what is known within an eighth of the sides around a place, wrapping around."""
    rows, columns = (
        (np.arange(-max(n // 8, 2), max(n // 8, 2) + 1) + k) % n for n, k in zip(y.shape, place, strict=True)
    )
    window, seen = y[np.ix_(rows, columns)], known[np.ix_(rows, columns)]
    return float((window**2 * seen).sum() / max(int(seen.sum()), 1))


def _completed(y: np.ndarray, known: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The whole plane of a half one, square where that is possible."""
    m, columns = y.shape
    width = m if m // 2 + 1 == columns else 2 * (columns - 1)
    whole = []
    for half in (y, known):
        other = np.roll(half[::-1], 1, axis=0)[:, 1 : width - columns + 1][
            :, ::-1
        ]  # columns -1, -2, ... as m_2 - 1, ...
        whole.append(np.concatenate([half, other], axis=1))
    notes.append(f"a half plane of {m} x {columns}: completed to {m} x {width} by symmetry")
    return whole[0], whole[1]


def _without_beam_stop(y: np.ndarray, known: np.ndarray, notes: list[str]) -> np.ndarray:
    """What is known besides a compact region of exact zeros at zero frequency."""
    zeros = np.fft.fftshift(known & (y == 0))
    labels, _ = scipy.ndimage.label(zeros)
    label = labels[y.shape[0] // 2, y.shape[1] // 2]
    if label == 0:
        return known
    stop = np.fft.ifftshift(labels == label)
    if stop.mean() > MAX_STOP:
        return known
    notes.append(f"a beam stop of {int(stop.sum())} zeros at zero frequency: unknown")
    return known & ~stop


def _symmetric(
    y: np.ndarray, known: np.ndarray, name: str, counts: bool, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """A real picture's magnitudes are symmetric; measured ones are so but for noise, which the mean halves."""
    y = np.where(known, y, 0.0)
    other, other_known = mirrored(y), mirrored(known)
    both = known & other_known
    n = np.maximum(known.astype(int) + other_known, 1)
    if both.any() and np.linalg.norm((y - other)[both]) > NOT_SYMMETRIC * np.linalg.norm(y[both]):
        notes.append(
            "the pattern is not symmetric about zero frequency, as that of a real object is: is its centre off, or the"
            " object complex?"
        )
    top = y.max()
    mean = np.sqrt((y / top) ** 2 / n + (other / top) ** 2 / n) * top if counts else (y + other) / n
    return mean, known | other_known
