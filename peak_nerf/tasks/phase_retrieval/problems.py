"""Net-GD and Net-ADM: a field f whose picture f(X) is to explain the magnitudes, as problems for `core.fit`.

Both hold out a part of the magnitudes, by which the fit finds its stopping point, and start by fitting f to a picture
that a search of the magnitudes alone has found.

Source: Li et al., ICML 2025, appendix B.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.metrics import psnr
from peak_nerf.tasks.image_field import ImageField, pixel_coordinates
from peak_nerf.tasks.phase_retrieval.data_term import data_error, expected_measurement
from peak_nerf.tasks.phase_retrieval.magnitudes import Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator
from peak_nerf.tasks.phase_retrieval.settings import PhaseSettings

HELD_OUT = 0.02
"""Fraction of the magnitudes by which the stopping point is found."""
EARLIEST = 0.7
"""Fraction of the run from which the held-out magnitudes choose: before, sigma and KAR blur on purpose."""
MIN_PREFIT = 60
"""Steps of the fit to the start, at the least."""
ANNEALED = 0.8
"""Fraction of the run at which sigma has reached its end: where `core.fit` lets the held-out magnitudes join."""

DISTILLED = 1e-6
"""Mean squared error, 60 dB, at which a field holds a picture."""


def held_out_mask(measurements: Measurements, generator: torch.Generator) -> Tensor:
    """Which magnitudes are fitted in the first phase, of y's shape, bool; at least one is held out.

    The largest ones, Fourier's centre, are always fitted: without them even the mean of the picture is open.
    """
    y = measurements.magnitudes
    draw = torch.rand(y.shape, generator=generator)
    if measurements.known is not None:
        draw[~measurements.known] = 1.0  # nothing is held out where nothing was measured
    if y.ndim == 2:
        draw[y >= y.flatten().topk(min(64, y.numel() // 2)).values[-1]] = 1.0
    fit_mask = draw >= HELD_OUT
    fit_mask.view(-1)[draw.argmin()] = False
    return fit_mask


class Splitting(nn.Module):
    """What is saved of a fit: the field, Net-ADM's z and u, (h, w), and the steps that were done."""

    z: Tensor
    u: Tensor
    steps: Tensor

    def __init__(self, field: ImageField, start: Tensor) -> None:
        super().__init__()
        self.field = field
        self.register_buffer("z", start.clone())
        self.register_buffer("u", torch.zeros_like(start))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))


def distil(field: ImageField, picture: Float[Tensor, "h w"], learning_rate: float, max_steps: int = 400) -> float:
    """Distillation: fit f(X) to a picture found after the field's own fit; returns the PSNR of f(X) against it, in dB.

    Adam ends at a mean squared error of `DISTILLED`. g has no part in f(X).

    Args:
        field: fitted in place.
        picture: what f(X) becomes.
        learning_rate: falls to 0 along a cosine.
        max_steps: over which it falls.
    """
    x = torch.cartesian_prod(*pixel_coordinates((picture.shape[0], picture.shape[1])))
    optimizer = torch.optim.Adam(field.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max_steps)
    for _ in range(max_steps):
        error = (field(x).reshape(picture.shape) - picture).square().mean()
        if error.item() < DISTILLED:
            break
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return psnr(float((field(x).reshape(picture.shape) - picture).square().mean()))


