"""Rays whose depth is known: whose they are, how well it is known, and that training uses them when it should."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.observations import write_observations
from peak_nerf.nerf.data.pixel_rays import PixelRays
from peak_nerf.nerf.data.pixels import PixelTable
from peak_nerf.nerf.data.points import Guesses, Sightings
from peak_nerf.nerf.data.sighted_pixels import GUESS, PRECISION, SightedPixels
from tests.nerf.data.test_points import observe
from tests.nerf.runs import start, tiny_config
from tests.nerf.scene_factory import write_nerfstudio_scene

SIZE = 32


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A capture of 9 views, of which 7 are trained on, with observations.npz."""
    data = write_nerfstudio_scene(tmp_path / "scene", size=SIZE)
    write_observations(data / "observations.npz", observe(data / "transforms.json", SIZE))
    return data


def pictures(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (SIZE, SIZE, 3), generator=generator, dtype=torch.uint8) for _ in range(n)]


@pytest.fixture
def parts(scene: Path) -> dict[str, Any]:
    outputs = PeakDataParserConfig(data=scene).setup().get_dataparser_outputs(split="train")
    table = PixelTable(pictures(len(outputs.cameras)), None, "cpu")
    return {
        "sightings": outputs.metadata["sightings"],
        "points": outputs.metadata["points"],
        "table": table,
        "rays": PixelRays(outputs.cameras),
    }


def test_rays_meet_their_points_and_have_their_pixels_colours(parts: dict[str, Any]) -> None:
    sighted = SightedPixels(**parts)
    assert len(sighted) == len(parts["sightings"].image)
    drawn, points = sighted.draw(500)
    assert len(points) == 500
    rays = parts["rays"].bundle(drawn.camera, drawn.u, drawn.v)
    towards = torch.nn.functional.normalize(points.xyz - rays.origins, dim=-1)
    angle = torch.linalg.cross(towards, rays.directions).norm(dim=-1)
    # From the middle of the pixel the point is half its diagonal away, and half a pixel to the left of its sighting.
    assert (angle < 1.2 * rays.pixel_area[:, 0].sqrt()).all()
    images = pictures(7)
    for i in range(0, 500, 25):
        assert torch.equal(drawn.colour[i], images[int(drawn.camera[i])][int(drawn.v[i]), int(drawn.u[i])])
    assert len(torch.unique(drawn.camera)) == 7


def test_deviation_is_that_of_the_triangulation(parts: dict[str, Any]) -> None:
    """Against the covariance of a least-squares point, by its normal equations."""
    seen: Sightings = parts["sightings"]
    sighted = SightedPixels(**parts)
    poses, focal = parts["rays"].poses, 0.5 * SIZE / math.tan(0.35)
    for point in range(0, len(parts["points"].xyz), 7):
        rows = (seen.point == point).nonzero()[:, 0]
        x = parts["points"].xyz[point].double()
        d = x - poses[seen.image[rows], :, 3].double()
        distance = d.norm(dim=1).mean()
        d = torch.nn.functional.normalize(d, dim=1)
        projectors = torch.eye(3, dtype=torch.float64) - d[:, :, None] * d[:, None]
        along = torch.nn.functional.normalize(d.mean(0), dim=0)
        # A pixel is narrower towards the border: cos^3 of its angle to the axis in area.
        cos = -(d * poses[seen.image[rows], :, 2].double()).sum(1)
        error2 = ((seen.error[rows].double() ** 2 + PRECISION**2) * cos**3 / focal**2).mean()
        information = along @ projectors.sum(0) @ along
        expected = math.sqrt(error2 / information) * distance
        deviation = sighted.points.deviation[sighted_rows(sighted, parts, point)] * distance
        torch.testing.assert_close(deviation, torch.full_like(deviation, expected), rtol=0.06, atol=0)


def sighted_rows(sighted: SightedPixels, parts: dict[str, Any], point: int) -> torch.Tensor:
    return (sighted.points.xyz == parts["points"].xyz[point]).all(1)


def test_a_larger_error_and_nearer_cameras_are_less_certain(parts: dict[str, Any]) -> None:
    seen: Sightings = parts["sightings"]
    plain = SightedPixels(**parts).points.deviation
    worse = Sightings(seen.image, seen.point, seen.xy, seen.depth, 4 * seen.error)
    factor = SightedPixels(**{**parts, "sightings": worse}).points.deviation / plain
    # Errors are 0.5 throughout, so is the precision: sqrt((4 + 0.25) / (0.25 + 0.25)).
    torch.testing.assert_close(factor, torch.full_like(factor, math.sqrt(8.5)))
    # A point seen twice from one place has no depth.
    twice = torch.tensor([0, 0])
    same = Sightings(twice, twice, seen.xy[:1].repeat(2, 1), seen.depth[:2], seen.error[:2])
    assert (SightedPixels(**{**parts, "sightings": same}).points.deviation > 1000).all()


