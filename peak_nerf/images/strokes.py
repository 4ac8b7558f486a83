"""Writing on a picture, for the textural mask: a stroke font of our own, independent of installed fonts.

A stroke is a polyline; a pixel is inked when its centre is within half the pen's width of it, without antialiasing.
"""

# Points are (x, y) in pixels, x to the right and y down, pixel (row i, column j) centred at (j, i).

from __future__ import annotations

from itertools import pairwise

import numpy as np

COVERAGE = 0.045
# Glyphs on a grid 4 wide and 6 high; each is a set of polylines.
FONT: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "A": (((0, 6), (2, 0), (4, 6)), ((0.7, 4), (3.3, 4))),
    "D": (((0, 0), (0, 6), (2.4, 6), (4, 4.4), (4, 1.6), (2.4, 0), (0, 0)),),
    "E": (((4, 0), (0, 0), (0, 6), (4, 6)), ((0, 3), (3, 3))),
    "F": (((4, 0), (0, 0), (0, 6)), ((0, 3), (3, 3))),
    "G": (((4, 1), (3, 0), (1, 0), (0, 1.2), (0, 4.8), (1, 6), (3, 6), (4, 5), (4, 3.2), (2.2, 3.2)),),
    "I": (((2, 0), (2, 6)), ((1, 0), (3, 0)), ((1, 6), (3, 6))),
    "K": (((0, 0), (0, 6)), ((4, 0), (0, 3.4)), ((1.4, 2.4), (4, 6))),
    "L": (((0, 0), (0, 6), (4, 6)),),
    "N": (((0, 6), (0, 0), (4, 6), (4, 0)),),
    "P": (((0, 6), (0, 0), (3, 0), (4, 0.8), (4, 2.4), (3, 3.2), (0, 3.2)),),
    "R": (((0, 6), (0, 0), (3, 0), (4, 0.8), (4, 2.4), (3, 3.2), (0, 3.2)), ((2, 3.2), (4, 6))),
    "T": (((0, 0), (4, 0)), ((2, 0), (2, 6))),
}
WORDS = ("PEAK", "NERF", "FIELD", "KERNEL", "ALIGN", "INPAINT", "GRID", "LATENT", "GRADIENT", "RANK")


def draw_polyline(ink: np.ndarray, points: np.ndarray, width: float) -> None:
    """Ink the pixels of `ink` (h, w) bool within width / 2 of the polyline through `points` (n, 2); what is outside the
    picture is cut off."""
    h, w = ink.shape
    reach = width / 2
    for a, b in pairwise(points):
        low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        x = np.arange(max(int(np.ceil(low[0])), 0), min(int(np.floor(high[0])), w - 1) + 1)
        y = np.arange(max(int(np.ceil(low[1])), 0), min(int(np.floor(high[1])), h - 1) + 1)
        if not (len(x) and len(y)):
            continue
        along = b - a
        to_x, to_y = x[None, :] - a[0], y[:, None] - a[1]
        # Closest point of the segment: a + t * along.
        t = np.clip((to_x * along[0] + to_y * along[1]) / max(float(along @ along), 1e-12), 0, 1)
        near = (to_x - t * along[0]) ** 2 + (to_y - t * along[1]) ** 2 <= reach**2 + 1e-9
        ink[y[0] : y[-1] + 1, x[0] : x[-1] + 1] |= near


def textural_strokes(size: tuple[int, int], random: np.random.RandomState) -> np.ndarray:
    """(h, w) bool, True where written: lines of text and one curve, `COVERAGE` of the picture to within one glyph.

    Pen and letters grow with the shorter side. There are as many lines as the coverage takes, at least three.
    """
    h, w = size
    width = max(1, round(min(size) / 128))
    words = [WORDS[i] for i in random.randint(len(WORDS), size=1000)]
    starts = random.rand(1000)
    curve = _curve(size, random)
    base = np.zeros(size, dtype=bool)
    draw_polyline(base, curve, width)
    wanted = COVERAGE * h * w
    ink = base
    # The tallest sensible number of lines is what fits; each try writes the lines evenly fuller.
    for n_lines in range(3, max(4, h // (8 * width) + 2)):
        ink = base.copy()
        for line in range(n_lines):
            top = (line + 0.5) * h / n_lines - 3.5 * width
            n_ink = (wanted - np.count_nonzero(ink)) / (n_lines - line)
            _write_line(ink, words[line % 1000 :], top, starts[line % 1000], width, n_ink)
        if np.count_nonzero(ink) >= wanted * 0.97:
            break
    return ink


def _write_line(ink: np.ndarray, words: list[str], top: float, start: float, width: int, n_ink: float) -> None:
    """Write from a random place on until `n_ink` pixels are inked or the line is full."""
    w = ink.shape[1]
    unit, advance = width * 7 / 6, width * 7
    before = np.count_nonzero(ink)
    text = " ".join(words)
    # Letters that this takes, by the font's mean of about 19 pixels of ink at width 1; leaves room for them.
    expected = (n_ink / (19 * width**2)) * advance * 1.25
    x = width + start * max(w - 2 * width - expected, 0.0)
    for letter in text:
        if x + 4 * unit + width > w or np.count_nonzero(ink) - before >= n_ink:
            return
        for line in FONT.get(letter, ()):
            draw_polyline(ink, np.array(line) * unit + (x, top), width)
        x += advance


def _curve(size: tuple[int, int], random: np.random.RandomState) -> np.ndarray:
    """(33, 2) points of a cubic Bezier curve from the left side to the right."""
    h, w = size
    y = random.rand(4)
    corners = np.stack([np.array([0.06, 0.36, 0.64, 0.94]) * (w - 1), (0.1 + 0.8 * y) * (h - 1)], axis=1)
    t = np.linspace(0, 1, 33)[:, None]
    return (
        (1 - t) ** 3 * corners[0]
        + 3 * (1 - t) ** 2 * t * corners[1]
        + 3 * (1 - t) * t**2 * corners[2]
        + t**3 * corners[3]
    )
