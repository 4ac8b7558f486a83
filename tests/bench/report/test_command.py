"""`peak report`: its numbers against ones worked out by hand, and its files."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from peak_nerf.bench.report.command import report
from peak_nerf.bench.report.page import page
from peak_nerf.bench.report.results import (
    Beside,
    Results,
    against_others,
    against_paper,
    beside_published,
    first_to_reach,
    kar_comparisons,
)
from peak_nerf.bench.suite.file import read_suite, write_suite
from peak_nerf.errors import PeakError

Write = Callable[..., Path]


def fill(folder: Path, suite_file: Path, psnr: dict[str, float | str], **more: Any) -> Results:
    """A suite's folder with these PSNRs by the end of a cell's id; a text is the error of a failed cell."""
    suite = read_suite(suite_file)
    write_suite(suite, folder / "suite.yaml")
    for cell in suite.cells():
        value = next((value for end, value in psnr.items() if end in cell.id), None)
        if value is None:
            continue
        (folder / cell.id).mkdir(parents=True)
        if isinstance(value, str):
            (folder / cell.id / f"{value}.txt").write_text("Traceback\nRuntimeError: <b>| broken\n")
            continue
        metrics = {"psnr": value, "ssim": 0.5, "seconds": 2.0, "n_parameters": 10, "settings": {"size": "256"}} | {
            key: given(cell) if callable(given) else given for key, given in more.items()
        }
        Image.new("L", (64, 64), 200).save(folder / cell.id / "reconstruction.png")
        (folder / cell.id / "metrics.json").write_text(json.dumps(metrics))
    return Results(folder.name, suite, folder)


# By hand. lena: peak 22 +- sqrt(2) from (21, 23), without the regulariser 20 from (20, 20); house: 30 and 31, one seed
# of peak missing. In pairs of seeds: lena gains ((21 - 20) + (23 - 20)) / 2 = 2, house 30 - 31 = -1.
PSNR: dict[str, float | str] = {
    "image=lena,mask=random,method=peak,seed=1": 21.0,
    "image=lena,mask=random,method=peak,seed=2": 23.0,
    "image=lena,mask=random,method=peak-no-kar": 20.0,
    "image=house,mask=random,method=peak,seed=1": 30.0,
    "image=house,mask=random,method=peak-no-kar": 31.0,
}


def test_numbers_are_those_worked_out_by_hand(write: Write, tmp_path: Path) -> None:
    results = fill(tmp_path / "mine", write(), PSNR)
    (table,) = results.tables()
    lena, house = ("lena", "random"), ("house", "random")
    aggregate = table.aggregates[lena, "peak"]
    assert (aggregate.mean(), aggregate.std(), aggregate.paper) == (22.0, pytest.approx(2**0.5, abs=1e-12), 21.0)
    assert table.aggregates[house, "peak"].status() == "1 of 2 seeds"
    assert table.aggregates[house, "peak"].std() is None
    assert (table.best(lena), table.best(house)) == ({"peak"}, {"peak-no-kar"})
    assert table.mean_over_rows("peak") == (26.0, None)
    assert table.mean_over_rows("peak-no-kar") == (25.5, None)
    (kar,) = kar_comparisons(table, results.suite)
    assert kar.gains == {lena: 2.0, house: -1.0}
    assert (kar.mean, kar.n_won) == (0.5, 1)
    assert kar.std == pytest.approx(4.5**0.5, abs=1e-12)
    assert against_others(table)[0].gains == kar.gains
    (paper,) = against_paper(table)
    assert paper.gains == {lena: 1.0}


def test_only_seeds_that_both_have_are_compared(write: Write, tmp_path: Path) -> None:
    off = "image=lena,mask=random,method=peak-no-kar"
    results = fill(tmp_path / "mine", write(), {f"{off},seed=2": "error", **PSNR})
    (table,) = results.tables()
    assert kar_comparisons(table, results.suite)[0].gains["lena", "random"] == 1.0


PUBLISHED = """\
published:
  source: two papers
  values:
    mask=random: {A: 24, B-3: 25.5}
    image=house,mask=random: {A: 29}
