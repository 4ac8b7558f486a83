"""Fewer rays for a picture: pixels are interpolated where their neighbours agree.

The border and every second pixel in each direction are rendered; then come the pixels in the middle of four of these,
and then all others, so that four neighbours of each are known: above, below, left and right, or in the first case
diagonally. Where they agree in colour, opacity and depth, a pixel is their mean. Elsewhere it is rendered.

Source: after Akimoto, Mase, Suenaga, Pixel-Selected Ray Tracing, IEEE Computer Graphics and Applications 11(4), 1991.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

DEPTH_TOLERANCE = 0.02
"""Relative difference of depths up to which neighbours agree."""
DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
UPRIGHT = ((-1, 0), (1, 0), (0, -1), (0, 1))
PASSES = ((1, 1, DIAGONAL), (2, 1, UPRIGHT), (1, 2, UPRIGHT))
"""First row and column of every second pixel inside, and where its neighbours are."""


def selected_pixels(
    render: Callable[[RayBundle], dict[str, Float[Tensor, "n _"]]], rays: RayBundle, tolerance: float, chunk: int
) -> dict[str, Float[Tensor, "h w _"]]:
    """The images that `render` gives of some of a picture's rays: among them `rgb`, `accumulation` and `depth`.

    Args:
        render: at most `chunk` rays at a time, (n,).
        rays: of a whole picture, (h, w).
        tolerance: difference up to which colours and opacities, in [0, 1], agree; 0 renders every pixel.
        chunk: at least 1.
    """
    (height, width), rays = rays.shape, rays.flatten()
    images: dict[str, Tensor] = {}

    def put(pixels: Int[Tensor, " n"]) -> None:
        for part in pixels.split(chunk):
            for name, value in render(rays[part]).items():
                if name not in images:
                    images[name] = value.new_zeros(height * width, value.shape[-1])
                images[name][part] = value

    every = torch.arange(height * width, device=rays.origins.device).reshape(height, width)
    first = torch.full_like(every, tolerance <= 0, dtype=torch.bool)
    first[::2, ::2] = first[[0, -1]] = first[:, [0, -1]] = True
    put(every[first])
    for row, column, offsets in PASSES if tolerance > 0 else ():
        pixels = every[row:-1:2, column:-1:2].flatten()
        neighbours = torch.stack([pixels + down * width + right for down, right in offsets])
        agree = _agree(images, neighbours, tolerance)
        for image in images.values():
            image[pixels[agree]] = image[neighbours[:, agree]].mean(0)
        put(pixels[~agree])
    return {name: image.reshape(height, width, -1) for name, image in images.items()}


def _agree(images: dict[str, Tensor], neighbours: Int[Tensor, "4 n"], tolerance: float) -> Bool[Tensor, " n"]:
    """Which neighbours have nearly the same colour, opacity and depth."""
    depth = images["depth"].clamp(min=1e-9).log() * (tolerance / DEPTH_TOLERANCE)
    values = torch.cat((images["rgb"], images["accumulation"], depth), -1)[neighbours]
    return ((values.amax(0) - values.amin(0)) <= tolerance).all(-1)
