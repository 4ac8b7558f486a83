"""What a suite is: a grid of task x data x method x seed, what its report shows, and figures of others beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt
from pydantic_core import PydanticCustomError

from peak_nerf.system.choices import did_you_mean

Value = StrictBool | StrictInt | StrictFloat | str
"""A setting, or a value on an axis."""
LOWER_IS_BETTER = frozenset({"seconds", "n_parameters", "lpips", "relative_residual"})
LONGEST_NAME = 200
"""Of a cell's folder, in bytes; file systems take 255, and a suffix comes on top."""
MAX_CELLS = 10_000
"""Of a suite."""


def show(value: Value) -> str:
    """A value as it stands in folder names, tables and `--only`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _fit_for_folder_name(value: Value) -> Value:
    text = show(value)
    bad = sorted({c for c in text if c in '/\\,=:*?"<>|' or not c.isprintable()})
    if not text or text != text.strip() or text.startswith(".") or bad:
        raise PydanticCustomError(
            "name",
            "{name} cannot be part of a folder's name; use letters, digits, and ' + - _ . ( )'",
            {"name": repr(text)},
        )
    return value


def _not_repeated(values: list[Any]) -> list[Any]:
    names = [show(v) if isinstance(v, (bool, int, float, str)) else v.name for v in values]
    seen: set[str] = set()
    twice = next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
    if twice is not None:
        raise PydanticCustomError("repeated", "{name} is there twice", {"name": repr(twice)})
    return values


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "give a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]
"""Also in quotes, as pydantic reads it."""
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
AxisValue = Annotated[Value, AfterValidator(_fit_for_folder_name)]
AxisValues = Annotated[list[AxisValue], Field(min_length=1), AfterValidator(_not_repeated)]


class Strict(BaseModel):
    """A model that refuses what it does not know, and numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Method(Strict):
    """One way to do the task: a method of the task, with settings of its own."""

    name: Annotated[str, AfterValidator(_fit_for_folder_name)]
    """As the report calls it; by default the method's own name."""
    method: Name
    settings: dict[str, Value] = {}
    """On top of the suite's."""
    sweep: dict[str, AxisValues] | None = None
    """Instead of the suite's; {} for none."""
    only: str | None = None
    """The cells that there are of it, such as `problem=gaussian@1.0`, of a method that is not for all data."""


def _method(given: Any) -> Any:
    if isinstance(given, str):
        given = {"method": given}
    if isinstance(given, dict) and "method" in given:
        given = {"name": given["method"], **given}
    return given


class Paper(Strict):
    """The paper's figures, shown beside ours."""

    source: str
    values: dict[str, dict[str, float]]
    """By cells, such as `image=baboon,mask=random`, then by method: the suite's metric."""


class Published(Strict):
    """Figures of other work, in a table of their own beside our means over the cells that they are about."""

    source: str
    values: dict[str, dict[str, float]]
    """By cells, such as `views=3` (a mean over all scenes), then by the name of the work: the suite's metric."""


class Plot(Strict):
    """What the report draws."""

    kind: Literal["none", "curve", "time"] = "none"
    """`curve`: the metric over a sweep; `time`: the metric over training time."""
    x: str | None = None
    """For `curve`: a key of metrics.json, such as n_parameters, instead of the swept setting."""
    log_x: bool = False


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise PydanticCustomError("gpus", "{gpus} GPUs: give a fraction of one, or a whole number", {"gpus": gpus})
    return gpus


class Resources(Strict):
    """What a cell needs of a cluster's node. The local engine shares this machine's cores among its jobs instead."""

    cpus: Annotated[Whole, Field(ge=1, le=2**16)] = 1
    """Cores, and so threads of the cell."""
    gpus: Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=2**10), AfterValidator(_whole_above_one)] = 0.0
    """Below 1, cells share a GPU."""


