"""YAML files of anybody: read within limits, and in which line everything stands."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.parser import Parser

from peak_nerf.errors import PeakError
from peak_nerf.system.files import check_file

Loc = tuple[str | int, ...]

MAX_BYTES = 2**20
MAX_VALUES = 5_000
"""Keys, values, lists and mappings, those that an alias stands for counted anew. The largest of configs/ has 800."""
MAX_DEPTH = 20
"""Lists and mappings within each other; a suite needs 5."""
MAX_DIGITS = 100
"""Characters of a number."""
LONGEST_PROBLEM = 500
"""Characters of a problem's text that are shown; it may quote what the file holds."""

_NUMBER_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool"))


class _Parser(Parser):
    """Stops at the limits, before anything is built: the rest recurses into what is nested and expands aliases."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.n_values = 0
        self.open: list[tuple[str | None, int]] = []
        self.sizes: dict[str, int] = {}

    def get_event(self) -> Any:
        """The next event. Raises: MarkedYAMLError at a limit."""
        event = super().get_event()
        if isinstance(event, AliasEvent):
            if any(anchor == event.anchor for anchor, _ in self.open):
                _stop(f"the alias *{event.anchor} stands within what it stands for", event)
            self.n_values += self.sizes.get(event.anchor, 1)
        elif isinstance(event, CollectionEndEvent):
            anchor, before = self.open.pop()
            if anchor is not None:
                self.sizes[anchor] = self.n_values - before
        elif isinstance(event, NodeEvent):
            self.n_values += 1
            if isinstance(event, CollectionStartEvent):
                self.open.append((event.anchor, self.n_values - 1))
            elif event.anchor is not None:
                self.sizes[event.anchor] = 1
        if self.n_values > MAX_VALUES:
            _stop(f"more than {MAX_VALUES:,} values, aliases counted in full; split the suite", event)
        if len(self.open) > MAX_DEPTH:
            _stop(f"nested more than {MAX_DEPTH} deep", event)
        return event


def _stop(problem: str, event: Any) -> NoReturn:
    raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


class _Constructor(SafeConstructor):
    """Texts, numbers, true and false, null, lists and mappings; a date is a text."""


def _scalar(kind: str, construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def constructed(self: SafeConstructor, node: ScalarNode) -> Any:
        problem = f"{str(node.value)[:MAX_DIGITS]!r} is not {kind}"
        if len(node.value) > MAX_DIGITS:
            raise ConstructorError(None, None, f"{kind} of {len(node.value):,} characters", node.start_mark)
        try:
            return construct(self, node)
        except (ValueError, KeyError, IndexError, TypeError):  # of a tag that is given: !!int abc
            raise ConstructorError(None, None, problem, node.start_mark) from None

    return constructed


_Constructor.yaml_constructors = {
    None: SafeConstructor.construct_undefined,
    **{
        f"tag:yaml.org,2002:{name}": construct
        for name, construct in {
            "int": _scalar("a whole number", SafeConstructor.construct_yaml_int),
            "float": _scalar("a number", SafeConstructor.construct_yaml_float),
            "bool": _scalar("true or false", SafeConstructor.construct_yaml_bool),
            "null": SafeConstructor.construct_yaml_null,
            "timestamp": SafeConstructor.construct_scalar,
            "str": SafeConstructor.construct_yaml_str,
            "seq": SafeConstructor.construct_yaml_seq,
            "map": SafeConstructor.construct_yaml_map,
        }.items()
    },
}


class Source:
    """A YAML 1.2 file that knows in which line everything stands. Raises: PeakError when it is no YAML, or too much."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_file(path, "give a suite's YAML file")
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            text = content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise PeakError(f"{path}: cannot be read ({reason}); give a suite's YAML file, in UTF-8") from error
        if len(content) > MAX_BYTES:
            raise PeakError(f"{path}: has more than {MAX_BYTES // 2**20} MiB; give a suite's YAML file")
        self.data, self.root = self._parse(text)
        self._known: dict[int, dict[str | int, tuple[int, Node]]] = {}

    def _parse(self, text: str) -> tuple[Any, Node | None]:
        yaml = YAML(typ="safe", pure=True)
        yaml.Parser, yaml.Constructor = _Parser, _Constructor
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an anchor that is set anew is good YAML
                root = yaml.compose(text)
                return (None if root is None else yaml.constructor.construct_document(root)), root
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = "" if mark is None else f"{mark.line + 1}:"
            problem = str(error.problem).partition(" with value")[0]  # of a key that is there twice
            raise PeakError(
                f"{self.path}:{line} not YAML: {_short(problem)}; mend this line or the one before"
            ) from error
        except YAMLError as error:
            reason = _short(" ".join(str(error).split()))
            raise PeakError(f"{self.path}: cannot be read ({reason}); give a suite's YAML file") from error
        except Exception as error:  # the library's own slips on damaged text
            reason = _short(f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise PeakError(f"{self.path}: not YAML ({reason}); give a suite's YAML file") from error

    def fail(self, loc: Loc, problem: str) -> NoReturn:
        """Raise the problem at `loc`, a path of keys and indices."""
        where = _loc_text(loc)
        raise PeakError(f"{self.path}:{self.line(loc)}: {f'{_short(where)}: ' if where else ''}{_short(problem)}")

    def line(self, loc: Loc) -> int:
        """The line of what stands at `loc`, or of the nearest thing around it that is there; from 1."""
        node, line = self.root, 0
        for step in loc:
            children = self._children(node)
            if step not in children:
                break
            line, node = children[step]
        return line + 1

    def texts(self, loc: Loc) -> list[Any]:
        """The list at `loc` with numbers and truths as they are written, 0801 and not 801; [] where there is no list.

        A value that is neither stays what it is.
        """
        node, values = self.root, self.data
        for step in loc:
            children = self._children(node)
            if step not in children:
                return []
            node, values = children[step][1], values[step]
        if not isinstance(node, SequenceNode) or not isinstance(values, list):
            return []
        items = zip(node.value, values, strict=True)
        return [str(item.value) if item.tag in _NUMBER_TAGS else value for item, value in items]

    def _children(self, node: Node | None) -> dict[str | int, tuple[int, Node]]:
        """Line and node of each key, or of each item."""
        if id(node) not in self._known:
            found: dict[str | int, tuple[int, Node]] = {}
            if isinstance(node, MappingNode):  # what a merge brought stands before its own
                pairs = [(key, value) for key, value in node.value if isinstance(key, ScalarNode)]
                found = {key.value: (key.start_mark.line, value) for key, value in pairs}
            elif isinstance(node, SequenceNode):
                found = {i: (item.start_mark.line, item) for i, item in enumerate(node.value)}
            self._known[id(node)] = found
        return self._known[id(node)]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_PROBLEM else f"{text[: LONGEST_PROBLEM - 60]} ... {text[-50:]}"


def _loc_text(loc: Loc) -> str:
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
