"""The cluster that a suite runs on: getting there, what fits on its nodes, and whether they are fit for the suite."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peak_nerf.bench.ray import survey as ray_survey
from peak_nerf.bench.suite.grid import Resources
from peak_nerf.errors import PeakError

CONNECT_SECONDS = 5.0
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""What opens an HTTP/2 connection: a fixed text and an empty SETTINGS frame (RFC 9113, section 3.4). A server answers
with a SETTINGS frame, type 4. Ray speaks gRPC, which is HTTP/2."""
SURVEY_SECONDS = 120.0
"""For a node to start a worker and say what it has. A later one is checked with its first cell."""

Node = dict[str, Any]
"""As `ray.nodes()` gives it."""


def connect(address: str) -> Any:
    """Become a driver of the cluster at `HOST:PORT`, or of this machine's with `auto`; returns the module `ray`.

    Raises: PeakError when Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # one look for a cluster, of 40 s, instead of five
    try:
        import ray
    except ImportError as error:
        raise PeakError(f"--engine ray: needs Ray ({error}); pip install 'peak_nerf[ray]'") from None
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if address != "auto":
        _knock(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (Exception, SystemExit) as error:  # SystemExit is how Ray gives up on a port where it finds no Ray
        reason = "no Ray answers there" if isinstance(error, SystemExit) else " ".join(str(error).split())
        raise PeakError(
            f"--address {address}: {reason}; start a cluster with `ray start --head`, or where it has a token,"
            " set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH as on its nodes (docs/clusters.md)"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    return ray


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise PeakError(f"--address {address}: is not HOST:PORT, such as 10.0.0.1:6379, nor auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as server:
            problem = "" if os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(server) else "no Ray answers there"
    except (OSError, OverflowError) as error:
        problem = f"no cluster there ({error})"
    if problem:
        raise PeakError(f"--address {address}: {problem}; start one with `ray start --head` (docs/clusters.md)")


def _speaks_http2(server: socket.socket) -> bool:
    """Whether what is behind the port may be Ray, which itself takes 40 s to give up on others."""
    try:
        server.sendall(HTTP2_HELLO)
        return server.recv(9, socket.MSG_WAITALL)[3:4] == b"\x04"
    except OSError:
        return False


def capacity_of(node: Node, resources: Resources) -> int:
    """Cells that fit on a node at a time, were it idle."""
    if not node["Alive"]:
        return 0
    capacity = int(node["Resources"].get("CPU", 0) // resources.cpus)
    if resources.gpus:
        gpus = node["Resources"].get("GPU", 0)
        capacity = min(capacity, int(gpus / resources.gpus + 1e-9))
    return capacity


def capacity(nodes: Sequence[Node], resources: Resources) -> int:
    """Cells that fit on the cluster at a time, were it idle."""
    return sum(capacity_of(node, resources) for node in nodes)


def nothing_fits(resources: Resources) -> PeakError:
    """For a cluster on which no cell fits."""
    gpus = f" and {resources.gpus:g} GPUs" if resources.gpus else ""
    return PeakError(
        f"--engine ray: no node of the cluster has {resources.cpus} CPUs{gpus} for a cell;"
        " add one, or change `resources` in the suite"
    )


def check_nodes(ray: Any, nodes: Sequence[Node], versions: dict[str, str], paths: Sequence[Path]) -> None:
    """Check every node before any cell is run there.

    Raises: PeakError when a node has other versions than the driver, or lacks one of the files.
    """
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    surveyed = {}
    cloudpickle.register_pickle_by_value(ray_survey)
    try:
        survey = ray.remote(num_cpus=0, max_retries=0)(ray_survey.survey)
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            surveyed[survey.options(scheduling_strategy=strategy).remote([str(path) for path in paths])] = node
    finally:
        cloudpickle.unregister_pickle_by_value(ray_survey)
    ready, _ = ray.wait(list(surveyed), num_returns=len(surveyed), timeout=SURVEY_SECONDS)
    for reference in ready:
        name = name_of(surveyed[reference])
        try:
            there, lacking = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise PeakError(f"node {name}: cannot run Python code of ours ({str(error).splitlines()[-1]})") from error
        except ray.exceptions.RayError:
            continue  # it has just died; that costs nothing yet
        difference = ray_survey.difference(there, versions)
        if difference:
            raise PeakError(f"node {name}: {difference}; install the same on both")
        if lacking:
            more = f" and {len(lacking) - 1} more files" if len(lacking) > 1 else ""
            raise PeakError(f"node {name}: has no {lacking[0]}{more}; put the data there, or give --ship-data")


def name_of(node: Node) -> str:
    """Of a node, for people."""
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress"))
