"""LLFF folders: poses, intrinsics, pictures, splits and bounds against values worked out by hand."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import dataparser, llff
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig, choose_views
from tests.nerf.scene_factory import ring_pose, write_nerfstudio_scene

# A camera that looks along -x, its right along +y, its up along +z: as columns down, right, back.
DOWN, RIGHT, BACK = (0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)
HEIGHT, WIDTH, FOCAL = 64, 96, 80.0  # of the full size; images_4 is 24 x 16
AS_WRITTEN = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}


@pytest.fixture(autouse=True)
def _silent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataparser, "_said", set())


def row(position: tuple[float, float, float], near: float = 2.0, far: float = 10.0) -> list[float]:
    matrix = np.stack([DOWN, RIGHT, BACK, position, (HEIGHT, WIDTH, FOCAL)], axis=1)
    return [*matrix.ravel(), near, far]


def write_pictures(folder: Path, n: int, size: tuple[int, int] = (WIDTH // 4, HEIGHT // 4), mode: str = "RGB") -> None:
    """Grey pictures; each one's value is its place in the order of names."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new("L", size, i).convert(mode).save(folder / f"image{i:03d}.png")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """20 cameras in a row along y, 0.5 apart, with images_4 only."""
    write_pictures(tmp_path / "row" / "images_4", 20)
    rows = [row((0.0, 0.5 * i, 0.0), near=2.0 + i, far=40.0 + i) for i in range(20)]
    np.save(tmp_path / "row" / "poses_bounds.npy", np.array(rows))
    return tmp_path / "row"


def parse(data: Path, split: str = "train", **options) -> DataparserOutputs:
    return PeakDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split=split)


def shown(outputs: DataparserOutputs) -> list[int]:
    """Which of the scene's pictures these are."""
    return [int(np.asarray(Image.open(path)).flat[0]) for path in outputs.image_filenames]


def edit(data: Path, change: Callable[[np.ndarray], object]) -> None:
    rows = np.load(data / "poses_bounds.npy")
    change(rows)
    np.save(data / "poses_bounds.npy", rows)


# --- cameras


def test_axes_become_right_up_back(tmp_path: Path):
    np.save(tmp_path / "poses_bounds.npy", np.array([row((1.0, 2.0, 3.0), near=4.0, far=5.0)]))
    poses, sizes, bounds = llff.read_poses_bounds(tmp_path / "poses_bounds.npy")
    # right +y, up +z, back +x
    assert poses.tolist() == [[[0, 0, 1, 1], [1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]]]
    assert sizes.tolist() == [[HEIGHT, WIDTH, FOCAL]]
    assert bounds.tolist() == [[4, 5]]


def test_pixels_look_where_they_look_in_the_files_world(scene: Path):
    """Pixel (0, 0) of images_4 is 11.5 px left and 7.5 px above the centre, at a focal length of 20."""
    outputs = parse(scene, **AS_WRITTEN)
    rays = outputs.cameras.generate_rays(torch.zeros(1, 1, dtype=torch.long), coords=torch.tensor([[0.5, 0.5]]))
    to_file = outputs.dataparser_transform[:, :3].T.float()
    expected = torch.tensor([-20.0, -11.5, 7.5])
    torch.testing.assert_close(to_file @ rays.directions[0], expected / expected.norm())
    offset = outputs.dataparser_transform[:, 3].float()
    torch.testing.assert_close(to_file @ (rays.origins[0] - offset), torch.tensor([0.0, 0.5, 0.0]))
    # The first training picture is the second of the file; the cameras' row lies along x, and they look along -z.
    torch.testing.assert_close(rays.origins[0], torch.tensor([0.5, 0.0, 0.0]))


def test_intrinsics_are_those_of_the_pictures_that_are_read(scene: Path):
    cameras = parse(scene, downscale_factor=4).cameras
    assert (cameras.width[0].item(), cameras.height[0].item()) == (24, 16)
    got = [float(value[0]) for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy)]
    assert got == [20.0, 20.0, 12.0, 8.0]


def test_sizes_may_be_rounded_either_way(scene: Path):
    """96 x 64 at a fifth is 19.2 x 12.8; the focal length follows each side as it is."""
    write_pictures(scene / "images_5", 20, (19, 13))
    cameras = parse(scene, downscale_factor=5).cameras
    assert float(cameras.fx[0]) == pytest.approx(80 * 19 / 96)
    assert float(cameras.fy[0]) == pytest.approx(80 * 13 / 64)


def test_inward_cameras_keep_the_files_axes():
    ring = np.stack([ring_pose(2 * math.pi * i / 6) for i in range(5)])  # of 6: the mean axis is short, not 0
    assert llff.mean_axes(ring).tolist() == np.eye(3).tolist()


# --- protocol


def test_every_eighth_picture_is_for_testing(scene: Path):
    rest = [i for i in range(20) if i not in (0, 8, 16)]
    assert shown(parse(scene, "train")) == rest
    assert shown(parse(scene, "val")) == shown(parse(scene, "test")) == [0, 8, 16]
    assert shown(parse(scene, "test", eval_interval=5)) == [0, 5, 10, 15]


