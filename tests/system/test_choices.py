"""`system.choices`: one wording for whatever an option may not be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from peak_nerf.errors import PeakError
from peak_nerf.system.choices import check_options, check_types, did_you_mean, nearest


@dataclass
class Options:
    n_steps: Annotated[int | None, Field(ge=1)] = None
    rate: Annotated[float | None, Field(gt=0)] = None
    weight: Annotated[float, Field(ge=0)] = 0.0
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    level: float | None = None
    norm: Literal["l2", "huber"] = "l2"
    method: str = field(default="peak", metadata={"choices": ("peak", "siren")})
    name: str = "anything"


def test_the_ends_of_every_range_and_none_pass() -> None:
    for options in (
        Options(),
        Options(n_steps=1, rate=1e-30, weight=0, fraction=0.999, seed=0, level=-3.0, norm="huber", method="siren"),
        Options(seed=2**31 - 1, fraction=1e-9),
    ):
        check_options(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_steps": 0}, "--n-steps: must be at least 1, got 0"),
        ({"rate": 0.0}, "--rate: must be above 0 and finite, got 0.0"),
        ({"rate": math.inf}, "--rate: must be above 0 and finite, got inf"),
        ({"weight": -1.0}, "--weight: must be at least 0 and finite, got -1.0"),
        ({"weight": math.nan}, "--weight: must be at least 0 and finite, got nan"),
        ({"fraction": 1.0}, "--fraction: must be above 0 and below 1, got 1.0"),
        ({"fraction": math.nan}, "--fraction: must be above 0 and below 1, got nan"),
        ({"seed": -1}, "--seed: must be from 0 to 2147483647, got -1"),
        ({"seed": 2**31}, "--seed: must be from 0 to 2147483647, got 2147483648"),
        ({"level": math.inf}, "--level: must be finite, got inf"),
        ({"norm": "hubr"}, "--norm: must be one of l2, huber, got hubr; did you mean 'huber'?"),
        ({"method": "Siran"}, "--method: must be one of peak, siren, got Siran; did you mean 'siren'?"),
        ({"method": "zzz"}, "--method: must be one of peak, siren, got zzz"),
    ],
)
def test_what_is_out_of_range_is_said_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PeakError) as e:
        check_options(Options(**changes))
    assert str(e.value) == message


def test_the_nearest_name_or_all_of_them() -> None:
    names = ["House", "cameraman"]
    assert nearest("hose", names) == "House"
    assert nearest("zzz", names) is None
    assert did_you_mean("camraman", names) == "did you mean 'cameraman'?"
    assert did_you_mean("zzz", names) == "there are House, cameraman"


@dataclass
class Inner:
    n: Annotated[int, Field(ge=1)] = 1


@dataclass
class Saved:
    word: Literal["a", "b"] = "a"
    path: Path | None = None
    sides: tuple[int, int] = (1, 2)
    rate: float = 1.0
    on: bool = True
    inner: Inner = field(default_factory=Inner)
    table: dict = field(default_factory=dict)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"word": "b", "path": Path("x"), "sides": (3, 4), "rate": 2, "table": {"x": Inner()}}, None),
        ({"word": "c"}, "--word: is 'c'"),
        ({"path": "x"}, "--path: is 'x'"),
        ({"sides": [1, 2]}, r"--sides: is '\[1, 2\]'"),
        ({"sides": (1, 2, 3)}, "--sides"),
        ({"rate": "2"}, "--rate: is '2'"),
        ({"on": 1}, "--on: is '1'"),
        ({"inner": None}, "--inner: is 'None'"),
        ({"inner": Inner("1")}, "--inner.n: is '1'"),  # type: ignore[arg-type]
    ],
)
def test_what_was_read_has_its_types(changes: dict[str, Any], said: str | None) -> None:
    saved = Saved(**changes)
    if said is None:
        check_types(saved)
        return
    with pytest.raises(PeakError, match=said):
        check_types(saved)


def test_a_field_that_is_missing() -> None:
    saved = Saved()
    del saved.__dict__["inner"]
    with pytest.raises(PeakError, match="--inner: is missing"):
        check_types(saved)
