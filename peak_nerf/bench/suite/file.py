"""Suite files: YAML in, a checked `Suite` out. An error names the file and the line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from peak_nerf.bench.suite.grid import LONGEST_NAME, MAX_CELLS, Suite, parse_selection
from peak_nerf.bench.suite.registry import TASKS, OptionTypes, option_types
from peak_nerf.bench.suite.source import Loc, Source
from peak_nerf.system.choices import did_you_mean
from peak_nerf.system.files import write_atomically

NAMES = ("image", "mask", "scene")
"""Axes whose values are names of files, which a number in YAML would lose the zeros of."""


def read_suite(path: Path, *, check_options: bool = True) -> Suite:
    """The suite of a file.

    Args:
        path: the YAML file.
        check_options: also look at the settings, which imports the task; a report can do without.

    Raises: PeakError with file, line and remedy.
    """
    source = Source(path)
    if not isinstance(source.data, dict):
        source.fail((), "a suite is a mapping with title, task, data, methods and seeds")
    try:
        suite = Suite.model_validate(_with_names_as_written(source))
    except ValidationError as error:
        _fail_as_pydantic(source, error)
    if suite.n_cells > MAX_CELLS:
        source.fail(("data",), f"is a grid of {suite.n_cells:,} cells, more than {MAX_CELLS:,}; split the suite")
    _check_selections(suite, source)
    _check_axes(suite, source)
    _check_paper(suite, source)
    if suite.task not in TASKS:
        source.fail(("task",), f"unknown task {suite.task!r}; {did_you_mean(suite.task, TASKS)}")
    if check_options:
        _check_options(suite, source, option_types(TASKS[suite.task]))
    return suite


def _with_names_as_written(source: Source) -> dict[str, Any]:
    data = source.data.get("data")
    if not isinstance(data, dict):
        return dict(source.data)
    names = {axis: texts for axis in NAMES if (texts := source.texts(("data", axis)))}
    return {**source.data, "data": {**data, **names}}


def write_suite(suite: Suite, path: Path) -> None:
    """Write it out, every default spelt, so that `read_suite` gives the same."""
    yaml = YAML()
    yaml.width = 120
    write_atomically(path, lambda file: yaml.dump(suite.model_dump(mode="json"), file))


# -------------------------------------------------------------------------------------------------------- checks


def _fail_as_pydantic(source: Source, error: ValidationError) -> NoReturn:
    """Pydantic's first problem in file order, as our one line."""
    problems = error.errors(include_url=False)
    # A value that is none of several types comes as one problem per type.
    first = min(problems, key=lambda problem: (source.line(problem["loc"]), problem["type"] == "missing"))
    loc, kind = _without_type_names(first["loc"], source), first["type"]
    if kind == "extra_forbidden":
        source.fail(loc, f"unknown key; {did_you_mean(str(loc[-1]), _keys_at(Suite, loc[:-1]))}")
    if kind == "missing":
        source.fail(loc, f"{first['loc'][-1]!r} is missing; add it")
    message = first["msg"][:1].lower() + first["msg"][1:]
    if len([p for p in problems if _without_type_names(p["loc"], source) == loc]) > 1:
        message = "give a text, a number or true/false"
    source.fail(loc, message)


def _without_type_names(loc: Loc, source: Source) -> Loc:
    """`loc` cut where it leaves the file: pydantic appends the names of a union's types."""
    data: Any = source.data
    for depth, step in enumerate(loc):
        here = range(len(data)) if isinstance(data, list) else data if isinstance(data, dict) else ()
        if step not in here:
            return loc[:depth]
        data = data[step]
    return loc


