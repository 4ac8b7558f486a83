"""Options out of range and names that do not exist: found in one place, said in one wording."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

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


def check_types(options: Any, path: str = "", skip: Sequence[str] = ()) -> None:
    """Hold the fields of a dataclass, however deep, to their types: of words, numbers, paths and tuples of these.

    For what was read from a file; the command line sees to it by itself. What is the type's own default passes.

    Args:
        options: a dataclass, such as a configuration of nerfstudio.
        path: of the dataclass, in front of its options' names.
        skip: fields of it that may be anything.

    Raises: PeakError on the first that is missing or of another type.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        if field.name in skip:
            continue
        name, hint = f"{path}{field.name}", hints[field.name]
        if not hasattr(options, field.name):
            raise PeakError(f"{flag(name)}: is missing")
        value = getattr(options, field.name)
        if _is_simple(hint):
            if value is not field.default and not _fits(hint, value):
                raise PeakError(f"{flag(name)}: is {str(value)[:50]!r}")
        elif type in (hint, get_origin(hint)):
            if not isinstance(value, type):
                raise PeakError(f"{flag(name)}: is {str(value)[:50]!r}")
        elif field.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(field.default_factory()):
            if not dataclasses.is_dataclass(value):
                raise PeakError(f"{flag(name)}: is {str(value)[:50]!r}")
            check_types(value, f"{name}.")
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_types(value, f"{name}.")


def _is_simple(hint: Any) -> bool:
    """Whether a type is of words, numbers and paths, or tuples and lists of these."""
    if hint is Ellipsis or hint in (int, float, bool, str, NoneType, Path) or get_origin(hint) is Literal:
        return True
    if get_origin(hint) is Annotated:
        return _is_simple(get_args(hint)[0])
    return get_origin(hint) in (Union, UnionType, tuple, list) and all(map(_is_simple, get_args(hint)))


def _fits(hint: Any, value: Any) -> bool:
    from pydantic import TypeAdapter, ValidationError

    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint  # ranges are for `check_numbers`
    adapter = _adapters.setdefault(f"type {plain!r}", TypeAdapter(plain))
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


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
