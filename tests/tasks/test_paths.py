"""Paths as people have them, to every command that takes a picture, measurements, a field, a suite or runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf import cli
from peak_nerf.core.field import FieldConfig
from peak_nerf.errors import PeakError
from peak_nerf.system.files import check_file, write_atomically
from peak_nerf.tasks.field_file import save_field
from peak_nerf.tasks.image_field import ImageField, ImageFieldSettings
from peak_nerf.tasks.phase_retrieval.measurements import read_measurements

ODD_NAMES = ('a Grüße it\'s "x" #1 [1]* $y', "new\nline", "x" * 240)
COMMANDS = {
    "inpaint": ["inpaint", "{path}", "--out", "{out}"],
    "mask": ["inpaint", "{good}", "--mask", "{path}", "--out", "{out}"],
    "phase": ["phase", "{path}", "--out", "{out}"],
    "measurements": ["phase", "--measurements", "{path}", "--out", "{out}"],
    "render-image": ["render-image", "{path}", "--out", "{out}/a.png"],
    "bench": ["bench", "{path}", "--out", "{out}", "--data-root", "{root}"],
    "data-root": ["bench", "{suite}", "--out", "{out}", "--data-root", "{path}"],
    "report": ["report", "{path}", "--out", "{out}"],
}
SUITE = "title: T\ntask: inpaint\ndata: {image: [good]}\nmethods: [telea]\nseeds: [1]\nsettings: {size: original}\n"


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """What the commands take when it is not what a test is about."""
    picture = np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    good = root / "images" / "good.png"
    Image.fromarray(picture).save(good)
    (tmp_path / "suite.yaml").write_text(SUITE)
    return {"good": good, "out": tmp_path / "out", "root": root, "suite": tmp_path / "suite.yaml"}


def run(command: list[str], given: dict[str, Path], path: Path) -> int:
    return cli.main([part.format(**given, path=path) for part in command])


def refused(command: list[str], given: dict[str, Path], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    with pytest.raises(SystemExit) as end:
        run(command, given, path)
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    assert said.startswith("peak_nerf: error: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_read_is_said_in_a_line(
    command: str, given: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link, damaged = tmp_path / "link", tmp_path / "damaged"
    link.symlink_to(tmp_path / "gone")
    damaged.write_bytes(b"\x00\xff" * 50)
    folder = tmp_path / "folder"
    folder.mkdir()
    devices = [] if command in ("data-root", "report") else [Path("/dev/zero")]
    for path in (folder, link, tmp_path / "none", tmp_path / ("y" * 300), damaged, damaged / "below", *devices):
        said = refused(COMMANDS[command], given, path, capsys)
        assert path.name[:30] in said
    assert "\\n" in refused(COMMANDS[command], given, tmp_path / "new\nline", capsys)
    assert not any(path.is_file() for path in given["out"].rglob("[!.]*"))


@pytest.mark.parametrize("command", ["inpaint", "phase", "bench", "report", "render-image"])
def test_an_output_that_cannot_be_written_is_said_in_a_line(
    command: str, given: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = {"bench": given["suite"], "report": tmp_path / "runs", "render-image": tmp_path / "f.safetensors"}
    if command == "report":
        path[command].mkdir()
        os.rename(given["suite"], path[command] / "suite.yaml")
    if command == "render-image":
        small = FieldConfig(hash_grid=None, hidden_dim=4)
        save_field(path[command], ImageField(ImageFieldSettings(small), (16, 16, 1)))
    for out in (Path("/proc/none"), given["good"], given["good"] / "below", tmp_path / ("z" * 300)):
        said = refused(COMMANDS[command], {**given, "out": out}, path.get(command, given["good"]), capsys)
        assert "cannot be written" in said


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_work(name: str, given: dict[str, Path], tmp_path: Path) -> None:
    here = tmp_path / name
    here.mkdir()
    picture = here / f"{name}.png"
    picture.write_bytes(given["good"].read_bytes())
    fast = ["--method", "telea", "--size", "original"]
    assert run(["inpaint", "{path}", "--out", "{out}", *fast], {**given, "out": here / "out"}, picture) == 0
    assert json.loads((here / "out" / "metrics.json").read_text())["data"] == str(picture)
    suite = here / f"{name}.yaml"
    suite.write_text(SUITE)
    if name == "new\nline":  # a worker takes seconds to start
        assert run(COMMANDS["bench"], {**given, "out": here / "runs"}, suite) == 0
    else:
        (here / "runs" / name).mkdir(parents=True)
        (here / "runs" / name / "suite.yaml").write_text(SUITE)
    assert run(COMMANDS["report"], {**given, "out": here / "report"}, here / "runs") == 0
    assert (here / "report" / f"{name}.html").is_file()


def test_what_is_closed_to_us_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.touch()
    check_file(path, "give another")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        PeakError, match=r"a: cannot be read \(Permission denied\); change its permissions, or give anoth"
    ):
        check_file(path, "give another")


def test_a_name_of_the_longest_kind_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".png")
    write_atomically(path, lambda file: file.write(b"x"))
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 10**9}, "size is 1000000000; pictures have a side of at most 4096"),
        ({"seed": np.uint64(2**64 - 1)}, "seed is 18446744073709551615"),
        ({"magnitudes": np.full(256, 1e300)}, "magnitudes are up to 1e\\+300; scale them"),
        ({"magnitudes": np.zeros((6000, 6000))}, "would unpack to 0.3 GiB of zeros and the like"),
        ({"magnitudes": np.zeros((0,))}, "all magnitudes are 0"),
        ({"magnitudes": np.array(["a"])}, "magnitudes are <U1"),
    ],
)
def test_measurements_out_of_range(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    content = {"problem": "gaussian", "size": 16, "magnitudes": np.ones(256), "seed": 3} | change
    np.savez_compressed(path, **content)  # type: ignore[arg-type]
    with pytest.raises(PeakError, match=message):
        read_measurements(path)


def test_a_false_header_asks_for_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.npy"
    np.save(path, np.zeros(4))
    path.write_bytes(path.read_bytes().replace(b"(4,), }" + b" " * 11, b"(99999999999999,), }"[:18].ljust(18)))
    with pytest.raises(PeakError, match="cannot be read"):
        read_measurements(path)
