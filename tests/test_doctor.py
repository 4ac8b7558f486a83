"""`peak doctor`: each check on a machine that has the thing, lacks it, or has it broken."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from peak_nerf import doctor
from peak_nerf.doctor import Check

ROOT = Path(__file__).resolve().parents[1]
TORCH = {
    "version": "2.14.1",
    "threads": 2,
    "waiting_left_alone": None,
    "hub": "/nowhere/hub",
    "cuda": False,
    "cuda_version": "13.0",
    "gpus": [],
    "cuda_warning": "",
}
GPU = TORCH | {"cuda": True, "gpus": ["NVIDIA RTX 4090"]}
NO_TORCH = {"error": "ImportError: libtorch_cpu.so: cannot open shared object file"}


def put_on_path(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `name` the only program on the PATH."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def hide(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `find_spec(name)` find nothing."""
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda module: None if module == name else real(module))


def run_peak(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "peak_nerf.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)


# ---------------------------------------------------------------------------------------------------------- probe


def test_probe_reads_past_noise_of_the_import() -> None:
    assert doctor.probe("print('hello from some plug-in'); print('{\"version\": \"1\"}')") == {"version": "1"}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise ImportError('libX.so: cannot open')", "ImportError: libX.so: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "killed by SIGILL"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print('hello')", "no answer from the import"),
        ("", "no answer from the import"),
        ("print(7)", "no answer from the import"),
    ],
)
def test_probe_puts_any_failure_in_one_line(code: str, error: str) -> None:
    assert doctor.probe(code) == {"error": error}


def test_probe_does_not_wait_for_ever() -> None:
    assert doctor.probe("import time; time.sleep(60)", timeout=0.2) == {"error": "no answer in 0 s"}


# --------------------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("version", "status"), [((3, 9, 18), "broken"), ((3, 10, 0), "ok"), ((3, 12, 4), "ok"), ((3, 13, 0), "broken")]
)
def test_python(version: tuple[int, int, int], status: str) -> None:
    check = doctor.check_python(version)
    assert check.status == status
    assert check.required


def test_python_versions_are_those_of_pyproject() -> None:
    (low, high) = (".".join(map(str, version)) for version in doctor.PYTHONS)
    assert f'requires-python = ">={low},<{high}"' in (ROOT / "pyproject.toml").read_text()


def test_torch() -> None:
    assert doctor.check_torch(TORCH) == Check("torch", "ok", "2.14.1", required=True)


def test_torch_that_does_not_import_is_broken_and_required() -> None:
    check = doctor.check_torch(NO_TORCH)
    assert (check.status, check.value, check.required) == ("broken", NO_TORCH["error"], True)
    assert "--force-reinstall" in check.remedy


def test_torch_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("torch", monkeypatch)
    check = doctor.check_torch({"error": "ModuleNotFoundError: No module named 'torch'"})
    assert (check.status, check.remedy) == ("missing", "pip install torch torchvision")


def test_cuda_names_the_gpu() -> None:
    assert doctor.check_cuda(GPU) == Check("CUDA", "ok", "13.0, NVIDIA RTX 4090")


def test_cuda_without_a_driver_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor.check_cuda(TORCH)
    assert check.status == "missing"
    assert check.remedy == "ns-train peak --data DATA"


def test_cuda_with_a_driver_that_torch_cannot_use_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, "nvidia-smi", "exit 0", monkeypatch)
    cpu_build = doctor.check_cuda(TORCH | {"cuda_version": None})
    assert cpu_build.status == "broken"
    assert cpu_build.remedy.startswith("pip install --force-reinstall torch")
    old_driver = doctor.check_cuda(TORCH | {"cuda_warning": "The NVIDIA driver on your system is too old"})
    assert (old_driver.status, old_driver.remedy) == ("broken", "nvidia-smi")
    assert "too old" in old_driver.value


