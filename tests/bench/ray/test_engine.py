"""`peak bench --engine ray` on a real cluster: a head without CPUs and two nodes of one, in processes of their own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peak_nerf.bench.command import bench
from peak_nerf.bench.ray import cluster as ray_cluster
from peak_nerf.bench.ray import engine as ray_engine
from peak_nerf.bench.ray import survey as ray_survey
from peak_nerf.bench.ray.engine import RayEngine
from peak_nerf.bench.run.worker import Event
from peak_nerf.bench.suite.grid import Resources
from peak_nerf.errors import PeakError
from tests.bench.jobs import begin, job
from tests.bench.run.test_runner import SCRIPT, statuses

pytest.importorskip("ray")
Write = Callable[..., Path]
ROOT = Path(__file__).parents[3]
ONE = ("[lena, house]", "[lena]")
MB = 2**20


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def add_node(cluster: Any, **args: Any) -> None:
    """Add a node that needs little memory. A Ray node that is not up in 15 s gives up, so on a busy machine it takes
    more than one attempt."""
    for left in (2, 1, 0):
        try:
            cluster.add_node(object_store_memory=80 * MB, **args)
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The cluster; its workers find fake_task. It has a token of its own: neither open to others on this machine, nor
    in need of what Ray keeps in the user's home."""
    from ray._raylet import Config
    from ray.cluster_utils import Cluster

    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        Config.initialize("")  # or Ray, once imported, would not see the mode
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        cluster = Cluster()
        try:
            add_node(cluster, num_cpus=0, include_dashboard=False)
            for _ in range(2):
                add_node(cluster, num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "AGAIN_SECONDS", 0.5)


def without_time(path: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}


