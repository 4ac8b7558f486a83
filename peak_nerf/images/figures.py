"""Pictures that several tasks leave behind: inputs with their holes, panels side by side, plots, GIFs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peak_nerf.images.read import write_png
from peak_nerf.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

# Missing pixels are shown in this colour, which photographs rarely have.
MISSING = np.array([0.85, 0.1, 0.55], dtype=np.float32)

# From far to near.
DEPTH_COLOURS = np.array([[48, 18, 59], [51, 86, 140], [33, 145, 140], [122, 209, 81], [253, 231, 37]]) / 255
# A scene that reaches so many times farther than it begins is shown by inverse depth: else a sky takes all colours.
DEEP = 4.0


def as_rgb(values: np.ndarray) -> np.ndarray:
    """(h, w, 1 or 3) to (h, w, 3)."""
    return np.broadcast_to(values, (*values.shape[:2], 3))


def input_picture(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The picture with its missing pixels marked, (h, w, 3)."""
    return np.where(observed[..., None], as_rgb(values), MISSING)


def write_comparison(path: Path, panels: Sequence[np.ndarray]) -> None:
    """Panels of one size side by side with a white gap: observed, reconstruction, and the truth where there is one."""
    gap = np.ones((panels[0].shape[0], max(panels[0].shape[1] // 64, 2), 3), dtype=np.float32)
    row = [part for panel in panels for part in (as_rgb(panel), gap)][:-1]
    write_png(path, np.concatenate(row, axis=1))


def at_most(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture (h, w, c) with its longer side at most so long, each pixel the mean over its area."""
    h, w = picture.shape[:2]
    if max(h, w) <= side:
        return picture
    import cv2

    size = tuple(max(1, round(n * side / max(h, w))) for n in (w, h))
    small = np.asarray(cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA))
    return small.reshape(size[1], size[0], picture.shape[2])


def write_residual(path: Path, reconstruction: np.ndarray, truth: np.ndarray, has_truth: np.ndarray) -> None:
    """|reconstruction - truth|, mean over channels, 4 times; black where there is no truth."""
    error = np.abs(reconstruction - truth).mean(axis=2)
    write_png(path, np.where(has_truth, 4 * error, 0))


def write_figure(path: Path, figure: Figure, **options: Any) -> None:
    """Write a figure as its path's suffix says, whole or not at all; the options are those of `savefig`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], **options)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


# -------------------------------------------------------------------------------------------------- radiance fields


def depth_picture(depth: np.ndarray, accumulation: np.ndarray) -> np.ndarray:
    """Depth (h, w) in colours (h, w, 3), near bright and far dark, over its own range; white where nothing is.

    Colours follow depth, or its inverse where the range is wider than `DEEP`.
    """
    solid = accumulation > 0.5
    if not solid.any():
        return np.ones((*depth.shape, 3))
    near, far = np.percentile(depth[solid], [1, 99])
    if near > 0 and far > DEEP * near:
        level = (1 / np.maximum(depth, near) - 1 / far) / (1 / near - 1 / far)
    else:
        level = (far - depth) / max(far - near, 1e-6)
    stops = np.linspace(0, 1, len(DEPTH_COLOURS))
    colours = np.stack([np.interp(np.clip(level, 0, 1), stops, DEPTH_COLOURS[:, c]) for c in range(3)], axis=-1)
    return np.where(solid[..., None], colours, 1.0)


def on_white(image: np.ndarray) -> np.ndarray:
    """RGB (h, w, 3) of an RGB or RGBA image with straight alpha."""
    return image if image.shape[-1] == 3 else image[..., :3] * image[..., 3:] + 1 - image[..., 3:]


def compare(truth: np.ndarray, rendering: np.ndarray, depth: np.ndarray) -> list[np.ndarray]:
    """A row of a grid: truth, rendering, 4 times their difference, depth, each (h, w, 3)."""
    return [truth, rendering, np.clip(4 * np.abs(truth - rendering), 0, 1), depth]


def compose_grid(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], gap: int = 4, band: int = 20) -> Image:
    """Rows of pictures (h, w, 3) on white, each column under its caption.

    The pictures of a row are of one size; rows may differ, as portraits and landscapes do.
    """
    from PIL import Image, ImageDraw

    width, heights = max(row[0].shape[1] for row in rows), [row[0].shape[0] for row in rows]
    size = (len(captions) * (width + gap) - gap, band + sum(heights) + gap * (len(rows) - 1))
    sheet = Image.new("RGB", size, "white")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            x = j * (width + gap) + (width - picture.shape[1]) // 2
            sheet.paste(to_image(picture), (x, band + sum(heights[:i]) + gap * i))
    draw = ImageDraw.Draw(sheet)
    for j, caption in enumerate(captions):
        draw.text((j * (width + gap) + width / 2, band / 2), caption, fill="black", anchor="mm")
    return sheet


def to_image(picture: np.ndarray) -> Image:
    """8-bit RGB of a picture (h, w, 3), clipped to [0, 1]."""
    from PIL import Image

    return Image.fromarray(np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8))


def save_grid(path: Path, rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str]) -> None:
    """Write `compose_grid` as a PNG, whole or not at all."""
    sheet = compose_grid(rows, captions)
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))


def save_gif(frames: Sequence[np.ndarray], path: Path, milliseconds: int = 80) -> None:
    """Write an endless GIF, whole or not at all, whose frames share one palette so that colours do not flicker."""
    from PIL import Image

    palette = to_image(np.concatenate(frames[:: max(1, len(frames) // 6)], axis=1)).quantize(255)
    palette.putpalette([*(palette.getpalette() or [])[: 3 * 255], 255, 255, 255])  # the background stays pure white
    images = [to_image(f).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for f in frames]
    options = {"save_all": True, "append_images": images[1:], "duration": milliseconds, "loop": 0}
    write_atomically(path, lambda file: images[0].save(file, format="GIF", **options))
