"""`peak bench`: what is kept, what runs again, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from peak_nerf.bench.command import bench
from peak_nerf.bench.run.display import TimeLeft, clock
from peak_nerf.bench.run.records import read_result
from peak_nerf.bench.run.runner import Plan, locked
from peak_nerf.bench.suite.file import read_suite
from peak_nerf.errors import PeakError

Write = Callable[..., Path]
ONE = ("[lena, house]", "[lena]")
FIRST = "image=lena,mask=random,method=peak,seed=1"
ROOT = Path(__file__).parents[3]


def statuses(folder: Path) -> dict[str, str]:
    return {path.name: read_result(path).status for path in sorted(folder.iterdir()) if path.is_dir()}


def test_all_cells_run_once_and_are_skipped_after(
    write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, runs = write(), tmp_path / "runs"
    assert bench(suite, runs, data_root, jobs=2) == 0
    folder = runs / "mine"
    assert statuses(folder) == {cell.id: "finished" for cell in read_suite(suite).cells()}
    metrics = json.loads((folder / FIRST / "metrics.json").read_text())
    assert metrics["psnr"] == 21.0
    assert metrics["settings"]["size"] == "256"
    assert metrics["settings"]["image"] == str(data_root / "images" / "lena.png")
    assert read_suite(folder / "suite.yaml") == read_suite(suite)
    assert f"[8/8] {'image='}" in capsys.readouterr().out.replace("\n", " ")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    assert bench(suite, runs, data_root) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")} == before
    assert "8 cells, 8 finished before, 0 to run" in capsys.readouterr().out


def test_changed_settings_or_image_run_again_and_say_so(
    write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    only = "method=peak,seed=1"
    assert bench(write(), runs, data_root, only=only) == 0
    capsys.readouterr()
    assert bench(write(("budget_seconds: 60", "budget_seconds: 30")), runs, data_root, only=only) == 0
    output = capsys.readouterr().out
    assert "0 finished before, 2 to run" in output
    assert f"{FIRST}: has a result of other settings (budget_seconds was 60, is 30); runs again" in output
    Image.new("L", (8, 8), 99).save(data_root / "images" / "lena.png")
    assert bench(write(("budget_seconds: 60", "budget_seconds: 30")), runs, data_root, only=only) == 0
    assert "1 finished before, 1 to run" in capsys.readouterr().out


def test_results_and_suites_of_the_version_before_go_on(
    write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The suite and the kept records have an option's old name and value."""
    runs, settings = tmp_path / "runs", "size: 256, "
    old, new = (f"{settings}{more}, " for more in ("activation: softmax, width: 8", "similarity: dot, hidden_dim: 8"))
    assert bench(write(ONE, (settings, old)), runs, data_root) == 0
    folder = runs / "mine" / FIRST
    record = json.loads((folder / "cell.json").read_text())
    assert (record["options"]["similarity"], record["options"]["hidden_dim"]) == ("dot", 8)
    assert json.loads((folder / "metrics.json").read_text())["settings"]["hidden_dim"] == "8"
    record["options"] = {"activation": "softmax", "width": 8} | {
        name: value for name, value in record["options"].items() if name not in ("similarity", "hidden_dim")
    }
    (folder / "cell.json").write_text(json.dumps(record))
    capsys.readouterr()
    for settings_now in (old, new):
        assert bench(write(ONE, (settings, settings_now)), runs, data_root) == 0
        assert "4 cells, 4 finished before, 0 to run" in capsys.readouterr().out
    swept = write(ONE, ("paper:", "sweep: {width: [8, 16]}\npaper:"), name="swept.yaml")
    assert bench(swept, runs, data_root, only="width=16,seed=1,method=peak") == 0
    metrics = json.loads(next((runs / "swept").rglob("metrics.json")).read_text())
    assert metrics["settings"]["hidden_dim"] == "16"