def test_tcnn_is_never_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"version": "1", "needs": None}
    monkeypatch.setattr(doctor, "probe", lambda code: GPU if code == doctor.TORCH_PROBE else other)
    hide("tinycudann", monkeypatch)
    assert "tiny-cuda-nn" not in {check.name for check in doctor.run_checks()}
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: object() if name == "tinycudann" else real(name))
    assert "tiny-cuda-nn" in {check.name for check in doctor.run_checks()}
    assert doctor.check_tcnn(cuda=False).value == "unused without CUDA"


def test_triton_is_missed_with_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("triton", monkeypatch)
    without, check = doctor.check_triton(cuda=False), doctor.check_triton(cuda=True)
    assert (without.status, without.cost) == ("missing", "")
    assert (check.status, check.remedy) == ("missing", "pip install triton")
    assert "plain torch" in check.cost


@pytest.mark.parametrize(
    ("answer", "status", "value", "remedy"),
    [
        ({"version": "3.8.0", "needs": None}, "ok", "3.8.0", ""),
        ({"version": "3.8.0", "needs": "needs a C compiler"}, "broken", "needs a C", "apt-get install gcc python3-dev"),
        ({"error": "ImportError: libtriton.so"}, "broken", "ImportError", "pip install --force-reinstall torch"),
    ],
)
def test_triton_is_imported_with_cuda(
    answer: dict, status: str, value: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda module: object())
    monkeypatch.setattr(doctor, "probe", lambda code: answer if code == doctor.TRITON_PROBE else {})
    check = doctor.check_triton(cuda=True)
    assert check.status == status
    assert check.value.startswith(value)
    assert check.remedy.startswith(remedy)
    assert doctor.check_triton(cuda=False).value == "unused without CUDA"


def test_the_probe_of_triton_answers() -> None:
    pytest.importorskip("triton")
    assert set(doctor.probe(doctor.TRITON_PROBE)) == {"version", "needs"}