class NetGD:
    """`core.fit.Problem`: theta by gradient descent on || A f(X) - target ||^2 / n^2 + lambda KAR.

    The target is `data_term.expected_measurement`; at sigma = 0 this is the amplitude loss || |A f(X)| - y ||^2.
    Before that, f is fitted to `start`; `fit_mask` are the magnitudes that are fitted before the held-out ones join.
    """

    def __init__(
        self,
        module: Splitting,
        settings: PhaseSettings,
        measurements: Measurements,
        start: Tensor,
        fit_mask: Tensor,
    ) -> None:
        self.module, self.settings, self.measurements = module, settings, measurements
        self.start, self.fit_mask = start, fit_mask
        self.box, self.n_pixels = measurements.operator.box, math.prod(measurements.operator.box)
        self.support = measurements.operator.support
        self.sigma_end, self.kar_fall = settings.sigma_end, settings.kar_fall
        self.x = torch.cartesian_prod(*pixel_coordinates(self.box))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the field."""
        return self.module.field.parameter_groups()

    def picture(self) -> Float[Tensor, "h w"]:
        """f(X), 0 outside of the support."""
        picture = self.module.field(self.x).reshape(self.box)
        return picture if self.support is None else picture * self.support

    def fits_start(self, progress: float) -> bool:
        """Whether this is a step of the fit to the start: at least `MIN_PREFIT`, however long compilation takes."""
        return progress < self.settings.prefit or int(self.module.steps) <= MIN_PREFIT

    def loss(self, progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        """The loss of one step: of the fit to the start, then of the fit to the magnitudes."""
        self.module.steps += 1
        picture = self.picture()
        if self.fits_start(progress):
            loss = (picture - self.start).square().mean()
            return loss + self.kar_loss(picture.detach(), 0.0, generator)
        late = min(max(progress - self.settings.prefit, 0.0) / (ANNEALED - self.settings.prefit), 1.0)
        return self.data_loss(picture, late, include_held_out) + self.kar_loss(picture, late, generator)

    def sigma(self, late: float) -> float:
        """sigma of `data_term`, falling geometrically."""
        return self.settings.sigma_start * (self.sigma_end / self.settings.sigma_start) ** late

    def data_loss(self, picture: Tensor, late: float, include_held_out: bool) -> Tensor:
        """|| A f(X) - target ||^2 / n^2 over the fitted magnitudes, or all of them."""
        z = self.measurements.operator.apply(picture)
        target = expected_measurement(z, self.measurements.magnitudes, self.sigma(late))
        weights = self.measurements.weights if include_held_out else self.measurements.weights * self.fit_mask
        return data_error(z, target, weights, self.n_pixels)

    def kar_loss(self, picture: Tensor, late: float, generator: torch.Generator) -> Tensor:
        """Weighted KAR of a random window of the picture; its weight falls as `late` goes from 0 to 1."""
        kar = self.settings.kar
        if kar is None or kar.weight == 0:
            return picture.new_zeros(())
        sides = [min(kar.window, n) for n in self.box]
        corners = [int(torch.randint(n - k + 1, (), generator=generator)) for n, k in zip(self.box, sides, strict=True)]
        rows, columns = (slice(corner, corner + k) for corner, k in zip(corners, sides, strict=True))
        x = self.x.reshape(*self.box, 2)[rows, columns].flatten(0, 1)
        # Nothing of the picture is measured: every value takes part in the residual as it is.
        loss = self.module.field.window_kar(x, picture[rows, columns][..., None])
        return kar.weight * self.kar_fall**late * loss

    def validation_psnr(self) -> float:
        """-10 log10 of the mean squared error of the held-out magnitudes, in dB."""
        return psnr(float(self._held_out_error(self.picture()).square()))

    def _held_out_error(self, picture: Tensor) -> Tensor:
        """Root of the mean square, over the held-out magnitudes."""
        error = self.measurements.operator.apply(picture).abs() - self.measurements.magnitudes
        counts = self.measurements.weights.expand(error.shape)[~self.fit_mask]
        return ((error[~self.fit_mask].square() * counts).sum() / counts.sum()).sqrt()

    def test_psnr(self) -> float | None:
        """None: there is no truth here."""
        return None


class NetADM(NetGD):
    r"""`core.fit.Problem`: alternating updates of z, theta and the scaled multiplier u,

        z     = argmin over [0, 1]^n of || P z - P f(X) + P u ||^2 = clip(f(X) - u, 0, 1)
        theta : `inner_steps` of Adam on 1/2 || sqrt(|A f|^2 + eps) - sqrt(y^2 + eps) ||^2 + rho/2 || z - f + u ||^2
        u     = u + z - f(X)

    all per pixel, A unitary, so that B.2's 1/(2 m) and 1/2 are the same. f is zero outside the picture by P, so u is
    needed only within it. [0, 1] is all that a user knows of the picture beside its support.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        operator = self.measurements.operator
        self.n_padded = math.prod(operator.frame if isinstance(operator, FourierOperator) else operator.shape)
        noise = max(float(self._held_out_error(self.start)), 2 * self.measurements.sigma)
        self.sigma_end = min(max(self.sigma_end, noise / 2), self.settings.sigma_start)
        self.kar_fall = min(max(self.kar_fall, noise / self.settings.sigma_start), 1.0)

    def loss(self, progress: float, include_held_out: bool, generator: torch.Generator) -> Tensor:
        """As Net-GD's, with an update of z and u every `inner_steps`."""
        if not self.fits_start(progress) and int(self.module.steps) % self.settings.inner_steps == 0:
            self.update()
        return super().loss(progress, include_held_out, generator)

    @torch.no_grad()
    def update(self) -> None:
        """u for the theta that the inner steps have reached, then z; the first time it makes up for the fit to z."""
        f = self.picture()
        self.module.u += self.module.z - f
        z = (f - self.module.u).clamp(0, 1)
        self.module.z.copy_(z if self.support is None else z * self.support)

    def data_loss(self, picture: Tensor, late: float, include_held_out: bool) -> Tensor:
        """The augmented Lagrangian over n^2, as theta sees it."""
        operator = self.measurements.operator
        z = operator.apply(picture)
        # eps is B.2's, for the transform without its scale.
        target = expected_measurement(
            z, self.measurements.magnitudes, self.sigma(late), self.settings.epsilon / self.n_padded
        )
        weights = self.measurements.weights if include_held_out else self.measurements.weights * self.fit_mask
        penalty = (self.module.z - picture + self.module.u).square().mean()
        return data_error(z, target, weights, self.n_pixels) / 2 + self.settings.rho / 2 * penalty
