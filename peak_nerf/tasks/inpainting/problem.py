"""Fitting a field to the observed pixels of a picture, as a problem for `core.fit`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peak_nerf.metrics import psnr
from peak_nerf.tasks.image_field import CHUNK, ImageField, pixel_coordinates
from peak_nerf.tasks.inpainting.settings import InpaintSettings

HELD_OUT_FRACTION, MAX_HELD_OUT = 0.02, 4096
"""Observed pixels held out to choose the stopping point."""
SCORED_PIXELS = 2**18
"""PSNR over time is taken over at most this many pixels, chosen at random; up to 512 x 512 that is all of them."""


def within(reach: int | None, observed: np.ndarray) -> np.ndarray:
    """(h, w) bool, pixels no further than `reach` from one that is not observed; all where it is None."""
    if reach is None:
        return np.ones_like(observed)
    import cv2

    far = np.pad(observed, reach + 1, constant_values=True).astype(np.uint8)
    distance = np.asarray(cv2.distanceTransform(far, cv2.DIST_L2, 3))
    return distance[reach + 1 : -reach - 1, reach + 1 : -reach - 1] <= reach


class InpaintProblem:
    """`core.fit.Problem`: mean squared error on observed pixels, plus KAR on a window around a missing one, plus, at
    first, the squared distance to a guide where nothing was measured.

    The truth, of the image's shape (h, w, c), is for the history alone.
    """

    def __init__(
        self,
        field: ImageField,
        settings: InpaintSettings,
        image: np.ndarray,
        observed: np.ndarray,
        truth: np.ndarray | None,
        generator: torch.Generator,
    ) -> None:
        self.field, self.settings = field, settings
        self.rows, self.columns = pixel_coordinates((image.shape[0], image.shape[1]))
        self.values = torch.from_numpy(image.reshape(-1, image.shape[2]))
        pixels = torch.from_numpy(np.flatnonzero(observed & within(settings.reach, observed)))
        n_held_out = max(min(int(len(pixels) * HELD_OUT_FRACTION), MAX_HELD_OUT), 1)
        order = torch.randperm(len(pixels), generator=generator)
        self.held_out, self.train = pixels[order[:n_held_out]], pixels[order[n_held_out:]].sort().values
        self.observed_pixels = pixels
        self.measured = torch.zeros(len(self.values), dtype=torch.bool)
        self.measured[torch.from_numpy(np.flatnonzero(observed))] = True
        missing = torch.from_numpy(np.flatnonzero(~observed))
        self.centres = missing if len(missing) > 0 else pixels
        self.guide: Tensor | None = None
        self.scored, self.truth = None, None
        if truth is not None:
            flat = np.asarray(truth, dtype=np.float32).reshape(self.values.shape)
            finite = torch.from_numpy(np.flatnonzero(np.isfinite(flat).all(axis=1)))
            # A generator of its own: the fit is the same without a truth.
            chosen = torch.randperm(len(finite), generator=torch.Generator().manual_seed(0))[:SCORED_PIXELS]
            self.scored = finite[chosen].sort().values
            self.truth = torch.from_numpy(flat)[self.scored]

    def draw_towards(self, guide: np.ndarray) -> None:
        """Take (h, w, c) as a guide for the first `settings.guided` of the fit. It must not know held-out pixels."""
        self.guide = torch.from_numpy(guide.reshape(self.values.shape))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the field."""
        return self.field.parameter_groups()

    def at(self, pixels: Tensor) -> Tensor:
        """Coordinates of flat pixel numbers."""
        width = len(self.columns)
        return torch.stack([self.rows[pixels // width], self.columns[pixels % width]], dim=1)

    def loss(self, progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        """The loss of one step."""
        pixels = self.observed_pixels if include_held_out else self.train
        self.measured[self.held_out] = include_held_out
        if len(pixels) > self.settings.pixels_per_step:
            pixels = pixels[torch.randint(len(pixels), (self.settings.pixels_per_step,), generator=generator)]
        kar = self.settings.kar
        weight = 0.0 if kar is None or self.field.kar is None else self.field.kar.weight_at(progress)
        if kar is None or weight == 0:
            return (self.field(self.at(pixels)) - self.values[pixels]).square().mean()
        window, h, w = self.window(kar.window, generator)
        everywhere = torch.cat([pixels, window])
        f = self.field(self.at(everywhere))
        # f is evaluated at the window's measured pixels anyway, so they are fitted too.
        measured = self.measured[everywhere]
        error = (f - self.values[everywhere])[measured].square().mean()
        if self.guide is not None and progress < self.settings.guided:
            distance = (f - self.guide[everywhere])[~measured].square().mean(dim=1).sum() / len(everywhere)
            error = error + (1 - progress / self.settings.guided) * distance
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
        """KAR of a window of flat pixel numbers, without weight; f is (h, w, c), measured values stand for it."""
        h, w = f.shape[:2]
        measured, values = self.measured[window].reshape(h, w), self.values[window].reshape(h, w, -1)
        return self.field.window_kar(self.at(window), torch.where(measured[..., None], values, f), measured)

    def validation_psnr(self) -> float:
        """On the held-out pixels, in dB."""
        error = self.field(self.at(self.held_out)) - self.values[self.held_out]
        return psnr(float(error.square().mean()))

    def at_stopping_point(self, parameters: list[Tensor]) -> np.ndarray:
        """(n, c) values of the held-out pixels by the field with these parameters, or as it is where there are none."""
        live = [p for group in self.parameter_groups() for p in group["params"]]
        kept = [p.detach().clone() for p in live]
        with torch.no_grad():
            if parameters:
                torch._foreach_copy_(live, parameters)
            found = self.field(self.at(self.held_out)).clamp(0, 1).numpy()
            torch._foreach_copy_(live, kept)
        return found

    def test_psnr(self) -> float | None:
        """Against the truth, in dB; None where there is none."""
        if self.scored is None or self.truth is None or len(self.scored) == 0:
            return None
        total = 0.0
        for pixels, truth in zip(self.scored.split(CHUNK), self.truth.split(CHUNK), strict=True):
            total += float((self.field(self.at(pixels)).clamp(0, 1) - truth).square().sum(dtype=torch.float64))
        return psnr(total / self.truth.numel())
