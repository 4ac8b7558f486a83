"""Of pictures before plain white the white is transparent: by hand, against true alpha, and what photos are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.plain_background import with_alpha
from tests.nerf.data.scenes import dataset, parse
from tests.nerf.scene_factory import write_blender_scene, write_nerfstudio_scene


def over_white(rgba: np.ndarray) -> np.ndarray:
    values = rgba.astype(np.float64) / 255
    return np.round(255 * (values[..., :3] * values[..., 3:] + 1 - values[..., 3:])).astype(np.uint8)


def before_white(data: Path, change: Callable[[np.ndarray], np.ndarray] = lambda picture: picture) -> list[np.ndarray]:
    """Put the pictures of a scene with alpha before white, without an alpha channel; what they were."""
    truth = []
    for path in sorted(data.rglob("*.png")):
        truth.append(np.asarray(Image.open(path)))
        Image.fromarray(change(over_white(truth[-1]))).save(path)
    return truth


def disc(radius: float, colour: tuple[int, int, int], size: int = 48) -> np.ndarray:
    """(size, size, 4) uint8, with an antialiased edge."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    alpha = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return np.dstack([*(np.full((size, size), c) for c in colour), np.round(255 * alpha)]).astype(np.uint8)


def test_alpha_of_an_antialiased_disc() -> None:
    truth = disc(15.3, (200, 30, 90))
    found = with_alpha(over_white(truth))
    assert np.abs(found[..., 3].astype(int) - truth[..., 3]).max() <= 2
    seen = found[..., 3] > 25
    assert np.abs(found[seen][:, :3].astype(int) - truth[seen][:, :3]).max() <= 12
    assert np.abs(over_white(found).astype(int) - over_white(truth)).max() <= 1


def test_opacity_of_one_pixel_by_hand() -> None:
    """Half of a black pixel before white is 128 / 255 grey: a = 127 / 255."""
    picture = np.full((5, 9, 3), 255, np.uint8)
    picture[:, 4:] = 0
    picture[:, 3] = 128
    found = with_alpha(picture)
    assert found[2, :, 3].tolist() == [0, 0, 0, 127, 255, 255, 255, 255, 255]
    assert found[2, 3, :3].tolist() == [0, 0, 0]


def test_white_within_the_object() -> None:
    """A hole of 9 pixels is one, a highlight of 8 is not."""
    picture = np.full((20, 20, 3), 255, np.uint8)
    picture[2:18, 2:18] = (10, 60, 200)
    picture[4:7, 4:7] = 255
    picture[12:14, 10:14] = 255
    alpha = with_alpha(picture)[..., 3]
    assert (alpha[4:7, 4:7] == 0).all()
    assert (alpha[12:14, 10:14] == 255).all()


def test_a_pale_edge_is_opaque() -> None:
    """Where the object itself is nearly white its colour does not tell."""
    picture = np.full((12, 12, 3), 255, np.uint8)
    picture[3:9, 3:9] = 250
    assert (with_alpha(picture)[3:9, 3:9, 3] == 255).all()


@pytest.mark.parametrize("write", [write_blender_scene, write_nerfstudio_scene])
def test_a_scene_before_white_is_that_of_its_alpha(tmp_path: Path, write: Callable[..., Path]) -> None:
    with_its_own = parse(write(tmp_path / "a", alpha=True, size=48))
    data = write(tmp_path / "b", alpha=True, size=48)
    before_white(data)
    outputs = parse(data)
    assert outputs.metadata == {**with_its_own.metadata, "plain_background": True}
    np.testing.assert_array_equal(outputs.scene_box.aabb, with_its_own.scene_box.aabb)
    found = dataset(data).get_data(0, image_type="uint8")["image"].numpy()
    true = dataset(tmp_path / "a").get_data(0, image_type="uint8")["image"].numpy()
    assert found.shape == (48, 48, 4)
    assert np.abs(found[..., 3].astype(int) - true[..., 3]).mean() < 4
    np.testing.assert_allclose(dataset(data)[0]["image"].numpy(), found / 255, atol=1e-6)
    # The truth is what the file has.
    test = dataset(data, "test")
    assert test.get_data(0, image_type="uint8")["image"].shape == (48, 48, 3)
    assert test.metadata["background"] == "white"
    assert not test.metadata["solid_background"]


def test_it_is_said_and_can_be_left(tmp_path: Path, said: list[str]) -> None:
    data = write_nerfstudio_scene(tmp_path, alpha=True, size=48)
    before_white(data)
    assert not parse(data).metadata["unbounded"]
    assert said == [
        "all 7 pictures are of an object before plain white, which is taken for transparent from the border on; "
        "--plain-background False takes them for photos"
    ]
    outputs = parse(data, plain_background=False)
    assert outputs.metadata["unbounded"]
    assert not outputs.metadata["has_alpha"]


def test_alpha_put_before_white_by_option_is_found_again(tmp_path: Path) -> None:
    data = write_blender_scene(tmp_path, alpha=True, size=48)
    outputs = parse(data, use_alpha=False)
    assert outputs.metadata["has_alpha"]
    assert outputs.metadata["plain_background"]
    assert dataset(data, use_alpha=False).get_data(0, image_type="uint8")["image"].shape == (48, 48, 4)
    black = parse(data, use_alpha=False, background="black")
    assert black.metadata["solid_background"]
    assert not black.metadata["plain_background"]


def _one_not_white(picture: np.ndarray) -> np.ndarray:
    picture = picture.copy()
    picture[:, :3] = 254  # a quarter of the border, at least
    return picture


def test_what_is_not_exactly_white_is_a_photo(tmp_path: Path) -> None:
    data = write_nerfstudio_scene(tmp_path, alpha=True, size=16)
    before_white(data, _one_not_white)
    assert parse(data).metadata["unbounded"]


def test_jpeg_is_a_photo(tmp_path: Path) -> None:
    data = write_nerfstudio_scene(tmp_path, alpha=True, size=48)
    before_white(data)
    for path in sorted(data.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    file = data / "transforms.json"
    file.write_text(file.read_text().replace(".png", ".jpg"))
    assert parse(data).metadata["unbounded"]


def test_other_methods_read_the_files_as_they_are(tmp_path: Path) -> None:
    """nerfstudio's own data sets know nothing of it."""
    data = write_nerfstudio_scene(tmp_path, alpha=True, size=48)
    before_white(data)
    assert parse(data, for_others=True).metadata["unbounded"]


def test_runs_of_before_took_them_for_photos(tmp_path: Path) -> None:
    config = PeakDataParserConfig(data=tmp_path)
    state = dict(config.__dict__)
    del state["plain_background"]
    old = PeakDataParserConfig.__new__(PeakDataParserConfig)
    old.__setstate__(state)
    assert not old.plain_background
