"""Threads sleep where they wait while the machine is busy, and spin while it is not."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from peak_nerf.system import parallel, waiting
from peak_nerf.system.waiting import BUSY, CALM, IDLE

linux = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2 or parallel.gnu_openmp() is None,
    reason="needs GNU OpenMP and two cores",
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
"""In which nobody has said how threads wait."""


def answer(program: str) -> object:
    """What a program prints, in a process of its own: libgomp is as its first import finds it."""
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@linux
def test_waiting_threads_spin_and_are_forbidden_to() -> None:
    """A thread that spins uses its core after the work is done, one that sleeps does not: on a busy machine as well."""
    before, within, after = answer("""
        import json, time
        from pathlib import Path
        import torch
        from peak_nerf.system import parallel, waiting

        def milliseconds_after_work():
            '''Of the team's other threads, for each of 40 pieces of work that take microseconds.'''
            def used():
                tasks = [t for t in waiting.TASKS.iterdir() if t.name != str(__import__("os").getpid())]
                return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks) / 1e6
            start = used()
            for _ in range(40):
                parallel.parallel_for(lambda i, j: None, 2)
                time.sleep(0.02)
            return (used() - start) / 40

        torch.set_num_threads(2)
        parallel.parallel_for(lambda i, j: None, 2)
        numbers = [milliseconds_after_work()]
        with waiting.spinning_forbidden(parallel.gnu_openmp()):
            numbers.append(milliseconds_after_work())
        time.sleep(0.2)  # the holding thread ends
        numbers.append(milliseconds_after_work())
        print(json.dumps(numbers))
    """)
    assert min(before, after) > 5 * within, (before, within, after)


@linux
def test_one_watcher_however_often_it_is_asked_for() -> None:
    assert answer("""
        import json, threading
        import torch
        from peak_nerf.system import waiting
        torch.set_num_threads(2)
        torch.get_num_threads = lambda: 2  # a thread of Python's begins with the number of cores
        callers = [threading.Thread(target=waiting.sleep_when_busy) for _ in range(8)]
        [caller.start() for caller in callers], [caller.join() for caller in callers]
        print(json.dumps([thread.name for thread in threading.enumerate()]))
    """) == ["MainThread", "peak-load"]


@linux
def test_a_thread_that_has_no_core_is_seen() -> None:
    """Two threads at work on one core wait half of the time each."""
    cores = os.sched_getaffinity(0)
    stop = threading.Event()
    data = b"0" * (1 << 20)

    def work() -> None:
        while not stop.is_set():
            hashlib.sha256(data)  # without the GIL

    os.sched_setaffinity(0, {min(cores)})  # inherited by new threads
    threads = [threading.Thread(target=work) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        looks = waiting.waiting_for_cores()
        assert max(next(looks) for _ in range(4)) > 0.5
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        os.sched_setaffinity(0, cores)


def test_the_fraction_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thread 1 waits 50 of 200 ms, thread 2 begins and waits 10, thread 3 ends; then nobody waits for 100 ms."""
    delays = iter([{"1": 7, "3": 5}, {"1": 50_000_007, "2": 10_000_000}, {"1": 50_000_007, "2": 10_000_000}])
    times = iter([0, 200_000_000, 300_000_000])
    monkeypatch.setattr(waiting, "_delays", lambda: next(delays))
    monkeypatch.setattr(waiting.time, "monotonic_ns", lambda: next(times))
    monkeypatch.setattr(waiting.time, "sleep", lambda _: None)
    looks = waiting.waiting_for_cores()
    assert [next(looks), next(looks)] == [pytest.approx(0.3), 0.0]


def test_spinning_is_forbidden_from_a_busy_look_to_a_calm_while(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = False
    seen: list[bool] = []

    @contextmanager
    def switch(openmp: object) -> Iterator[None]:
        nonlocal forbidden
        forbidden = True
        yield
        forbidden = False

    def looks() -> Iterator[float]:
        almost_calm, calm = [0.0] * (CALM - 1), [0.0] * CALM
        for look in (0.0, BUSY * 0.9, BUSY, *almost_calm, IDLE, *calm, BUSY * 0.9, 1.0, 0.0):
            seen.append(forbidden)  # what the looks before this one have led to
            yield look

    monkeypatch.setattr(waiting, "spinning_forbidden", switch)
    waiting.follow(looks(), None)  # type: ignore[arg-type]
    assert seen == [False] * 3 + [True] * (CALM - 1 + 1 + CALM) + [False] * 2 + [True]
    assert not forbidden


def test_what_the_user_has_settled_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(parallel, "gnu_openmp", lambda: None)
    assert waiting.hindrance() == "torch has no GNU OpenMP"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert waiting.hindrance() == "there is one thread"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert waiting.hindrance() == "OMP_WAIT_POLICY is set"
    monkeypatch.setattr(waiting, "follow", lambda *_: pytest.fail("it watches"))
    waiting.sleep_when_busy()
