"""The one exception for things a user can mend, and how a command ends on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class PeakError(Exception):
    """Bad input or surroundings. The message is one line: the file or option, the problem, the remedy."""

    def __str__(self) -> str:
        # Names of files and words of suites may hold anything; a line stays a line, and a terminal's codes stay text.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


class MachineError(PeakError):
    """The surroundings, not the input: a full disk, a folder that cannot be written. Finished work stays good."""


def first_line(error: BaseException) -> str:
    """What an exception says, for a message of one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def exit_on_peak_error() -> Iterator[None]:
    """Turn a `PeakError` into one clear line on stderr and exit code 2, without a traceback."""
    try:
        yield
    except PeakError as error:
        print(f"peak_nerf: error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