@pytest.mark.parametrize(
    ("source", "status", "value"),
    [("", "ok", "installed"), ("raise OSError('built for another GPU')", "broken", "OSError: built for another GPU")],
)
def test_tcnn_is_imported_with_cuda(
    source: str, status: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tinycudann.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor.check_tcnn(cuda=True)
    assert (check.status, check.value) == (status, value)


def test_numba_tells_the_threads_of_our_kernels() -> None:
    assert doctor.check_numba({"version": "0.68.1"}, 2).value == "0.68.1, 2 kernel threads (torch's setting)"
    assert doctor.check_numba({"version": "0.68.1"}, None).value == "0.68.1"


def test_numba_broken_or_missing_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = doctor.check_numba({"error": "ImportError: Numba needs NumPy 2.3 or less"}, 2)
    hide("numba", monkeypatch)
    missing = doctor.check_numba({"error": "ModuleNotFoundError: No module named 'numba'"}, 2)
    assert (broken.status, missing.status) == ("broken", "missing")
    assert broken.required
    assert missing.required
    assert missing.remedy == "pip install numba"


def test_pycolmap_is_missed_but_not_required(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_pycolmap({"version": "4.2.1"}) == Check("pycolmap", "ok", "4.2.1")
    broken = doctor.check_pycolmap({"error": "killed by SIGILL"})
    hide("pycolmap", monkeypatch)
    missing = doctor.check_pycolmap({"error": "ModuleNotFoundError: No module named 'pycolmap'"})
    assert (broken.status, missing.status) == ("broken", "missing")
    assert not broken.required
    assert not missing.required
    assert missing.remedy == "pip install 'pycolmap>=4.2'"
    assert "peak photos" in missing.cost


def test_nerfstudio_must_be_the_pinned_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy<2", "nerfstudio==1.1.5", "nerfstudio-extra==9"])
    monkeypatch.setattr(doctor, "find_spec", lambda _: object())
    monkeypatch.setattr(metadata, "version", lambda _: "1.1.5")
    assert doctor.check_nerfstudio() == Check("nerfstudio", "ok", "1.1.5", required=True)
    monkeypatch.setattr(metadata, "version", lambda _: "1.0.3")
    other = doctor.check_nerfstudio()
    assert (other.status, other.value, other.remedy) == ("broken", "1.0.3", "pip install nerfstudio==1.1.5")
    hide("nerfstudio", monkeypatch)
    assert doctor.check_nerfstudio().status == "broken"  # listed, without files

    def not_found(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_found)
    missing = doctor.check_nerfstudio()
    assert (missing.status, missing.required) == ("missing", True)


def registered(**modules: str) -> Callable[..., Iterable[SimpleNamespace]]:
    """An `entry_points` that knows these names, each in every group."""
    points = [SimpleNamespace(name=name.replace("_", "-"), module=module) for name, module in modules.items()]
    return lambda group: points


def test_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = "peak_nerf.nerf.registration"
    monkeypatch.setattr(
        metadata, "entry_points", registered(peak=ours, peak_lite=ours, peak_nerfacto=ours, peak_data=ours)
    )
    before = set(sys.modules)
    assert doctor.check_methods() == Check("methods", "ok", "peak, peak-lite, peak-nerfacto, peak-data", required=True)
    assert not any(name.startswith("nerfstudio") for name in set(sys.modules) - before)


@pytest.mark.parametrize(
    ("modules", "status", "value"),
    [
        ({"nerfacto_x": "x"}, "missing", "peak is not registered; peak-lite is not registered; peak-nerfacto"),
        (
            {"peak": "json", "peak_lite": "peak_nerf.nerf.gone", "peak_nerfacto": "json", "peak_data": "json"},
            "broken",
            "peak-lite: module peak",
        ),
        (
            {"peak": "json", "peak_lite": "json", "peak_nerfacto": "json", "peak_data": "no_such_package.x"},
            "broken",
            "peak-data: module no_such",
        ),
        ({"peak": "json", "peak_data": "json"}, "broken", "peak-lite is not registered"),
    ],
)
def test_methods_that_ns_train_would_not_find(
    modules: dict[str, str], status: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "entry_points", registered(**modules))
    check = doctor.check_methods()
    assert (check.status, check.required, check.remedy) == (status, True, "pip install -e .")
    assert check.value.startswith(value)


def test_expected_entry_points_are_those_of_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for group, names in doctor.ENTRY_POINTS.items():
        table = text.split(f'[project.entry-points."{group}"]')[1].split("\n[")[0]
        assert re.findall(r"^([\w-]+) = ", table, re.MULTILINE) == list(names)


def test_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, "ffmpeg", "echo 'ffmpeg version 5.1.9 Copyright (c) 2000'", monkeypatch)
    assert doctor.check_ffmpeg() == Check("ffmpeg", "ok", "5.1.9")


def test_ffmpeg_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor.check_ffmpeg()
    assert (check.status, check.remedy, check.required) == ("missing", "apt-get install ffmpeg", False)
    assert "ns-render" in check.cost


def test_ffmpeg_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, "ffmpeg", "echo 'libavdevice.so.59: cannot open' >&2; exit 127", monkeypatch)
    check = doctor.check_ffmpeg()
    assert (check.status, check.value) == ("broken", "libavdevice.so.59: cannot open")


def test_libusb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: "libusb-1.0.so.0")
    assert doctor.check_libusb() == Check("libusb-1.0", "ok", "libusb-1.0.so.0")
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    check = doctor.check_libusb()
    assert (check.status, check.remedy) == ("missing", "apt-get install libusb-1.0-0")
    assert "ns-export" in check.cost
    monkeypatch.setattr(sys, "platform", "darwin")
    assert doctor.check_libusb().status == "ok"


def test_lpips(tmp_path: Path) -> None:
    missing = doctor.check_lpips(tmp_path)
    assert missing.status == "missing"
    assert "alexnet" in missing.remedy
    (tmp_path / doctor.LPIPS_BACKBONE).touch()
    assert doctor.check_lpips(tmp_path).status == "ok"
    assert doctor.check_lpips(None).status == "missing"


def test_lpips_file_is_the_one_that_our_metrics_look_for() -> None:
    source = (ROOT / "peak_nerf" / "metrics.py").read_text()
    assert f'LPIPS_BACKBONE = "{doctor.LPIPS_BACKBONE}"' in source


