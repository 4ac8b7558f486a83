"""Image reconstruction from part of the pixels: one field f(x) per picture, fitted to what was observed.

    result = inpaint(values, observed)            # numpy in, numpy out
    result.reconstruction, result.field_picture, result.field

Source: Li et al., ICML 2025, section 4.3.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from peak_nerf.core.fit import FitResult, FitSettings, Progress, fit
from peak_nerf.system.memory import check_memory
from peak_nerf.tasks.field_settings import needed_bytes
from peak_nerf.tasks.image_field import ImageField, pixel_coordinates, render
from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.combine import (
    COMBINED,
    FIELD,
    MAX_MISSING,
    Plan,
    classical_estimates,
    combine_estimates,
)
from peak_nerf.tasks.inpainting.problem import InpaintProblem
from peak_nerf.tasks.inpainting.settings import InpaintSettings, settings_for


@dataclass(frozen=True, eq=False)
class Inpainting:
    """What `inpaint` returns."""

    reconstruction: np.ndarray
    """Shape of the values given, float32 in [0, 1]: the weighted mean of what `weights` names. Observed pixels are no
    exception: the field has its own estimate of them, and classical ones hold them as they are."""
    field_picture: np.ndarray
    """Likewise, the field's alone; the same where nothing was combined, and of a classical method."""
    field: ImageField | None
    """The fitted field, x in [-1, 1]^2 (`pixel_coordinates`); None for a classical method."""
    settings: InpaintSettings | None
    """What made it; None for a classical method."""
    fit: FitResult
    """Steps, seconds (the classical estimates' included), history of the field's own PSNR."""
    weights: dict[str, float]
    """Of the field and of each classical estimate in the reconstruction."""

    @property
    def n_parameters(self) -> int:
        """Numbers that were trained, g's included; 0 for a classical method."""
        return 0 if self.field is None else sum(p.numel() for p in self.field.parameters())


