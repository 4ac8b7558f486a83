"""`parallel_for` covers every item once, passes errors on, and works beside other threads and after fork."""

import multiprocessing
import threading

import pytest
import torch

from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.system import parallel
from peak_nerf.system.parallel import parallel_for


@pytest.fixture(params=["as it is", "thread pool"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sources of threads, on two threads whatever the machine has."""
    if request.param == "thread pool":
        monkeypatch.setattr(parallel, "gnu_openmp", lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("n_items", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("chunks_per_thread", [1, 4])
@pytest.mark.parametrize("min_chunk", [1, 3, 5000])
def test_every_item_once(n_items: int, chunks_per_thread: int, min_chunk: int) -> None:
    seen: list[tuple[int, int]] = []
    parallel_for(lambda i, j: seen.append((i, j)), n_items, min_chunk, chunks_per_thread)
    assert sorted(item for i, j in seen for item in range(i, j)) == list(range(n_items))
    assert len(seen) <= max(1, 2 * chunks_per_thread)


@pytest.mark.usefixtures("threads")
def test_errors_reach_the_caller() -> None:
    def work(start: int, stop: int) -> None:
        raise KeyError(f"{start}..{stop}")

    with pytest.raises(KeyError):
        parallel_for(work, 100)


@pytest.mark.usefixtures("threads")
def test_two_threads_are_used() -> None:
    names: set[int] = set()
    both = threading.Barrier(2, timeout=20)

    def work(start: int, stop: int) -> None:
        both.wait()  # passes only when two threads are in here at once
        names.add(threading.get_ident())

    parallel_for(work, 2)
    assert len(names) == 2


def _encode(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    grid = HashGridEncoding(3, n_levels=4, log2_table_size=12, init_scale=1.0, implementation="numba")
    out = grid(torch.rand(5000, 3))
    out.sum().backward()
    return out.detach()


@pytest.mark.usefixtures("threads")
def test_kernels_beside_each_other() -> None:
    """Trainer and viewer run kernels from two Python threads of one process."""
    torch.manual_seed(0)
    grid = HashGridEncoding(3, n_levels=4, log2_table_size=12, init_scale=1.0, implementation="numba")
    points = [torch.rand(5000, 3) for _ in range(2)]
    expected = [grid(x).detach() for x in points]
    wrong: list[int] = []

    def repeat(which: int) -> None:
        for _ in range(30):
            if not torch.equal(grid(points[which]).detach(), expected[which]):
                wrong.append(which)

    workers = [threading.Thread(target=repeat, args=(which,)) for which in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not any(worker.is_alive() for worker in workers)
    assert not wrong


def _in_child(connection: object) -> None:
    assert parallel.gnu_openmp() is None  # so that the ranges run on a thread pool, not on OpenMP
    seen: list[int] = []
    parallel_for(lambda i, j: seen.extend(range(i, j)), 100)
    assert sorted(seen) == list(range(100))
    torch.set_num_threads(1)  # as every data-loader worker does: torch's own operations hang otherwise
    connection.send(_encode(3).numpy())  # type: ignore[attr-defined]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_computes_the_same() -> None:
    """A data-loader worker is forked from a process whose OpenMP team has been at work."""
    expected = _encode(3)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    child = context.Process(target=_in_child, args=(sender,), daemon=True)
    child.start()
    assert receiver.poll(60), "the forked child hangs"
    assert torch.equal(torch.from_numpy(receiver.recv()), expected)
    child.join(10)
    assert child.exitcode == 0
