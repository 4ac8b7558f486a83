"""Plots as SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from peak_nerf.bench.report.plots import Line, draw


def texts(svg: str) -> set[str]:
    svg = svg.replace("xlink:", "")  # the page needs no name spaces, a strict reader does
    return {(element.text or "").strip() for element in ElementTree.fromstring(svg).iter()}


def test_lines_are_named_and_take_the_pages_colour() -> None:
    svg = draw(
        [Line("peak", [(1.0, 20.0), (10.0, 22.0)]), Line("siren", [(3.0, 19.0)], 1)], "seconds", "PSNR", log_x=True
    )
    assert {"peak", "siren", "seconds", "PSNR"} <= texts(svg)
    assert "currentColor" in svg
    assert "#d55e00" in svg
    assert "<style" not in svg
    assert "<metadata" not in svg


def test_words_on_the_x_axis_stand_in_their_order() -> None:
    svg = draw([Line("a", [("softmax", 1.0), ("cosine", 2.0)]), Line("b", [("cosine", 1.0)], 1)], "g", "PSNR")
    assert svg.index(">softmax<") < svg.index(">cosine<")


def test_a_mixed_axis_is_one_of_words() -> None:
    assert {"0.5", "none"} <= texts(draw([Line("a", [(0.5, 1.0), ("none", 2.0)])], "x", "y"))


@pytest.mark.parametrize("log_x", [False, True])
def test_bands_and_the_papers_points_are_drawn(log_x: bool) -> None:
    points = [(1.0, 2.0), (2.0, 3.0)]
    bare = draw([Line("a", points)], "x", "y", log_x)
    band = draw([Line("a", points, 0, [(1.5, 2.5), (2.5, 3.5)])], "x", "y", log_x)
    paper = draw([Line("a", points), Line("a, paper", points, paper=True)], "x", "y", log_x)
    assert "fill-opacity: 0.18" not in bare
    assert "fill-opacity: 0.18" in band or "opacity: 0.18" in band
    assert "stroke-dasharray" in paper


def test_the_same_lines_give_the_same_svg() -> None:
    lines = [Line("a", [(1.0, 2.0), (2.0, 3.0)])]
    assert draw(lines, "x", "y") == draw(lines, "x", "y")
