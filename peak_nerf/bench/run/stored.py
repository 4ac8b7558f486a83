"""What a cell's folder holds, as anybody may have written it: read through models with ranges, or unreadable."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json

from peak_nerf import __version__

LARGEST = 1e30
"""Of a figure: means, standard deviations and axes of more overflow."""
MAX_BYTES = 2**24
"""Of a record; a history of 100,000 steps has about 10 MiB."""
MAX_NOTE = 2**16
"""Bytes that are read of an error's text, from its end."""

Figure = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _figures_in_range(self) -> _Stored:
        """What is not named here may still be what a suite's report is about."""
        for name, value in (self.model_extra or {}).items():
            if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
                raise PydanticCustomError(
                    "figure", "{name} is beyond {largest}", {"name": name, "largest": f"{LARGEST:g}"}
                )
        return self


class _Point(_Stored):
    seconds: Seconds | None = None
    psnr: Figure | None = None


class _Metrics(_Stored):
    partial: bool | None = None
    psnr: Figure | None = None
    seconds: Seconds | None = None
    n_parameters: Annotated[int, Field(ge=0, le=10**15)] | None = None
    history: list[_Point] | None = None
    settings: dict[str, JsonValue] | None = None
    versions: dict[str, str] | None = None


class _Cell(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    options: dict[str, bool | int | float | str | None] | None = None


class Unreadable(Exception):
    """In one line: the file and what is wrong with it."""

    def __init__(self, path: Path, problem: str, newer: str = "") -> None:
        super().__init__(f"{path.name}: {problem}")
        self.newer = newer
        """The version of peak_nerf that wrote it, where that is newer than this one."""


def read_metrics(path: Path) -> dict[str, Any] | None:
    """A metrics.json; None where there is none. Raises: Unreadable."""
    return _read(path, _Metrics)


def read_options(path: Path) -> dict[str, Any] | None:
    """The options in a cell.json; None where there are none. Raises: Unreadable."""
    return (_read(path, _Cell) or {}).get("options")


def read_note(path: Path) -> str | None:
    """The last line of a text; None where there is none."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - MAX_NOTE, 0))
            lines = file.read(MAX_NOTE).decode("utf-8", errors="replace").strip().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return lines[-1] if lines else "no message"


def newer_version(metrics: dict[str, Any] | None) -> str:
    """The version of peak_nerf in the record of a run, where that is newer than this one; else empty."""
    versions = (metrics or {}).get("versions")
    wrote = versions.get("peak_nerf") if isinstance(versions, dict) else None
    return wrote if isinstance(wrote, str) and _numbers(wrote) > _numbers(__version__) else ""


def _numbers(version: str) -> tuple[int, ...]:
    """(0, 2, 0) of 0.2.0; what is no number ends it."""
    numbers: list[int] = []
    for part in version.split("+")[0].split(".")[:4]:
        if not (part.isascii() and part.isdigit() and len(part) < 10):
            break
        numbers.append(int(part))
    return tuple(numbers)


def _read(path: Path, model: type[BaseModel]) -> dict[str, Any] | None:
    """The JSON of a file as it stands there, once the model has taken it."""
    try:
        mode = os.stat(path)
        if not stat.S_ISREG(mode.st_mode):
            raise Unreadable(path, "is no file")
        if mode.st_size > MAX_BYTES:
            raise Unreadable(path, f"has more than {MAX_BYTES // 2**20} MiB")
        data = from_json(path.read_bytes(), allow_inf_nan=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise Unreadable(path, f"is no JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(data, dict):
        raise Unreadable(path, "holds no table of names and values")
    try:
        model.model_validate(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))[:200]
        newer = newer_version(data)
        by = f", written by peak_nerf {newer}, newer than this {__version__}" if newer else ""
        message = f"{where + ': ' if where else ''}{problem['msg'][:1].lower()}{problem['msg'][1:]}{by}"
        raise Unreadable(path, message, newer) from None
    return data
