"""What lies behind the box of an unbounded scene."""

import pytest
import torch

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.nerf.render.background import BackgroundField, contract
from tests.nerf.runs import start, tiny_config, train
from tests.nerf.scene_factory import write_nerfstudio_scene

GRID = HashGridConfig(n_levels=2, n_features=2, log2_table_size=8, base_resolution=4, finest_resolution=8)


def background_field(n_samples: int = 4) -> BackgroundField:
    torch.manual_seed(0)
    return BackgroundField(FieldConfig(hash_grid=GRID, hidden_dim=8, n_hidden=1), n_samples)


def test_contraction_by_hand_and_continuous_at_the_box() -> None:
    x = torch.tensor([[0.5, -0.25, 0.0], [2.0, 0.0, 1.0], [0.0, -1e9, 0.0]])
    expected = torch.tensor([[0.25, -0.125, 0.0], [0.75, 0.0, 0.375], [0.0, -1.0, 0.0]])
    torch.testing.assert_close(contract(x), expected)
    face = torch.tensor([[1.0, 0.3, 0.2]])
    torch.testing.assert_close(contract(face * (1 - 1e-4)), contract(face * (1 + 1e-4)), atol=2e-4, rtol=0)


def test_colour_is_the_weighted_mean_of_samples_behind_the_box() -> None:
    """Against a loop over the samples of one ray."""
    far = background_field().eval()
    origin, direction = torch.tensor([[0.2, 0.1, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    through, colour = 1.0, torch.zeros(3)
    for k in range(4):
        s = (k + 0.5) / 4
        x = contract(origin + (0.8 + s / (1 - s)) * direction)
        density, geometry = far.field.density(x)
        opacity = 1.0 if k == 3 else 1 - float(torch.exp(-density[0].detach()))
        colour = colour + through * opacity * far.field.colour(geometry, direction)[0]
        through *= 1 - opacity
    torch.testing.assert_close(far(origin, direction)[0], colour)


def test_rays_that_miss_the_box_and_none_at_all() -> None:
    far = background_field()
    away = far(torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]), 0.1)
    assert bool(((away > 0) & (away < 1)).all())
    assert far(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="at least 1 sample"):
        background_field(0)


def unbounded_config(tmp_path, steps: int = 12, n: int = 9, **model):
    scene = tmp_path / "photos"
    if not scene.exists():
        write_nerfstudio_scene(scene, n=n, size=16, k1=-0.05, k2=0.01)
    config = tiny_config(tmp_path, steps=steps, **model)
    config.data = config.pipeline.datamanager.data = scene
    return config


def test_photos_train_through_the_background_field(tmp_path) -> None:
    trainer = start(unbounded_config(tmp_path))
    model = trainer.pipeline.model
    assert model.far is not None
    _, losses, _ = trainer.pipeline.get_train_loss_dict(0)
    losses["rgb"].backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.far.field.colour_network.parameters())
    groups = model.get_param_groups()
    named = {id(p) for group in groups.values() for p in group}
    assert all(id(p) in named for p in model.far.parameters())


@pytest.mark.parametrize(("views", "asked", "expected"), [(4, None, 0.03), (18, None, 0.03), (18, 0.0, 0.0)])
def test_photos_have_the_distortion_loss(tmp_path, views: int, asked: float | None, expected: float) -> None:
    model = start(unbounded_config(tmp_path, n=22, num_views=views, distortion_weight=asked)).pipeline.model
    assert model.num_train_data == views
    assert model.config.distortion_weight == expected


def test_a_rendering_is_foreground_over_the_background(tmp_path) -> None:
    trainer = train(unbounded_config(tmp_path))
    model = trainer.pipeline.model.eval()
    camera = trainer.pipeline.datamanager.eval_dataset.cameras[:1]
    outputs = model.get_outputs_for_camera(camera)
    foreground = outputs["rgb"] - (1 - outputs["accumulation"]) * outputs["background"]
    assert float(foreground.min()) > -1e-5
    rgba = model.get_rgba_image(outputs)
    torch.testing.assert_close(rgba[..., :3] * rgba[..., 3:], foreground.clamp(0, 1), atol=1e-3, rtol=0)


def test_zero_samples_leave_it_out(tmp_path) -> None:
    assert start(unbounded_config(tmp_path, background_samples=0)).pipeline.model.far is None
