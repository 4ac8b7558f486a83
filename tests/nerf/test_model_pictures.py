"""Whole pictures from the model: how many rays they take, and where these begin."""

import copy
from collections.abc import Callable

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle

from peak_nerf.nerf.data.pixel_rays import rays_of_picture
from peak_nerf.nerf.render.near_plane import BEFORE_POINTS
from tests.nerf.runs import start, tiny_config, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A ball, learned in some seconds."""
    pipeline = train(tiny_config(tmp_path_factory.mktemp("ball"), steps=250)).pipeline.eval()
    camera = copy.deepcopy(pipeline.datamanager.eval_dataset.cameras[:1])
    camera.rescale_output_resolution(4.0)
    return pipeline.model, camera


@pytest.fixture
def counted(trained, monkeypatch: pytest.MonkeyPatch) -> Callable[[RayBundle], int]:
    """How many rays the model renders for a picture."""
    model, render, n_rays = trained[0], trained[0]._render, [0]

    def counting(bundle: RayBundle, near: float) -> dict[str, torch.Tensor]:
        n_rays[0] += len(bundle)
        return render(bundle, near)

    def count(rays: RayBundle) -> int:
        n_rays[0] = 0
        model.images(rays)
        return n_rays[0]

    monkeypatch.setattr(model, "_render", counting)
    return count


def test_a_picture_takes_fewer_rays_and_looks_the_same(trained, counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tolerance 0 every ray is rendered; else some are not, and what stands there is nearly the same."""
    model, camera = trained
    rays = rays_of_picture(camera)
    assert counted(rays) < 0.6 * rays.size
    some = model.images(rays)
    monkeypatch.setattr(model.config, "pixel_tolerance", 0.0)
    assert counted(rays) == rays.size
    every, direct = model.images(rays), model._render(rays.flatten(), None)
    for name, image in every.items():
        assert image.shape == (*rays.shape, direct[name].shape[-1])
        assert torch.allclose(image.flatten(0, 1), direct[name], atol=1e-4), name
    difference = (some["rgb"] - every["rgb"]).abs()
    assert difference.mean() < 0.01
    assert 0 < difference.max() < 0.3


def test_rays_that_have_an_end_are_rendered_one_by_one(trained, counted) -> None:
    """They may be those that texture a mesh, and of no picture."""
    rays = rays_of_picture(trained[1])
    rays.nears, rays.fars = torch.zeros(*rays.shape, 1), torch.full((*rays.shape, 1), 9.0)
    assert counted(rays) == rays.size


def test_a_picture_begins_before_the_points_that_it_sees(tmp_path) -> None:
    """Half way to one that is near; to others no farther away than training rays do."""
    pipeline = start(tiny_config(tmp_path)).pipeline.eval()
    model, camera = pipeline.model, pipeline.datamanager.eval_dataset.cameras[:1]
    begun: list[float] = []
    render = model.renderer.render

    def looking(*args, **kwargs):
        begun.append(args[3])
        return render(*args, **kwargs)

    model.renderer.render = looking
    model.renderer.near = 0.8
    rays = rays_of_picture(camera)
    forward = -camera.camera_to_worlds[0, :, 2]
    origin = (camera.camera_to_worlds[0, :, 3] - model.centre) / model.half_extent
    for distance, near in ((9.0, 0.8), (1.0, BEFORE_POINTS)):
        model.points = (origin + distance * forward)[None]
        model.images(rays)
        assert begun[-1] == pytest.approx(near, rel=1e-3)
        assert model.near_of(rays) == begun[-1]
    model.points = None
    model.images(rays)
    assert begun[-1] == 0.8
