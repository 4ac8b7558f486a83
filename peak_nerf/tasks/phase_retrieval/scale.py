"""The scale of measured magnitudes: where the range of the picture ends."""

from __future__ import annotations

import time

from torch import Tensor

from peak_nerf.tasks.phase_retrieval.magnitudes import Measurements
from peak_nerf.tasks.phase_retrieval.multiscale_hio import Refinement

ENDS = (1.05, 0.98, 0.91, 0.85, 0.79)
"""Ends of the range that are tried, over the largest value of a picture that was found without one."""
ROUNDS = 10
"""Of the refinement on each of them."""
SETTLED = 1e-3
"""A relative residual below which the picture's own largest value is the range's end."""


def range_end(
    measurements: Measurements, picture: Tensor, fit_mask: Tensor, seconds: float | None = None
) -> tuple[float, Tensor]:
    """The range's end c in units of the magnitudes, and a picture over c, refined within [0, 1].

    A search without an end overshoots where it has not settled, and ends that are too low leave a residual: of some
    ends around the picture's largest value, the one counts whose refinement explains the held-out magnitudes best.

    Args:
        measurements: Fourier magnitudes of unknown scale.
        picture: what a search has found, (h, w), at least 0.
        fit_mask: as in `projections.Projections`; the other magnitudes choose.
        seconds: after which no further end is tried.
    """
    top = max(float(picture.max()), 1e-6)
    c = ENDS[0] * top
    if measurements.relative_residual(picture) < SETTLED:
        return c, picture / c
    # A black picture has a residual of 1, and is nobody's.
    begin, best = time.perf_counter(), (1.0, c, picture / c)
    for end in ENDS:
        if seconds is not None and time.perf_counter() - begin > seconds:
            break
        c = end * top
        search = Refinement(measurements.in_units_of(c), [(picture / c).clamp(0, 1)], fit_mask)
        for _ in range(ROUNDS):
            search.round(0.0)
        if search.relative_residual < best[0]:
            best = search.relative_residual, c, search.picture
    return best[1], best[2]
