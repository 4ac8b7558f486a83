"""Rays of which a box cuts a part out."""

import math

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components.renderers import background_color_override_context

from peak_nerf.nerf.render.crop import crop_of, cropped
from tests.nerf.runs import tiny_config, train
from tests.nerf.scene_factory import write_nerfstudio_scene

LEVEL = (0.0, 0.0, 0.0)


def rays(origins: list[list[float]], directions: list[list[float]]) -> RayBundle:
    n = len(origins)
    return RayBundle(
        origins=torch.tensor(origins, dtype=torch.float32),
        directions=torch.tensor(directions, dtype=torch.float32),
        pixel_area=torch.ones(n, 1),
        camera_indices=torch.zeros(n, 1, dtype=torch.long),
    )


def test_distances_are_those_of_the_turned_box() -> None:
    """A box of 2 x 4 x 2 around (0, 0, 3), turned by a quarter around the z axis: 4 wide along x."""
    box = OrientedBox.from_params((0.0, 0.0, 3.0), (0.0, 0.0, math.pi / 2), (2.0, 4.0, 2.0))
    bundle = cropped(
        rays([[0, 0, 0], [-5, 0, 3], [0, 0, 3], [0, 5, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), box
    )
    crop = crop_of(bundle, unit=2.0)
    assert crop is not None
    assert (2 * crop.near).tolist()[:3] == pytest.approx([2, 3, 0], abs=1e-5)
    assert (2 * crop.far).tolist()[:3] == pytest.approx([4, 7, 1], abs=1e-5)
    assert crop.far[3] == crop.near[3]
    assert crop.background is None
    assert crop_of(rays([[0, 0, 0]], [[0, 0, 1]]), 1.0) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    pipeline = train(tiny_config(tmp_path_factory.mktemp("ball"), steps=150, kar_weight=0.0)).pipeline
    pipeline.eval()
    return pipeline


def test_what_is_outside_of_the_box_is_not_rendered(trained) -> None:
    """Of the ball around the origin a box leaves the half with x > 0, before the colour that the crop asks for."""
    camera = trained.datamanager.eval_dataset.cameras[:1].to("cpu")
    whole = trained.model.get_outputs_for_camera(camera)
    around = OrientedBox.from_params((0.0, 0.0, 0.0), LEVEL, (6.0, 6.0, 6.0))
    box = OrientedBox.from_params((1.5, 0.0, 0.0), LEVEL, (3.0, 6.0, 6.0))
    nothing = OrientedBox.from_params((50.0, 0.0, 0.0), LEVEL, (1.0, 1.0, 1.0))
    with background_color_override_context(torch.tensor([1.0, 0.0, 0.0])):
        same, half, none = (trained.model.get_outputs_for_camera(camera, obb_box=b) for b in (around, box, nothing))
    assert (same["accumulation"] - whole["accumulation"]).abs().mean() < 0.01
    assert whole["accumulation"].mean() > 0.05
    assert half["accumulation"].mean() < 0.8 * whole["accumulation"].mean()
    # Of what is kept, every point that is seen lies in the box.
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    seen = half["accumulation"][..., 0] > 0.9
    assert seen.sum() > 20
    x = (rays.origins + half["depth"] * rays.directions)[seen][:, 0]
    assert x.min() > -0.05
    assert none["accumulation"].abs().max() == 0
    assert torch.equal(none["rgb"], torch.tensor([1.0, 0.0, 0.0]).expand_as(none["rgb"]))


def test_what_is_behind_the_box_is_not_rendered(trained) -> None:
    """A box in the air between the camera and the ball, through which the ball would be seen."""
    camera = trained.datamanager.eval_dataset.cameras[:1].to("cpu")
    x, y, z = (0.7 * camera.camera_to_worlds[0, :, 3]).tolist()
    air = OrientedBox.from_params((x, y, z), LEVEL, (0.5, 0.5, 0.5))
    assert trained.model.get_outputs_for_camera(camera)["accumulation"].max() > 0.9
    assert trained.model.get_outputs_for_camera(camera, obb_box=air)["accumulation"].max() < 0.2


def test_a_cropped_photo_has_no_sky(tmp_path) -> None:
    config = tiny_config(tmp_path, steps=2, kar_weight=0.0)
    config.pipeline.datamanager.dataparser.space = "unbounded"
    config.data = config.pipeline.datamanager.data = write_nerfstudio_scene(tmp_path / "capture")
    trainer = train(config)
    model = trainer.pipeline.model
    model.eval()
    assert model.renderer.unbounded
    camera = trainer.pipeline.datamanager.eval_dataset.cameras[:1]
    outputs = model.get_outputs_for_camera(
        camera, obb_box=OrientedBox.from_params((50.0, 0.0, 0.0), LEVEL, (1.0, 1.0, 1.0))
    )
    assert torch.equal(outputs["rgb"], torch.full_like(outputs["rgb"], model.background_colour))


def test_rays_shorter_than_a_step_see_the_surface_that_they_cross(trained) -> None:
    """As those that texture a mesh do: from 0.01 in front of the unit ball to 0.01 within it."""
    model = trained.model
    normals = torch.nn.functional.normalize(torch.randn(400, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    bundle = rays((1.01 * normals).tolist(), (-normals).tolist())
    bundle.nears, bundle.fars = torch.zeros(400, 1), torch.full((400, 1), 0.02)
    assert float(bundle.fars.max()) < model.config.near_plane
    outputs = model.get_outputs_for_camera_ray_bundle(bundle.reshape((20, 20)))
    seen = model.get_rgba_image(outputs)[..., :3].reshape(-1, 3)
    shown = outputs["accumulation"].reshape(-1) > 0.02
    assert shown.float().mean() > 0.3  # none, where rays begin at the near plane
    assert (seen - (0.5 + 0.5 * normals))[shown].abs().mean() < 0.15
