"""Pixels of pictures of any sizes in one flat table, to draw from at random; smaller copies for the first steps.

Symbols:
    u, v       column and row in a full-size picture, in pixels; the middle of the upper left pixel is (0.5, 0.5)
    factor     how many pixels of the full size, along each side, are one pixel of a table
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SCHEDULE = ((0.1, 4), (0.3, 2), (1.0, 1))
"""Until which fraction of the training pixels are drawn from which copies, where copies are used."""
SMALLEST = 300
"""Pictures whose longer side is shorter have no smaller copies: a quarter of them shows nothing."""


@dataclass
class Drawn:
    """Pixels at random: whose, where in the full-size picture, and their colour."""

    camera: Tensor
    """(n,) index of the picture."""
    u: Tensor
    """(n,)"""
    v: Tensor
    """(n,)"""
    colour: Tensor
    """(n, 3 or 4) bytes."""

    def and_then(self, others: Drawn) -> Drawn:
        """These, and after them others of the same pictures."""
        mine, theirs = ((d.camera, d.u, d.v, d.colour) for d in (self, others))
        return Drawn(*(torch.cat(pair) for pair in zip(mine, theirs, strict=True)))


class PixelTable:
    """All pixels of pictures (h, w, c) of bytes, each shrunk by `factor`; without those that a mask leaves out.

    A shrunken pixel is the mean of factor x factor, weighted by alpha, and is left out when any of them is. What
    remains at the right and lower border is in the full-size table only.
    """

    def __init__(
        self, images: Sequence[Tensor], masks: Sequence[Tensor] | None, device: torch.device | str, factor: int = 1
    ) -> None:
        self.factor = factor
        images = [shrink(image, factor) for image in images]
        sizes = torch.tensor([image.shape[:2] for image in images])
        self.colours = torch.cat([image.reshape(-1, image.shape[-1]) for image in images]).to(device)
        counts = sizes.prod(-1)
        self.first = (counts.cumsum(0) - counts).to(device)
        self.widths = sizes[:, 1].to(device)
        # Of pictures of one size, a division tells whose pixel it is, faster than a search.
        self.per_picture = int(counts[0]) if bool((counts == counts[0]).all()) else None
        self.drawable: Tensor | None = None
        if masks is not None:
            whole = [shrink_mask(mask, factor).flatten() for mask in masks]
            self.drawable = torch.cat(whole).nonzero()[:, 0].to(device)

    def __len__(self) -> int:
        """How many pixels can be drawn."""
        return len(self.colours if self.drawable is None else self.drawable)

    def draw(self, n: int) -> Drawn:
        """`n` of them at random, each as likely."""
        pixel = torch.randint(len(self), (n,), device=self.colours.device)
        if self.drawable is not None:
            pixel = self.drawable[pixel]
        camera = self.picture_of(pixel)
        within, width = pixel - self.first[camera], self.widths[camera]
        row = torch.div(within, width, rounding_mode="floor")
        column = within - row * width
        return Drawn(camera, (column + 0.5) * self.factor, (row + 0.5) * self.factor, self.colours[pixel])

    def picture(self, camera: int, height: int) -> tuple[Tensor, Tensor | None]:
        """A picture (h, w, c), and where it can be drawn from, (h, w) bool; None for everywhere. On the CPU."""
        first, width = int(self.first[camera]), int(self.widths[camera])
        count = height * width
        drawable = None
        if self.drawable is not None:
            drawable = torch.zeros(count, dtype=torch.bool)
            within = self.drawable.cpu() - first
            drawable[within[(within >= 0) & (within < count)]] = True
            drawable = drawable.reshape(height, width)
        return self.colours[first : first + count].reshape(height, width, -1).cpu(), drawable

    def at(self, camera: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Places in the table of the pixels that hold positions (u, v) of pictures, (n,) each; -1 where there is none.

        Of the full size only: `factor` is 1.
        """
        column, row = u.floor().long(), v.floor().long()
        place = self.first[camera] + row * self.widths[camera] + column
        end = torch.cat((self.first[1:], self.first.new_tensor([len(self.colours)])))[camera]
        inside = (u >= 0) & (column < self.widths[camera]) & (v >= 0) & (place < end)
        if self.drawable is not None:
            inside &= torch.isin(place, self.drawable)
        return torch.where(inside, place, -1)

    def picture_of(self, pixel: Tensor) -> Tensor:
        """Whose pixels they are, by their places in the table, (n,)."""
        if self.per_picture is not None:
            return torch.div(pixel, self.per_picture, rounding_mode="floor")
        return torch.searchsorted(self.first, pixel, right=True) - 1


def pixel_tables(
    images: Sequence[Tensor], masks: Sequence[Tensor] | None, device: torch.device | str, coarse_to_fine: bool
) -> list[tuple[float, PixelTable]]:
    """Tables and until which fraction of the training to draw from each; the full size alone unless `coarse_to_fine`.

    A copy of which masks leave nothing is not used, nor any of pictures under `SMALLEST`.
    """
    full = PixelTable(images, masks, device)
    if not coarse_to_fine or min(max(image.shape[:2]) for image in images) < SMALLEST:
        return [(1.0, full)]
    tables = [(end, full if factor == 1 else PixelTable(images, masks, device, factor)) for end, factor in SCHEDULE]
    return [(end, table) for end, table in tables if len(table) > 0 or table is full]


def used_pixels(image: Tensor, mask: Tensor | None) -> np.ndarray:
    """255 where a picture (h, w, 3 or 4) of bytes shows something and its mask, (h, w) bool, leaves it in; else 0."""
    used = np.full(image.shape[:2], 255, np.uint8) if mask is None else mask.numpy().astype(np.uint8) * 255
    if image.shape[-1] == 4:
        used[image[..., 3].numpy() == 0] = 0
    return used


def shrink(image: Tensor, factor: int) -> Tensor:
    """Means of factor x factor pixels of a picture (h, w, c) of bytes; with alpha (c = 4), of what is not transparent.

    Source: compositing is linear in colour times alpha (Porter and Duff 1984), not in colour.
    """
    if factor == 1:
        return image
    values = image.permute(2, 0, 1).float()
    if image.shape[-1] == 4:
        alpha = values[3:]
        mean = F.avg_pool2d(torch.cat((values[:3] * alpha, alpha)), factor)
        values = torch.cat((mean[:3] / mean[3:].clamp(min=1e-6), mean[3:]))
    else:
        values = F.avg_pool2d(values, factor)
    return values.round().clamp(0, 255).byte().permute(1, 2, 0)


def shrink_mask(mask: Tensor, factor: int) -> Tensor:
    """Where all of factor x factor pixels of a mask (h, w) are set."""
    return F.avg_pool2d(mask[None].float(), factor)[0] == 1 if factor > 1 else mask
