"""An unknown support: from the autocorrelation, then shrink-wrap."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import scipy.ndimage  # type: ignore[import-untyped]
import torch
from jaxtyping import Bool
from torch import Tensor

from peak_nerf.system.files import write_atomically
from peak_nerf.tasks.phase_retrieval.magnitudes import OPEN, Measurements, full_plane
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator
from peak_nerf.tasks.phase_retrieval.projections import Projections

AUTOCORRELATION = 0.04
"""Fraction of the autocorrelation's largest value that counts as its support, at first."""
FAINT = 0.002
"""The same where it is to enclose the object: its corners meet in few pixels."""
MOST_NOISE = 0.02
"""A fraction that is no noise: where as much is left at the frame's edge, the autocorrelation fills the frame."""
COMPACT = 0.9
"""Fraction of the pattern's sides below which an autocorrelation encloses anything."""
BLURS = (3.0, 1.5)
"""Standard deviation of the blur before a threshold, in pixels, at first and at the end."""
THRESHOLD = 0.2
"""Fraction of the blurred picture's largest value above which a pixel belongs to the support."""
EVERY, UPDATES, SETTLING = 20, 40, 200
"""HIO steps between two updates of the support, updates, and HIO steps on the last one."""


def autocorrelation(y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The picture's autocorrelation, shift 0 in the corner and 1 there; unknown magnitudes are taken from around them.

    Args: both (m_1, m_2), zero frequency in the corner.
    """
    if not known.all():
        # log y falls smoothly away from zero frequency: the known mean around a place, wider the less is known there.
        y, filled = y.copy(), known.copy()
        spread = 1.5
        while not filled.all():
            weight = scipy.ndimage.gaussian_filter(known.astype(float), spread, mode="wrap")
            mean = scipy.ndimage.gaussian_filter(np.where(known, y, 0.0), spread, mode="wrap")
            reached = ~filled & (weight > 0.05)
            y[reached] = (mean / np.maximum(weight, 1e-9))[reached]
            filled |= reached
            spread *= 1.5
    a = np.fft.ifft2((y / y.max()) ** 2).real
    return a / a[0, 0]


def autocorrelation_box(y: np.ndarray, known: np.ndarray) -> tuple[int, int] | None:
    """Height and width of an object from the extents of its autocorrelation, which are twice as large; None where that
    fills the frame, or zero frequency is not known."""
    if not known[0, 0]:
        return None
    a = np.abs(np.fft.fftshift(autocorrelation(y, known)))
    noise = float(np.median(np.concatenate([a[0], a[:, 0]])))  # at the frame's edge, where the object does not reach
    if 3 * noise > MOST_NOISE:
        return None
    inside = a > max(FAINT, 3 * noise)
    sides = []
    for axis, m in enumerate(a.shape):
        places = np.nonzero(inside.any(1 - axis))[0] - m // 2
        extent = int(np.abs(places).max())  # |shift| up to n - 1
        if 2 * extent + 1 > COMPACT * m:
            return None
        sides.append(extent + 1)
    return sides[0], sides[1]


def find_support(
    measurements: Measurements, seed: int, restarts: int = 3, seconds: float | None = None
) -> Bool[np.ndarray, "h w"]:
    """The support of an object that is not negative, cropped to its bounding box.

    HIO in the whole frame on a support that begins as the autocorrelation's and, every `EVERY` steps, becomes where the
    blurred picture exceeds `THRESHOLD`. Of several random starts the one with the lowest relative residual counts; its
    support is last taken from the picture as it is, where that has settled.

    Args:
        measurements: Fourier magnitudes; of the operator only the frame matters.
        seed: of the starts.
        restarts: their number.
        seconds: after which no other start begins.

    Raises: ValueError on Gaussian magnitudes.
    Source: Marchesini et al., Phys. Rev. B 2003.
    """
    operator = measurements.operator
    if not isinstance(operator, FourierOperator):
        raise ValueError("a support is found from Fourier magnitudes")
    frame = operator.frame
    whole = full_plane(measurements.magnitudes, frame).numpy().astype(np.float64)
    known = np.ones(frame, bool) if measurements.known is None else full_plane(measurements.known, frame).numpy()
    middle = (frame[0] // 2, frame[1] // 2)
    first = np.roll(autocorrelation(whole, known) > AUTOCORRELATION, middle, (0, 1))
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, np.ndarray] | None = None
    begin = time.perf_counter()
    for _ in range(restarts):
        if best is not None and seconds is not None and time.perf_counter() - begin > seconds:
            break
        v = _shrink_wrapped(measurements, first, torch.rand(frame, generator=generator))
        residual = _residual(measurements, v)
        if best is None or residual < best[0]:
            best = residual, v.numpy()
    assert best is not None
    return _cropped(best[1], _level(best[0]))


def kept_support(
    measurements: Measurements, seed: int, restarts: int, seconds: float | None, path: Path | None, resume: bool
) -> Bool[np.ndarray, "h w"]:
    """`find_support`, written to `path`; in a run that goes on, what is there.

    With a limit in seconds another one might be found, of which the kept state of a search is not. A file that is
    damaged, or of other measurements, is found anew.
    """
    of = f"{measurements.operator.size}, {measurements.energy_of_data:.6g}, {restarts}, seed {seed}"
    if resume and path is not None and path.is_file():
        with suppress(Exception):  # whatever torch raises on a damaged file
            state = torch.load(path, weights_only=True)
            if state["of"] == of:
                return np.asarray(state["support"].numpy(), bool)
    support = find_support(measurements, seed, restarts, seconds)
    if path is not None:
        write_atomically(path, lambda file: torch.save({"of": of, "support": torch.from_numpy(support)}, file))
    return support


def _level(residual: float) -> float:
    """Fraction of the picture's largest value that belongs to the object: below, a settled picture has only what the
    residual leaves there."""
    return min(max(residual, 0.01), THRESHOLD)


def _shrink_wrapped(measurements: Measurements, first: np.ndarray, start: Tensor) -> Tensor:
    support = torch.from_numpy(first)
    projections = Projections(measurements.magnitudes, support * OPEN, measurements.known)
    v = start * support
    for i in range(UPDATES):
        v = projections.run(v, "hio", EVERY)
        spread = BLURS[0] * (BLURS[1] / BLURS[0]) ** (i / (UPDATES - 1))
        picture = projections.to_allowed(projections.to_measured(v)).numpy()
        blurred = scipy.ndimage.gaussian_filter(picture, spread, mode="wrap")
        support = torch.from_numpy(blurred > THRESHOLD * blurred.max())
        projections.ceiling = support * OPEN
    # On a support that is a little too large all of the object has room, and what is outside of it falls to 0.
    support = torch.from_numpy(scipy.ndimage.binary_dilation(support.numpy(), iterations=2))
    projections.ceiling = support * OPEN
    v = projections.run(v, "hio", SETTLING)
    return projections.clean(v, 50)


def _residual(measurements: Measurements, v: Tensor) -> float:
    error = (torch.fft.rfft2(v, norm="ortho").abs() - measurements.magnitudes).square()
    weights = measurements.weights
    return math.sqrt(float((error * weights).sum()) / measurements.energy)


def _cropped(v: np.ndarray, level: float) -> np.ndarray:
    """Where v exceeds a fraction of its largest value, but for specks and pinholes, in its bounding box."""
    mask = v > level * v.max()
    # The object may lie across the frame's edge: its emptiest row and column become the frame's edges.
    shift = tuple(-int(np.argmin(scipy.ndimage.uniform_filter1d(v.sum(1 - axis), 5, mode="wrap"))) for axis in (0, 1))
    mask = np.roll(mask, shift, (0, 1))
    mask = scipy.ndimage.binary_opening(scipy.ndimage.binary_closing(mask)) if mask.sum() > 50 else mask
    if not mask.any():
        mask = np.ones_like(mask)
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return np.ascontiguousarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
