"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], None]]:
    """Inside, Ctrl-C is noted only, and raised by the function that is yielded; a second one is raised at once.

    Python tells signals to the main thread alone; in others nothing is deferred.
    """
    noted = False

    def note(number: int, frame: Any) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    def raise_if_noted() -> None:
        if noted:
            raise KeyboardInterrupt

    in_charge = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not in_charge or before is not signal.default_int_handler:
        yield raise_if_noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield raise_if_noted
    finally:
        signal.signal(signal.SIGINT, before)
