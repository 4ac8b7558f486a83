"""Scenes of `benchmarks/gpu.py`, read without nerfstudio, are those that `peak-data` reads with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu_kernels import SEED
from benchmarks.scenes import read_pictures
from benchmarks.train_field import Training
from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.pixel_rays import PixelRays
from peak_nerf.nerf.options import ModelOptions
from tests.nerf.scene_factory import edit_frame, edit_json, write_blender_scene, write_nerfstudio_scene

CPU = torch.device("cpu")
LENS: dict[str, Any] = {
    "fl_x": 20.0, "fl_y": 21.0, "cx": 7.5, "cy": 8.25, "k1": 0.06, "k2": -0.08, "p1": -0.01, "p2": 0.02,
}  # fmt: skip


def photos(folder: Path, n: int = 17, **values: Any) -> Path:
    return write_nerfstudio_scene(folder / "photos", n=n, **{**LENS, "aabb_scale": 4, **values})


@pytest.mark.parametrize("split", ["train", "test"])
def test_photos_have_the_rays_and_the_cube_of_the_product(tmp_path: Path, split: str) -> None:
    scene = photos(tmp_path)
    ours = read_pictures(scene, split, 99, 99, 99, CPU)
    theirs = PeakDataParserConfig(data=scene).setup().get_dataparser_outputs(split)
    assert len(ours.rgba) == len(theirs.image_filenames) == {"train": 14, "test": 3}[split]
    assert ours.unbounded
    assert theirs.metadata["unbounded"]
    low, high = theirs.scene_box.aabb
    assert ours.half == pytest.approx(float((high - low).max() / 2), rel=1e-6)
    picture, pixel = torch.randint(len(ours.rgba), (300,)), torch.randint(256, (300,))
    rays = PixelRays(theirs.cameras).bundle(picture, pixel % 16 + 0.5, pixel // 16 + 0.5)
    origins, directions = ours.rays(picture, pixel)
    torch.testing.assert_close(origins, (rays.origins - (low + high) / 2) / ours.half, atol=1e-5, rtol=0)
    torch.testing.assert_close(directions, rays.directions, atol=5e-4, rtol=0)  # a hundredth of a pixel
    for mine, path in zip(ours.rgba, theirs.image_filenames, strict=True):
        assert np.array_equal(mine[..., :3].numpy(), np.asarray(Image.open(path)))
        assert bool((mine[..., 3] == 255).all())


def test_smaller_pictures_look_the_same_way(tmp_path: Path) -> None:
    """Each pixel of half the size looks between its four."""
    scene = photos(tmp_path)
    whole, half = (read_pictures(scene, "train", 99, size, 99, CPU) for size in (16, 8))
    assert half.rgba.shape[1:3] == (8, 8)
    four = whole.directions.view(8, 2, 8, 2, 3).mean((1, 3)).view(64, 3)
    torch.testing.assert_close(half.directions, four, atol=2e-3, rtol=0)
    assert torch.equal(whole.square(8).directions, half.directions)


def test_a_blender_scene_has_the_rays_of_the_product(tmp_path: Path) -> None:
    scene = write_blender_scene(tmp_path / "scene")
    ours = read_pictures(scene, "train", 99, 99, 4, CPU)
    theirs = PeakDataParserConfig(data=scene).setup().get_dataparser_outputs("train")
    assert (len(ours.rgba), ours.unbounded, ours.half) == (4, False, 1.5)
    picture, pixel = torch.randint(4, (100,)), torch.randint(256, (100,))
    origins, directions = ours.rays(picture, pixel)
    rays = PixelRays(theirs.cameras).bundle(torch.tensor([0, 1, 3, 4])[picture], pixel % 16 + 0.5, pixel // 16 + 0.5)
    torch.testing.assert_close(origins, rays.origins / 1.5, atol=1e-6, rtol=0)
    torch.testing.assert_close(directions, rays.directions, atol=1e-5, rtol=0)


def test_a_field_learns_photos(tmp_path: Path) -> None:
    """With what scenes without alpha have: a sky, the distortion loss, rays that begin at the cube at first."""
    scene = photos(tmp_path, n=24)
    pictures, views = (read_pictures(scene, split, 99, 99, 99, CPU) for split in ("train", "test"))
    torch.manual_seed(SEED)
    options = ModelOptions(
        n_levels=4, log2_table_size=12, finest_resolution=64, steps_per_side=48, occupancy_resolution=32,
        occupancy_probes=1024, target_samples=1500, cascades=3, kar_queries=16, coarse_steps=20,
    )  # fmt: skip
    training = Training(pictures, options, kar=True)
    before = training.psnr(views)
    training.run(1e9, 200, lambda: None)
    assert training.steps == 200
    after = training.psnr(views)
    assert after > before + 5, (before, after)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"camera_model": "OPENCV_FISHEYE"}, "camera_model is 'OPENCV_FISHEYE'"),
        ({"w": None}, "needs w, h and fl_x"),
        ({"w": 8}, "pictures are 16 x 16, another shape than its w x h"),
    ],
)
def test_other_photos_are_refused_by_name(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    scene = photos(tmp_path)
    edit_json(scene / "transforms.json", **values)
    with pytest.raises(PeakError, match=message):
        read_pictures(scene, "train", 99, 99, 99, CPU)


def test_what_is_no_scene_of_one_lens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PeakError, match=r"has no transforms_test.json and no transforms.json; --data takes a Blender"):
        read_pictures(tmp_path, "test", 99, 99, 99, CPU)
    scene = photos(tmp_path)
    edit_frame(scene / "transforms.json", 3, fl_x=30.0)
    with pytest.raises(PeakError, match=r"2 lenses; benchmarks/gpu.py takes photos of one"):
        read_pictures(scene, "train", 99, 99, 99, CPU)
    edit_frame(scene / "transforms.json", 3, fl_x=LENS["fl_x"])
    (scene / "images" / "frame_00003.png").write_bytes(b"no picture")
    with pytest.raises(PeakError, match=r"frame_00003.png: cannot be read"):
        read_pictures(scene, "train", 99, 99, 99, CPU)
    with pytest.raises(PeakError, match="1 frame, and one of 8 is held out"):
        read_pictures(photos(tmp_path / "one", n=1), "train", 99, 99, 99, CPU)
