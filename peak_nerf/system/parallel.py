"""Runs our compiled CPU kernels on several threads, beside torch, other Python threads, and after fork.

Kernels are serial and release the GIL; `parallel_for` hands them ranges. On Linux the ranges run on the very OpenMP
team that torch uses: its threads spin for some milliseconds after each torch operation, so a second set of threads
would compete with them for the cores.
Where torch's OpenMP is not GNU's, and in a forked child, where GNU OpenMP hangs, a plain thread pool does the work.
numba's own layers do not fit: `workqueue` breaks when two Python threads (trainer and viewer) enter it, its OpenMP
layer kills a forked data-loader worker, and TBB is not on every platform.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""What GNU OpenMP calls on each thread of a team."""

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_forked = False


def _after_fork() -> None:
    """Threads do not survive a fork: a child must build its own pool, and stay away from OpenMP."""
    global _pool, _pool_size, _forked
    _pool, _pool_size, _forked = None, 0, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def n_threads() -> int:
    """Number of threads that kernels use: torch's own setting, so `torch.set_num_threads` governs both."""
    return torch.get_num_threads()


def parallel_for(
    work: Callable[[int, int], None], n_items: int, min_chunk: int = 1, chunks_per_thread: int = 1
) -> None:
    """Call `work(start, stop)` on ranges that cover 0..n_items, on all threads; returns when all are done.

    Args:
        work: releases the GIL and writes nothing that another range writes.
        n_items: number of items; 0 calls nothing.
        min_chunk: ranges are at least this long (except the last).
        chunks_per_thread: above 1 it balances uneven work; at 1 a kernel keeps its tables in cache longest.

    Raises: what `work` raises in the first range (in order of time) that fails; the remaining ranges are not begun.
    """
    if n_items <= 0:
        return
    threads = n_threads()
    n_chunks = max(1, min(threads * chunks_per_thread, n_items // max(1, min_chunk)))
    if threads == 1 or n_chunks == 1:
        work(0, n_items)
        return
    bounds = [n_items * i // n_chunks for i in range(n_chunks + 1)]
    turn = itertools.count()
    errors: list[BaseException] = []

    def run(_: Any = None) -> None:
        """Take ranges until none is left; counting is atomic under the GIL."""
        try:
            while not errors and (i := next(turn)) < n_chunks:
                work(bounds[i], bounds[i + 1])
        except BaseException as error:  # an exception cannot cross C: the caller raises it below
            errors.append(error)

    openmp = gnu_openmp()
    if openmp is None:
        for future in [_threads(threads).submit(run) for _ in range(threads)]:
            future.result()
    else:
        openmp.GOMP_parallel(CALLBACK(run), None, threads, 0)
    if errors:
        raise errors[0]


def _threads(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size != size:
        _pool, _pool_size = ThreadPoolExecutor(max_workers=size, thread_name_prefix="peak-kernel"), size
    return _pool


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Have glibc keep freed blocks for reuse; elsewhere, do nothing.

    By default it hands blocks above 32 MB back to the system at each free, and the page faults of the next table
    gradient (50 MB at 2^19 rows) take longer than computing it.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold, gigabyte = -1, -3, 1 << 30
        library.mallopt(mmap_threshold, gigabyte)
        library.mallopt(trim_threshold, gigabyte)


def gnu_openmp() -> ctypes.CDLL | None:
    """The GNU OpenMP library that torch itself loaded; None where it has none, and in a forked child."""
    return None if _forked else _gnu_openmp()


@lru_cache(maxsize=1)
def _gnu_openmp() -> ctypes.CDLL | None:
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not libraries or "OpenMP" not in torch.__config__.parallel_info():
        return None
    library = ctypes.CDLL(str(libraries[0]))
    library.GOMP_parallel.argtypes = [CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    library.GOMP_parallel.restype = None
    return library
