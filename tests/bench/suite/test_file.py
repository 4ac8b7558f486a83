"""Suite files: the grid, and errors that name the line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peak_nerf.bench.suite.file import read_suite, write_suite
from peak_nerf.bench.suite.grid import Suite, parse_selection
from peak_nerf.errors import PeakError

Write = Callable[..., Path]
CONFIGS = sorted((Path(__file__).parents[3] / "configs").rglob("*.yaml"))


def test_cells_are_the_grid_in_order(write: Write) -> None:
    cells = list(read_suite(write()).cells())
    assert len(cells) == 2 * 2 * 2
    assert cells[0].id == "image=lena,mask=random,method=peak,seed=1"
    assert cells[3].id == "image=lena,mask=random,method=peak-no-kar,seed=2"
    assert cells[3].options == {
        "image": "lena",
        "mask": "random",
        "method": "peak",
        "seed": 2,
        "size": 256,
        "budget_seconds": 60,
        "kar_weight": 0,
    }


def test_sweeps_vary_one_setting_at_a_time_and_a_method_may_have_its_own(write: Write) -> None:
    text = ("- peak\n", "- peak\n  - {method: siren, sweep: {}}\n  - {name: s2, method: siren, sweep: {size: [64]}}\n")
    path = write(
        text,
        ("[lena, house]", "[lena]"),
        ("[1, 2]", "[1]"),
        ("paper:", "sweep: {hidden_dim: [8, 16], kar_weight: [1e-5]}\npaper:"),
    )
    ids = [cell.id.removeprefix("image=lena,mask=random,") for cell in read_suite(path).cells()]
    assert ids == [
        "method=peak,hidden_dim=8,seed=1",
        "method=peak,hidden_dim=16,seed=1",
        "method=peak,kar_weight=1e-05,seed=1",
        "method=siren,seed=1",
        "method=s2,size=64,seed=1",
        "method=peak-no-kar,hidden_dim=8,seed=1",
        "method=peak-no-kar,hidden_dim=16,seed=1",
        "method=peak-no-kar,kar_weight=1e-05,seed=1",
    ]


def test_settings_of_some_cells_stand_above_the_suites_and_the_methods(write: Write) -> None:
    where = "where:\n  image=lena: {size: 64, hidden_dim: 8}\n"
    where += "  image=lena,method=peak-no-kar: {size: 32, kar_weight: 0.5}\npaper:"
    cells = list(read_suite(write(("paper:", where))).cells())
    found = {(cell.key["image"], cell.key["method"]): cell.options for cell in cells}
    assert [found[image, "peak"]["size"] for image in ("lena", "house")] == [64, 256]
    assert [found["lena", method]["hidden_dim"] for method in ("peak", "peak-no-kar")] == [8, 8]
    assert "kar_weight" not in found["lena", "peak"]
    assert (found["lena", "peak-no-kar"]["size"], found["lena", "peak-no-kar"]["kar_weight"]) == (32, 0.5)
    assert (found["house", "peak-no-kar"]["size"], found["house", "peak-no-kar"]["kar_weight"]) == (256, 0)


def test_a_method_may_be_for_some_data_only(write: Write) -> None:
    path = write(("- peak\n", "- peak\n  - {method: siren, only: image=house}\n"), ("[1, 2]", "[1]"))
    found = [(cell.key["image"], cell.key["method"]) for cell in read_suite(path).cells()]
    assert found == [
        *(("lena", "peak"), ("lena", "peak-no-kar")),
        *(("house", "peak"), ("house", "siren"), ("house", "peak-no-kar")),
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("title:", "titel:", 1, "titel: unknown key; did you mean 'title'?"),
        ("title: A suite\n", "", 1, "'title' is missing; add it"),
        ("task: fake", "task: fade", 2, "unknown task 'fade'; did you mean 'fake'?"),
        ("title: A suite", "title: A: suite", 1, "not YAML: mapping values are not allowed here"),
        ("name: peak-no-kar", "nam: x", 8, "methods[1].nam: unknown key; did you mean 'name'?"),
        ("name: peak-no-kar, ", "", 6, "methods: 'peak' is there twice"),
        ("method: peak,", "method: peek,", 8, "methods[1].method: 'peek' is not known; did you mean 'peak'?"),
        ("kar_weight: 0", "kar_wait: 0", 8, "methods[1].settings.kar_wait: the task has no option 'kar_wait'; did you"),
        ("kar_weight: 0", "kar_weight: lots", 8, "kar_weight: 'lots' will not do: input should be a valid number"),
        ("kar_weight: 0", "kar_weight: {a: 1}", 8, "give a text, a number or true/false"),
        ("seeds: [1, 2]", "seeds: [1,\n 2.5]", 10, "seeds[1]: input should be a valid integer"),
        ("seeds: [1, 2]", "seeds: []", 9, "seeds: list should have at least 1 item"),
        ("seeds: [1, 2]", "seeds: [1, 1]", 9, "seeds: '1' is there twice"),
        ("size: 256", "sise: 256", 10, "settings.sise: the task has no option 'sise'; did you mean 'size'?"),
        ("size: 256", "seed: 256", 10, "settings.seed: is an axis already"),
        (", budget", ", similarity: sofmax, budget", 10, "similarity: 'sofmax' is not known; there are cosine, dot"),
        (
            ", budget",
            ", width: wide, budget",
            10,
            "settings.width: 'wide' will not do: input should be a valid integer",
        ),
        (
            ", budget",
            ", width: 1, hidden_dim: 2, budget",
            10,
            "settings: 'width' is the old name of 'hidden_dim', which",
        ),
        ("mask:", "musk:", 5, "data.musk: the task has no option 'musk'; did you mean 'mask'?"),
        ("mask: [random]", "mask: [a/b]", 5, "data.mask[0]: 'a/b' cannot be part of a folder's name"),
        ("mask: [random]", "seed: [7]", 5, "data.seed: is an axis of every suite; give it as seeds"),
        ("  mask: [random]", "  image: [random]", 5, 'found duplicate key "image"'),
        ("image=lena: ", "image=lean: ", 14, "image is never 'lean'; did you mean 'lena'?"),
        ("{peak: 21}", "{peek: 21}", 14, "peek: no such method in this suite; did you mean 'peak'?"),
        ("{peak: 21}", "{peak: no}", 14, "input should be a valid number"),
        ("paper:", "published: {source: a, values: {image=lean: {b: 1}}}\npaper:", 11, "image is never 'lean'"),
        ("paper:", "published: {source: a, values: {seed=1: {b: 1}}}\npaper:", 11, "name only data and settings"),
        ("paper:", "published: {source: a, values: {image=lena: {peak: 1}}}\npaper:", 11, "is a method of this suite"),
        ("paper:", "published: {values: {image=lena: {b: 1}}}\npaper:", 11, "'source' is missing; add it"),
        ("paper:", "plot: {kind: curve}\npaper:", 11, "plot.kind: a curve needs a sweep"),
        ("paper:", "sweep: {image: [a]}\npaper:", 11, "sweep.image: is an axis already"),
        ("- peak\n", "- {method: peak, only: image=lean}\n", 7, "methods[0].only: image is never 'lean'; did you mean"),
        ("paper:", "where: {image=lean: {size: 64}}\npaper:", 11, "image is never 'lean'; did you mean 'lena'?"),
        (
            "paper:",
            "where: {image=lena: {sise: 64}}\npaper:",
            11,
            "where.image=lena.sise: the task has no option 'sise'",
        ),
        ("paper:", "where: {image=lena: {mask: patch}}\npaper:", 11, "where.image=lena.mask: is an axis already"),
        ("[lena, house]", f"[{'x' * 200}]", 3, "is longer than 200 bytes"),
    ],
)
def test_errors_name_file_line_and_remedy(old: str, new: str, line: int, message: str, write: Write) -> None:
    path = write((old, new))
    with pytest.raises(PeakError) as error:
        read_suite(path)
    text = str(error.value)
    assert text.startswith(f"{path}:{line}:")
    assert message in text
    assert "\n" not in text


def test_a_file_that_is_no_suite_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(PeakError, match="a suite is a mapping"):
        read_suite(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PeakError, match="cannot be read"):
        read_suite(path)
    with pytest.raises(PeakError, match="cannot be read"):
        read_suite(tmp_path / "none.yaml")


def test_scalars_are_yaml_1_2(write: Write) -> None:
    suite = read_suite(write(("[lena, house]", "[no, on]"), ("kar_weight: 0", "kar_weight: 1e-3"), ("lena", "on")))
    assert suite.data["image"] == ["no", "on"]
    assert suite.methods[1].settings["kar_weight"] == 1e-3


def test_written_suite_reads_the_same(write: Write, tmp_path: Path) -> None:
    suite = read_suite(write())
    write_suite(suite, tmp_path / "copy" / "suite.yaml")
    assert read_suite(tmp_path / "copy" / "suite.yaml") == suite


def test_words_that_look_like_other_things_survive_writing(write: Write, tmp_path: Path) -> None:
    suite = read_suite(write(("[lena, house]", '["1e-5", "007", "null"]'), ("image=lena", "image=007")))
    write_suite(suite, tmp_path / "suite.yaml")
    assert read_suite(tmp_path / "suite.yaml") == suite


def test_selection_means_or_within_an_axis_and_and_between(write: Write) -> None:
    suite = read_suite(write(("paper:", "sweep: {kar_weight: [1e-2]}\npaper:")))
    selection = parse_selection(suite, "image=lena, image=house,seed=1,kar_weight=1e-2")
    assert selection == {"image": ["lena", "house"], "seed": ["1"], "kar_weight": ["0.01"]}
    assert sum(cell.matches(selection) for cell in suite.cells()) == 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_suites_read(path: Path) -> None:
    assert path.read_text().startswith("# ")
    suite = read_suite(path, check_options=False)
    assert isinstance(suite, Suite)
    assert len({cell.id for cell in suite.cells()}) == len(list(suite.cells()))


def test_table_2_has_each_classical_solver_on_its_kind_of_magnitudes() -> None:
    suite = read_suite(next(path for path in CONFIGS if path.stem == "table2"), check_options=False)
    kinds: dict[str, set[str]] = {}
    for cell in suite.cells():
        kinds.setdefault(cell.key["method"], set()).add(cell.key["problem"].partition("@")[0])
    classical = {name: {"fourier"} for name in ("error-reduction", "hio", "raar", "multiscale-hio")}
    classical |= {name: {"gaussian"} for name in ("spectral", "amplitude-flow")}
    assert {method: kinds.get(method) for method in classical} == classical
    assert kinds["peak"] == {"fourier", "gaussian"}
    assert len(list(suite.cells())) == 5 * 6 * 6 + 5 * 3 * 4 + 5 * 3 * 2


def test_table_1_has_the_papers_72_figures() -> None:
    suite = read_suite(next(path for path in CONFIGS if path.stem == "table1"), check_options=False)
    assert suite.paper is not None
    assert len(suite.paper.values) == 18
    assert all(len(figures) == 4 for figures in suite.paper.values.values())
    peak = [figures["peak"] for figures in suite.paper.values.values()]
    assert sum(peak) / 18 == pytest.approx(32.381, abs=1e-3)  # the mean of the paper's column