@pytest.mark.cluster
def test_the_table_is_the_local_one_and_is_resumed_by_either_engine(
    cluster: Any, write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, runs, local = write(), tmp_path / "runs", tmp_path / "local"
    assert bench(suite, runs, data_root, engine="ray", address=cluster.address, only="seed=1") == 0
    assert "4 of 4 cells finished, 0 absent, 0 failed" in capsys.readouterr().out
    assert bench(suite, local, data_root) == 0
    capsys.readouterr()
    assert bench(suite, runs, data_root, engine="ray", address=cluster.address) == 0
    assert "8 cells, 4 finished before, 4 to run" in capsys.readouterr().out
    here = {path.relative_to(local): path for path in local.rglob("*") if path.is_file() and path.name != ".lock"}
    there = {path.relative_to(runs): path for path in runs.rglob("*") if path.is_file() and path.name != ".lock"}
    assert here.keys() == there.keys()
    for name, path in here.items():
        if name.name == "metrics.json":
            assert without_time(path) == without_time(there[name])
        else:
            assert path.read_bytes() == there[name].read_bytes()
    assert bench(suite, runs, data_root) == 0  # the local engine finds nothing to do, nor does Ray without a cluster
    assert bench(suite, runs, data_root, engine="ray", address="127.0.0.1:9") == 0


@pytest.mark.cluster
def test_shipped_data_need_not_be_on_the_nodes(cluster: Any, data_root: Path, tmp_path: Path) -> None:
    """The only copy is deleted when it has been sent; a folder is sent whole."""
    image = data_root / "images" / "lena.png"
    engine = RayEngine(cluster.address, Resources(), ship_data=True, paths=[image, data_root / "images"], retries=0)
    assert [name for name, _ in engine.shipped[str(data_root / "images")]] == ["images/house.png", "images/lena.png"]
    image.unlink()
    sent = job(tmp_path / "cell", {"image": "images/lena.png sha256:0"}, image=str(image), method="peak")
    ends = [event for _, event in engine.run([sent], begin, lambda: None) if event.kind != "progress"]
    assert ends == [Event("done", node=socket.gethostname())]
    settings = json.loads((sent.out / "metrics.json").read_text())["settings"]
    assert settings["image"] != str(image)
    assert Path(settings["image"]).name == "lena.png"
    assert not Path(settings["image"]).exists()  # the cell's folder is gone


@pytest.mark.cluster
def test_a_cell_that_always_fails_is_reported_after_its_retries(
    cluster: Any, write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write(ONE, ("- peak\n", "- fails\n  - dies\n  - peak\n"), ("[1, 2]", "[1]"))
    runs = tmp_path / "runs"
    assert bench(suite, runs, data_root, engine="ray", address=cluster.address, retries=1) == 1
    output = capsys.readouterr().out
    assert "2 of 4 cells finished, 0 absent, 2 failed" in output
    assert (
        f"attempt 1 of 2 on {socket.gethostname()} failed (pixels are made of cheese; use milk); runs again" in output
    )
    error = {path.parent.name.split(",")[2]: path.read_text() for path in runs.rglob("error.txt")}
    assert error.keys() == {"method=fails", "method=dies"}
    assert error["method=fails"].splitlines() == [
        *("attempt 1 of 2:", "pixels are made of cheese; use milk", ""),
        *("attempt 2 of 2:", "pixels are made of cheese; use milk", ""),
        "pixels are made of cheese; use milk (all 2 attempts failed)",
    ]
    assert "its worker process or node died (all 2 attempts failed)" in error["method=dies"]


@pytest.mark.cluster
def test_a_node_that_is_unfit_is_named_before_the_first_cell(
    cluster: Any, write: Write, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ray_survey.versions()
    suite, runs = write(ONE, ("[1, 2]", "[1]")), tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr(ray_engine.ray_survey, "versions", lambda: {**here, "torch": "1.0"})
        with pytest.raises(PeakError, match=rf"node {socket.gethostname()}: torch is .* there and 1\.0 here; install"):
            bench(suite, runs, data_root, engine="ray", address=cluster.address)
    with monkeypatch.context() as patch:
        patch.setattr(RayEngine, "_ship", lambda *_: [])  # not reached
        missing = data_root / "images" / "nowhere.png"
        with pytest.raises(PeakError, match=r"has no .*nowhere\.png; put the data there, or give --ship-data"):
            RayEngine(cluster.address, Resources(), paths=[missing])
    with pytest.raises(PeakError, match="no node of the cluster has 2 CPUs and 1 GPUs for a cell"):
        RayEngine(cluster.address, Resources(cpus=2, gpus=1))
    assert statuses(runs / "mine") == {}


@pytest.mark.cluster
def test_other_data_under_the_same_path_end_the_suite(cluster: Any, data_root: Path, tmp_path: Path) -> None:
    image = data_root / "images" / "lena.png"
    engine = RayEngine(cluster.address, Resources(), paths=[image])
    image.write_bytes(b"other")
    sent = job(tmp_path / "cell", {"image": "images/lena.png sha256:0"}, image=str(image), method="peak")
    with pytest.raises(PeakError, match=r"lena\.png is another one than here; put it there, or give --ship-data"):
        list(engine.run([sent], begin, lambda: None))


def start_driver(
    suite: Path, runs: Path, data_root: Path, address: str, first: str, second: str
) -> subprocess.Popen[str]:
    """`peak bench --engine ray` in a process of its own, once the first cell is finished and the second at work."""
    script = suite.parent / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    options = [
        "--out",
        str(runs),
        "--data-root",
        str(data_root),
        "--engine",
        "ray",
        "--address",
        address,
        "--jobs",
        "1",
    ]
    child = subprocess.Popen(
        [sys.executable, str(script), "bench", str(suite), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for _ in range(1200):
        if (runs / "mine" / first / "metrics.json").exists() and (runs / "mine" / f".{second}.partial").exists():
            return child
        if child.poll() is not None:
            raise AssertionError(child.communicate()[0])
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    raise AssertionError("the second cell never started")


def sleepers() -> list[int]:
    """Processes of Ray that are at a cell."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "cmdline").read_bytes().startswith(b"ray::run_cell"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.cluster
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_was_stopped_goes_on_where_it_was(
    signal_: signal.Signals,
    cluster: Any,
    write: Write,
    data_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suite, runs = write(ONE, ("- peak\n", "- peak\n  - sleeps\n"), ("[1, 2]", "[1]")), tmp_path / "runs"
    cell = "image=lena,mask=random,method={},seed=1"
    child = start_driver(suite, runs, data_root, cluster.address, cell.format("peak"), cell.format("sleeps"))
    wait_until(lambda: len(sleepers()) == 1)
    os.killpg(child.pid, signal_)
    output, _ = child.communicate(timeout=30)
    wait_until(lambda: sleepers() == [])
    if signal_ == signal.SIGINT:
        assert child.returncode == 130
        assert "Traceback" not in output
        assert f"interrupted: 1 of 3 cells are finished and kept in {runs / 'mine'}" in output
        assert not (runs / "mine" / f".{cell.format('sleeps')}.partial").exists()
    before = (runs / "mine" / cell.format("peak") / "metrics.json").stat().st_mtime_ns
    only = "method=peak,method=peak-no-kar"
    assert bench(suite, runs, data_root, engine="ray", address=cluster.address, only=only) == 0
    assert "2 cells, 1 finished before, 1 to run" in capsys.readouterr().out
    assert (runs / "mine" / cell.format("peak") / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.cluster
def test_a_node_that_is_killed_costs_a_retry(cluster: Any, tmp_path: Path) -> None:
    """The last test of the cluster, which has a node less after it. The cells wait until one is lost."""
    engine = RayEngine(cluster.address, Resources(), retries=2)
    gone = tmp_path / "gone"
    jobs = [job(tmp_path / name, method="waits", image=str(gone)) for name in "abc"]
    events: list[tuple[str, Event]] = []
    killed, end = False, time.monotonic() + 90

    def tick() -> None:
        assert time.monotonic() < end

    for one, event in engine.run(jobs, begin, tick):
        events.append((one.folder.name, event))
        if event.kind == "retry":
            gone.touch()
        if event.kind == "progress" and {name for name, _ in events} == {"a", "b"} and not killed:
            raylet = next(iter(cluster.worker_nodes)).all_processes["raylet"][0].process
            raylet.kill()
            raylet.wait()  # as init would: the node's workers take a zombie for a living raylet, and stay
            killed = True
    retries = [(name, event.problem) for name, event in events if event.kind == "retry"]
    assert len(retries) == 1
    assert retries[0][0] in "ab"
    assert retries[0][1].startswith("attempt 1 of 3 failed (its ")
    assert "died); runs again" in retries[0][1]
    assert sorted(name for name, event in events if event.kind == "done") == ["a", "b", "c"]
    assert all((one.out / "metrics.json").is_file() for one in jobs)


# ------------------------------------------------------------------------------------------------ without a cluster


def test_without_ray_the_remedy_is_named(
    write: Write, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PeakError, match=r"--engine ray: needs Ray .*; pip install 'peak_nerf\[ray\]'"):
        bench(write(), tmp_path / "runs", data_root, engine="ray")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:FREE", "no cluster there .*refused.*; start one with `ray start --head`"),
        ("nonsense", "is not HOST:PORT, such as"),
        ("127.0.0.1:0x5", "is not HOST:PORT, such as"),
        ("127.0.0.1:99999", "no cluster there"),
    ],
)
def test_no_cluster_is_one_line(address: str, message: str, write: Write, data_root: Path, tmp_path: Path) -> None:
    address = address.replace("FREE", str(free_port()))
    with pytest.raises(PeakError, match=f"--address {address}: {message}"):
        bench(write(), tmp_path / "runs", data_root, engine="ray", address=address)


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", None])
def test_an_open_port_that_is_not_ray_is_one_line_soon(
    banner: bytes | None, write: Write, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It greets, hangs up, or says nothing. Ray itself is not asked."""
    monkeypatch.setattr(ray_cluster, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was asked"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(len(ray_cluster.HTTP2_HELLO), socket.MSG_WAITALL)
                if banner is None:
                    connection.recv(1)  # until the other hangs up
                else:
                    connection.sendall(banner)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(PeakError, match=f"--address {address}: no Ray answers there; start one with"):
            bench(write(), tmp_path / "runs", data_root, engine="ray", address=address)
        thread.join()


def test_options_of_a_cluster_are_refused_without_one(write: Write, data_root: Path, tmp_path: Path) -> None:
    for given, option in (
        ({"address": "auto"}, "address"),
        ({"ship_data": True}, "ship-data"),
        ({"retries": 1}, "ret"),
    ):
        with pytest.raises(PeakError, match=f"--{option}.*: is for a cluster; add --engine ray"):
            bench(write(), tmp_path / "runs", data_root, **given)  # type: ignore[arg-type]
    with pytest.raises(PeakError, match="--retries: must be from 0 to 1000, got -1"):
        bench(write(), tmp_path / "runs", data_root, engine="ray", retries=-1)


def test_capacity_is_counted_node_by_node() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": True, "Resources": {}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    wanted = [(Resources(), 7), (Resources(cpus=2), 3), (Resources(gpus=1), 1), (Resources(gpus=0.5), 2)]
    wanted += [(Resources(cpus=3, gpus=0.1), 1), (Resources(gpus=0.1), 4), (Resources(cpus=5), 0)]
    assert [ray_cluster.capacity(nodes, resources) for resources, _ in wanted] == [n for _, n in wanted]


def test_a_folders_fingerprint_is_its_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "scene").mkdir(parents=True)
        (tmp_path / name / "scene" / "0.png").write_bytes(b"0")
    first = ray_survey.fingerprint(tmp_path / "a" / "scene")
    assert first == ray_survey.fingerprint(tmp_path / "b" / "scene")
    (tmp_path / "b" / "scene" / "1.png").write_bytes(b"")
    assert ray_survey.fingerprint(tmp_path / "b" / "scene") != first
    assert ray_survey.fingerprint(tmp_path / "c") == ""


def test_a_node_without_peak_nerf_or_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    here = ray_survey.versions()
    assert ray_survey.difference(here, here) == ""
    assert "+" not in here["torch"]

    def absent(name: str) -> str:
        raise ray_survey.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ray_survey.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(ray_survey.metadata, "version", absent)
    there = ray_survey.versions()
    assert ray_survey.difference(there, here) == (
        f"peak_nerf is not installed there and {here['peak_nerf']} here, "
        f"torch is not installed there and {here['torch']} here"
    )