def test_three_views_are_evenly_spaced_in_the_rest(scene: Path):
    """Of 17 training pictures 1-7, 9-15, 17-19 those at 0, 8, 16: pictures 1, 10, 19."""
    config = PeakDataParserConfig(data=scene, num_views=3)
    assert shown(config.setup().get_dataparser_outputs("train")) == [1, 10, 19]
    assert config.resolve_views() == (0, 8, 16)


@pytest.mark.parametrize("num_views", [2, 3, 6, 9, 12])
def test_views_are_those_of_regnerf_and_freenerf(num_views: int):
    for n_train in range(num_views, 120):
        theirs = [round(i) for i in np.linspace(0, n_train - 1, num_views)]
        assert list(choose_views(n_train, num_views, None, Path())) == theirs


def test_bounds_of_each_view_in_units_of_the_poses(scene: Path):
    """The row of 20 cameras, 9.5 long, is scaled into +-1."""
    outputs = parse(scene, "test")
    assert outputs.dataparser_scale == pytest.approx(1 / 4.75)
    bounds = outputs.metadata["bounds"]
    assert bounds.dtype == torch.float32
    torch.testing.assert_close(bounds, torch.tensor([[2.0, 40.0], [10.0, 48.0], [18.0, 56.0]]) / 4.75)
    assert "bounds" not in parse(write_nerfstudio_scene(scene.parent / "capture")).metadata


def test_the_box_begins_in_front_of_the_nearest_depth(scene: Path, capsys):
    """0.9 x 2 ahead of the row, in units of the poses; cameras look along +y after the parser has turned z up."""
    edit(scene, lambda rows: rows.__setitem__((slice(None), 15), 2.0))
    low, high = parse(scene).scene_box.aabb * 4.75
    torch.testing.assert_close(low, torch.tensor([-4.0, 1.8, -4.0]))
    torch.testing.assert_close(high, torch.tensor([4.0, 9.8, 4.0]))
    assert "unbounded scene, contracted beyond its box of" in capsys.readouterr().out


def test_the_order_of_names_decides_not_the_names(scene: Path):
    write_pictures(scene / "images_2", 20, (48, 32))
    for i, path in enumerate(sorted((scene / "images_2").iterdir())):
        path.rename(path.with_name(f"IMG_{4026 + i}.PNG"))
    (scene / "images_2" / "Thumbs.db").write_bytes(b"no picture")
    outputs = parse(scene, "test", downscale_factor=2)
    assert shown(outputs) == [0, 8, 16]
    assert outputs.image_filenames[1] == scene / "images_2" / "IMG_4034.PNG"


# --- pictures


@pytest.mark.parametrize(
    ("longer_sides", "factor"),
    [
        ({1: 4032, 2: 2016, 4: 1008, 8: 504}, 8),  # fern: 504 lies in the range, 1008 does not
        ({1: 1600, 4: 400, 8: 200}, 4),  # 400 is short of 500 by a factor of 1.25, 1600 is over 1000 by 1.6
        ({1: 1800, 8: 225}, 1),
        ({2: 980, 4: 490, 8: 245}, 2),
        ({2: 1000, 4: 500}, 2),  # both in the range: the larger
        ({1: 90}, 1),
        ({16: 90}, 16),
    ],
)
def test_the_factor_by_default(tmp_path: Path, capsys, longer_sides: dict[int, int], factor: int):
    for n, width in longer_sides.items():
        write_pictures(tmp_path / ("images" if n == 1 else f"images_{n}"), 1, (width, 10))
    write_pictures(tmp_path / "images_700x500", 1, (700, 500))
    (tmp_path / "images_32").mkdir()
    chosen = llff.picture_folder(tmp_path, None, print)
    name = "images" if factor == 1 else f"images_{factor}"
    assert chosen == tmp_path / name
    size = f"{longer_sides[factor]}x10"
    assert f"LLFF scene, pictures of {name}, {size} (--downscale-factor {factor})" in capsys.readouterr().out


def test_the_factor_is_said_once(scene: Path, capsys):
    config = PeakDataParserConfig(data=scene)
    config.resolve_views()
    for split in ("train", "test"):
        config.setup().get_dataparser_outputs(split)
    assert capsys.readouterr().out.count("pictures of images_4, 24x16 (--downscale-factor 4)") == 1


def test_a_transforms_file_goes_first_unless_the_array_is_named(scene: Path, capsys):
    write_nerfstudio_scene(scene, n=9)
    assert parse(scene).metadata["kind"] == "nerfstudio"
    assert "holds a transforms file and poses_bounds.npy: using the first" in capsys.readouterr().out
    assert parse(scene / "poses_bounds.npy", downscale_factor=4).metadata["kind"] == "llff"


# --- what a user can get wrong


def _save(make: Callable[[np.ndarray], object]) -> Callable[[Path], object]:
    """Write what is made of the right rows."""
    return lambda d: np.save(d / "poses_bounds.npy", make(np.load(d / "poses_bounds.npy")), allow_pickle=True)


def _set(index: tuple[int, int], value: float) -> Callable[[Path], object]:
    return lambda d: edit(d, lambda rows: rows.__setitem__(index, value))


