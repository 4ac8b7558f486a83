"""Every numeric option of every command, found by introspection: a value is taken, or the option named in one line."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from peak_nerf.cli import COMMANDS, main
from peak_nerf.errors import PeakError
from peak_nerf.nerf import flythrough
from peak_nerf.system.choices import flag, is_numeric
from tests.data_scripts.scripts import load_script

ODD = ("0", "-1", "1", "1e-300", "1e300", "nan", "inf", str(2**40))
FIELD = Path(__file__).parent / "tasks" / "old_field" / "field.safetensors"


def dataclasses_in(hint: Any) -> Iterator[type[Any]]:
    """Those that a parameter's type is made of, subcommands included."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        for part in get_args(hint):
            yield from dataclasses_in(part)
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint


def numeric_hints(hints: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(subcommand or "", name, type) of every number among options, however they are grouped."""
    for name, hint in hints.items():
        if is_numeric(hint):
            yield "", name, hint
        for group in dataclasses_in(hint):
            subcommand = group.__name__.lower() if get_origin(hint) is Union or len([*dataclasses_in(hint)]) > 1 else ""
            for _, inner, type_ in numeric_hints(get_type_hints(group, include_extras=True)):
                yield subcommand, inner, type_


def options_of(command: str) -> Iterator[tuple[str, str, Any]]:
    function = getattr(import_module(COMMANDS[command].module), COMMANDS[command].function)
    hints = get_type_hints(function, include_extras=True)
    return numeric_hints({name: hint for name, hint in hints.items() if name != "return"})


OPTIONS = [
    pytest.param(command, *option, id=" ".join(filter(None, (command, option[0], flag(option[1])))))
    for command in COMMANDS
    for option in options_of(command)
]


def both_ends(hint: Any) -> bool:
    """Whether a type has a least and a largest number."""
    schema = TypeAdapter(hint).json_schema()
    part = next(p for p in schema.get("anyOf", [schema]) if p.get("type") != "null")
    return ("minimum" in part or "exclusiveMinimum" in part) and ("maximum" in part or "exclusiveMaximum" in part)


def accepts(hint: Any, text: str) -> bool:
    try:
        TypeAdapter(hint).validate_python(float(text) if "e" in text or not text.lstrip("-").isdigit() else int(text))
    except ValueError:
        return False
    return math.isfinite(float(text))


def test_there_are_options_to_walk_over() -> None:
    assert {option.values[0] for option in OPTIONS} >= {"photos", "inpaint", "phase", "kernel", "bench"}
    assert len(OPTIONS) > 30


@pytest.mark.parametrize(("command", "subcommand", "name", "hint"), OPTIONS)
def test_has_a_range_with_both_ends(command: str, subcommand: str, name: str, hint: Any) -> None:
    assert both_ends(hint), f"peak {command} {subcommand} {flag(name)}: give its type a least and a largest number"


@pytest.mark.parametrize(
    "script", ["make_demo_scene", "demo", "demo_photos", "fetch_test_images", "fetch_nerf_synthetic"]
)
def test_options_of_scripts_have_a_range(script: str) -> None:
    for _, name, hint in numeric_hints(get_type_hints(load_script(script).Settings, include_extras=True)):
        assert both_ends(hint), f"{script}.py {flag(name)}"


@pytest.mark.parametrize("value", [0, -1, 2**40])
@pytest.mark.parametrize("name", ["frames", "width"])
def test_a_flythrough_has_a_range(name: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(PeakError, match=f"^{flag(name)}: must be from "):
        flythrough.fly(flythrough.Options(tmp_path / "config.yml", tmp_path / "out", **{name: value}))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], list[str]]:
    """Arguments of a run that takes a moment, to which an option is added."""
    folder = tmp_path_factory.mktemp("walk")
    picture = folder / "picture.png"
    rng = np.random.default_rng(0)
    Image.fromarray((255 * rng.random((16, 16)) ** 0.5).astype(np.uint8)).save(picture)

    def arguments(command: str, subcommand: str, name: str) -> list[str]:
        budget = ["--steps", "2"] if name not in ("steps", "budget_seconds") else []
        seconds = [] if name == "budget_seconds" else ["--budget-seconds", "0.3"]
        kernels = {
            "figure2": ["figure2", "--steps", "10", "--seeds", "1", "--samples", "8", "--points", "8"],
            "spectrum": ["spectrum", str(FIELD), "--points", "16"],
            "encode": ["encode", "--target", "exp(c-1)/2+c"],
        }
        return {
            "photos": [str(folder / "none")],
            "inpaint": [str(picture), *budget],
            "phase": [str(picture), *seconds, "--size", "16", "--restarts", "1"],
            "kernel": kernels.get(subcommand, []),
            "bench": [str(folder / "none.yaml"), "--data-root", str(folder), "--engine", "ray"],
        }[command]

    return arguments


def finite(value: Any) -> bool:
    """Whether a record has no number that is none."""
    if isinstance(value, dict):
        return all(finite(part) for part in value.values())
    if isinstance(value, list):
        return all(finite(part) for part in value)
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(("command", "subcommand", "name", "hint"), OPTIONS)
def test_ends_well_or_with_one_line(
    command: str, subcommand: str, name: str, hint: Any, value: str, base: Any, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    arguments = [*base(command, subcommand, name), "--out", str(out)]
    if flag(name) in arguments:
        at = arguments.index(flag(name))
        del arguments[at : at + 2]
    try:
        code = main([command, *arguments, flag(name), value])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    if not accepts(hint, value):
        assert code == 2
        assert not out.exists()
        assert "Traceback" not in said
        # A wrong type, such as nan for an int, gets tyro's box.
        assert said.count("\n") == 1 or "Parsing error" in said or "invalid" in said, said
        assert flag(name) in said
    elif code == 2:
        assert said.count("\n") == 1, said
        assert not out.exists() or not list(out.glob("*.json"))
    else:
        assert code == 0, said
        records = list(out.glob("*.json"))
        assert records
        assert all(finite(json.loads(path.read_text())) for path in records)