def test_failed_cells_are_reported_and_do_not_stop_the_rest(
    write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write(
        ONE, ("- peak\n", "- fails\n  - raises\n  - dies\n  - no-metrics\n  - partial\n  - peak\n"), ("[1, 2]", "[1]")
    )
    runs = tmp_path / "runs"
    assert bench(suite, runs, data_root) == 1
    output = capsys.readouterr().out
    assert "2 of 7 cells finished, 0 absent, 5 failed" in output
    folder = runs / "mine"
    cell = "image=lena,mask=random,method={},seed=1"
    assert (folder / cell.format("fails") / "error.txt").read_text() == "pixels are made of cheese; use milk\n"
    assert "Traceback" in (folder / cell.format("raises") / "error.txt").read_text()
    assert "failed: RuntimeError: a bug" in output
    assert "the worker process was killed by SIGKILL" in (folder / cell.format("dies") / "error.txt").read_text()
    assert not (folder / cell.format("partial") / "metrics.json").exists()
    capsys.readouterr()
    assert bench(suite, runs, data_root, only="method=fails") == 1
    assert "1 to run" in capsys.readouterr().out


def test_a_result_that_is_partial_or_broken_is_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for text, status in (('{"psnr": 1}', "finished"), ('{"partial": true}', "missing"), ('{"psnr": ', "unreadable")):
        path.write_text(text)
        assert read_result(tmp_path).status == status
    path.write_text('{"psnr": 1}')
    assert read_result(tmp_path, {"seed": 1}).problem == "there is no record of its settings"


def test_a_record_that_cannot_be_read_is_said_and_run_again_unless_it_is_of_a_newer_version(
    write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, runs = write(ONE, ("[1, 2]", "[1]")), tmp_path / "runs"
    only = "method=peak"
    assert bench(suite, runs, data_root, only=only) == 0
    path = runs / "mine" / FIRST / "metrics.json"
    whole = json.loads(path.read_text())
    capsys.readouterr()
    for change, why in (
        ({"psnr": 1e308}, "psnr: input should be less than"),
        ({"history": 3}, "history: input should"),
    ):
        path.write_text(json.dumps(whole | change))
        assert bench(suite, runs, data_root, only=only) == 0
        assert f"{FIRST}: has a record that cannot be read (metrics.json: {why}" in capsys.readouterr().out
        assert json.loads(path.read_text()) == whole
    (path.parent / "cell.json").write_text('{"options": [1]}')
    assert bench(suite, runs, data_root, only=only) == 0
    assert "has a record that cannot be read (cell.json: options: input should be" in capsys.readouterr().out

    newer = {"versions": {"peak_nerf": "99.1.0"}, "surprise": {"a": [1]}}
    path.write_text(json.dumps(whole | newer))
    assert bench(suite, runs, data_root, only=only) == 0  # a result is a result
    before = path.read_text()
    path.write_text(json.dumps(whole | newer | {"history": "of another kind"}))
    with pytest.raises(PeakError, match=r"is a result of peak_nerf 99.1.0, which this .* would replace"):
        bench(suite, runs, data_root, only=only)
    path.write_text(before)
    with pytest.raises(PeakError, match=r"would replace \(budget_seconds was 60, is 30\); update peak_nerf or give"):
        bench(write(ONE, ("[1, 2]", "[1]"), ("60", "30")), runs, data_root, only=only)
    assert path.read_text() == before


def test_data_of_other_kinds_and_cases_are_said(
    write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data_root / "images"
    (images / "lena.png").rename(images / "Lena.png")
    Image.open(images / "house.png").save(images / "house.tif")
    (images / "house.png").unlink()
    assert bench(write(("[1, 2]", '["1"]'), ("60", '"60"')), tmp_path / "runs", data_root, only="method=peak") == 0
    output = capsys.readouterr().out
    assert "data of other names: house is images/house.tif, lena is images/Lena.png\n" in output
    assert bench(write(("[1, 2]", "[1]")), tmp_path / "runs", data_root, only="method=peak") == 0
    assert "2 cells, 2 finished before, 0 to run" in capsys.readouterr().out  # quotes make no other settings


def test_a_suite_whose_runs_would_lie_beside_the_output_is_refused(
    write: Write, data_root: Path, tmp_path: Path
) -> None:
    for name in ("..yaml", "...yaml"):
        with pytest.raises(PeakError, match="rename the file"):
            bench(write(name=name), tmp_path / "runs", data_root)


def test_absent_images_are_listed_and_are_no_failure(
    write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_root / "images" / "house.png").unlink()
    runs = tmp_path / "runs"
    assert bench(write(("[1, 2]", "[1]")), runs, data_root) == 0
    output = capsys.readouterr().out
    assert f"absent: {data_root / 'images' / 'house.png'}, 2 cells are left out" in output
    assert "2 of 4 cells finished, 2 absent, 0 failed" in output
    assert sorted(statuses(runs / "mine").values()) == ["absent", "absent", "finished", "finished"]
    (data_root / "images" / "lena.png").unlink()
    with pytest.raises(PeakError, match=r"nothing to run, for there is no .*house\.png, .*lena\.png"):
        bench(write(("[1, 2]", "[1]")), runs, data_root)
    assert sorted(statuses(runs / "mine").values()) == ["absent", "absent", "finished", "finished"]
    with pytest.raises(PeakError, match="nothing to run"):
        bench(write(("[1, 2]", "[1]")), tmp_path / "other", data_root)
    assert not (tmp_path / "other").exists()


def test_textural_mask_is_the_roots_file_or_else_drawn(write: Write, data_root: Path, tmp_path: Path) -> None:
    suite, runs = write(ONE, ("[random]", "[textural, random+patch, scratch]"), ("[1, 2]", "[1]")), tmp_path / "runs"
    assert bench(suite, runs, data_root, only="method=peak") == 0
    cells = {path.parent.name.split(",")[1]: json.loads(path.read_text()) for path in runs.rglob("cell.json")}
    assert {name: cell["options"]["mask"] for name, cell in cells.items()} == {
        "mask=textural": "textural",
        "mask=random+patch": "random+patch",
    }
    (data_root / "masks").mkdir()
    Image.new("L", (8, 8)).save(data_root / "masks" / "textural.png")
    assert bench(suite, runs, data_root, only="method=peak,mask=textural") == 0
    metrics = json.loads(next(runs.rglob("*mask=textural*/metrics.json")).read_text())
    assert metrics["settings"]["mask"] == str(data_root / "masks" / "textural.png")
    # Else `peak inpaint` would take the picture for one that is to be repaired, and nothing would be scored.
    assert metrics["settings"]["truth"] == metrics["settings"]["image"] == str(data_root / "images" / "lena.png")


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("imag=lena", "--only imag=lena: the suite has no axis 'imag'; did you mean 'image'?"),
        ("image=lens", "image is never 'lens'; did you mean 'lena'?"),
        ("image=zzz", "image is never 'zzz'; there are lena, house"),
        ("image", "'image' is not axis=value"),
    ],
)
def test_a_wrong_only_is_refused(only: str, message: str, write: Write, data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(PeakError) as error:
        bench(write(), tmp_path / "runs", data_root, only=only)
    assert message in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_wrong_options_are_refused(write: Write, data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(PeakError, match="--jobs: must be from 1 to 100000, got 0"):
        bench(write(), tmp_path / "runs", data_root, jobs=0)
    with pytest.raises(PeakError, match="no such folder"):
        bench(write(), tmp_path / "runs", tmp_path / "nowhere")
    with pytest.raises(PeakError, match="give another --out"):
        bench(write(), data_root / "images" / "lena.png", data_root)
    with locked(tmp_path / "runs" / "mine"), pytest.raises(PeakError, match="another `peak bench` is at work"):
        bench(write(), tmp_path / "runs", data_root)


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from peak_nerf.bench.suite import registry as tasks
tasks.TASKS["fake"] = "tests.bench.fake_task:run_fake"
from peak_nerf import cli
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""


def start_and_wait_for_the_sleeper(suite: Path, runs: Path, data_root: Path) -> tuple[subprocess.Popen[str], Path]:
    """`peak bench` in a process group of its own, once its second cell is at work."""
    script = suite.parent / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    command = [sys.executable, str(script), "bench", str(suite), "--out", str(runs), "--data-root", str(data_root)]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    at_work = runs / "mine" / ".image=lena,mask=random,method=sleeps,seed=1.partial" / "started.txt"
    for _ in range(300):
        if at_work.exists():
            return child, at_work
        assert child.poll() is None, child.stdout and child.stdout.read()
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    raise AssertionError("the second cell never started")


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on_where_it_was(
    signal_: signal.Signals, write: Write, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write(ONE, ("- peak\n", "- peak\n  - sleeps\n"), ("[1, 2]", "[1]"))
    runs = tmp_path / "runs"
    child, at_work = start_and_wait_for_the_sleeper(suite, runs, data_root)
    if signal_ == signal.SIGINT:
        os.killpg(child.pid, signal_)  # as a terminal does: parent and workers
    else:
        child.send_signal(signal_)
    output, _ = child.communicate(timeout=60)  # returns when the worker's end of the pipe is closed too
    assert "Traceback" not in output
    if signal_ == signal.SIGINT:
        assert child.returncode == 130
        assert f"interrupted: 1 of 3 cells are finished and kept in {runs / 'mine'}" in output
        assert not at_work.exists()
    assert statuses(runs / "mine")[FIRST] == "finished"
    before = (runs / "mine" / FIRST / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    assert bench(suite, runs, data_root, only="method=peak,method=peak-no-kar") == 0
    assert "2 cells, 1 finished before, 1 to run" in capsys.readouterr().out
    assert (runs / "mine" / FIRST / "metrics.json").stat().st_mtime_ns == before


def test_time_left_goes_by_the_method_then_the_budget(write: Write) -> None:
    suite = read_suite(write(ONE, ("[1, 2]", "[1]")))
    cells = list(suite.cells())
    left = TimeLeft(suite, Plan(), n_workers=2)
    assert left.total(cells, {}) == 60.0  # two cells of 60 s on two workers
    left.note(cells[0], 10.0)
    assert left.total(cells, {}) == 35.0
    assert left.total(cells[1:], {"a": (cells[0], 4.0)}) == 33.0
    assert [clock(12), clock(185), clock(7800)] == ["12 s", "3 min 05 s", "2 h 10 min"]
