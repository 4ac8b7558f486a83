"""Rays and pixels belong together, and virtual views lie between the training cameras."""

import pytest
import torch
from PIL import Image

from tests.nerf.runs import start, tiny_config
from tests.nerf.scene_factory import write_nerfstudio_scene


@pytest.fixture(scope="module")
def datamanager(tmp_path_factory: pytest.TempPathFactory):
    return start(tiny_config(tmp_path_factory.mktemp("data"))).pipeline.datamanager


def test_rays_equal_nerfstudios(datamanager) -> None:
    n = 200
    camera = torch.randint(12, (n,))
    row, column = torch.randint(32, (2, n))
    ours = datamanager.rays(camera, row, column)
    theirs = datamanager.train_dataset.cameras.generate_rays(
        camera_indices=camera[:, None], coords=torch.stack((row, column), -1) + 0.5
    )
    assert torch.allclose(ours.origins, theirs.origins, atol=1e-6)
    assert torch.allclose(ours.directions, theirs.directions, atol=1e-6)
    assert torch.allclose(ours.pixel_area, theirs.pixel_area, rtol=5e-2)


def test_pixels_belong_to_their_rays(datamanager) -> None:
    """A ray of the batch hits the unit ball exactly where its pixel is opaque."""
    bundle, batch = datamanager.next_train(0)
    b = (bundle.origins * bundle.directions).sum(-1)
    nearest_squared = bundle.origins.square().sum(-1) - b**2
    clear = (nearest_squared - 1).abs() > 0.05  # leave the silhouette's pixels out
    assert torch.equal((nearest_squared < 1)[clear], (batch["image"][:, 3] > 127)[clear])
    point = bundle.origins + (-b - (1 - nearest_squared).clamp(min=0).sqrt())[:, None] * bundle.directions
    inside = nearest_squared < 0.8
    colour = batch["image"][inside, :3].float() / 255
    assert torch.allclose(colour, 0.5 + 0.5 * point[inside], atol=0.02)


def test_virtual_views_lie_between_the_cameras(datamanager) -> None:
    rays = datamanager.virtual_rays(300)
    seen = datamanager.train_dataset.cameras.camera_to_worlds[:, :, 3]
    assert torch.allclose(rays.directions.norm(dim=-1), torch.ones(300), atol=1e-5)
    # On a ring of 12 cameras of radius 3.87, chords to neighbours stay within it and near its height.
    assert (rays.origins[:, 2] - 1.0).abs().max() < 1e-4
    assert rays.origins[:, :2].norm(dim=-1).max() <= seen[:, :2].norm(dim=-1).max() + 1e-4
    assert rays.origins[:, :2].norm(dim=-1).min() > 1.5
    assert (torch.cdist(rays.origins, seen).amin(-1) > 1e-3).float().mean() > 0.9
    # They look at the scene: most pass within 2 of the origin.
    b = (rays.origins * rays.directions).sum(-1)
    assert (b < 0).all()
    assert ((rays.origins.square().sum(-1) - b**2).clamp(min=0).sqrt() < 2.1).all()


def test_rgb_scene_with_distortion_takes_the_general_camera(tmp_path) -> None:
    config = tiny_config(tmp_path)
    scene = write_nerfstudio_scene(tmp_path / "photos", n=9, size=32, k1=0.05)
    config.data = config.pipeline.datamanager.data = scene
    datamanager = start(config).pipeline.datamanager
    assert not datamanager.is_pinhole
    bundle, batch = datamanager.next_train(0)
    assert bundle.origins.shape == (512, 3)
    assert batch["image"].shape == (512, 3)
    assert torch.isfinite(bundle.directions).all()


@pytest.mark.parametrize("by_division", [True, False])
def test_every_pixel_has_its_camera(datamanager, monkeypatch: pytest.MonkeyPatch, by_division: bool) -> None:
    assert datamanager.pixels_per_image == 32 * 32
    if not by_division:
        monkeypatch.setattr(datamanager, "pixels_per_image", None)
    pixel = torch.arange(len(datamanager.pixels))
    assert torch.equal(datamanager._camera_of(pixel), torch.arange(12).repeat_interleave(32 * 32))


def test_an_opaque_alpha_channel_is_none(datamanager, tmp_path) -> None:
    assert datamanager.has_alpha
    config = tiny_config(tmp_path)
    for path in (config.data / "train").glob("*.png"):
        image = Image.open(path)
        image.putalpha(255)
        image.save(path)
    opaque = start(config).pipeline.datamanager
    assert opaque.pixels.shape[-1] == 4
    assert not opaque.has_alpha
    assert opaque.silhouettes() is None
