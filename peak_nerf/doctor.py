"""`peak doctor`: what this machine has for peak_nerf, what is missing, what that costs and which command mends it.

torch and numba are imported in child processes, side by side: an import that crashes, hangs or prints ends as one
line here. nerfstudio is looked at without importing it, which would take ten seconds.
"""

from __future__ import annotations

import ctypes.util
import json as json_
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from peak_nerf import __version__
from peak_nerf.system.probes import NUMBA_PROBE, PYCOLMAP_PROBE, TCNN_PROBE, TORCH_PROBE, TRITON_PROBE
from peak_nerf.system.programs import last_line, probe
from peak_nerf.system.record import memory_total

Status = Literal["ok", "missing", "broken"]

GB = 1e9
PYTHONS = ((3, 10), (3, 13))
"""First version that we support, and first that we do not: `requires-python`."""
ENTRY_POINTS = {
    "nerfstudio.method_configs": ("peak", "peak-lite", "peak-nerfacto"),
    "nerfstudio.dataparser_configs": ("peak-data",),
}
"""What pyproject.toml registers with nerfstudio, by group."""
LPIPS_BACKBONE = "alexnet-owt-7be5be79.pth"
"""As in `metrics`, which would import numpy."""
LITTLE_DISK = 2 * GB


@dataclass(frozen=True)
class Check:
    """One line of the doctor's answer."""

    name: str
    """What was looked at."""
    status: Status
    """`missing` is not there, `broken` is there and does not work."""
    value: str
    """Version, size or error, in one line."""
    cost: str = ""
    """What the user cannot do without it; empty when it works or is not missed."""
    remedy: str = ""
    """The command that mends it."""
    required: bool = False
    """Whether nothing works without it."""


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Whether this Python is one that we support."""
    good = PYTHONS[0] <= version[:2] < PYTHONS[1]
    value = ".".join(map(str, version))
    if good:
        return Check("Python", "ok", value, required=True)
    low, high = (".".join(map(str, v)) for v in PYTHONS)
    cost = f"peak_nerf needs Python from {low} to below {high}"
    return Check("Python", "broken", value, cost, "python3.11 -m venv .venv", required=True)


def check_package(
    name: str, probed: dict[str, Any], remark: str, cost: str, packages: str, required: bool = True
) -> Check:
    """torch, numba or pycolmap, from its probe; `packages` is what pip installs where it is missing."""
    if "error" not in probed:
        return Check(name, "ok", probed["version"] + remark, required=required)
    here = find_spec(name) is not None
    remedy = f"pip install --force-reinstall {packages} 'numpy<2'" if here else f"pip install {packages}"
    return Check(name, "broken" if here else "missing", probed["error"], cost, remedy, required=required)


def check_torch(torch: dict[str, Any]) -> Check:
    """torch, from its probe."""
    return check_package("torch", torch, "", "nothing runs", "torch torchvision")


def check_cuda(torch: dict[str, Any]) -> Check:
    """Whether torch sees a GPU, from its probe."""
    cost = "training runs on the CPU, where `ns-train peak` takes sizes made for it"
    if "error" in torch:
        return Check("CUDA", "missing", "unknown, since torch does not import")
    if torch["cuda"]:
        return Check("CUDA", "ok", ", ".join([str(torch["cuda_version"]), *torch["gpus"]]))
    if shutil.which("nvidia-smi") is None:
        value = "no NVIDIA driver on this machine" + "; Apple's GPU is not used" * (sys.platform == "darwin")
        return Check("CUDA", "missing", value, cost, "ns-train peak --data DATA")
    if torch["cuda_version"] is None:
        value = f"there is an NVIDIA driver, but torch {torch['version']} is built for the CPU only"
        return Check("CUDA", "broken", value, cost, "pip install --force-reinstall torch torchvision 'numpy<2'")
    value = torch["cuda_warning"] or "there is an NVIDIA driver, but torch sees no GPU"
    return Check("CUDA", "broken", value, f"{cost}; compare the driver with CUDA {torch['cuda_version']}", "nvidia-smi")


def check_triton(cuda: bool) -> Check:
    """Triton, by importing it where there is CUDA; torch's Linux wheels bring it."""
    here = find_spec("triton") is not None
    cost = "hash grid, ray marcher and compositing run in plain torch on the GPU, slower and with more memory"
    if not here or not cuda:
        missed = (cost, f"pip install triton{'-windows' * (os.name == 'nt')}") if cuda else ()
        return Check("Triton", "ok" if here else "missing", "unused without CUDA" if here else "not installed", *missed)
    answer = probe(TRITON_PROBE)
    if (problem := answer.get("error") or answer["needs"]) is not None:
        remedy = "pip install --force-reinstall torch" if "error" in answer else "apt-get install gcc python3-dev"
        return Check("Triton", "broken", problem, cost, remedy)
    return Check("Triton", "ok", answer["version"])