def _keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that the model at `loc` knows."""
    for step in loc:
        if isinstance(step, str) and step in model.model_fields:
            inner = _model_in(model.model_fields[step].annotation)
            model = inner or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def _sweeps(suite: Suite) -> list[tuple[Loc, Mapping[str, list[Any]]]]:
    own: list[tuple[Loc, Mapping[str, list[Any]]]] = [
        (("methods", i, "sweep"), method.sweep) for i, method in enumerate(suite.methods) if method.sweep
    ]
    return [(("sweep",), suite.sweep), *own]


def _check_selections(suite: Suite, source: Source) -> None:
    """The cells that `where` and `only` name exist."""
    selections: list[tuple[Loc, str]] = [(("where", text), text) for text in suite.where]
    selections += [(("methods", i, "only"), method.only) for i, method in enumerate(suite.methods) if method.only]
    for loc, text in selections:
        try:
            parse_selection(suite, text)
        except ValueError as error:
            source.fail(loc, str(error))


def _check_axes(suite: Suite, source: Source) -> None:
    """Each axis has one meaning, and names are short enough for folders."""
    for axis in suite.data:
        if axis in ("method", "seed"):
            source.fail(("data", axis), f"is an axis of every suite; give it as {axis}s")
    for loc, sweep in _sweeps(suite):
        for setting in sweep:
            if setting in suite.data or setting in ("method", "seed"):
                source.fail((*loc, setting), "is an axis already; sweep something else")
    settings: list[tuple[Loc, Mapping[str, Any]]] = [(("settings",), suite.settings)]
    settings += [(("methods", i, "settings"), method.settings) for i, method in enumerate(suite.methods)]
    settings += [(("where", place), given) for place, given in suite.where.items()]
    for loc, given in settings:
        for setting in given:
            if setting in suite.data or setting in ("method", "seed"):
                source.fail((*loc, setting), "is an axis already; delete it here")
    if suite.plot.kind == "curve" and not any(suite.sweep_of(method) for method in suite.methods):
        source.fail(("plot", "kind"), "a curve needs a sweep; add one, or plot: {kind: time}")
    longest = max(suite.cells(), key=lambda cell: len(cell.id.encode()))
    if len(longest.id.encode()) > LONGEST_NAME:
        source.fail(("data",), f"the folder name {longest.id!r} is longer than {LONGEST_NAME} bytes; shorten the names")


def _check_paper(suite: Suite, source: Source) -> None:
    """The paper's figures belong to cells and methods that exist, those of other work to cells and to none of ours."""
    names = [method.name for method in suite.methods]
    for where, figures in (suite.paper.values if suite.paper else {}).items():
        _check_place(suite, source, ("paper", "values", where))
        for name in figures:
            if name not in names:
                source.fail(
                    ("paper", "values", where, name), f"no such method in this suite; {did_you_mean(name, names)}"
                )
    for where, figures in (suite.published.values if suite.published else {}).items():
        _check_place(suite, source, ("published", "values", where))
        for name in figures:
            if name in names:
                loc = ("published", "values", where, name)
                source.fail(loc, "is a method of this suite; name the other work, or give the figure under paper")


def _check_place(suite: Suite, source: Source, loc: Loc) -> None:
    """The last key of `loc` selects cells of the suite, whatever their method and seed."""
    try:
        selection = parse_selection(suite, str(loc[-1]))
    except ValueError as error:
        source.fail(loc, str(error))
    if {"method", "seed"} & set(selection):
        source.fail(loc, "name only data and settings; methods go under it")


def _check_options(suite: Suite, source: Source, options: OptionTypes) -> None:
    """Every axis and setting is an option of the task, with a value that it takes."""

    def check(loc: Loc, name: str, value: Any) -> None:
        try:
            options.convert(name, value)
        except ValueError as error:
            source.fail(loc, str(error))

    for axis, values in suite.data.items():
        for i, value in enumerate(values):
            check(("data", axis, i) if axis in options else ("data", axis), axis, value)
    for name, value in suite.settings.items():
        check(("settings", name), name, value)
    for place, given in suite.where.items():
        for name, value in given.items():
            check(("where", place, name), name, value)
    for loc, sweep in _sweeps(suite):
        for name, values in sweep.items():
            for i, value in enumerate(values):
                check((*loc, name, i) if name in options else (*loc, name), name, value)
    for i, method in enumerate(suite.methods):
        check(("methods", i, "method"), "method", method.method)
        for name, value in method.settings.items():
            check(("methods", i, "settings", name), name, value)
    for cell in suite.cells():
        try:
            options.current(cell.options)
        except ValueError as error:
            source.fail(("settings",), str(error))
