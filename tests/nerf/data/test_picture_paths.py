"""Pictures that are not where their frames say are found where they can only be, and nowhere else."""

from pathlib import Path

import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from tests.nerf.data.scenes import parse
from tests.nerf.scene_factory import edit_frame, write_blender_scene

NAME = "images/frame_0000{}.png"
FOUND = {
    "windows": "C:\\Users\\me\\fox\\images\\frame_0000{}.png",
    "windows, elsewhere": "D:\\photos\\frame_0000{}.png",
    "absolute": "/home/me/fox/images/frame_0000{}.png",
    "absolute, elsewhere": "/home/me/frame_0000{}.png",
    "above": "../fox/images/frame_0000{}.png",
    "longer": "fox/images/frame_0000{}.png",
    "shorter": "frame_0000{}.png",
    "case": "images/Frame_0000{}.PNG",
    "case of a folder": "Images/frame_0000{}.png",
    "no extension": "/home/me/fox/images/frame_0000{}",
}


def n_frames(data: Path) -> int:
    return sum(len(parse(data, split).image_filenames) for split in ("train", "val"))


@pytest.mark.parametrize("how", FOUND)
def test_pictures_are_found_by_the_last_parts_of_their_names(capture: Path, said: list[str], how: str) -> None:
    for i in range(9):
        edit_frame(capture / "transforms.json", i, file_path=FOUND[how].format(i))
    paths = parse(capture).image_filenames + parse(capture, "val").image_filenames
    assert [path.relative_to(capture).as_posix() for path in paths] == [
        NAME.format(i) for i in (1, 2, 3, 4, 5, 6, 7, 0, 8)
    ]
    assert len(said) == 1
    assert "9 pictures are not where the file says and found by the last parts of the name" in said[0]


@pytest.mark.parametrize("instead", ["images_2", "masks", "other", "depth"])
def test_another_file_of_that_name_is_not_the_picture(capture: Path, said: list[str], instead: str) -> None:
    (capture / instead).mkdir()
    (capture / "images" / "frame_00003.png").rename(capture / instead / "frame_00003.png")
    assert len(parse(capture).image_filenames) == 6
    assert "1 of 7 frames have no image and are left out: images/frame_00003.png" in said[0]


def test_two_files_of_that_name_are_none(capture: Path) -> None:
    for folder in ("a", "b"):
        (capture / folder).mkdir()
        Image.new("RGB", (16, 16)).save(capture / folder / "x.png")
    edit_frame(capture / "transforms.json", 3, file_path="/home/me/x.png")
    assert n_frames(capture) == 8


def test_the_picture_of_another_frame_is_not_taken(capture: Path) -> None:
    edit_frame(capture / "transforms.json", 3, file_path="/other/rig/frame_00002.png")
    assert n_frames(capture) == 8


def test_masks_too(capture: Path) -> None:
    (capture / "masks").mkdir()
    for i in range(9):
        Image.new("L", (16, 16), 255).save(capture / "masks" / f"{i}.png")
        edit_frame(capture / "transforms.json", i, mask_path=f"C:\\fox\\masks\\{i}.PNG")
    assert parse(capture).mask_filenames == [capture / "masks" / f"{i}.png" for i in range(1, 8)]


def test_nothing_is_left_out_of_a_blender_scene_but_case_does_not_count(tmp_path: Path) -> None:
    data = write_blender_scene(tmp_path)
    (data / "train" / "r_1.png").rename(data / "train" / "R_1.PNG")
    assert parse(data).image_filenames[1].name == "R_1.PNG"
    (data / "train" / "r_2.png").unlink()
    with pytest.raises(PeakError, match=r"train/r_2.png: image is missing \(1 of 6"):
        parse(data)


@pytest.mark.parametrize("place", ["images_2/{}", "images/{}_2"])
def test_smaller_copies_of_a_rig_keep_their_folders(capture: Path, place: str) -> None:
    """Two cameras whose pictures have the same names; those of the right one are of one colour."""
    for i in range(9):
        side, name = ("left", "right")[i % 2], f"{i // 2}.png"
        for path, size in ((Path("images") / side / name, 1), (Path(place.format(side)) / name, 2)):
            (capture / path).parent.mkdir(parents=True, exist_ok=True)
            picture = Image.open(capture / NAME.format(i)).convert("RGB")
            picture = picture if side == "left" else Image.new("RGB", picture.size, "green")
            picture.resize((picture.width // size, picture.height // size)).save(capture / path)
        edit_frame(capture / "transforms.json", i, file_path=f"images/{side}/{name}")
    outputs = [parse(capture, split, downscale_factor=2) for split in ("train", "val")]
    paths = {path.relative_to(capture).as_posix() for output in outputs for path in output.image_filenames}
    assert paths == {f"{place.format(('left', 'right')[i % 2])}/{i // 2}.png" for i in range(9)}
