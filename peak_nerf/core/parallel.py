"""A thread pool for our compiled CPU kernels: safe beside other threads (viewer and trainer) and after fork.

numba's own parallel layers do not fit here: `workqueue` breaks when two Python threads enter it, GNU OpenMP breaks in
a forked data-loader worker, and TBB is not on every platform. So our kernels are serial, release the GIL, and this
module hands ranges of work to plain Python threads. The cost is some 50 microseconds per call; kernels take milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    """Threads do not survive a fork: a child process must build its own pool."""
    global _pool, _pool_size
    _pool, _pool_size = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def n_threads() -> int:
    """Number of threads that kernels use: torch's own setting, so `torch.set_num_threads` governs both."""
    return torch.get_num_threads()


def parallel_for(work: Callable[[int, int], None], n_items: int, min_chunk: int = 1, chunks_per_thread: int = 1) -> None:
    """Call `work(start, stop)` on ranges that cover 0..n_items, on all threads; returns when all are done.

    Args:
        work: releases the GIL and writes nothing that another range writes.
        n_items: number of items; 0 calls nothing.
        min_chunk: ranges are at least this long (except the last).
        chunks_per_thread: above 1 it balances uneven work; at 1 a kernel keeps its tables in cache longest.

    Raises: whatever `work` raises, from the first range that failed.
    """
    global _pool, _pool_size
    if n_items <= 0:
        return
    threads = n_threads()
    n_chunks = max(1, min(threads * chunks_per_thread, n_items // max(1, min_chunk)))
    if threads == 1 or n_chunks == 1:
        work(0, n_items)
        return
    pool = _pool
    if pool is None or _pool_size != threads:
        pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="peak-kernel")
        _pool, _pool_size = pool, threads
    bounds = [n_items * i // n_chunks for i in range(n_chunks + 1)]
    futures = [pool.submit(work, bounds[i], bounds[i + 1]) for i in range(n_chunks)]
    for future in futures:
        future.result()