def check_tcnn(cuda: bool) -> Check:
    """tiny-cuda-nn, where it is installed; it is compiled against one torch and one GPU, so it is imported there."""
    if not cuda:
        return Check("tiny-cuda-nn", "ok", "unused without CUDA")
    if "error" in (answer := probe(TCNN_PROBE)):
        cost = "--pipeline.model.implementation tcnn does not run; auto takes Triton"
        return Check("tiny-cuda-nn", "broken", answer["error"], cost, "pip uninstall tinycudann")
    return Check("tiny-cuda-nn", "ok", _version("tinycudann") or "installed")


def check_numba(numba: dict[str, Any], threads: int | None) -> Check:
    """numba, from its probe. `threads` is torch's number: our kernels use that, and no threading layer of numba's."""
    remark = "" if threads is None else f", {threads} kernel thread{'s' if threads > 1 else ''} (torch's setting)"
    return check_package("numba", numba, remark, "the CPU kernels of hash grid and ray marching do not run", "numba")


def check_nerfstudio() -> Check:
    """nerfstudio's files and version, without importing it."""
    version, wanted = _version("nerfstudio"), _pinned("nerfstudio")
    remedy = f"pip install nerfstudio=={wanted}" if wanted else "pip install nerfstudio"
    if find_spec("nerfstudio") is None:
        value = "not installed" if version is None else f"{version} is listed, but its files are gone"
        status: Status = "missing" if version is None else "broken"
        return Check("nerfstudio", status, value, "no ns-train, ns-eval, ns-viewer", remedy, required=True)
    if wanted is not None and version != wanted:
        cost = f"peak_nerf is written for {wanted}; ns-train peak may fail"
        return Check("nerfstudio", "broken", version or "version unknown", cost, remedy, required=True)
    return Check("nerfstudio", "ok", version or "version unknown", required=True)


def check_methods() -> Check:
    """Whether nerfstudio's commands will find our methods and our data parser, and the module behind each."""
    problems, found = [], []
    for group, names in ENTRY_POINTS.items():
        registered = {point.name: point for point in metadata.entry_points(group=group)}
        for name in names:
            if name not in registered:
                problems.append(f"{name} is not registered")
            elif not _module_exists(registered[name].module):
                problems.append(f"{name}: module {registered[name].module} does not exist")
            else:
                found.append(name)
    if not problems:
        return Check("methods", "ok", ", ".join(found), required=True)
    status: Status = "broken" if found else "missing"
    cost = "ns-train, ns-eval and ns-viewer do not know our methods; in the repository's folder run"
    return Check("methods", status, "; ".join(problems), cost, "pip install -e .", required=True)


def check_pycolmap(pycolmap: dict[str, Any]) -> Check:
    """pycolmap, from its probe."""
    cost = "peak photos finds no poses; scenes that have poses train without it"
    return check_package("pycolmap", pycolmap, "", cost, "'pycolmap>=4.2'", required=False)


def check_ffmpeg() -> Check:
    """The ffmpeg program, by running it."""
    cost = "ns-render writes no videos, and its camera-path does not start"
    remedy = "apt-get install ffmpeg"
    program = shutil.which("ffmpeg")
    if program is None:
        return Check("ffmpeg", "missing", "not on the PATH", cost, remedy)
    try:
        child = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("ffmpeg", "broken", str(error), cost, remedy)
    if child.returncode != 0:
        return Check("ffmpeg", "broken", last_line(child.stderr) or f"exit code {child.returncode}", cost, remedy)
    version = re.match(r"ffmpeg version (\S+)", child.stdout)
    return Check("ffmpeg", "ok", version[1] if version else program)


def check_libusb() -> Check:
    """The shared library that open3d links to on Linux."""
    library = ctypes.util.find_library("usb-1.0")
    if library is None and sys.platform == "linux":
        cost = "ns-export does not start, since its open3d does not import"
        return Check("libusb-1.0", "missing", "not found", cost, "apt-get install libusb-1.0-0")
    return Check("libusb-1.0", "ok", library or f"not needed on {sys.platform}")


def check_lpips(checkpoints: Path | None) -> Check:
    """The weights under LPIPS, in torch's own folder. Looks, never downloads."""
    if checkpoints is None:
        return Check("LPIPS weights", "missing", "unknown, since torch does not import")
    if (checkpoints / LPIPS_BACKBONE).is_file():
        return Check("LPIPS weights", "ok", LPIPS_BACKBONE)
    remedy = "python -c \"import torchvision as tv; tv.models.alexnet(weights='DEFAULT')\""
    cost = "metrics come without LPIPS; with network, once (233 MB)"
    return Check("LPIPS weights", "missing", f"no {LPIPS_BACKBONE}", cost, remedy)


