"""The tasks that a suite can run, and the options that each takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from peak_nerf.bench.suite.grid import near

TASKS = {
    "inpaint": "peak_nerf.tasks.inpainting.command:run_inpainting",
    "phase": "peak_nerf.tasks.phase_retrieval.command:run_phase_retrieval",
    "nerf": "peak_nerf.nerf.run:run_nerf",
}
"""Name in suite files to `module:function`. The function is called as `run(options, out, report)`, where options is the
dataclass in its signature, and leaves metrics.json and pictures in `out`."""


def load_task(target: str) -> tuple[Callable[..., Any], type[Any]]:
    """The function of `module:function` and the dataclass of its options."""
    module, _, function = target.partition(":")
    run = getattr(import_module(module), function)
    return run, get_type_hints(run)["options"]


class OptionTypes:
    """The options of a task by name, and what values each takes: its type, or what its field's metadata gives as
    `choices`."""

    def __init__(self, options: type[Any]) -> None:
        hints = get_type_hints(options)
        self.types = {field.name: hints[field.name] for field in dataclasses.fields(options)}
        self.choices = {field.name: field.metadata.get("choices") for field in dataclasses.fields(options)}

    def __contains__(self, name: str) -> bool:
        return name in self.types

    def convert(self, name: str, value: Any) -> Any:
        """The value as the option's type; a number for a text becomes text.

        Raises: ValueError with the nearest name, or with what the option takes.
        """
        if name not in self.types:
            raise ValueError(f"the task has no option {name!r}; {near(name, self.types)}")
        choices = self.choices[name]
        if choices is not None and value is not None and value not in choices:
            raise ValueError(f"{value!r} is not known; {near(str(value), choices)}")
        if self.types[name] is Path or Path in get_args(self.types[name]):
            return Path(str(value))
        adapter = TypeAdapter(self.types[name])
        try:
            return adapter.validate_python(value, strict=True)
        except ValidationError as error:
            try:
                return adapter.validate_python(value if isinstance(value, (bool, str)) else str(value), strict=True)
            except ValidationError:
                problem = error.errors(include_url=False)[0]["msg"]
                raise ValueError(f"{value!r} will not do: {problem[:1].lower()}{problem[1:]}") from None

    def convert_all(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`convert` for each."""
        return {name: self.convert(name, value) for name, value in values.items()}


def option_types(target: str) -> OptionTypes:
    """The options of a task; imports it."""
    return OptionTypes(load_task(target)[1])