paper:"""


def test_published_figures_stand_beside_our_means_over_their_rows(write: Write, tmp_path: Path) -> None:
    """By hand, from `PSNR`: peak (22 + 30) / 2, peak-no-kar (20 + 31) / 2 over both images; house alone 30 and 31."""
    results = fill(tmp_path / "mine", write(("paper:", PUBLISHED)), PSNR)
    both, house = beside_published(results.tables()[0], results.suite)
    assert both == Beside("mask=random", {"A": 24, "B-3": 25.5}, {"peak": 26.0, "peak-no-kar": 25.5}, 2, 2)
    assert house == Beside("image=house,mask=random", {"A": 29}, {"peak": 30.0, "peak-no-kar": 31.0}, 1, 1)
    text = page(results).markdown()
    assert "Published: two papers." in text
    assert "| cells | peak | peak-no-kar | rows | A | B-3 |" in text
    assert "| mask=random | 26.00 | 25.50 | 2 of 2 | 24.00 | 25.50 |" in text
    assert "| image=house, mask=random | 30.00 | 31.00 | 1 of 1 | 29.00 |  |" in text


def test_published_figures_stand_beside_what_there_is(write: Write, tmp_path: Path) -> None:
    """A row that one method lacks is in no mean, and without any row there is no figure of ours."""
    figures = {**PSNR, "image=house,mask=random,method=peak,seed=1": "error"}
    results = fill(tmp_path / "mine", write(("paper:", PUBLISHED)), figures)
    both, house = beside_published(results.tables()[0], results.suite)
    assert (both.ours, both.n_complete, both.n_rows) == ({"peak": 22.0, "peak-no-kar": 20.0}, 1, 2)
    assert (house.ours, house.n_complete, house.n_rows) == ({}, 0, 1)
    assert "| image=house, mask=random |  |  | 0 of 1 | 29.00 |  |" in page(results).markdown()


def test_lower_is_better_turns_best_and_gains_round(write: Write, tmp_path: Path) -> None:
    values = {"seed=1": 5.0, "seed=2": 5.0}
    suite = write(("task: fake", "task: fake\nmetric: seconds\nunit: s"))
    seconds = {"peak": 1.0, "peak-no-kar": 4.0}
    results = fill(tmp_path / "mine", suite, values, seconds=lambda cell: seconds[cell.key["method"]])
    (table,) = results.tables()
    assert table.best(("lena", "random")) == {"peak"}
    assert kar_comparisons(table, results.suite)[0].mean == 3.0


def test_what_is_shown_alike_is_best_alike(write: Write, tmp_path: Path) -> None:
    figures = {**PSNR, "image=house,mask=random,method=peak-no-kar": 30.004}
    (table,) = fill(tmp_path / "mine", write(), figures).tables()
    assert table.best(("house", "random")) == {"peak", "peak-no-kar"}


def test_means_over_rows_compare_like_with_like(write: Write, tmp_path: Path) -> None:
    results = fill(tmp_path / "mine", write(), {**PSNR, "image=house,mask=random,method=peak,seed=1": "error"})
    (table,) = results.tables()
    assert table.mean_over_rows("peak") == (22.0, 21.0)  # lena alone, where the paper has a figure too
    assert table.mean_over_rows("peak-no-kar") == (20.0, None)


def test_a_method_for_some_rows_only_is_in_no_mean(write: Write, tmp_path: Path) -> None:
    suite = write(("- peak\n", "- peak\n  - {method: siren, only: image=lena}\n"))
    results = fill(tmp_path / "mine", suite, {**PSNR, "method=siren": 40.0})
    (table,) = results.tables()
    assert table.at(("house", "random"), "siren") is None
    assert table.mean_over_rows("siren") == (None, None)
    assert table.mean_over_rows("peak") == (26.0, None)  # as without siren
    text = page(results).markdown()
    assert "| house | random | 30.00 (1 of 2 seeds) |  | **31.00 ± 0.00** |" in text
    assert "| mean of 2 rows |  | **26.00** |  | 25.50 |" in text


def test_the_rows_of_a_mean_are_named_by_who_has_them(write: Write, tmp_path: Path) -> None:
    """Methods that have not run are not among "all"."""
    one = {"image=lena,mask=random,method=peak,seed=1": 21.0}
    assert "| mean of the rows that peak has (1) |  | 21.00" in page(fill(tmp_path / "b", write(), one)).markdown()
    three = write(("- peak\n", "- peak\n  - siren\n"))
    both = {**PSNR, "image=house,mask=random,method=peak,seed=1": "error"}
    assert "| mean of the rows that these methods have (1) |" in page(fill(tmp_path / "c", three, both)).markdown()


def test_markdown_and_csv(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "runs" / "mine", write(), {**PSNR, "image=house,mask=random,method=peak,seed=1": "error"})
    assert report(tmp_path / "runs", tmp_path / "out") == 0
    assert "6 of 8 cells (1 failed, 1 missing)" in capsys.readouterr().out
    text = (tmp_path / "out" / "mine.md").read_text()
    assert text.startswith("# A suite\n")
    assert "| image | mask | peak | peak-no-kar |\n| --- | --- | ---: | ---: |\n" in text
    assert "| lena | random | **22.00 ± 1.41** (paper 21.00) | 20.00 ± 0.00 |\n" in text
    assert "| house | random | failed | 31.00 ± 0.00 |\n" in text
    assert "| mean of the rows that all methods have (1) |  | **22.00** (paper 21.00) | 20.00 |" in text
    assert "| peak | peak-no-kar | +2.00 |  | +2.00 | +2.00 | 1 of 1 |" in text
    assert "RuntimeError: \\<b>\\| broken" in text
    assert "size 256" in text
    rows = list(csv.DictReader((tmp_path / "out" / "mine.csv").read_text().splitlines()))
    assert len(rows) == 4
    assert (rows[0]["psnr"], rows[0]["paper"], rows[0]["n_seeds"], rows[0]["seconds"]) == ("22.0", "21.0", "2", "2.0")
    assert float(rows[0]["std"]) == pytest.approx(2**0.5, abs=1e-12)
    assert (rows[2]["psnr"], rows[2]["status"]) == ("", "failed")


def test_settings_that_methods_share_are_said_once(write: Write, tmp_path: Path) -> None:
    """Of a method's own: what differs from another method, or between its own cells."""

    def settings(cell: Any) -> dict[str, Any]:
        off = cell.key["method"] == "peak-no-kar"
        model = {"rank": 8, "weight": 0.0 if off else 0.5, "levels": None}
        return {"size": "256", "model": model, "views": 3 if off or cell.key["image"] == "lena" else 4}

    results = fill(tmp_path / "mine", write(), PSNR, settings=settings)
    text = page(results).markdown()
    assert "| peak | 3 | 2 | 10 | model.weight 0.5; not the same in all cells: views |" in text
    assert "| peak-no-kar | 4 | 2 | 10 | model.weight 0.0, views 3 |" in text
    assert "\n\nIn all methods: size 256, model.rank 8.\n" in text


