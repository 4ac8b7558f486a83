"""Names of images and masks as files under a data root."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from peak_nerf.bench.suite.data_root import DataRoot, Job
from peak_nerf.bench.suite.grid import Cell
from peak_nerf.errors import PeakError


def job(data_root: Path, **options: str | int) -> Job:
    return DataRoot(data_root).job(Cell({}, dict(options)), "module:task", Path("runs") / "cell")


def test_an_image_is_a_file_and_its_record_its_place_and_content(data_root: Path) -> None:
    found = job(data_root, image="lena", mask="random", seed=3)
    assert found.options == {"image": str(data_root / "images" / "lena.png"), "mask": "random", "seed": 3}
    assert found.files == ("image",)
    assert (found.target, found.out) == ("module:task", Path("runs") / ".cell.partial")
    assert found.recorded["image"].startswith("images/lena.png sha256:")
    assert found.absent == []
    moved = data_root.with_name("moved")
    data_root.rename(moved)
    assert job(moved, image="lena").recorded["image"] == found.recorded["image"]
    Image.new("L", (8, 8), 77).save(moved / "images" / "lena.png")
    assert job(moved, image="lena").recorded["image"] != found.recorded["image"]


def test_what_is_not_there_is_absent(data_root: Path) -> None:
    found = job(data_root, image="boat", mask="scratch")
    assert found.absent == [data_root / "images" / "boat.png", data_root / "masks" / "scratch.png"]


@pytest.mark.parametrize(
    ("mask", "file", "from_file"),
    [
        ("random", "random", False),
        ("random+patch", "random+patch", False),
        ("textural", "textural", True),
        ("scratch", "scratch", True),
        ("textural", None, False),
    ],
)
def test_which_masks_are_files(mask: str, file: str | None, from_file: bool, data_root: Path) -> None:
    (data_root / "masks").mkdir()
    if file is not None:
        Image.new("L", (8, 8)).save(data_root / "masks" / f"{file}.png")
    found = job(data_root, mask=mask)
    assert found.options["mask"] == (str(data_root / "masks" / f"{mask}.png") if from_file else mask)
    assert found.absent == []


def test_a_cell_without_images_has_its_options_as_they_are(data_root: Path) -> None:
    assert job(data_root, seed=1).options == {"seed": 1}


def test_a_root_that_is_no_folder_is_refused(data_root: Path) -> None:
    with pytest.raises(PeakError, match="no such folder; give the one that holds images/, masks/ or nerf_synthetic/"):
        DataRoot(data_root / "images" / "lena.png")