def inpaint(
    values: np.ndarray,
    observed: np.ndarray | None = None,
    method: str = "peak",
    *,
    settings: InpaintSettings | None = None,
    steps: int | None = None,
    budget_seconds: float | None = None,
    seed: int = 88,
    truth: np.ndarray | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    most_seconds: float | None = None,
    combine: bool = True,
) -> Inpainting:
    """Reconstruct a picture from its observed pixels.

    With `combine` (methods of `combine.COMBINED`) the reconstruction is the mean of three estimates of the missing
    pixels, the field's, `biharmonic`'s and that of `patches`, weighted by their errors on observed pixels that none of
    them was shown; and for the first part of its fit (`settings.guided`) the field is drawn towards the biharmonic one,
    which deep in a hole it would take hundreds of steps to reach. `field_picture` is the field's alone. With more than
    `combine.MAX_MISSING` missing pixels, for which the classical methods take too long, it is the field's alone too.

    Args:
        values: (h, w) or (h, w, c) in [0, 1]. Pixels that are not observed, or NaN, are never looked at.
        observed: (h, w) bool; None for all that are finite.
        method: a field (`peak`, `peak-siren`, `mlp`, `fourier`, `siren`, `hash`) or a classical tool (`biharmonic`,
            `telea`, `navier-stokes`, `linear`, `patches`).
        settings: of a field, instead of `settings_for(method, size)`.
        steps: of the fit, by default the method's own number; the same seed then gives the same result.
        budget_seconds: length of the fit and the classical estimates, instead of steps.
        seed: of the field, the held-out pixels and the draws of the fit.
        truth: shape of the values, NaN where unknown; recorded in the history as PSNR over time (of large pictures over
            `problem.SCORED_PIXELS` of them), never used otherwise.
        on_progress: called at each check with the progress.
        checkpoint: where the fit's state is kept.
        resume: go on from it, see `core.fit.fit`.
        most_seconds: by which a fit of so many steps, and the classical estimates, end even so.
        combine: whether classical estimates have a part in the missing pixels.

    Ctrl-C during the fit gives the best field so far, marked `fit.partial`.

    Raises: ValueError on shapes that do not fit, a value outside [0, 1], nothing observed, or both lengths given;
        PeakError on an unknown method, when the fit diverges, or a checkpoint of another picture or method.
    """
    image = np.asarray(values, dtype=np.float32)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or min(image.shape) < 1 or max(image.shape[:2]) < 2:
        raise ValueError(f"values must be (h, w) or (h, w, c), at least 2 pixels long, got {np.shape(values)}")
    if observed is not None and np.shape(observed) != image.shape[:2]:
        raise ValueError(f"observed must be {image.shape[:2]}, got {np.shape(observed)}")
    if truth is not None and np.shape(truth) != np.shape(values):
        raise ValueError(f"truth must be {np.shape(values)}, as the values are, got {np.shape(truth)}")
    finite = np.isfinite(image).all(axis=2)
    seen = finite if observed is None else finite & np.asarray(observed, dtype=bool)
    image = np.where(seen[..., None], image, 0).astype(np.float32)
    if seen.sum() < 16:
        raise ValueError(f"at least 16 pixels must be observed, got {int(seen.sum())}")
    if image.min() < 0 or image.max() > 1:
        raise ValueError(f"values must be in [0, 1], got {image.min():g} to {image.max():g}")
    if steps is not None and budget_seconds is not None:
        raise ValueError("give steps or budget_seconds, not both")
    if method in classical.CLASSICAL:
        start = time.perf_counter()
        filled = classical.fill(method, image, seen).reshape(np.shape(values))
        return Inpainting(filled, filled, None, None, FitResult(0, time.perf_counter() - start), {method: 1.0})
    size = (image.shape[0], image.shape[1])
    settings = settings or settings_for(method, size)
    shape = (*size, image.shape[2])
    check_memory(needed_bytes(settings, shape, min(settings.pixels_per_step, int(seen.sum()))), f"method {method!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        field = ImageField(settings, shape)
    generator = torch.Generator().manual_seed(seed)
    plan = None
    if combine and method in COMBINED and 0 < np.count_nonzero(~seen) <= MAX_MISSING:
        plan = Plan.of(seen, budget_seconds or most_seconds)
    problem = InpaintProblem(field, settings, image, seen, truth, generator)
    held_out = problem.held_out.numpy()
    if steps is None and budget_seconds is None:
        steps = settings.steps
    _warm_up(field, plan)
    start = time.perf_counter()
    estimates = {} if plan is None else classical_estimates(image, seen, held_out, plan)
    if estimates:
        problem.draw_towards(estimates["biharmonic"].without)
    seconds = time.perf_counter() - start
    fingerprint = "" if checkpoint is None else _fingerprint(settings, image, seen, seed, held_out, bool(estimates))
    budget, most = (s if s is None or plan is None else plan.left_of(s) for s in (budget_seconds, most_seconds))
    length = FitSettings(steps, budget, None if budget else most)
    result = fit(field, problem, length, generator, on_progress, checkpoint, resume, fingerprint)
    rows, columns = pixel_coordinates(size)
    own = render(field, rows, columns)
    filled, weights = own, {FIELD: 1.0}
    if estimates:
        own_held_out = problem.at_stopping_point(result.stopping_point)
        filled, weights = combine_estimates(own, own_held_out, estimates, image, seen, held_out)
    result = replace(result, seconds=result.seconds + seconds, stopping_point=[])
    shape_given = np.shape(values)
    return Inpainting(filled.reshape(shape_given), own.reshape(shape_given), field, settings, result, weights)


def _warm_up(field: ImageField, plan: Plan | None) -> None:
    """Compile what first calls compile, or load it: no part of the fit, whose time is measured and limited."""
    field(torch.zeros(1, 2)).sum().backward()
    field.zero_grad(set_to_none=True)
    if plan is not None:
        tiny, once = np.zeros((8, 8, 1), np.float32), replace(plan, n_sweeps=min(plan.n_sweeps, 1))
        classical_estimates(tiny, np.eye(8) < 1, np.array([1]), once)


def _fingerprint(
    settings: InpaintSettings, image: np.ndarray, seen: np.ndarray, seed: int, held_out: np.ndarray, guided: bool
) -> str:
    """The same for the same picture, mask, settings, seed, held-out pixels and guide: what a checkpoint belongs to."""
    digest = hashlib.sha256(f"{settings} {seed} {image.shape} {guided}".encode())
    digest.update(image.tobytes())
    digest.update(np.packbits(seen).tobytes())
    digest.update(held_out.tobytes())
    return digest.hexdigest()