def check_disk(folder: Path) -> Check:
    """Free space where runs will be written."""
    free = shutil.disk_usage(folder).free
    value = f"{free / GB:.1f} GB free in this folder"
    if free >= LITTLE_DISK:
        return Check("disk", "ok", value)
    cost = "checkpoints and images of a run may not fit; to see what can go"
    return Check("disk", "missing", value, cost, "du -sh outputs/*")


def check_memory() -> Check:
    """Memory that this process may use; information only."""
    total = memory_total()
    return Check("memory", "ok", "size unknown" if total is None else f"{total / GB:.1f} GB")


def check_cpu(torch: dict[str, Any]) -> Check:
    """Processors that this process may use, and how torch's threads wait, from its probe; information only."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    value = f"{usable or 'unknown number of'} cores, {platform.machine()}"
    if "error" not in torch:
        reason = torch["waiting_left_alone"]
        value += "; waiting threads " + ("sleep under load" if reason is None else f"are left alone: {reason}")
    return Check("CPU", "ok", value)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _pinned(distribution: str) -> str | None:
    """The version that our own requirements pin, where they can be read."""
    try:
        requirements = metadata.requires("peak_nerf") or []
    except metadata.PackageNotFoundError:
        return None
    pins = (re.match(rf"{re.escape(distribution)}\s*==\s*([\w.]+)", line) for line in requirements)
    return next((pin[1] for pin in pins if pin), None)


def _module_exists(name: str) -> bool:
    """Whether Python can find the module's file; imports its packages, not the module."""
    try:
        spec = find_spec(name)
    except ImportError:
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).is_file()


def run_checks() -> list[Check]:
    """All checks, in the order in which they are shown."""
    with ThreadPoolExecutor() as pool:
        torch_answer, numba_answer = pool.submit(probe, TORCH_PROBE), pool.submit(probe, NUMBA_PROBE)
        pycolmap_answer = pool.submit(probe, PYCOLMAP_PROBE)
        machine = [check_ffmpeg(), check_libusb(), check_disk(Path.cwd()), check_memory()]
        plugin = [check_nerfstudio(), check_methods()]
        torch, numba = torch_answer.result(), numba_answer.result()
    return [
        check_python(),
        check_torch(torch),
        check_cuda(torch),
        check_triton(torch.get("cuda", False)),
        *([check_tcnn(torch.get("cuda", False))] if find_spec("tinycudann") is not None else []),  # nothing needs it
        check_numba(numba, torch.get("threads")),
        *plugin,
        check_pycolmap(pycolmap_answer.result()),
        *machine[:2],
        check_lpips(Path(torch["hub"]) / "checkpoints" if "hub" in torch else None),
        *machine[2:],
        check_cpu(torch),
    ]


def works(checks: Iterable[Check]) -> bool:
    """Whether everything required is in order."""
    return all(check.status == "ok" for check in checks if check.required)


def as_json(checks: Sequence[Check]) -> str:
    """The answer as strict JSON."""
    answer = {"peak_nerf": __version__, "ok": works(checks), "checks": [asdict(check) for check in checks]}
    return json_.dumps(answer, indent=1, allow_nan=False)


def print_screen(checks: Sequence[Check]) -> None:
    """The answer for people: one line per check, then what to do, each command unbroken on a line of its own."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    console = Console(highlight=False, markup=False)
    state = "what is required works" if works(checks) else "something REQUIRED does not work"
    console.print(f"peak_nerf {__version__}: {state}", style="bold")
    table = Table.grid(padding=(0, 2))
    for check in checks:
        colour = "red" if check.required and check.status != "ok" else colours[check.status]
        table.add_row(check.name, Text(check.status, style=colour), Text(check.value, overflow="fold"))
    console.print(table)
    for check in checks:
        if check.status != "ok" and check.cost:
            console.print(f"{check.name}: {check.cost}", style="yellow" if not check.required else "red")
            console.print(f"    {check.remedy}", soft_wrap=True)


def doctor(json: bool = False) -> int:
    """Say what this machine has, what is missing, what that costs and which command mends it.

    Exit code 1 when something required (Python, torch, numba, nerfstudio, our methods) does not work.

    Args:
        json: Print strict JSON instead of a table.
    """
    checks = run_checks()
    if json:
        print(as_json(checks))
    else:
        print_screen(checks)
    return 0 if works(checks) else 1