def test_html_needs_nothing_from_outside(write: Write, tmp_path: Path) -> None:
    suite = write(("paper:", "plot: {kind: time}\npaper:"))
    history = [{"seconds": 1.0, "psnr": 10.0}, {"seconds": 2.0, "psnr": 20.0}, {"seconds": 3.0, "psnr": None}]
    fill(tmp_path / "mine", suite, {**PSNR, "image=house,mask=random,method=peak,seed=1": "error"}, history=history)
    report(tmp_path / "mine", tmp_path / "out")
    html = (tmp_path / "out" / "mine.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 3
    assert html.count("<svg") == 2
    assert "prefers-color-scheme: dark" in html
    assert 'class="bad">failed' in html
    assert "&lt;b&gt;| broken" in html
    references = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']*)|url\(([^)]*)\)", html)
    assert all(any(part.startswith(("data:", "#")) for part in reference) for reference in references)
    assert not re.search(r"<(script|link|iframe|object|embed)\b|@import", html)
    assert "#123456" not in html


def test_curves_over_settings_numbers_and_words(write: Write, tmp_path: Path) -> None:
    sweep = "sweep: {hidden_dim: [8, 16], mask: [a]}".replace(", mask: [a]", ", size: [big, small]")
    suite = write(
        ("[lena, house]", "[lena]"),
        ("size: 256, ", ""),
        ("paper:", f"{sweep}\nplot: {{kind: curve, log_x: true}}\npaper:"),
        ("image=lena: {peak: 21}", "hidden_dim=8: {peak: 21}"),
    )
    results = fill(tmp_path / "mine", suite, {"hidden_dim=8": 20.0, "hidden_dim=16": 22.0, "size": 21.0})
    numbers, words = results.tables()
    assert (numbers.swept, numbers.rows) == ("hidden_dim", [("lena", "random", "8"), ("lena", "random", "16")])
    assert words.rows == [("lena", "random", "big"), ("lena", "random", "small")]
    html = page(results).html()
    assert html.count("<svg") == 2
    assert "peak, paper" in html
    assert "Over hidden_dim" in html


def test_curve_over_parameters_says_who_needs_how_many(write: Write, tmp_path: Path) -> None:
    suite = write(
        ("[lena, house]", "[lena]"),
        ("[1, 2]", "[1]"),
        ("paper:", "sweep: {hidden_dim: [8, 16]}\nplot: {kind: curve, x: n_parameters}\npaper:"),
    )
    values: dict[str, float | str] = {
        "method=peak,hidden_dim=8": 25.0,
        "method=peak,hidden_dim=16": 26.0,
        "method=peak-no-kar,hidden_dim=8": 20.0,
        "method=peak-no-kar,hidden_dim=16": 25.0,
    }
    results = fill(tmp_path / "mine", suite, values, n_parameters=lambda cell: 1000 * int(cell.key["hidden_dim"]))
    text = page(results).markdown()
    assert "| peak: 26.00 | 16,000 |  |" in text
    assert "| peak-no-kar: 25.00 | 8,000 | 16,000 |" in text
    assert first_to_reach([(2.0, 24.0), (1.0, 25.0)], 24.5) == 1.0
    assert first_to_reach([(2.0, 24.0)], 24.5) is None


def test_masks_and_mixed_versions_are_said(write: Write, tmp_path: Path) -> None:
    results = fill(tmp_path / "mine", write(), PSNR, versions=lambda cell: {"torch": cell.key["seed"]})
    for cell in results.cells:
        if (tmp_path / "mine" / cell.id).exists():
            (tmp_path / "mine" / cell.id / "cell.json").write_text(json.dumps({"options": {"mask": "random"}}))
    text = page(Results("mine", results.suite, tmp_path / "mine")).markdown()
    assert "Masks: random drawn by peak\\_nerf." in text
    assert "MIXED between runs: torch 1 | torch 2".replace("|", "\\|") in text


RECORDS = [
    ("metrics.json", '{"psnr": 1e308}', "psnr: input should be less than or equal to 1000"),
    ("metrics.json", '{"psnr": 1' + "0" * 400 + "}", "psnr: "),
    ("metrics.json", '{"psnr": 1' + "0" * 9000 + "}", "is no JSON"),
    ("metrics.json", '{"lpips": -1e200}', "lpips is beyond 1e+30"),
    ("metrics.json", '{"lpips": 1' + "0" * 400 + "}", "lpips is beyond 1e+30"),
    ("metrics.json", '{"psnr": NaN}', "is no JSON"),
    ("metrics.json", '{"seconds": "long"}', "seconds: input should be a valid number"),
    ("metrics.json", '{"seconds": -1}', "seconds: input should be greater than or equal to 0"),
    ("metrics.json", '{"n_parameters": 1e300}', "n_parameters: "),
    ("metrics.json", '{"history": 3}', "history: input should be a valid list"),
    ("metrics.json", '{"history": [1]}', "history.0: "),
    ("metrics.json", '{"history": [{"psnr": 1e308}]}', "history.0.psnr: "),
    ("metrics.json", '{"history": {"a": 1}}', "history: "),
    ("metrics.json", '{"settings": [1]}', "settings: "),
    ("metrics.json", '{"settings": "x"}', "settings: "),
    ("metrics.json", '{"versions": ["a"]}', "versions: "),
    ("metrics.json", '{"versions": {"torch": {"a": 1}}}', "versions.torch: "),
    ("metrics.json", '{"partial": "no"}', "partial: "),
    ("metrics.json", "[]", "holds no table"),
    ("metrics.json", "", "is no JSON"),
    ("metrics.json", "\xff\x00", "is no JSON"),
    ("metrics.json", '{"settings": ' + "[" * 5000 + "]" * 5000 + "}", "is no JSON"),
    ("cell.json", '{"options": [1]}', "options: "),
    ("cell.json", '{"options": {"mask": {"a": 1}}}', "options.mask"),
    ("cell.json", '{"options": "x"}', "options: "),
    ("cell.json", "{", "is no JSON"),
]
"""File, content, problem."""


def test_records_that_cannot_be_read_are_named_and_the_others_are_reported(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One in each cell but the first of the method `peak`."""
    runs, n = tmp_path / "runs", len(RECORDS)
    seeds = ("[1, 2]", f"[{', '.join(map(str, range(n + 1)))}]")
    suite = write(("[lena, house]", "[lena]"), seeds, ("paper:", "plot: {kind: time}\npaper:"))
    given = {f"method=peak,seed={i}": 21.0 for i in range(n + 1)}
    fill(runs / "mine", suite, given, versions={"torch": "0"}, history=[{"seconds": 1.0, "psnr": 5.0}])
    ids = [f"image=lena,mask=random,method=peak,seed={i + 1}" for i in range(n)]
    for cell, (file, text, _) in zip(ids, RECORDS, strict=True):
        (runs / "mine" / cell / file).write_text(text, encoding="latin-1")
    assert report(runs, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert f"1 of {2 * n + 2} cells ({n + 1} missing, {n} unreadable)" in said
    assert f"unreadable: {ids[0]} (metrics.json: psnr: " in said
    assert f"unreadable: {n - 20} more, named in {tmp_path / 'out' / 'mine'}.md" in said
    markdown = (tmp_path / "out" / "mine.md").read_text().replace("\\_", "_")
    for cell, (file, _, problem) in zip(ids, RECORDS, strict=True):
        line = next(line for line in markdown.splitlines() if line.startswith(f"| {cell} | {file}: "))
        assert problem in line
    assert f"21.00 (paper 21.00, 1 of {n + 1} seeds)" in markdown
    shutil.rmtree(runs / "mine" / "image=lena,mask=random,method=peak,seed=0")
    assert report(runs, tmp_path / "out") == 0
    assert "| unreadable (paper 21.00) |" in (tmp_path / "out" / "mine.md").read_text()


def test_a_damaged_suite_costs_the_others_nothing(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b", "c"):
        fill(runs / name, write(), PSNR)
    (runs / "a" / "suite.yaml").write_text((runs / "a" / "suite.yaml").read_text() + "surprise: 1\n")
    (runs / "b" / "suite.yaml").write_text("[")
    with pytest.raises(
        PeakError, match=r"suite.yaml:\d+: surprise: unknown key.*of a newer peak_nerf, or damaged .and 1"
    ):
        report(runs, tmp_path / "out")
    assert f"{tmp_path / 'out' / 'c'}.md" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"c"}


def test_odd_pictures_notes_and_names_do_no_harm(write: Write, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    suite = write(("- peak\n", "- {name: $x_$, method: peak}\n  - peak\n"), ("paper:", "plot: {kind: time}\npaper:"))
    fill(runs / "mine", suite, {**PSNR, "method=$x_$": 3.0})
    cells = sorted(path for path in (runs / "mine").iterdir() if path.is_dir())
    for cell, content in zip(
        cells, (b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"P6 99999999 99999999 255\n"), strict=False
    ):
        (cell / "reconstruction.png").write_bytes(content)
    Image.new("1", (9000, 9000)).save(cells[3] / "reconstruction.png")
    (cells[4] / "metrics.json").unlink()
    (cells[4] / "error.txt").write_bytes(b"\xff\n" + b"x" * 200_000 + b"\nlast \x1b[31m\n")
    (cells[5] / "metrics.json").unlink()
    (cells[5] / "metrics.json").mkdir()
    assert report(runs, tmp_path / "out") == 0
    text = (tmp_path / "out" / "mine.md").read_text()
    assert "metrics.json: is no file" in text
    assert "last " in text


def test_a_folder_without_suites_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PeakError, match="holds no suite"):
        report(tmp_path, tmp_path / "out")
    with pytest.raises(PeakError, match="no such folder"):
        report(tmp_path / "none", tmp_path / "out")
