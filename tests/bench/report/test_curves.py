"""Who gets where first, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peak_nerf.bench.report.curves import curve_blocks, time_blocks
from peak_nerf.bench.report.document import Drawing, Grid, Heading
from tests.bench.report.test_command import fill

Write = Callable[..., Path]

# (seconds, PSNR); the second seed of peak is slower.
RUNS = {
    ("peak", "1"): [(1.0, 15.0), (2.0, 25.0), (4.0, 24.0)],
    ("peak", "2"): [(1.0, 12.0), (3.0, 21.0), (4.0, 23.0)],
    ("peak-no-kar", "1"): [(1.0, 10.0), (8.0, 20.0)],
    ("peak-no-kar", "2"): [(1.0, 10.0), (8.0, 20.0)],
}


def test_time_to_reach_the_best_of_each_other_method(write: Write, tmp_path: Path) -> None:
    suite = write(("[lena, house]", "[lena]"), ("paper:", "plot: {kind: time}\npaper:"))

    def history(cell: object) -> list[dict[str, float]]:
        key = cell.key  # type: ignore[attr-defined]
        return [{"seconds": x, "psnr": y} for x, y in RUNS[key["method"], key["seed"]]]

    results = fill(tmp_path / "mine", suite, {"image=lena": 20.0}, history=history)
    heading, drawing, _, grid = time_blocks(results)
    assert isinstance(heading, Heading)
    assert heading.text == "PSNR over time: lena, random"
    assert isinstance(drawing, Drawing)
    assert "peak, 1" in drawing.svg
    assert "peak, 2" in drawing.svg
    assert isinstance(grid, Grid)
    assert grid.head == ["best of", "peak", "peak-no-kar"]
    # Best of peak: (25 + 23) / 2 = 24, which its second seed never reaches. Best of the other: 20, after 2 and 3 s.
    assert [[text.text for text in row] for row in grid.rows] == [
        ["peak: 24.00", "", ""],
        ["peak-no-kar: 20.00", "2.5", "8.0"],
    ]


def test_a_method_without_a_history_is_its_end(write: Write, tmp_path: Path) -> None:
    suite = write(("[lena, house]", "[lena]"), ("[1, 2]", "[1]"), ("paper:", "plot: {kind: time}\npaper:"))
    results = fill(tmp_path / "mine", suite, {"method=peak,": 22.0, "method=peak-no-kar": 20.0}, seconds=3.0)
    grid = list(time_blocks(results))[-1]
    assert isinstance(grid, Grid)
    assert [text.text for text in grid.rows[1]] == ["peak-no-kar: 20.00", "3.0", "3.0"]


def test_one_plot_for_each_setting_and_panel(write: Write, tmp_path: Path) -> None:
    suite = write(("paper:", "sweep: {hidden_dim: [8, 16], kar_weight: [1e-3]}\nplot: {kind: curve}\npaper:"))
    results = fill(tmp_path / "mine", suite, {"image": 20.0})
    titles = [block.text for block in curve_blocks(results) if isinstance(block, Heading)]
    assert titles == [f"psnr over {s}: {i}, random" for s in ("hidden_dim", "kar_weight") for i in ("lena", "house")]


def test_nothing_finished_is_nothing_drawn(write: Write, tmp_path: Path) -> None:
    paper = "paper:\n  source: a paper\n  values:\n    image=lena: {peak: 21}\n"
    suite = write((paper, "sweep: {hidden_dim: [8, 16]}\nplot: {kind: curve}\n"))
    results = fill(tmp_path / "mine", suite, {})
    assert list(curve_blocks(results)) == []
    assert list(time_blocks(results)) == []