class Suite(Strict):
    """A suite file."""

    title: str
    task: Name
    metric: Name = "psnr"
    """The key of metrics.json that the report is about."""
    unit: Name = "dB"
    data: Annotated[dict[str, AxisValues], Field(min_length=1)]
    """Axes of the data, such as image and mask; each is an option of the task."""
    methods: Annotated[
        list[Annotated[Method, BeforeValidator(_method)]], Field(min_length=1), AfterValidator(_not_repeated)
    ]
    seeds: Annotated[list[Whole], Field(min_length=1), AfterValidator(_not_repeated)]
    settings: dict[str, Value] = {}
    """Options of the task, the same for all methods."""
    where: dict[str, dict[str, Value]] = {}
    """Settings of the cells that a selection names, such as `problem=gaussian@1.0: {budget_seconds: 20}`; on top of the
    suite's and the method's, the later ones of the file last."""
    sweep: dict[str, AxisValues] = {}
    """Options varied one at a time, each over its values; for every method without a sweep of its own."""
    paper: Paper | None = None
    published: Published | None = None
    plot: Plot = Plot()
    resources: Resources = Resources()
    notes: str = ""
    """Printed in the report under its title."""

    def sweep_of(self, method: Method) -> dict[str, list[Value]]:
        """What is varied for this method."""
        return self.sweep if method.sweep is None else method.sweep

    def axes(self) -> dict[str, list[str]]:
        """Every axis of a cell's key and its values as text, in the order of the key."""
        return self._axes

    @cached_property
    def _axes(self) -> dict[str, list[str]]:
        axes = {axis: dict.fromkeys(show(v) for v in values) for axis, values in self.data.items()}
        axes["method"] = dict.fromkeys(method.name for method in self.methods)
        for method in self.methods:
            for setting, values in self.sweep_of(method).items():
                axes.setdefault(setting, {}).update(dict.fromkeys(show(v) for v in values))
        axes["seed"] = dict.fromkeys(str(seed) for seed in self.seeds)
        return {axis: list(values) for axis, values in axes.items()}

    @property
    def n_cells(self) -> int:
        """How many `cells` makes, or would without any `only`."""
        points = sum(sum(map(len, self.sweep_of(method).values())) or 1 for method in self.methods)
        return prod(map(len, self.data.values())) * points * len(self.seeds)

    def cells(self) -> Iterator[Cell]:
        """All cells: by data, then method, then sweep, then seed."""
        where = [(parse_selection(self, place), given) for place, given in self.where.items()]
        only = {m.name: parse_selection(self, m.only) if m.only is not None else {} for m in self.methods}
        for values in product(*self.data.values()):
            data = dict(zip(self.data, values, strict=True))
            for method in self.methods:
                sweep = self.sweep_of(method)
                points: list[tuple[str, Value] | None] = [(name, v) for name, values_ in sweep.items() for v in values_]
                for point, seed in product(points or [None], self.seeds):
                    cell = self._cell(data, method, point, seed, where)
                    if cell.matches(only[method.name]):
                        yield cell

    def _cell(
        self,
        data: dict[str, Value],
        method: Method,
        point: tuple[str, Value] | None,
        seed: int,
        where: list[tuple[dict[str, list[str]], dict[str, Value]]],
    ) -> Cell:
        swept = {} if point is None else dict([point])
        key = {**data, "method": method.name, **swept, "seed": seed}
        cell = Cell({axis: show(value) for axis, value in key.items()}, {}, None if point is None else point[0])
        here: dict[str, Value] = {}
        for selection, given in where:
            if cell.matches(selection):
                here |= given
        settings = {**self.settings, **method.settings, **here, **data, **swept}
        return replace(cell, options={**settings, "method": method.method, "seed": seed})


@dataclass(frozen=True)
class Cell:
    """One run of a suite."""

    key: dict[str, str]
    """Where it is in the grid: axis to value, as text."""
    options: dict[str, Value] = field(compare=False)
    """What the task is called with; names of images and masks are not yet files."""
    swept: str | None = None
    """The setting that is varied, if any."""

    @property
    def id(self) -> str:
        """Its name and its folder's, such as `image=baboon,mask=random,method=peak,seed=88`."""
        return ",".join(f"{axis}={value}" for axis, value in self.key.items())

    def matches(self, selection: dict[str, list[str]]) -> bool:
        """Whether it has one of the values on each selected axis."""
        return all(self.key.get(axis) in values for axis, values in selection.items())


def parse_selection(suite: Suite, text: str) -> dict[str, list[str]]:
    """`image=baboon,image=lake,method=peak` as {axis: values}; an axis given twice means either value.

    Raises: ValueError on an axis or a value that the suite does not have, with the nearest.
    """
    axes = suite.axes()
    selection: dict[str, list[str]] = {}
    for part in text.split(","):
        axis, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"{part.strip()!r} is not axis=value, such as image=baboon")
        if axis not in axes:
            raise ValueError(f"the suite has no axis {axis!r}; {did_you_mean(axis, axes)}")
        match = value if value in axes[axis] else _same_number(value, axes[axis])
        if match is None:
            raise ValueError(f"{axis} is never {value!r}; {did_you_mean(value, axes[axis])}")
        selection.setdefault(axis, []).append(match)
    return selection


def _same_number(text: str, values: Iterable[str]) -> str | None:
    """The one of `values` that is the same number, since 1e-2 is 0.01."""

    def number(value: str) -> float | None:
        try:
            return float(value)
        except ValueError:
            return None

    wanted = number(text)
    return None if wanted is None else next((value for value in values if number(value) == wanted), None)