def _truncate(data: Path) -> None:
    path = data / "poses_bounds.npy"
    path.write_bytes(path.read_bytes()[:-200])


def _archive(data: Path) -> None:
    np.savez(data / "rows.npz", rows=np.load(data / "poses_bounds.npy"))
    (data / "rows.npz").replace(data / "poses_bounds.npy")


def _one_picture(data: Path) -> None:
    for path in sorted((data / "images_4").iterdir())[1:]:
        path.unlink()
    np.save(data / "poses_bounds.npy", np.load(data / "poses_bounds.npy")[:1])


def _mirror(rows: np.ndarray) -> np.ndarray:
    rows[4, [0, 5, 10]] *= -1  # up for down
    return rows


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, r"poses_bounds.npy: cannot be read \(it is truncated\); copy it again"),
    "truncated header": (lambda d: (d / "poses_bounds.npy").write_bytes(b"\x93NUMPY\x01\x00v"), r"\(it is truncated\)"),
    "broken header": (
        lambda d: (d / "poses_bounds.npy").write_bytes(b"\x93NUMPY\x01\x00\x04\x00{'(\n"),
        r"poses_bounds.npy: cannot be read \(.*\); copy it again",
    ),
    "empty": (lambda d: (d / "poses_bounds.npy").write_bytes(b""), r"cannot be read \(it is truncated\); copy it"),
    "text": (lambda d: (d / "poses_bounds.npy").write_text("1 2 3 4 5"), r"\(it is no .npy file\); copy it"),
    "objects": (_save(lambda rows: rows.astype(object)), r"cannot be read \(it holds Python objects\); .*by np.save"),
    "archive": (_archive, r"poses_bounds.npy: cannot be read \(it is no .npy file\)"),
    "15 columns": (
        _save(lambda rows: rows[:, :15]),
        r"has shape \(20, 15\) of float64; LLFF's has 17 numbers for each",
    ),
    "one row": (_save(lambda rows: rows[0]), r"has shape \(17,\) of float64"),
    "complex": (_save(lambda rows: rows.astype(complex)), r"has shape \(20, 17\) of complex128"),
    "no rows": (_save(lambda rows: rows[:0]), r"has no rows; it needs one for each picture"),
    "NaN": (_set((3, 4), math.nan), r"row 3 \(counted from 0\) has NaN or infinity; remove"),
    "infinite far": (_set((2, 16), math.inf), r"row 2 .* has NaN or infinity"),
    "mirrored": (_save(_mirror), r"row 4 .* is no rotation by the axes down, right, back"),
    "scaled axes": (_set((7, 1), 1.2), r"row 7 .* is no rotation"),
    "no focal length": (_set((5, 14), 0.0), r"row 5 .* has no height, width and focal length above 0; correct its"),
    "near is 0": (_set((1, 15), 0.0), r"row 1 .* lacks depths 0 < near < far; correct"),
    "far before near": (_set((1, 16), 2.5), r"row 1 .* lacks depths 0 < near < far"),
    "19 pictures": (
        lambda d: (d / "images_4" / "image007.png").unlink(),
        r"poses_bounds.npy: has 20 rows but images_4 has 19 pictures; .*order of name",
    ),
    "a row too few": (_save(lambda rows: rows[1:]), r"has 19 rows but images_4 has 20 pictures"),
    "no pictures": (
        lambda d: (d / "images_4").rename(d / "images_1008x756"),
        r"row: poses_bounds.npy has no pictures beside it; put them into images, or images_4",
    ),
    "turned pictures": (
        lambda d: write_pictures(d / "images_4", 20, (16, 24)),
        r"image001.png is 16x24, another shape than the 96x64 of .*poses_bounds.npy; use the images that the poses",
    ),
    "one picture": (_one_picture, r"1 frames with every 8th for .* nothing to train on; use at least 2 .* 2 or more$"),
    "broken first picture": (
        lambda d: (d / "images_4" / "image000.png").write_bytes(b"nothing"),
        r"image000.png: image is broken or truncated",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said_in_one_line(scene: Path, fault: str):
    spoil, message = FAULTS[fault]
    spoil(scene)
    with pytest.raises(PeakError, match=message) as raised:
        parse(scene)
    assert "\n" not in str(raised.value)


def test_a_missing_factor_names_what_there_is(scene: Path):
    with pytest.raises(
        PeakError, match=r"no pictures in images_8, which .*; there is images_4: use --downscale-f.* 4$"
    ):
        parse(scene, downscale_factor=8)
    write_pictures(scene / "images", 20, (WIDTH, HEIGHT))
    with pytest.raises(PeakError, match=r"images_2, .* there are images, images_4: use --downscale-factor 1 or 4$"):
        parse(scene, downscale_factor=2)


def test_a_folder_of_pictures_is_no_scene(scene: Path):
    with pytest.raises(PeakError, match=r"did you mean \S+/row, with peak-data --downscale-factor 4\?$"):
        parse(scene / "images_4")
    with pytest.raises(PeakError, match=r"did you mean \S+/row\?$"):
        parse(scene.parent)
