"""Suite files: the grid, and errors that name the line."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.bench.suite.file import read_suite, write_suite
from peak_nerf.bench.suite.grid import MAX_CELLS, Suite, parse_selection
from peak_nerf.bench.suite.registry import OptionTypes
from peak_nerf.errors import PeakError
from tests.bench.conftest import SUITE
from tests.bench.fake_task import FakeOptions

Write = Callable[..., Path]
ALPHABET = "ab019-:,.[]{}&*!|>%@#?'\"<=~ \\\n\té\u2028"
BOMB = "title: T\na: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
GRID = "".join(f"  x{i}: [{', '.join(map(str, range(59)))}]\n" for i in range(6))
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
        ("seeds: [1, 2]", 'seeds: ["one"]', 9, "seeds[0]: input should be a valid integer, unable to parse"),
        ("seeds: [1, 2]", "seeds: [1, true]", 9, "seeds[1]: give a number, not true or false"),
        ("{peak: 21}", "{peak: .nan}", 14, "paper.values.image=lena.peak: input should be a finite number"),
        ("kar_weight: 0", "kar_weight: .inf", 8, "methods[1].settings.kar_weight: "),
        ("kar_weight: 0", "kar_weight: 1e999", 8, "methods[1].settings.kar_weight: "),
        ("size: 256, budget_seconds: 60", '<<: {hidden_dim: "wide"}', 10, "settings.hidden_dim: 'wide' will not do"),
        ("size: 256, budget_seconds: 60", "<<: 5", 10, "not YAML: expected a mapping or list of mappings for merging"),
        ("size: 256", "size: !!int abc", 10, "not YAML: 'abc' is not a whole number"),
        ("size: 256", "size: !!int ''", 10, "not YAML: '' is not a whole number"),
        ("size: 256", "size: !!float abc", 10, "not YAML: 'abc' is not a number"),
        ("size: 256", "size: !!bool abc", 10, "not YAML: 'abc' is not true or false"),
        ("size: 256", "size: !!binary abc", 10, "not YAML: could not determine a constructor for the tag"),
        ("size: 256", "size: !!python/name:os.system x", 10, "could not determine a constructor for the tag"),
        ("[lena, house]", "!!set {a, b}", 4, "could not determine a constructor for the tag"),
        ("size: 256", "size: " + "9" * 5000, 10, "not YAML: a whole number of 5,000 characters"),
        ("size: 256", "size: 0x" + "f" * 5000, 10, "not YAML: a whole number of 5,002 characters"),
        ("size: 256", "size: 0." + "9" * 5000, 10, "not YAML: a number of 5,002 characters"),
        ("size: 256", "size: " + "[" * 3000 + "]" * 3000, 10, "not YAML: nested more than 20 deep"),
        ("size: 256", "size: " + "{a: " * 3000 + "}" * 3000, 10, "not YAML: nested more than 20 deep"),
        ("size: 256", "size: &a [*a]", 10, "not YAML: the alias *a stands within what it stands for"),
        ("{size: 256, budget_seconds: 60}", "&a {<<: *a}", 10, "the alias *a stands within what it stands for"),
        ("size: 256", "size: *gone", 10, "not YAML: found undefined alias 'gone'"),
        ("title: A suite\n", BOMB, 5, "more than 5,000 values, aliases counted in full"),
        ("[1, 2]", f"[{', '.join(map(str, range(30000)))}]", 9, "more than 5,000 values"),
        ("  mask: [random]\n", GRID, 3, "data: is a grid of 337,444,269,128 cells, more than 10,000; split the suite"),
        ("seeds: [1, 2]", '? "a\\nb"\n: 1\nseeds: [1, 2]', 9, "a\\nb: unknown key"),
        ("task: fake", "task: " + "x" * 5000, 2, "task: string should have at most 200 characters"),
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
    with pytest.raises(PeakError, match="no such file"):
        read_suite(tmp_path / "none.yaml")


def test_what_is_no_file_is_said_so(tmp_path: Path) -> None:
    link, long = tmp_path / "link.yaml", tmp_path / f"{'x' * 300}.yaml"
    link.symlink_to(tmp_path / "gone")
    large = tmp_path / "large.yaml"
    large.write_text("# comment\n" * 200_000)
    for path, problem in (
        (tmp_path, "is a folder"),
        (link, "is a link to .*gone, which is not there"),
        (long, "File name too long"),
        (tmp_path / "a\nb.yaml", "no such file"),
        (Path("/dev/zero"), "is a device"),
        (large, "has more than 1 MiB"),
    ):
        with pytest.raises(PeakError, match=problem) as error:
            read_suite(path)
        assert "\n" not in str(error.value)


def test_merge_keys_anchors_and_aliases_are_what_they_stand_for(write: Write) -> None:
    common = "settings: {<<: &common {size: 64, hidden_dim: 8}, hidden_dim: 16}"
    more = "- peak\n  - {name: wide, method: peak, settings: {<<: [{width: 5}, {width: 6, kar_weight: 1}]}}\n"
    path = write(("settings: {size: 256, budget_seconds: 60}", common), ("- peak\n", more), ("[random]", "&m [random]"))
    suite = read_suite(path, check_options=False)
    assert suite.settings == {"size": 64, "hidden_dim": 16}
    assert suite.methods[1].settings == {"width": 5, "kar_weight": 1}  # of several the first wins
    text = (
        path.read_text().replace("where:", "") + "where:\n  image=lena: {<<: *common}\nsweep: {kar_weight: &k [1, 2]}\n"
    )
    path.write_text(text)
    suite = read_suite(path, check_options=False)
    assert suite.where == {"image=lena": {"size": 64, "hidden_dim": 8}}
    path.write_text(text + "plot: {<<: {kind: tme}}\n")
    with pytest.raises(PeakError, match=rf":{len(text.splitlines()) + 1}: plot.kind: input should be 'none'"):
        read_suite(path, check_options=False)


def test_numbers_in_quotes_are_numbers_where_numbers_are_meant(write: Write) -> None:
    path = write(
        ("[1, 2]", '["1", 2]'), ("kar_weight: 0", 'kar_weight: "0"'), ("{peak: 21}", '{peak: "21"}'), ("60", '"60"')
    )
    suite = read_suite(path)
    assert suite.seeds == [1, 2]
    assert suite.paper is not None
    assert suite.paper.values == {"image=lena": {"peak": 21.0}}
    types = OptionTypes(FakeOptions)
    options = types.convert_all(list(suite.cells())[2].options)
    assert (options["kar_weight"], options["budget_seconds"], options["size"]) == (0.0, 60.0, "256")
    assert types.current({"budget_seconds": "60", "size": "64"}) == {"budget_seconds": 60.0, "size": "64"}


def test_names_keep_their_zeros_and_endings(write: Write) -> None:
    suite = read_suite(write(("[lena, house]", "[0801, 1.10, 1e3, TRUE, lena]"), ("[random]", "[007]")))
    assert suite.data == {"image": ["0801", "1.10", "1e3", "TRUE", "lena"], "mask": ["007"]}
    assert parse_selection(suite, "image=0801") == {"image": ["0801"]}
    assert next(suite.cells()).id.startswith("image=0801,mask=007,")


def test_a_byte_order_mark_and_a_yaml_1_1_directive_are_read(write: Write) -> None:
    path = write()
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_suite(path).title == "A suite"
    path.write_text("%YAML 1.1\n---\n" + text)
    assert read_suite(path).title == "A suite"
    path.write_text(text + "---\n" + text)
    with pytest.raises(PeakError, match="but found another document"):
        read_suite(path)


def test_the_largest_suite_is_made_in_seconds(write: Write) -> None:
    images, seeds = ", ".join(f"i{i}" for i in range(50)), ", ".join(map(str, range(100)))
    where = "where:\n" + "".join(f"  image=i{i}: {{size: {64 + i}}}\n" for i in range(50)) + "paper:"
    replaced = ("[lena, house]", f"[{images}]"), ("[1, 2]", f"[{seeds}]"), ("image=lena", "image=i0"), ("paper:", where)
    start = time.process_time()
    suite = read_suite(write(*replaced))
    assert len(list(suite.cells())) == suite.n_cells == MAX_CELLS
    assert time.process_time() - start < 5


@settings(max_examples=80)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 20), st.text(alphabet=ALPHABET, max_size=12)), max_size=3
    )
)
def test_damaged_suites_end_in_one_line_or_are_read(
    edits: list[tuple[int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = SUITE
    for at, n, put in edits:
        text = text[:at] + put + text[at + n :]
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_text(text)
    said = ""
    try:
        assert list(read_suite(path).cells())
    except PeakError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 2000


SCRIPT = """
import resource, sys, time
from pathlib import Path
from peak_nerf.bench.suite.file import read_suite
from peak_nerf.errors import PeakError
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, held + 2**30))
for path in map(Path, sys.argv[1:]):
    start = time.process_time()
    try:
        read_suite(path)
        sys.exit(f"{path} was read")
    except PeakError as error:
        print(round(time.process_time() - start, 2), str(error)[-200:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's setrlimit")
def test_no_small_file_takes_time_or_memory(tmp_path: Path) -> None:
    """Each within 5 s and 1 GiB of address space beyond what the imports take."""
    worst = [BOMB, SUITE.replace("256", "[" * 100_000), SUITE.replace("  mask: [random]\n", GRID)]
    worst += [SUITE.replace("[1, 2]", f"[{', '.join(map(str, range(100_000)))}]"), "- " * 500_000, "? " * 500_000]
    worst += [SUITE.replace("lena", "x" * 900_000), SUITE.replace("256", "9" * 900_000), '"' + "\\x" * 300_000]
    for i, text in enumerate(worst):
        (tmp_path / f"{i}.yaml").write_text(text)
    command = [sys.executable, "-c", SCRIPT, *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    times = [float(line.split()[0]) for line in done.stdout.splitlines()]
    assert len(times) == len(worst)
    assert max(times) < 5, done.stdout


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
