"""`peak inpaint --batch`: which mask belongs to which picture, what fails alone, what is skipped."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.tasks.inpainting import command
from peak_nerf.tasks.inpainting.batch import find_pictures
from tests.images.pictures import scenery
from tests.tasks.inpainting.runs import names, peak, read_metrics, refused

H, W = 40, 50


def write(path: Path, seed: int | None = None) -> Path:
    """A picture, or without a seed a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.full((H, W), 255, np.uint8)
    mask[10:13, 10:40] = 0
    Image.fromarray(mask if seed is None else scenery(seed, H, W)).save(path)
    return path


def test_masks_are_found_beside_their_pictures(tmp_path: Path) -> None:
    for i, name in enumerate(("img10.png", "img2.jpg", "c.tif", "d.png", "e.png")):
        write(tmp_path / name, i)
    for name in ("img10.mask.png", "img2_mask.png", "masks/c.png", "d-mask.png"):
        write(tmp_path / name)
    found = {path.name: None if mask is None else Path(mask).name for path, mask in find_pictures(tmp_path, "random")}
    wanted = {"c.tif": "c.png", "d.png": "d-mask.png", "e.png": None, "img2.jpg": "img2_mask.png"}
    assert found == {**wanted, "img10.png": "img10.mask.png"}
    assert list(found) == ["c.tif", "d.png", "e.png", "img2.jpg", "img10.png"]
    assert dict(find_pictures(tmp_path, "none"))[tmp_path / "e.png"] == "none"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PeakError, match="no picture in it"):
        find_pictures(empty, "none")
    with pytest.raises(PeakError, match="gone: no such folder"):
        find_pictures(tmp_path / "gone", "none")


def test_a_broken_picture_stops_no_other_and_resume_skips_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    for i, name in enumerate(("a.png", "c.png", "d.png")):
        write(folder / name, i)
    (folder / "b.png").write_bytes(b"no picture")
    for name in "abc":
        write(folder / f"{name}.mask.png")
    batch = ["inpaint", "--batch", folder, "--method", "telea", "--out", out]
    assert peak(*batch) == 1
    printed = capsys.readouterr().out
    assert "2 of 4 pictures repaired" in printed
    assert "failed: " in printed
    assert "b.png: not a picture" in printed
    assert "d.png: no mask beside it; save it as d.mask.png" in printed
    assert {"a", "c", "summary.csv"} <= names(out)
    for name in "ac":
        assert read_metrics(out / name)["missing_fraction"] == pytest.approx(90 / (H * W))
    with (out / "summary.csv").open() as file:
        rows = {row["picture"]: row["result"] for row in csv.DictReader(file)}
    assert rows == {"a.png": "done", "b.png": "failed", "c.png": "done", "d.png": "failed"}

    write(folder / "b.png", 5)
    (folder / "d.png").unlink()
    run, done = command.run_inpainting, []
    monkeypatch.setattr(command, "run_inpainting", lambda o, *more: (done.append(o.image.name), run(o, *more))[1])
    assert peak(*batch, "--resume") == 0
    assert done == ["b.png"]
    assert "3 of 3 pictures repaired" in capsys.readouterr().out
    assert peak(*batch, "--resume", "--seed", 3) == 0  # other options: all anew
    assert done == ["b.png", "a.png", "b.png", "c.png"]


def test_pictures_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write(folder / "a.png", 1)
    write(folder / "a.tif", 2)
    write(folder / "a.mask.png")
    assert peak("inpaint", "--batch", folder, "--method", "telea", "--out", tmp_path / "out") == 0
    assert {"a.png", "a.tif"} <= names(tmp_path / "out")


def test_a_picture_and_a_folder_are_one_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write(tmp_path / "a.png", 1)
    assert "is for one picture, and --batch takes a folder" in refused(capsys, "inpaint", picture, "--batch", tmp_path)
