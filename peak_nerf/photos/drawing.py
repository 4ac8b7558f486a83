"""The page's drawings as inline SVG. Colours are the page's own, by class; everything written is escaped.

# u, v: horizontal axes of the two maps; z: up; a map's pixels: x right, y down
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from peak_nerf.photos.model import SparseModel

MAP_WIDTH = 640
N_POINTS = 4000  # drawn in a map
N_COLORS = 28
N_DOTS = 400  # drawn over a thumbnail
LABEL_GAP = 15  # pixels between the numbers of two cameras
SHADES = 5


@dataclass(frozen=True)
class Maps:
    """The scene seen from above and from the side, at one scale."""

    above: str
    side: str


def maps(model: SparseModel, labels: Sequence[str], numbers: Sequence[int]) -> Maps:
    """Both maps. labels, numbers: of each posed picture, for its camera's tooltip and link (#photo-NUMBER)."""
    axes = _axes(model)
    points, centres = model.points @ axes.T, model.poses[:, :3, 3] @ axes.T
    low, high = _bounds(points, centres)
    # Room for the frusta.
    margin = 0.07 * float((high - low).max()) or 1.0
    low, high = low - margin, high + margin
    size = high - low
    scale = MAP_WIDTH / max(float(size[0]), float(size[1:].max()) / 1.1)
    inside = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
    if len(inside) > N_POINTS:
        inside = np.sort(np.random.default_rng(0).choice(inside, N_POINTS, replace=False))
    colors, index = _few_colors(model.colors[inside])
    frusta = _frusta(model, centres, axes, scale)
    in_order = np.argsort(numbers)
    height = max(round(float(size[1:].max()) * scale), round(0.5 * MAP_WIDTH))
    half = np.array([MAP_WIDTH, height]) / 2
    drawn = []
    for vertical, title in ((1, "from above"), (2, "from the side")):
        pick = [0, vertical]
        middle = (low + high)[pick] / 2

        def place(xyz: np.ndarray, pick: list[int] = pick, middle: np.ndarray = middle) -> np.ndarray:
            return half + (xyz[..., pick] - middle) * (scale, -scale)

        parts = [_grid(middle, half, scale), _dots(place(points[inside]), colors, index)]
        parts += [_route(place(centres[in_order]), centres[in_order]), *_cameras(place(frusta), labels, numbers)]
        drawn.append(
            f'<svg class="map" viewBox="0 0 {MAP_WIDTH} {height}" role="img" aria-label="Cameras and points {title}">'
            f"{''.join(parts)}</svg>"
        )
    return Maps(*drawn)


def _axes(model: SparseModel) -> np.ndarray:
    """(3, 3) rows u, v, z: cameras that look one way look along u, else u is where the cameras spread most."""
    forward = -model.poses[:, :2, 2].mean(axis=0)
    if np.linalg.norm(forward) < 0.5:
        centred = model.poses[:, :2, 3] - model.poses[:, :2, 3].mean(axis=0)
        forward = np.linalg.eigh(centred.T @ centred)[1][:, 1]
    u = np.append(forward / np.linalg.norm(forward), 0.0)
    return np.stack([u, np.cross([0, 0, 1], u), [0, 0, 1]])


