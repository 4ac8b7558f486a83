"""Signals: SIGTERM as Ctrl-C, and neither while something is written."""

import os
import signal

import pytest

from peak_nerf.system.interrupts import interrupts_ignored, termination_interrupts


def test_sigterm_is_a_ctrl_c_inside_and_the_systems_own_outside() -> None:
    with pytest.raises(KeyboardInterrupt), termination_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_already_listens_to_sigterm_is_left_alone() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with termination_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert heard == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_neither_ends_what_must_be_whole(number: int) -> None:
    with termination_interrupts():
        before = signal.getsignal(signal.SIGTERM)
        with interrupts_ignored():
            os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
