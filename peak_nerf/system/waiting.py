"""Has torch's threads sleep where they wait while the machine is busy, and spin while it is not.

The threads of GNU OpenMP spin for milliseconds before they sleep. On an idle machine that saves a wake-up in each of
torch's operations; on a busy one it takes the cores from the very threads that are waited for. The environment
(`OMP_WAIT_POLICY`) settles it for the whole process, before torch is imported.

Source: libgomp, `do_spin` in config/linux/wait.h. While a process has more OpenMP threads than cores
(`gomp_managed_threads > gomp_available_cpus`), they spin a hundred turns instead of 300,000. A thread that has opened a
team of one more than there are cores, and sleeps, therefore ends all spinning; its own end brings it back.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from peak_nerf.system import parallel

TICK = 0.25
"""Seconds between two looks at the load."""
BUSY, IDLE = 0.1, 0.03
"""Fraction of the time, summed over our threads, in which they wait for a core: from when on the machine is busy, and
below which it is idle."""
CALM = 4
"""Looks in a row that must find it idle before threads spin again."""
TASKS = Path("/proc/self/task")

_calls = itertools.count()


def sleep_when_busy() -> None:
    """Let the load settle how torch's threads wait, from now on; where `hindrance` has a reason, do nothing.

    Whoever computes with torch calls it, as often as he likes; results do not depend on it.
    """
    openmp = parallel.gnu_openmp()
    if openmp is None or hindrance() is not None or next(_calls) > 0:  # counting is atomic under the GIL
        return
    threading.Thread(target=follow, args=(waiting_for_cores(), openmp), name="peak-load", daemon=True).start()


def hindrance() -> str | None:
    """Why torch's threads wait as they do without us, in words; None when they follow the load."""
    given = next((name for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ), None)
    if given is not None:
        return f"{given} is set"
    if torch.get_num_threads() == 1:
        return "there is one thread"
    if parallel.gnu_openmp() is None:
        return "torch has no GNU OpenMP"
    if not (TASKS.parent / "schedstat").exists():
        return "the kernel does not say how long threads wait for a core (schedstat)"
    return None


def follow(waiting: Iterable[float], openmp: ctypes.CDLL) -> None:
    """Forbid spinning from the first of `waiting` that is busy until they have been idle for a while; and again."""
    looks = iter(waiting)
    for fraction in looks:
        if fraction < BUSY:
            continue
        with spinning_forbidden(openmp):
            calm = 0
            for later in looks:
                calm = calm + 1 if later < IDLE else 0
                if calm == CALM:
                    break


@contextmanager
def spinning_forbidden(openmp: ctypes.CDLL) -> Iterator[None]:
    """Within, waiting threads of this process's GNU OpenMP sleep at once."""
    opened, closed = threading.Event(), threading.Event()
    n_cores = len(os.sched_getaffinity(0))

    def hold() -> None:
        # The team has nothing to do: free(NULL), which unlike a Python function needs no GIL.
        openmp.GOMP_parallel(parallel.CALLBACK(("free", ctypes.CDLL(None))), None, n_cores + 1, 0)
        opened.set()
        closed.wait()

    threading.Thread(target=hold, name="peak-no-spinning", daemon=True).start()
    opened.wait()
    try:
        yield
    finally:
        closed.set()


def waiting_for_cores() -> Iterator[float]:
    """Every TICK, the fraction of the time since the last in which threads could run and had no core, summed."""
    before, then = _delays(), time.monotonic_ns()
    while True:
        time.sleep(TICK)
        delays, now = _delays(), time.monotonic_ns()
        yield sum(delay - before.get(thread, 0) for thread, delay in delays.items()) / (now - then)
        before, then = delays, now


def _delays() -> dict[str, int]:
    """Nanoseconds that each thread of this process has waited for a core so far, the second word of its schedstat."""
    delays = {}
    for thread in os.listdir(TASKS):
        try:
            with open(f"{TASKS}/{thread}/schedstat", "rb", buffering=0) as file:  # a Path would cost more than the file
                delays[thread] = int(file.read().split()[1])
        except OSError:  # it has ended
            continue
    return delays
