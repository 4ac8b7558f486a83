"""The one exception for things a user can mend."""

from __future__ import annotations

import pickle

from peak_nerf.errors import MachineError, PeakError, first_line


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    error = MachineError("a\nb\x1b[31m \u2028é: no such file; mend it")
    assert str(error) == "a\\nb\\x1b[31m \\u2028é: no such file; mend it"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(PeakError()) == ""


def test_the_first_line_of_an_exception_that_says_nothing_is_its_type() -> None:
    assert first_line(ValueError("a\nb")) == "a"
    assert first_line(MemoryError()) == "MemoryError"