@pytest.mark.parametrize(("free", "status"), [(1e9, "missing"), (50e9, "ok")])
def test_disk(free: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    check = doctor.check_disk(tmp_path)
    assert check.status == status
    assert check.value.startswith(f"{free / 1e9:.1f} GB")


def test_memory_and_cpu_are_numbers() -> None:
    size = re.fullmatch(r"([\d.]+) GB", doctor.check_memory().value)
    assert size is not None
    assert float(size[1]) > 0.1
    cores = re.match(r"(\d+) cores", doctor.check_cpu(NO_TORCH).value)
    assert cores is not None
    assert 1 <= int(cores[1]) <= (os.cpu_count() or 1)


def test_cpu_tells_how_threads_wait() -> None:
    assert doctor.check_cpu(TORCH).value.endswith("; waiting threads sleep under load")
    given = doctor.check_cpu(TORCH | {"waiting_left_alone": "OMP_WAIT_POLICY is set"})
    assert given.value.endswith("; waiting threads are left alone: OMP_WAIT_POLICY is set")


# ------------------------------------------------------------------------------------------------------- answers


def test_only_what_is_required_decides() -> None:
    optional = Check("ffmpeg", "missing", "not on the PATH", "no video", "apt-get install ffmpeg")
    good = Check("torch", "ok", "2.14.1", required=True)
    assert doctor.works([good, optional])
    for status in ("missing", "broken"):
        assert not doctor.works([good, optional, Check("numba", status, "error", required=True)])


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40)])
def test_screen_of_a_bare_cpu_machine_fits(
    width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {doctor.TORCH_PROBE: TORCH, doctor.NUMBA_PROBE: {"version": "0.68.1"}}
    answers[doctor.PYCOLMAP_PROBE] = {"version": "4.2.1"}
    monkeypatch.setattr(doctor, "probe", lambda code: answers[code])
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("COLUMNS", str(width))
    hide("tinycudann", monkeypatch)
    checks = doctor.run_checks()
    assert {c.name for c in checks if c.status != "ok" and not c.required} >= {"CUDA", "ffmpeg", "LPIPS weights"}
    doctor.print_screen(checks)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < height  # the prompt needs a line too
    assert max(map(len, lines)) <= width
    for check in checks:
        assert any(line.startswith(check.name) and check.status in line for line in lines)
        assert not check.cost or f"    {check.remedy}" in lines


def test_screen_prints_brackets_and_long_commands_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    remedy = "pip install -e '.[dev]' " + "x" * 90
    doctor.print_screen([Check("numba", "broken", "[Errno 2] no [/bold] file", "nothing runs", remedy, required=True)])
    out = capsys.readouterr().out
    assert "[Errno 2] no [/bold] file" in out
    assert f"    {remedy}\n" in out
    assert "REQUIRED" in out


def test_command_on_this_machine() -> None:
    answer = run_peak("doctor", "--json", PYTHONPROFILEIMPORTTIME="1")
    report = json.loads(answer.stdout, parse_constant=pytest.fail)
    checks = {check["name"]: check for check in report["checks"]}
    assert (answer.returncode, report["ok"]) == (0, True), [c for c in report["checks"] if c["status"] != "ok"]
    assert checks["torch"]["value"].startswith(metadata.version("torch"))  # +cu130
    assert checks["numba"]["value"].startswith(metadata.version("numba"))
    imported = {line.rsplit("|", 1)[-1].strip() for line in answer.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "numba", "numpy", "nerfstudio"}


def test_command_outlives_a_torch_that_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open [shared] object file')")
    answer = run_peak("doctor", PYTHONPATH=str(tmp_path), COLUMNS="200")
    assert answer.returncode == 1
    assert "ImportError: libtorch_cpu.so: cannot open [shared] object file" in answer.stdout
    assert re.search(r"^numba +ok ", answer.stdout, re.MULTILINE)
    assert "Traceback" not in answer.stdout + answer.stderr
