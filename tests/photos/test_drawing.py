"""The drawings: valid XML, everything in its place."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from peak_nerf.photos import drawing
from tests.photos import models
from tests.photos.test_review import empty, good


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def camera_at(svg: str) -> dict[str, tuple[float, float]]:
    """Centre of each camera by its link."""
    circles = {a.attrib["href"]: a.find("circle") for a in parsed(svg).iter("a")}
    return {link: (float(c.attrib["cx"]), float(c.attrib["cy"])) for link, c in circles.items() if c is not None}


def test_maps_have_one_scale_and_equal_axes() -> None:
    # Cameras look straight down: u is where they spread most, along (1, -1); a is between b and c.
    drawn = drawing.maps(models.model(), ["a", "b", "c"], [1, 2, 3])
    above, side = camera_at(drawn.above), camera_at(drawn.side)
    a, b, c = (np.array(above[f"#photo-{i}"]) for i in (1, 2, 3))
    assert np.linalg.norm(b - a) == pytest.approx(np.linalg.norm(c - a), abs=0.2)
    assert np.linalg.norm(c - b) == pytest.approx(np.sqrt(2) * np.linalg.norm(b - a), abs=0.2)
    # From the side all are equally high, and as far apart along u as from above.
    assert len({y for _, y in side.values()}) == 1
    assert [x for x, _ in side.values()] == [x for x, _ in above.values()]
    titles = [title.text for title in parsed(drawn.above).iter("title")]
    assert titles == ["1 · a", "2 · b", "3 · c"]


def test_up_is_up_and_points_are_below_the_cameras_that_look_down() -> None:
    drawn = drawing.maps(models.model(), ["a", "b", "c"], [1, 2, 3])
    dots = parsed(drawn.side).find("g[@class='points']")
    assert dots is not None
    heights = [float(y) for path in dots for y in re.findall(r"M\S+ (\S+?)h0", path.attrib["d"])]
    assert len(heights) == 4
    assert all(y < height for _, y in camera_at(drawn.side).values() for height in heights)


def test_cameras_that_look_one_way_look_to_the_right() -> None:
    poses = models.model().poses.copy()
    poses[:, :3, :3] = np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]]).T  # right, up, back: they look along -y
    points = models.POINTS - [0, 5, 0]
    drawn = drawing.maps(replace(models.model(), poses=poses, points=points), ["a", "b", "c"], [1, 2, 3])
    for svg in (drawn.above, drawn.side):
        dots = parsed(svg).find("g[@class='points']")
        assert dots is not None
        places = [float(x) for path in dots for x in re.findall(r"M(\S+) \S+?h0", path.attrib["d"])]
        assert all(x < place for x, _ in camera_at(svg).values() for place in places)


def test_far_points_are_clipped_and_many_are_thinned(tmp_path) -> None:
    _, model = good(tmp_path)
    rng = np.random.default_rng(1)
    points = rng.normal(size=(20000, 3))
    points[:300] *= 1e4
    many = replace(model, points=points, colors=rng.integers(0, 256, (20000, 3)).astype(np.uint8))
    drawn = drawing.maps(many, [""] * 9, list(range(9)))
    root = parsed(drawn.above)
    width, height = (float(x) for x in root.attrib["viewBox"].split()[2:])
    places = np.array(re.findall(r"M(\S+?) (\S+?)h0", drawn.above), dtype=float)
    assert len(places) == drawing.N_POINTS
    assert (places >= 0).all()
    assert (places <= [width, height]).all()
    # Without clipping all nine cameras would be within a pixel.
    cameras = np.array(list(camera_at(drawn.above).values()))
    assert np.ptp(cameras[:, 0]) > 100
    assert len(drawn.above) < 80_000
    assert len(parsed(drawn.above).findall("g/path")) <= drawing.N_COLORS


def test_the_way_is_drawn_only_where_pictures_are_in_order(tmp_path) -> None:
    _, model = good(tmp_path)
    labels, numbers = [""] * 9, list(range(9))
    assert parsed(drawing.maps(model, labels, numbers).above).find("polyline") is not None
    shuffled = model.poses[[0, 4, 8, 3, 7, 2, 6, 1, 5]]
    assert parsed(drawing.maps(replace(model, poses=shuffled), labels, numbers).above).find("polyline") is None
    # Numbers, not places in the model, are the order.
    order = [0, 4, 8, 3, 7, 2, 6, 1, 5]
    assert parsed(drawing.maps(replace(model, poses=shuffled), labels, order).above).find("polyline") is not None


def test_maps_without_points_and_of_one_camera_are_drawn() -> None:
    assert len(camera_at(drawing.maps(empty(), ["a", "b", "c"], [1, 2, 3]).above)) == 3
    one = replace(
        empty(), files=models.FILES[:1], poses=models.model().poses[:1], intrinsics=models.model().intrinsics[:1]
    )
    (place,) = camera_at(drawing.maps(one, ["a"], [1]).above).values()
    assert place[0] == pytest.approx(drawing.MAP_WIDTH / 2)
    assert "nan" not in drawing.maps(one, ["a"], [1]).side


def test_names_are_escaped() -> None:
    drawn = drawing.maps(models.model(), ["<b>&", '"', "c"], [1, 2, 3])
    assert [title.text for title in parsed(drawn.side).iter("title")] == ["1 · <b>&", '2 · "', "3 · c"]


def test_palette_keeps_hues_and_avoids_black_and_white() -> None:
    colors, index = drawing._few_colors(np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]], np.uint8))
    shown = colors[index].astype(int)
    gray = shown @ np.array([0.299, 0.587, 0.114])
    assert 50 < gray[0] < 80
    assert 160 < gray[1] < 190
    assert shown[2].argmax() == 0
    assert shown[3].argmax() == 2


def test_dots_are_scaled_to_the_thumbnail() -> None:
    svg = drawing.dots_over_picture(np.array([[40.0, 30.0], [80, 0]]), (80, 60), (320, 240))
    assert parsed(svg).attrib["viewBox"] == "0 0 320 240"
    assert [path.attrib["d"] for path in parsed(svg)] == ["M160.0 120.0h0M320.0 0.0h0"] * 2
    assert drawing.dots_over_picture(np.ones((9999, 2)), (8, 6), (8, 6)).count("h0") == 2 * drawing.N_DOTS


def test_bars_are_as_tall_as_their_counts() -> None:
    root = parsed(drawing.histogram([10, 5, 0], [(0.5, "2"), (1.5, "3 <")], ["ten", "five & more", "none"], 1.0))
    bars = [(float(bar.attrib["height"]), bar.findtext("title")) for bar in root.iter("rect")]
    assert bars == [(138.0, "ten"), (69.0, "five & more"), (0.0, "none")]
    assert [text.text for text in root.iter("text")] == ["2", "3 <"]
    mark = root.find("path[@class='mark']")
    assert mark is not None
    assert mark.attrib["d"] == "M140.0 4V150"  # between the first and the second of three bars in 420


def test_matrix_shades_by_hand() -> None:
    shared = np.array([[50, 100, 1], [100, 60, 0], [1, 0, 70]])
    root = parsed(drawing.matrix(shared, [3, 5, 9]))
    cells = {path.attrib["class"]: path.attrib["d"] for path in root.iter("path")}
    assert cells["shade5"] == "M1 0h1v1h-1zM0 1h1v1h-1z"
    assert cells["shade1"] == "M2 0h1v1h-1zM0 2h1v1h-1z"  # however few, they are seen
    assert cells["own"] == "M0 0h1v1h-1zM1 1h1v1h-1zM2 2h1v1h-1z"
    assert set(cells) == {"empty", "shade1", "shade5", "own"}
    assert [text.text for text in root.iter("text")] == ["3", "3", "5", "5", "9", "9"]
    assert "shade" not in drawing.matrix(np.diag([3, 3]), [1, 2])
