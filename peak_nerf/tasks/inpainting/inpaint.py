"""Image reconstruction from part of the pixels: one field f(x) per picture, fitted to what was observed.

    result = inpaint(values, observed)            # numpy in, numpy out
    result.reconstruction, result.field

Source: Li et al., ICML 2025, section 4.3.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peak_nerf.core.anchors import LocalAnchors
from peak_nerf.core.field import PeakField
from peak_nerf.core.fit import FitResult, FitSettings, Progress, fit
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.core.window import (
    kl_to_prior,
    locality_prior,
    symmetric_offsets,
    window_attention,
    window_residual,
    within_reach,
)
from peak_nerf.metrics import psnr
from peak_nerf.tasks.inpainting import classical
from peak_nerf.tasks.inpainting.settings import InpaintSettings, settings_for

# Pixels that are evaluated at once without gradient: 2^17 of them with 64 wide layers take about 0.1 GiB.
CHUNK = 2**17
# Observed pixels held out to choose the stopping point.
HELD_OUT_FRACTION, MAX_HELD_OUT = 0.02, 4096
# PSNR over time is taken over at most this many pixels, chosen at random; up to 512 x 512 that is all of them.
SCORED_PIXELS = 2**18


@dataclass(frozen=True, eq=False)
class Inpainting:
    """What `inpaint` returns."""

    reconstruction: np.ndarray
    """Shape of the values given, float32 in [0, 1]; the field's own, observed pixels are not pasted back."""
    field: PeakField | None
    """The fitted field, x in [-1, 1]^2 (`pixel_coordinates`); None for a classical method."""
    settings: InpaintSettings | None
    """What made it; None for a classical method."""
    fit: FitResult
    """Steps, seconds, history."""

    @property
    def n_parameters(self) -> int:
        """Numbers that were trained, g's included; 0 for a classical method."""
        return 0 if self.field is None else sum(p.numel() for p in self.field.parameters())


