"""The report's plots, as SVG that takes the page's own text colour, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours, told apart by colour-blind readers and on light and dark ground.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#999999")
MARKERS = "osD^vPXd"
INK = "#123456"
"""Stands for the page's text colour while matplotlib draws."""

X = float | str


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    points: Sequence[tuple[X, float]]
    style: int = 0
    """Lines of one method share it."""
    low_high: Sequence[tuple[float, float]] | None = None
    """A band about the line: least and most, for each point."""
    paper: bool = False
    """The paper's own points: hollow and dashed."""


def draw(lines: Sequence[Line], x_label: str, y_label: str, log_x: bool = False, markers: bool = True) -> str:
    """Lines in one frame. A line of one point is a marker; text on the x axis makes evenly spaced places."""
    import matplotlib
    from matplotlib.figure import Figure

    colours = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "peak_nerf", "font.family": "sans-serif"}
    style["text.parse_math"] = False  # a name may have a $
    style.update(dict.fromkeys(colours, INK))
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8, 4.2))
        axes = figure.add_subplot()
        named = any(isinstance(x, str) for line in lines for x, _ in line.points)
        words = list(dict.fromkeys(_text(x) for line in lines for x, _ in line.points)) if named else []
        for line in lines:
            _draw_line(axes, line, words, markers)
        if named:
            many = len(words) > 6
            axes.set_xticks(range(len(words)), words, rotation=30 if many else 0, ha="right" if many else "center")
        elif log_x:
            axes.set_xscale("log")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(color=INK, alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # The style sheet would hold for the whole page; document.STYLE has it for drawings.
    return re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)


def _draw_line(axes: Any, line: Line, words: Sequence[str], markers: bool) -> None:
    xs = [float(words.index(_text(x)) if words else x) for x, _ in line.points]
    ys = [y for _, y in line.points]
    colour, marker = COLOURS[line.style % len(COLOURS)], MARKERS[line.style % len(MARKERS)]
    shown = marker if markers or line.paper or len(xs) == 1 else ""
    dash = "--" if line.paper else "none" if words else "-"
    face = "none" if line.paper else colour
    axes.plot(xs, ys, color=colour, marker=shown, markerfacecolor=face, linestyle=dash, label=line.name)
    if line.low_high is not None and not words:
        low, high = zip(*line.low_high, strict=True)
        axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)


def _text(x: X) -> str:
    return x if isinstance(x, str) else f"{x:g}"