def test_masked_pixels_and_those_outside_are_left_out(parts: dict[str, Any]) -> None:
    seen: Sightings = parts["sightings"]
    masks = [torch.ones(SIZE, SIZE, dtype=torch.bool) for _ in range(7)]
    masks[2][:, : SIZE // 2] = False
    table = PixelTable(pictures(7), masks, "cpu")
    sighted = SightedPixels(**{**parts, "table": table})
    left = (seen.image == 2) & (seen.xy[:, 0] < SIZE // 2)
    assert 0 < left.sum() == len(seen.image) - len(sighted)
    assert ((sighted.camera != 2) | (sighted.u > SIZE // 2)).all()
    beside = torch.tensor([[-0.5, 3.0], [SIZE + 0.5, 3.0], [3.0, -0.1], [3.0, SIZE + 0.1], [0.0, 0.0]])
    u, v = beside.unbind(1)
    assert parts["table"].at(torch.tensor([1, 1, 1, 6, 1]), u, v).tolist() == [-1, -1, -1, -1, SIZE * SIZE]


# --- in training


def trainer(scene: Path, tmp_path: Path, **model: Any) -> Any:
    config = tiny_config(tmp_path, **{"occupancy_resolution": 64, **model})
    config.data = config.pipeline.datamanager.data = scene
    return start(config)


def test_training_draws_them_and_has_the_loss(scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "peak_nerf")
    pipeline = trainer(scene, tmp_path, depth_weight=0.1).pipeline
    model, datamanager = pipeline.model, pipeline.datamanager
    # Seven views are trained on: what others saw is not drawn.
    assert set(datamanager.sighted.camera.tolist()) <= set(range(7))
    assert (model.occupancy.opacity > 0).any()
    rays, batch = datamanager.next_train(0)
    assert len(rays) == len(batch["image"]) == 512
    assert len(batch["sighted"]) == 128  # a quarter
    outputs = model(rays)
    losses = model.get_loss_dict(outputs, batch)
    # Against each ray on its own.
    rendered, by_ray = outputs["rendered"], []
    for i in range(128):
        mine = rendered.samples.ray == 512 - 128 + i
        distance = (batch["sighted"].xyz[i] - rays.origins[512 - 128 + i]).norm() / model.half_extent
        y, deviation = model.renderer.measured(distance[None], batch["sighted"].deviation[i : i + 1])
        near = torch.exp(-0.5 * ((rendered.distance[mine] - y) / deviation).square())
        by_ray.append(-math.log((0.02 + float((rendered.weights[mine] * near).sum())) / 1.02))
    assert losses["depth"].item() == pytest.approx(0.1 * sum(by_ray) / 128, rel=1e-3)


def test_off_by_option(scene: Path, tmp_path: Path) -> None:
    pipeline = trainer(scene, tmp_path, depth_weight=0.0).pipeline
    rays, batch = pipeline.datamanager.next_train(0)
    assert "sighted" not in batch
    assert "depth" not in pipeline.model.get_loss_dict(pipeline.model(rays), batch)


def test_without_sightings_a_weight_is_refused(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (scene / "observations.npz").unlink()
    with pytest.raises((PeakError, SystemExit)) as refused:
        trainer(scene, tmp_path, depth_weight=0.1)
    said = f"{refused.value}{capsys.readouterr()}"
    assert "--pipeline.model.depth-weight 0.1: it is not known which picture saw" in said


def test_guesses_have_one_deviation_and_the_colours_of_their_pixels(parts: dict[str, Any]) -> None:
    """Two inside of pictures, one outside of them all."""
    guesses = Guesses(torch.tensor([2, 5, 0]), torch.tensor([[3.2, 7.9], [0.0, 31.9], [-0.1, 4.0]]), torch.randn(3, 3))
    known = len(SightedPixels(**parts))
    sighted = SightedPixels(**parts, guesses=guesses)
    assert len(sighted) == known + 2
    assert torch.equal(sighted.points.xyz[known:], guesses.xyz[:2])
    assert torch.equal(sighted.points.deviation[known:], torch.full((2,), GUESS))
    assert sighted.camera[known:].tolist() == [2, 5]
    assert sighted.u[known:].tolist() == [3.5, 0.5]
    assert sighted.v[known:].tolist() == [7.5, 31.5]
    images = pictures(7)
    assert torch.equal(parts["table"].colours[sighted.pixel[known:]], torch.stack((images[2][7, 3], images[5][31, 0])))
    assert torch.equal(sighted.origins[known:], parts["rays"].poses[[2, 5], :, 3])
