"""What `peak bench` shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from peak_nerf.bench.run.display import RichDisplay, TimeLeft
from peak_nerf.bench.run.records import Result
from peak_nerf.bench.run.runner import Plan
from peak_nerf.bench.run.worker import Event
from peak_nerf.bench.suite.data_root import Job
from peak_nerf.bench.suite.file import read_suite

Write = Callable[..., Path]


def test_lines_of_finished_cells_and_the_state_of_running_ones(write: Write) -> None:
    suite = read_suite(write(("[lena, house]", "[lena]"), ("[1, 2]", "[1]")))
    first, second = suite.cells()
    todo = Plan([Job(cell, "", Path(), {}, {}) for cell in (first, second)])
    console = Console(file=io.StringIO(), force_terminal=True, width=200, highlight=False)

    def shown() -> str:
        return "".join(f"{task.description} {task.fields['note']}\n" for task in display.progress.tasks)

    with RichDisplay(suite, todo, 1, console) as display:
        display.begin(first)
        assert f"{first.id} starting" in shown()
        display.update(first, Event("progress", "", 7, None, 30.0, 21.456))
        assert "PSNR 21.46 dB on held-out measurements, step 7, 30 s" in shown()
        display.tick()
        assert "about 2 min 00 s left" in shown()  # two cells of a minute; the first has only just begun
        display.end(first, Result("finished", {"psnr": 22.5}, seconds=12.0))
        assert first.id not in shown()
        assert "about 12 s left" in shown() or "about 1 min 00 s left" in shown()
        display.begin(second)
        display.update(second, Event("progress", "", 5, 10, 3.0, None))
        task = display.progress.tasks[-1]
        assert (task.completed, task.total) == (5.0, 10.0)
        display.update(second, Event("retry", "attempt 1 of 2 failed"))
        assert f"{second.id} again" in shown()
        display.end(second, Result("failed", None, "pixels are made of cheese"))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"[1/2] {first.id}: psnr 22.50 dB, 12 s" in output
    assert f"{second.id}: attempt 1 of 2 failed" in output
    assert f"[2/2] {second.id}: failed: pixels are made of cheese" in output


def test_time_left_is_unknown_without_anything_to_go_by_and_learns_from_others(write: Write) -> None:
    suite = read_suite(write(("[1, 2]", "[1]"), ("settings: {size: 256, budget_seconds: 60}\n", "")))
    cells = list(suite.cells())
    left = TimeLeft(suite, Plan(), 1)
    assert left.total(cells, {}) is None
    left.note(cells[0], 8.0)
    left.note(cells[0], "a while")
    assert left.of(cells[1]) == 8.0
    assert left.total([], {"a": (cells[0], 20.0)}) == 0.0  # overdue, never negative