def pixel_coordinates(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column coordinates, square pixels, the longer side from -1 to 1: linspace(-1, 1) for a square picture."""
    longest = max(size)
    rows, columns = (torch.linspace(-1, 1, n) * ((n - 1) / (longest - 1)) for n in size)
    return rows, columns


@torch.no_grad()
def render(field: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor) -> np.ndarray:
    """The field on the grid of these coordinates, (h, w, c) float32, clipped to [0, 1], in bounded memory."""
    n_rows = max(CHUNK // len(columns), 1)
    picture = np.empty(0, dtype=np.float32)
    for start in range(0, len(rows), n_rows):
        part = field(torch.cartesian_prod(rows[start : start + n_rows], columns)).clamp(0, 1).numpy()
        if start == 0:
            # All of it at once: parts kept among the temporaries of the next ones leave the heap full of holes.
            picture = np.empty((len(rows), len(columns), part.shape[1]), dtype=np.float32)
        picture[start : start + n_rows] = part.reshape(-1, len(columns), part.shape[1])
    return picture


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
) -> Inpainting:
    """Reconstruct a picture from its observed pixels.

    Args:
        values: (h, w) or (h, w, c) in [0, 1]. Pixels that are not observed, or NaN, are never looked at.
        observed: (h, w) bool; None for all that are finite.
        method: a field (`peak`, `peak-siren`, `mlp`, `fourier`, `siren`, `hash`) or a classical tool (`biharmonic`,
            `telea`, `navier-stokes`, `linear`).
        settings: of a field, instead of `settings_for(method, size)`.
        steps, budget_seconds: length of the fit, at most one of them; by default the method's own number of steps.
            With steps, the same seed gives the same result.
        truth: shape of the values, NaN where unknown; recorded in the history as PSNR over time (of large pictures over
            `SCORED_PIXELS` of them), never used otherwise.
        on_progress: called at each check with the progress.
        checkpoint, resume: see `core.fit.fit`.

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
        filled = classical.fill(method, image, seen)
        return Inpainting(filled.reshape(np.shape(values)), None, None, FitResult(0, time.perf_counter() - start))
    size = (image.shape[0], image.shape[1])
    settings = settings or settings_for(method, size)
    rng_state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        module = build_field(settings, (*size, image.shape[2]))
    finally:
        torch.set_rng_state(rng_state)
    generator = torch.Generator().manual_seed(seed)
    problem = _Problem(module, settings, image, seen, truth, generator)
    if steps is None and budget_seconds is None:
        steps = settings.steps
    _warm_up(module)
    fingerprint = "" if checkpoint is None else _fingerprint(settings, image, seen, seed)
    result = fit(
        module, problem, FitSettings(steps, budget_seconds), generator, on_progress, checkpoint, resume, fingerprint
    )
    rows, columns = pixel_coordinates(size)
    return Inpainting(render(module, rows, columns).reshape(np.shape(values)), module, settings, result)


def _warm_up(module: PeakField) -> None:
    """Compile what its first call compiles, or loads: no part of the training, whose time is measured and limited."""
    module(torch.zeros(1, 2)).sum().backward()
    module.zero_grad(set_to_none=True)


def _fingerprint(settings: InpaintSettings, image: np.ndarray, seen: np.ndarray, seed: int) -> str:
    """The same for the same picture, mask, settings and seed: what a checkpoint belongs to."""
    digest = hashlib.sha256(f"{settings} {seed} {image.shape}".encode())
    digest.update(image.tobytes())
    digest.update(np.packbits(seen).tobytes())
    return digest.hexdigest()


def build_field(settings: InpaintSettings, shape: tuple[int, int, int]) -> PeakField:
    """The field for a picture of (h, w, c), with g when there is a KAR. Draws from the global generator."""
    kar, anchors = None, None
    if settings.kar is not None:
        kar = KernelAlignmentRegularizer(
            2,
            n_features=settings.kar.n_features,
            hidden_dim=settings.kar.n_features,
            n_hidden=settings.kar.n_hidden,
            similarity="cosine" if settings.kar.activation == "cosine" else "dot",
            temperature=settings.kar.temperature,
            norm=settings.kar.norm,
            huber_delta=settings.kar.huber_delta,
            weight=settings.kar.weight,
            warmup=settings.kar.warmup,
        )
        pixel, pairs = 2 / (max(shape[:2]) - 1), symmetric_offsets(settings.kar.reach)
        anchors = LocalAnchors(offsets=torch.cat([pairs, -pairs]) * pixel)
    return PeakField(2, shape[2], settings.field, kar=kar, anchors=anchors)


class _Problem:
    """`core.fit.Problem` of one picture."""

    def __init__(
        self,
        module: PeakField,
        settings: InpaintSettings,
        image: np.ndarray,
        observed: np.ndarray,
        truth: np.ndarray | None,
        generator: torch.Generator,
    ) -> None:
        self.module, self.settings = module, settings
        self.rows, self.columns = pixel_coordinates((image.shape[0], image.shape[1]))
        self.values = torch.from_numpy(image.reshape(-1, image.shape[2]))
        pixels = torch.from_numpy(np.flatnonzero(observed))
        n_held_out = max(min(int(len(pixels) * HELD_OUT_FRACTION), MAX_HELD_OUT), 1)
        order = torch.randperm(len(pixels), generator=generator)
        self.held_out, self.train = pixels[order[:n_held_out]], pixels[order[n_held_out:]].sort().values
        self.observed_pixels = pixels
        self.known = torch.zeros(len(self.values), dtype=torch.bool)
        self.known[self.train] = True
        missing = torch.from_numpy(np.flatnonzero(~observed))
        self.centres = missing if len(missing) > 0 else pixels
        self.scored, self.truth = None, None
        if truth is not None:
            flat = np.asarray(truth, dtype=np.float32).reshape(self.values.shape)
            finite = torch.from_numpy(np.flatnonzero(np.isfinite(flat).all(axis=1)))
            # A generator of its own: the fit is the same without a truth.
            chosen = torch.randperm(len(finite), generator=torch.Generator().manual_seed(0))[:SCORED_PIXELS]
            self.scored = finite[chosen].sort().values
            self.truth = torch.from_numpy(flat)[self.scored]

    def parameter_groups(self) -> list[dict[str, Any]]:
        g = [] if self.module.kar is None else list(self.module.kar.parameters())
        own = {id(p) for p in g}
        f = [p for p in self.module.parameters() if id(p) not in own]
        groups: list[dict[str, Any]] = [{"params": f, "lr": self.settings.learning_rate}]
        if g and self.settings.kar is not None:
            groups.append({"params": g, "lr": self.settings.kar.learning_rate})
        return groups

    def at(self, pixels: Tensor) -> Tensor:
        """Coordinates of flat pixel numbers."""
        width = len(self.columns)
        return torch.stack([self.rows[pixels // width], self.columns[pixels % width]], dim=1)

    def loss(self, progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        pixels = self.observed_pixels if include_held_out else self.train
        self.known[self.held_out] = include_held_out
        if len(pixels) > self.settings.pixels_per_step:
            pixels = pixels[torch.randint(len(pixels), (self.settings.pixels_per_step,), generator=generator)]
        kar = self.settings.kar
        weight = 0.0 if kar is None or self.module.kar is None else self.module.kar.weight_at(progress)
        if kar is None or weight == 0:
            return (self.module(self.at(pixels)) - self.values[pixels]).square().mean()
        window, h, w = self.window(kar.window, generator)
        asked = torch.cat([pixels, window])
        f = self.module(self.at(asked))
        # f is evaluated at the window's measured pixels anyway, so they are fitted too.
        measured = self.known[asked]
        error = (f - self.values[asked])[measured].square().mean()
        return error + weight * self.kar_loss(f[len(pixels) :].reshape(h, w, -1), window)

    def window(self, side: int, generator: torch.Generator) -> tuple[Tensor, int, int]:
        """Flat pixel numbers of a window around a random missing pixel, and its height and width."""
        n_rows, n_columns = len(self.rows), len(self.columns)
        h, w = min(side, n_rows), min(side, n_columns)
        # Anywhere inside the window, not in its middle: else a single hole would always be seen the same way.
        inside = [int(torch.randint(n, (1,), generator=generator)) for n in (h, w)]
        pixel = int(self.centres[torch.randint(len(self.centres), (1,), generator=generator)])
        row = min(max(pixel // n_columns - inside[0], 0), n_rows - h)
        column = min(max(pixel % n_columns - inside[1], 0), n_columns - w)
        numbers = (row + torch.arange(h))[:, None] * n_columns + column + torch.arange(w)
        return numbers.reshape(-1), h, w

    def kar_loss(self, f: Tensor, window: Tensor) -> Tensor:
        """Mean norm of the residual over the window, and how far A departs from its prior; without weight.

        Where a pixel was measured, its measured value stands for f: the residual then shapes f where nothing was
        measured and g everywhere, and never pulls f away from the measurements.
        """
        kar, settings = self.module.kar, self.settings.kar
        # loss() has checked these.
        assert kar is not None
        assert settings is not None
        h, w = f.shape[:2]
        known, values = self.known[window].reshape(h, w, 1), self.values[window].reshape(h, w, -1)
        g = kar.similarity_features(self.at(window)).reshape(h, w, -1)
        offsets = symmetric_offsets(settings.reach)
        offsets = offsets[(offsets.abs() < torch.tensor([h, w])).all(dim=1)]
        log_prior = locality_prior(offsets, settings.locality)
        log_attention = window_attention(g, offsets, log_prior)
        residual = window_residual(torch.where(known, values, f), log_attention, offsets)
        # Deep in a hole nothing tells g what is alike: there A keeps to its prior, or filling would be chance. Across a
        # stroke of text g is worth more than the prior.
        weights = torch.where(within_reach(known[..., 0], 2 * offsets), 1.0, settings.blind_divergence)
        departure = kl_to_prior(log_attention, log_prior, weights)
        return kar.mean_norm(residual.flatten(0, 1)) + settings.divergence * departure

    def validation_psnr(self) -> float:
        error = self.module(self.at(self.held_out)) - self.values[self.held_out]
        return psnr(float(error.square().mean()))

    def test_psnr(self) -> float | None:
        if self.scored is None or self.truth is None or len(self.scored) == 0:
            return None
        total = 0.0
        for pixels, truth in zip(self.scored.split(CHUNK), self.truth.split(CHUNK), strict=True):
            total += float((self.module(self.at(pixels)).clamp(0, 1) - truth).square().sum(dtype=torch.float64))
        return psnr(total / self.truth.numel())
