"""Rays and pixels belong together, and virtual views lie between the training cameras."""

import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from PIL import Image

from peak_nerf.nerf.data import pixels
from peak_nerf.nerf.data.pixels import Drawn
from tests.nerf.runs import start, tiny_config
from tests.nerf.scene_factory import write_nerfstudio_scene


@pytest.fixture(scope="module")
def datamanager(tmp_path_factory: pytest.TempPathFactory):
    return start(tiny_config(tmp_path_factory.mktemp("data"))).pipeline.datamanager


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


def test_rays_of_photos_with_distortion_are_nerfstudios(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path)
    scene = write_nerfstudio_scene(tmp_path / "photos", n=9, size=32, k1=0.05)
    config.data = config.pipeline.datamanager.data = scene
    datamanager = start(config).pipeline.datamanager
    drawn: list[Drawn] = []
    draw = datamanager.full_size.draw
    monkeypatch.setattr(datamanager.full_size, "draw", lambda n: drawn.append(draw(n)) or drawn[-1])
    bundle, batch = datamanager.next_train(0)
    assert batch["image"].shape == (512, 3)
    theirs = datamanager.train_dataset.cameras.generate_rays(
        camera_indices=drawn[0].camera[:, None], coords=torch.stack((drawn[0].v, drawn[0].u), -1)
    )
    assert torch.allclose(bundle.directions, theirs.directions, atol=1e-4)
    assert torch.equal(bundle.origins, theirs.origins)


def test_training_begins_on_small_copies(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter until 10 % of the training, half until 30 %; a pixel of a copy has the ray through its middle."""
    monkeypatch.setattr(pixels, "SMALLEST", 32)
    config = tiny_config(tmp_path, steps=20)
    config.pipeline.datamanager.coarse_to_fine = True
    trainer = start(config)
    datamanager = trainer.pipeline.datamanager
    shrunken = []
    for table in (table for _, table in datamanager.tables):
        monkeypatch.setattr(table, "draw", lambda n, t=table, f=table.draw: shrunken.append(t.factor) or f(n))
    for step in range(20):
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        datamanager.next_train(step)
    assert shrunken == [4] * 2 + [2] * 4 + [1] * 14


def test_an_opaque_alpha_channel_is_none(datamanager, tmp_path) -> None:
    assert datamanager.has_alpha
    config = tiny_config(tmp_path)
    for path in (config.data / "train").glob("*.png"):
        image = Image.open(path)
        image.putalpha(255)
        image.save(path)
    opaque = start(config).pipeline.datamanager
    assert opaque.full_size.colours.shape[-1] == 4
    assert not opaque.has_alpha
    assert opaque.silhouettes() is None
