"""The tasks that a suite can run, and the options that each takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from peak_nerf.system.choices import did_you_mean

TASKS = {
    "inpaint": "peak_nerf.tasks.inpainting.command:run_inpainting",
    "phase": "peak_nerf.tasks.phase_retrieval.command:run_phase_retrieval",
    "nerf": "peak_nerf.nerf.run:run_nerf",
}
"""Name in suite files to `module:function`. The function is called as `run(options, out, on_progress)`, where options
is the dataclass in its signature, and leaves metrics.json and pictures in `out`."""


def load_task(target: str) -> tuple[Callable[..., Any], type[Any]]:
    """The function of `module:function` and the dataclass of its options."""
    module, _, function = target.partition(":")
    run = getattr(import_module(module), function)
    return run, get_type_hints(run)["options"]


class OptionTypes:
    """The options of a task by name, and what values each takes: its type, or the words of its `choices`.

    A field's metadata may hold `choices`, `aliases` (names it had in the version before) and `value_aliases`
    ({old: new}); suites and kept results may use old names and values too.
    """

    def __init__(self, options: type[Any]) -> None:
        fields, hints = dataclasses.fields(options), get_type_hints(options, include_extras=True)
        self.types = {field.name: hints[field.name] for field in fields}
        self.adapters: dict[str, TypeAdapter[Any]] = {}
        self.choices = {field.name: field.metadata.get("choices") for field in fields}
        self.renamed = {old: field.name for field in fields for old in field.metadata.get("aliases", ())}
        self.new_values = {field.name: field.metadata.get("value_aliases", {}) for field in fields}

    def __contains__(self, name: str) -> bool:
        return name in self.types or name in self.renamed

    def current(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Options by their names and values of today. Raises: ValueError when one is there under both names."""
        found: dict[str, Any] = {}
        for given, value in values.items():
            name = self.renamed.get(given, given)
            if name in found:
                old = next(old for old, new in self.renamed.items() if new == name and old in values)
                raise ValueError(f"{old!r} is the old name of {name!r}, which is given too; delete one")
            found[name] = self._current_value(name, value)
        return found

    def _current_value(self, name: str, value: Any) -> Any:
        """Of a text, its value of today; the number or truth that it spells, where the option takes no text."""
        if not isinstance(value, str):
            return value
        value = self.new_values.get(name, {}).get(value, value)
        if name not in self.types or any(leaf in (str, Path) or get_args(leaf) for leaf in _leaves(self.types[name])):
            return value
        try:
            return self._adapter(name).validate_python(value)
        except ValidationError:
            return value

    def _adapter(self, name: str) -> TypeAdapter[Any]:
        if name not in self.adapters:
            self.adapters[name] = TypeAdapter(self.types[name], config=ConfigDict(allow_inf_nan=False))
        return self.adapters[name]

    def convert(self, name: str, value: Any) -> Any:
        """The value as the option's type; a number for a text becomes text.

        Args:
            name: Of the option, today's or the old one.
            value: As a suite gives it.

        Raises: ValueError with the nearest name, or with what the option takes.
        """
        name = self.renamed.get(name, name)
        if name not in self.types:
            raise ValueError(f"the task has no option {name!r}; {did_you_mean(name, self.types)}")
        value, choices = self._current_value(name, value), self.choices[name]
        if choices is not None and value is not None and value not in choices:
            raise ValueError(f"{value!r} is not known; {did_you_mean(str(value), choices)}")
        leaves = _leaves(self.types[name])
        if Path in leaves and value is not None:
            return Path(str(value))
        adapter = self._adapter(name)
        try:
            return adapter.validate_python(value, strict=True)
        except ValidationError:
            try:
                return adapter.validate_python(value if isinstance(value, (bool, str)) else str(value), strict=True)
            except ValidationError:
                if isinstance(value, str) and (words := [word for leaf in leaves for word in get_args(leaf)]):
                    raise ValueError(f"{value!r} is not known; {did_you_mean(value, words)}") from None
                problem = _problem(adapter, value)
                raise ValueError(f"{value!r} will not do: {problem[:1].lower()}{problem[1:]}") from None

    def convert_all(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`convert` for each, by today's names."""
        return {name: self.convert(name, value) for name, value in self.current(values).items()}


def _problem(adapter: TypeAdapter[Any], value: Any) -> str:
    """What is wrong with a value; of a number in quotes, what is wrong with the number."""
    for strict in (not isinstance(value, str), True):
        try:
            adapter.validate_python(value, strict=strict)
        except ValidationError as error:
            return str(error.errors(include_url=False)[0]["msg"])
    return "another type is wanted"


def _leaves(hint: Any) -> list[Any]:
    """The types that a union or an annotated type is made of."""
    if get_origin(hint) is Literal or not get_args(hint):
        return [hint]
    return [leaf for part in get_args(hint) for leaf in _leaves(part)]


def option_types(target: str) -> OptionTypes:
    """The options of a task; imports it."""
    return OptionTypes(load_task(target)[1])
