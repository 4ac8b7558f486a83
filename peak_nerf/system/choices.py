"""Options out of range and names that do not exist: found in one place, said in one wording."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from peak_nerf.errors import PeakError

MOST_NAMES = 2_000
"""Among which a name is looked for."""
MOST_SHOWN = 50
"""Names in a message."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that a misspelt name most probably means, whatever its case; None when none is close."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    # Its time grows with the product of both lengths: a page of text is no misspelt name.
    found = difflib.get_close_matches(name.lower()[:100], list(by_lower)[:MOST_NAMES], n=1)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The remedy for a name that is none of `names`: the nearest, or all of them."""
    names = list(names)
    found = nearest(name, names)
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"there are {', '.join(names[:MOST_SHOWN])}{more}" if found is None else f"did you mean {found!r}?"


def flag(name: str) -> str:
    """The option of a field on the command line: `--n-hidden` for `n_hidden`."""
    return f"--{name.replace('_', '-')}"


def is_numeric(hint: Any) -> bool:
    """Whether a type is of numbers, or of numbers and None; with or without a range. bool is no number."""
    if get_origin(hint) is Annotated:
        return is_numeric(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return all(part is NoneType or is_numeric(part) for part in get_args(hint))
    return hint is int or hint is float


def numeric_options(options: Any, path: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Every numeric field of a dataclass, of those within it and in its dicts: its path, type and value, and
    `Class.field` of the class that it is a field of."""
    hints = get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name, None)
        place = f"{path}{field.name}"
        if is_numeric(hints[field.name]):
            yield place, hints[field.name], value, f"{type(options).__name__}.{field.name}"
        yield from _numeric_within(value, place)


def _numeric_within(value: Any, place: str) -> Iterator[tuple[str, Any, Any, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numeric_within(part, f"{place}.{key}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from numeric_options(value, f"{place}.")


def check_numbers(options: Any, path: str = "", ranges: Mapping[str, Any] | None = None) -> None:
    """Hold every numeric option, however deep, to the range that its type gives, and to finite numbers.

    Args:
        options: a dataclass, such as a configuration of nerfstudio.
        path: of the dataclass, in front of its options' names.
        ranges: types of other packages' fields, `Class.field` or `field`, whose own say nothing.

    Raises: PeakError on the first that is not, such as "--machine.seed: must be from 0 to 4294967295, got -1".
    """
    for place, hint, value, name in numeric_options(options, f"{path}." if path else ""):
        if get_origin(hint) is not Annotated and ranges is not None:
            hint = ranges.get(name, ranges.get(name.split(".")[1], hint))
        _check(place, hint, value)


_adapters: dict[str, Any] = {}
"""By the type's text: making one takes a thousand times as long as using it."""


def _check(name: str, hint: Any, value: Any) -> None:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if repr(hint) not in _adapters:
        _adapters[repr(hint)] = TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
    adapter: TypeAdapter[Any] = _adapters[repr(hint)]
    try:
        adapter.validate_python(value)
    except ValidationError:
        raise PeakError(f"{flag(name)}: must be {_wanted(adapter.json_schema())[0]}, got {value}") from None


def check_options(options: Any) -> None:
    """Hold each field of a dataclass to the range or the words that its type gives.

    A range is pydantic's, `Annotated[int, Field(ge=1)]`; words are `Literal`, or the field's metadata `choices` where
    the command line should leave refusing to this function. A float must be finite. None passes where the type has it.

    Raises: PeakError on the first that is not, such as "--steps: must be at least 1, got 0".
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    hints = get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        adapter: TypeAdapter[Any] = TypeAdapter(hints[field.name], config=ConfigDict(allow_inf_nan=False))
        words = field.metadata.get("choices")
        try:
            adapter.validate_python(value)
            if words is None or value is None or value in words:
                continue
        except ValidationError:
            pass
        wanted, words = (f"one of {', '.join(words)}", words) if words else _wanted(adapter.json_schema())
        meant = nearest(str(value), words)
        hint = "" if meant is None else f"; did you mean {meant!r}?"
        raise PeakError(f"{flag(field.name)}: must be {wanted}, got {value}{hint}")


def _wanted(schema: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What a JSON schema demands, in words, and the words that it lists."""
    part = next(p for p in schema.get("anyOf", [schema]) if p.get("type") != "null")
    if "enum" in part:
        return f"one of {', '.join(part['enum'])}", tuple(part["enum"])
    if "minimum" in part and "maximum" in part:
        return f"from {part['minimum']:.12g} to {part['maximum']:.12g}", ()
    names = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = [f"{word} {part[key]:.12g}" for key, word in names.items() if key in part]
    if part.get("type") == "number" and len(bounds) < 2:
        bounds.append("finite")
    return " and ".join(bounds) or f"a {part.get('type', 'value')}", ()
