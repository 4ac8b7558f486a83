"""Records of anybody: damaged ones are unreadable, whatever they hold."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.bench.report.page import csv_text, page
from peak_nerf.bench.report.results import Results
from peak_nerf.bench.run import stored
from peak_nerf.bench.run.records import read_result
from peak_nerf.bench.suite.grid import Suite

WHOLE = json.dumps(
    {"psnr": 21.5, "seconds": 2.0, "n_parameters": 9, "partial": False, "settings": {"size": "64", "fit": {"a": [1]}}}
    | {"versions": {"torch": "2"}, "history": [{"seconds": 1.0, "psnr": 3.0}], "alignment": {"shift": [0, 1]}}
).encode()
NUMBERS = st.one_of(st.integers(-(10**40), 10**40), st.floats(), st.booleans())
VALUES = st.recursive(
    st.none() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["psnr", "seconds", "a"]), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(["psnr", "seconds", "n_parameters", "partial", "history", "settings", "versions", "ssim", "x"])
SUITE = Suite.model_validate(
    {"title": "T", "task": "fake", "data": {"image": ["a", "b"]}, "methods": ["m", "n"], "seeds": [1]}
    | {"plot": {"kind": "curve", "x": "ssim"}, "sweep": {"s": [1, 2]}}
)


def reported(folder: Path, metrics: bytes, cell: bytes = b"{}") -> Results:
    """The cells of a suite with this record in the first, and all of its report but the files."""
    for i, one in enumerate(SUITE.cells()):
        (folder / one.id).mkdir(parents=True, exist_ok=True)
        (folder / one.id / "metrics.json").write_bytes(metrics if i == 0 else WHOLE)
        (folder / one.id / "cell.json").write_bytes(cell if i == 0 else b"{}")
    results = Results("r", SUITE, folder)
    document = page(results)
    assert document.markdown()
    assert document.html()
    assert csv_text(results)
    assert results.count("finished") >= 7
    return results


@settings(max_examples=40)
@given(changes=st.dictionaries(KEYS, VALUES, max_size=3), options=VALUES)
def test_any_json_is_reported_or_unreadable(
    changes: dict[str, object], options: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    metrics = json.dumps(json.loads(WHOLE) | changes).encode()
    reported(tmp_path_factory.getbasetemp() / "any", metrics, json.dumps({"options": options}).encode())


@settings(max_examples=40)
@given(cut=st.integers(0, 300), flips=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 255)), max_size=3))
def test_damaged_bytes_are_reported_or_unreadable(
    cut: int, flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(WHOLE)
    for at, by in flips:
        data[at % len(data)] ^= by
    reported(tmp_path_factory.getbasetemp() / "bytes", bytes(data[: len(data) - cut if cut < 30 else len(data)]))


def test_a_figure_of_1e30_is_still_one(tmp_path: Path) -> None:
    results = reported(tmp_path, json.dumps(json.loads(WHOLE) | {"psnr": 1e30, "ssim": -1e30}).encode())
    assert results.count("finished") == 8


def test_versions_are_compared_by_number() -> None:
    assert stored.newer_version({"versions": {"peak_nerf": "99.0"}}) == "99.0"
    for version in ("0.2.0", "0.1.9", "0.0.99", "", "x.9", 9, None, "0.2.0+local"):
        assert stored.newer_version({"versions": {"peak_nerf": version}}) == ""
    assert stored.newer_version({"versions": 3}) == ""
    assert stored.newer_version(None) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files")
def test_what_is_too_large_or_no_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.touch()
    os.truncate(path, 2**40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "has more than 16 MiB" in read_result(tmp_path).problem
    path.unlink()
    os.mkfifo(path)
    assert read_result(tmp_path).problem == "metrics.json: is no file"
    path.unlink()
    os.mkfifo(tmp_path / "error.txt")
    assert read_result(tmp_path).status == "missing"
    os.unlink(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text("first\n")
    os.truncate(tmp_path / "error.txt", 2**40)
    assert read_result(tmp_path).status == "failed"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
