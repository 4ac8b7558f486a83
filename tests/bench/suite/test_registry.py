"""The options that suites may set."""

import dataclasses
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from peak_nerf.bench.suite.file import read_suite
from peak_nerf.bench.suite.registry import TASKS, OptionTypes, option_types
from peak_nerf.errors import PeakError
from tests.bench.fake_task import FakeOptions

CONFIGS = sorted((Path(__file__).parents[3] / "configs").rglob("*.yaml"))
TABLE_1 = next(path for path in CONFIGS if path.stem == "table1")


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("image", "a.png", Path("a.png")),
        ("size", 256, "256"),
        ("learning_rate", 1, 1.0),
        ("kar_weight", None, None),
        ("kar_weight", 0, 0.0),
        ("kar_similarity", None, None),
        ("kar_similarity", "dot", "dot"),
        ("steps", 3, 3),
        ("method", "peak-siren", "peak-siren"),
    ],
)
def test_values_that_inpainting_takes(name: str, given: object, taken: object) -> None:
    value = option_types(TASKS["inpaint"]).convert(name, given)
    assert value == taken
    assert type(value) is type(taken)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("metod", "peak", "the task has no option 'metod'; did you mean 'method'"),
        ("method", "peek", "'peek' is not known; did you mean 'peak'"),
        ("method", "zzz", "'zzz' is not known; there are peak, peak-siren"),
        ("kar_similarity", "relu", "'relu' is not known; there are cosine, dot"),
        ("steps", 2.5, "2.5 will not do"),
        ("steps", True, "True will not do"),
        ("missing", "half", "'half' will not do"),
        ("missing", 1, "1 will not do: input should be less than 1"),
    ],
)
def test_values_that_it_does_not(name: str, given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        option_types(TASKS["inpaint"]).convert(name, given)


def test_old_names_and_values_are_those_of_today() -> None:
    types = OptionTypes(FakeOptions)
    assert types.convert("width", 8) == 8
    assert types.convert("similarity", "softmax") == types.convert("activation", "dot") == "dot"
    assert "width" in types
    assert "breadth" not in types
    given = {"width": 8, "activation": "softmax", "kar_weight": 0}
    assert types.current(given) == {"hidden_dim": 8, "similarity": "dot", "kar_weight": 0}
    assert types.convert_all(given) == types.current(given)
    for both in ({"width": 8, "hidden_dim": 8}, {"hidden_dim": 8, "width": 8}):
        with pytest.raises(ValueError, match="'width' is the old name of 'hidden_dim', which is given too; delete one"):
            types.current(both)


def test_ranges_of_annotated_options_are_checked() -> None:
    @dataclasses.dataclass
    class Options:
        steps: Annotated[int, Field(ge=1)] | None = None
        image: Annotated[Path, "positional"] = Path()

    types = OptionTypes(Options)
    assert (types.convert("steps", None), types.convert("steps", 1)) == (None, 1)
    assert types.convert("image", "a.png") == Path("a.png")
    with pytest.raises(ValueError, match="0 will not do: input should be greater than or equal to 1"):
        types.convert("steps", 0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_suites_ask_for_what_their_tasks_have(path: Path) -> None:
    read_suite(path, check_options=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  - siren\n", "  - sirne\n", "methods[6].method: 'sirne' is not known; did you mean 'siren'?"),
        ("kar_weight: 0}", "kar_wieght: 0}", "methods[2].settings.kar_wieght: the task has no option"),
        ("missing: 0.5", "missing: half", "settings.missing: 'half' will not do"),
    ],
)
def test_a_typo_in_a_real_suite_is_found_in_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = TABLE_1.read_text()
    assert text.count(old) == 1
    path = tmp_path / "table1.yaml"
    path.write_text(text.replace(old, new))
    line = text[: text.index(old)].count("\n") + 1
    with pytest.raises(PeakError) as error:
        read_suite(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert message in str(error.value)