def _bounds(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of cameras and most points: fewer of them where some are so far away that the cameras would be one dot."""
    low, high = centres.min(axis=0), centres.max(axis=0)
    if not len(points):
        return low, high
    extent = float((high - low).max())
    for tail in (2, 5, 10, 20):
        ends = np.percentile(points, [tail, 100 - tail], axis=0)
        low, high = np.minimum(centres.min(axis=0), ends[0]), np.maximum(centres.max(axis=0), ends[1])
        if (high - low).max() <= 5 * extent:
            break
    return low, high


def _few_colors(colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A palette and each point's index into it; neither near black nor near white, to be seen on paper and at night."""
    if not len(colors):
        return np.zeros((0, 3), np.uint8), np.zeros(0, int)
    gray = colors @ np.array([0.299, 0.587, 0.114])
    wanted = 62 + gray * 0.45
    shown = (colors + (wanted - gray)[:, None]).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(shown[None]).quantize(N_COLORS, dither=Image.Dither.NONE)
    return np.array(picture.getpalette()).reshape(-1, 3), np.asarray(picture)[0]


def _dots(places: np.ndarray, colors: np.ndarray, index: np.ndarray) -> str:
    width = 2.5 if len(places) > 1500 else 3.4
    paths = []
    for i in np.unique(index):
        red, green, blue = colors[i]
        paths.append(f'<path d="{_strokes(places[index == i])}" stroke="#{red:02x}{green:02x}{blue:02x}"/>')
    return f'<g class="points" stroke-width="{width}">{"".join(paths)}</g>'


def _strokes(places: np.ndarray) -> str:
    """Dots as strokes of no length, which round line ends make visible: a path is a tenth of so many circles."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)


def _grid(middle: np.ndarray, half: np.ndarray, scale: float) -> str:
    """Lines a round number of units apart; the unit itself says nothing."""
    about = MAP_WIDTH / 9 / scale
    step = min((m * 10 ** np.floor(np.log10(about)) for m in (1, 2, 5, 10)), key=lambda s: abs(np.log(s / about)))
    path = ""
    for axis, command in ((0, "V"), (1, "H")):
        first, last = np.array([-1, 1]) * half[axis] / scale + middle[axis]
        for k in range(int(np.ceil(first / step)), int(np.floor(last / step)) + 1):
            at = half[axis] + (k * step - middle[axis]) * scale * (1 if axis == 0 else -1)
            start = f"M{at:.1f} 0" if axis == 0 else f"M0 {at:.1f}"
            path += f"{start}{command}{2 * half[1 - axis]:.0f}"
    return f'<path class="grid" d="{path}"/>'


def _frusta(model: SparseModel, centres: np.ndarray, axes: np.ndarray, scale: float) -> np.ndarray:
    """(n_image, 5, 3): centre and corners; as large as neighbours leave room for, within reason."""
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    near = float(np.median(gaps.min(axis=1))) * scale if len(centres) > 1 else 0.0
    depth = float(np.clip(0.8 * near, 14, 34)) / scale
    corners = []
    for intrinsics in model.intrinsics:
        focal = max(float(intrinsics.parameters["fl_x"]), 0.5 * intrinsics.width)  # no sheet for a fisheye
        x, y = 0.5 * intrinsics.width / focal, 0.5 * intrinsics.height / focal
        corners.append([[0, 0, 0], [-x, y, -1], [x, y, -1], [x, -y, -1], [-x, -y, -1]])
    turned = np.einsum("ab,nbc,nkc->nka", axes, model.poses[:, :3, :3], np.array(corners) * depth)
    return centres[:, None] + turned


def _cameras(frusta: np.ndarray, labels: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """frusta: (n_image, 5, 2) in the map's pixels."""
    parts: list[str] = []
    written: list[np.ndarray] = []
    for corners, label, number in zip(frusta, labels, numbers, strict=True):
        o, a, b, c, d = (f"{x:.1f} {y:.1f}" for x, y in corners)
        text = ""
        at = corners[0] - 11 * _unit(corners[1:].mean(axis=0) - corners[0]) + (0, 3)
        if all(np.abs(at - other).max() >= LABEL_GAP for other in written):
            written.append(at)
            text = f'<text x="{at[0]:.1f}" y="{at[1]:.1f}">{number}</text>'
        parts.append(
            f'<a class="camera" href="#photo-{number}"><title>{escape(f"{number} · {label}")}</title>'
            f'<path d="M{o}L{a}L{b}ZM{o}L{c}L{d}ZM{a}L{d}M{b}L{c}"/>'
            f'<circle cx="{corners[0, 0]:.1f}" cy="{corners[0, 1]:.1f}" r="7"/>{text}</a>'
        )
    return parts


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _route(places: np.ndarray, centres: np.ndarray) -> str:
    """The way of the camera, where the pictures are in order: its steps are shorter than chance would have them."""
    if len(centres) < 5:
        return ""
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    between = np.linalg.norm(centres[:, None] - centres[None], axis=2)[np.triu_indices(len(centres), 1)]
    if np.median(steps) > 0.5 * np.median(between):
        return ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="route" points="{line}"/>'


def dots_over_picture(pixels: np.ndarray, size: tuple[int, int], shown: tuple[int, int]) -> str:
    """Points (n, 2) of a picture of `size`, over its thumbnail of size `shown`."""
    if len(pixels) > N_DOTS:
        pixels = pixels[np.sort(np.random.default_rng(0).choice(len(pixels), N_DOTS, replace=False))]
    strokes = _strokes(pixels * (np.array(shown) / size))
    return (
        f'<svg class="dots" viewBox="0 0 {shown[0]} {shown[1]}" aria-hidden="true">'
        f'<path class="rim" d="{strokes}"/><path d="{strokes}"/></svg>'
    )


def histogram(counts: Sequence[int], ticks: Sequence[tuple[float, str]], titles: Sequence[str], mark: float) -> str:
    """Bars. ticks: (place in bars from the left edge, text); titles: a tooltip for each bar; mark: the mean's place."""
    width, height, foot = 420, 150, 20
    step, top = width / len(counts), max(max(counts), 1)
    parts = []
    for i, (count, title) in enumerate(zip(counts, titles, strict=True)):
        tall = count / top * (height - 12)
        parts.append(
            f'<rect x="{i * step + 1:.1f}" y="{height - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" rx="1">'
            f"<title>{escape(title)}</title></rect>"
        )
    parts.append(f'<path class="axis" d="M0 {height}H{width}"/>')
    for place, text in ticks:
        parts.append(f'<text x="{place * step:.1f}" y="{height + foot - 5}">{escape(text)}</text>')
    parts.append(f'<path class="mark" d="M{mark * step:.1f} 4V{height}"/>')
    return f'<svg class="bars" viewBox="-18 0 {width + 36} {height + foot}" role="img">{"".join(parts)}</svg>'


def matrix(shared: np.ndarray, numbers: Sequence[int]) -> str:
    """Which pictures share points: (n, n) counts as shades, stronger for more."""
    n = len(shared)
    between = shared.copy()
    np.fill_diagonal(between, 0)
    level = np.ceil(SHADES * between / max(int(between.max()), 1)).astype(int)
    parts = [f'<path class="empty" d="M0 0H{n}V{n}H0Z"/>']
    for shade in range(1, SHADES + 1):
        cells = "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(level == shade))
        if cells:
            parts.append(f'<path class="shade{shade}" d="{cells}"/>')
    parts.append('<path class="own" d="' + "".join(f"M{i} {i}h1v1h-1z" for i in range(n)) + '"/>')
    every = 1 if n <= 12 else 5 if n <= 40 else 10
    font = (n + 1) / 40
    for i, number in enumerate(numbers):
        if i % every == 0:
            where = (f'x="{i + 0.5}" y="{-0.4 * font:.2f}"', f'class="row" x="{-0.4 * font:.2f}" y="{i + 0.5}"')
            parts += [f"<text {place}>{number}</text>" for place in where]
    pad = 2.2 * font
    box = f"{-pad:.2f} {-pad:.2f} {n + pad:.2f} {n + pad:.2f}"
    return f'<svg class="matrix" viewBox="{box}" font-size="{font:.2f}" role="img">{"".join(parts)}</svg>'
