"""`config.yml` of a run, as nerfstudio's commands read it: by a loader that calls whatever the file names.

Within these commands a file of ours is looked at first, and what is wrong with it becomes one line. `yaml.load` stays
what it is for everybody else, and for the runs of other methods.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from peak_nerf.errors import PeakError, exit_on_peak_error, first_line

READERS = {("nerfstudio.utils.eval_utils", "eval_setup"), ("nerfstudio.scripts.train", "main")}
"""Modules and functions of nerfstudio that read it."""
PYTHON = "tag:yaml.org,2002:python/"
PACKAGES = ("peak_nerf.", "nerfstudio.", "torch.optim.", "pathlib.")
"""Whose classes a configuration is made of."""
CALLED = ("pathlib.", "nerfstudio.utils.writer.EventName", "nerfstudio.cameras.cameras.CameraType")
"""What it may call: paths and enumerations. nerfstudio has a function that runs a shell command."""
BUILTIN = ("tuple", "none", "bool", "str", "unicode", "int", "long", "float", "complex", "list", "dict", "bytes")
LONGEST = 1 << 20
"""Characters of a configuration; ours have about 10,000."""
MOST_BRACKETS = 1000
REMEDY = "copy it again from where the run was trained"


def read_configs_with_care() -> None:
    """Let nerfstudio's commands read config.yml by `read_config`, from now on in this process."""
    import yaml

    original = yaml.load
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def load(stream: Any, *args: Any, **kwargs: Any) -> Any:
        path = _path_at_work(sys._getframe(1))
        if path is None or not isinstance(stream, str):
            return original(stream, *args, **kwargs)
        with exit_on_peak_error():
            return read_config(path, stream, lambda: original(stream, *args, **kwargs))

    yaml.load = load
    sys.excepthook = functools.partial(_unreadable, sys.excepthook)


def read_config(path: Path, text: str, load: Callable[[], Any]) -> Any:
    """What `load` makes of the text of the file at `path`. Of other methods it is left to nerfstudio.

    Raises: PeakError when it names what is no part of a configuration, or is damaged.
    """
    if "peak_nerf" not in text and "nerfstudio" in text:
        return load()
    try:
        if not text.strip():
            raise ValueError("it is empty")
        if len(text) > LONGEST:
            raise ValueError(f"it has more than {LONGEST >> 20} MiB")
        _check_names(text)
        config = load()
        problem = _problem(config)
    except Exception as error:  # of yaml, and of whatever classes are made with damaged values; RecursionError
        raise PeakError(f"{path}: is no configuration of a run ({_reason(error)}); {REMEDY}") from error
    if problem:
        raise PeakError(f"{path}: is no configuration of a run ({problem}); {REMEDY}")
    return config


def _reason(error: Exception) -> str:
    """What an error says, by the place of it where it is yaml's."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    return first_line(error) if problem is None or mark is None else f"line {mark.line + 1}: {problem}"


def _check_names(text: str) -> None:
    """Raises: ValueError when a tag names something outside `PACKAGES`, or calls something outside `CALLED`."""
    import yaml

    if text.count("[") + text.count("{") > MOST_BRACKETS:  # yaml takes minutes for a nest of thousands
        raise ValueError("it has thousands of brackets")
    for event in yaml.parse(text):
        tag = getattr(event, "tag", None) or ""
        kind, _, name = tag.removeprefix(PYTHON).partition(":")
        allowed = CALLED if kind in ("object/apply", "object/new") else PACKAGES
        if tag.startswith(PYTHON) and kind not in BUILTIN and not name.startswith(allowed):
            raise ValueError(f"it names {name or kind}, as no configuration does: nothing was run")


def _problem(config: Any) -> str:
    """What keeps this from being a configuration that can be used, or nothing."""
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.engine.trainer import TrainerConfig

    if not isinstance(config, TrainerConfig):
        return f"it is {type(config).__name__}"
    name = getattr(config, "method_name", None)
    if not isinstance(name, str) or name not in all_methods:
        return f"its method_name is {str(name)[:50]!r}"
    check = getattr(config, "problem_of_saved", None)
    return "" if check is None else check()


def _path_at_work(frame: FrameType) -> Path | None:
    """The file that a function of nerfstudio is reading, if this frame is of one."""
    if (frame.f_globals.get("__name__"), frame.f_code.co_name) not in READERS:
        return None
    path = frame.f_locals.get("config_path") or getattr(frame.f_locals.get("config"), "load_config", None)
    return path if isinstance(path, Path) else None


def _unreadable(
    before: Callable[..., Any], kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An excepthook: a config.yml that is not there, or no text, is one line, whatever method it was of."""
    at = trace
    while at is not None and isinstance(error, (OSError, UnicodeDecodeError)):
        path, within = _path_at_work(at.tb_frame), at.tb_next
        if path is not None and within is not None and within.tb_frame.f_code.co_name == "read_text":
            reason = "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
            with exit_on_peak_error():
                raise PeakError(f"{path}: cannot be read ({reason}); give --load-config the config.yml of a run")
        at = within
    before(kind, error, trace)
