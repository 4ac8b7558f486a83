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
    with pytest.raises(PeakError, match="holds images/, masks/ or nerf_synthetic/, llff/, posed/"):
        DataRoot(data_root / "images" / "lena.png")


def write_scene(folder: Path, *files: str) -> Path:
    """A folder that holds a picture and these files, each with its own name in it."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "0.png")
    for name in files:
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(
    ("parent", "file"),
    [
        ("nerf_synthetic", "transforms_train.json"),
        ("llff", "poses_bounds.npy"),
        ("posed", "transforms.json"),
        (".", "transforms.json"),
    ],
)
def test_a_scene_is_found_by_its_name_in_the_folder_of_its_kind(parent: str, file: str, data_root: Path) -> None:
    folder = write_scene(data_root / parent / "fern", file)
    found = job(data_root, scene="fern", views=3)
    assert found.options == {"scene": str(folder.resolve()), "views": 3}
    assert found.recorded["scene"].startswith(f"{(Path(parent) / 'fern').as_posix()} sha256:")
    assert (found.files, found.absent) == (("scene",), [])
    named = job(data_root, scene=(Path(parent) / "fern").as_posix(), views=3)
    assert (named.options, named.recorded) == (found.options, found.recorded)


@pytest.mark.parametrize("name", ["poses_bounds.npy", "transforms.json", "observations.npz", "sparse_pc.ply"])
def test_other_poses_or_points_make_another_scene(name: str, data_root: Path) -> None:
    folder = write_scene(data_root / "posed" / "fox", "transforms.json", name)
    before = job(data_root, scene="fox").recorded["scene"]
    assert job(data_root, scene="fox").recorded["scene"] == before
    (folder / name).write_text("other")
    assert job(data_root, scene="fox").recorded["scene"] != before


def test_another_picture_makes_another_scene_and_a_note_does_not(data_root: Path) -> None:
    folder = write_scene(data_root / "llff" / "fern", "poses_bounds.npy")
    before = job(data_root, scene="fern").recorded["scene"]
    (folder / "notes.txt").write_text("fern")
    assert job(data_root, scene="fern").recorded["scene"] == before
    Image.new("RGB", (9, 8)).save(folder / "images" / "1.JPG")
    assert job(data_root, scene="fern").recorded["scene"] != before


def test_a_scene_that_is_not_there_says_where_it_was_looked_for(data_root: Path) -> None:
    (data_root / "llff" / "horns").mkdir(parents=True)
    assert job(data_root, scene="horns").absent == [data_root / "{nerf_synthetic,llff,posed}" / "horns"]
    assert job(data_root, scene="llff/horns").absent == [data_root / "llff" / "horns"]


def test_two_scenes_of_one_name_are_refused(data_root: Path) -> None:
    write_scene(data_root / "llff" / "fern", "poses_bounds.npy")
    write_scene(data_root / "posed" / "fern", "transforms.json")
    with pytest.raises(PeakError, match="llff/fern and posed/fern are both scenes 'fern'; rename one"):
        job(data_root, scene="fern")
    assert job(data_root, scene="llff/fern").recorded["scene"].startswith("llff/fern ")


def put(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8)).save(path)
    return path


@pytest.mark.parametrize("file", ["boat.jpg", "boat.JPEG", "boat.TIF", "boat.tiff", "boat.PNG", "Boat.png", "BOAT.JPG"])
@pytest.mark.parametrize("name", ["boat", "given"])
@pytest.mark.parametrize(("folder", "option"), [("images", "image"), ("masks", "mask")])
def test_pictures_of_other_kinds_and_names_in_other_case(
    file: str, name: str, folder: str, option: str, data_root: Path
) -> None:
    """By the name alone, or by that of the file, in whatever case."""
    path = put(data_root / folder / file)
    found = job(data_root, **{option: name if name == "boat" else file.lower()})
    assert (found.absent, found.options[option]) == ([], str(path))
    assert str(found.recorded[option]).startswith(f"{folder}/{file} sha256:")


def test_png_and_the_same_case_come_first_and_what_is_left_must_be_one(data_root: Path) -> None:
    put(data_root / "images" / "lena.jpg")
    put(data_root / "images" / "LENA.png")
    assert job(data_root, image="lena").options["image"] == str(data_root / "images" / "lena.png")
    assert job(data_root, image="lena.jpg").options["image"] == str(data_root / "images" / "lena.jpg")
    assert job(data_root, image="LENA").options["image"] == str(data_root / "images" / "LENA.png")
    put(data_root / "images" / "sea.jpg")
    put(data_root / "images" / "sea.tif")
    put(data_root / "images" / "Sea.bmp")
    with pytest.raises(PeakError, match=r"images/sea.jpg and images/sea.tif are both image 'sea'; rename one"):
        job(data_root, image="sea")
    (data_root / "images" / "note.txt").write_text("")
    assert job(data_root, image="note").absent == [data_root / "images" / "note.png"]
    assert job(data_root, image="x" * 300).absent
    put(data_root / "masks" / "Textural.tif")
    assert job(data_root, mask="textural").options["mask"] == str(data_root / "masks" / "Textural.tif")


def test_a_scene_in_other_case_is_found(data_root: Path) -> None:
    for name in ("Fern", "Lego"):
        (data_root / "llff" / name).mkdir(parents=True)
        (data_root / "llff" / name / "transforms.json").write_text("{}")
    for name in ("fern", "llff/fern"):
        assert job(data_root, scene=name).options["scene"] == str(data_root / "llff" / "Fern")
