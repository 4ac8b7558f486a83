"""Which of nerfstudio's commands is at work, since it tells neither a configuration nor a pipeline."""

from __future__ import annotations

import sys
from typing import Any


def local_of(module: str, function: str, name: str) -> Any:
    """The value of a local variable of a nerfstudio function that is running now; None where it is not."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == (module, function):
            return frame.f_locals.get(name)
        frame = frame.f_back
    return None
