"""What is shown while the command works, and that a failed stage leaves no bar behind."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from peak_nerf.photos.display import Display


def display(terminal: bool) -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    return Display(Console(file=text, force_terminal=terminal, width=100)), text


def test_each_stage_ends_in_a_line() -> None:
    shown, text = display(terminal=False)
    with shown.stage("features"):
        shown.on_progress(1, 3)
        shown.say("[3] 1 of 3")  # no markup
    assert text.getvalue() == "[3] 1 of 3\nfeatures: 0 s\n"


def test_a_terminal_sees_how_much_is_done() -> None:
    shown, text = display(terminal=True)
    with shown.stage("matches"):
        shown.on_progress(5, 15)
        shown.bar.refresh()
    assert "matches" in text.getvalue()
    assert "5/15" in text.getvalue()


def test_a_stage_that_fails_leaves_no_bar() -> None:
    shown, text = display(terminal=True)
    with pytest.raises(ValueError, match="broken"), shown.stage("poses"):
        raise ValueError("broken")
    assert shown.bar.tasks == []
    assert not shown.bar.live.is_started
    shown.on_progress(1, 2)  # belongs to no stage
    with shown.stage("again"):
        assert [task.description for task in shown.bar.tasks] == ["again"]
    assert "poses: " not in text.getvalue()
