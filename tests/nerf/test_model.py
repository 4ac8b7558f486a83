"""The model learns a scene, renders it consistently, and KAR does what its switch says."""

import dataclasses
import math

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallbackLocation

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.nerf.losses.kar_samples import KarAtSamples
from peak_nerf.nerf.losses.kar_unobserved import KarUnobserved
from peak_nerf.nerf.render.field import PeakRadianceField, networks_in_bfloat16, padding
from peak_nerf.nerf.render.marcher import sample_rays
from peak_nerf.nerf.render.volrend import accumulate, packed_weights
from tests.nerf.runs import start, tiny_config, train
from tests.nerf.scene_factory import write_blender_scene


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A ball, learned in some seconds."""
    return train(tiny_config(tmp_path_factory.mktemp("ball"), steps=250))


def test_it_learns_a_ball(trained) -> None:
    metrics = trained.pipeline.get_average_eval_image_metrics()
    assert metrics["psnr"] > 30  # 33.3 and 33.0 dB with two seeds
    assert 0.9 < metrics["ssim"] <= 1
    assert all(math.isfinite(value) for value in metrics.values())
    # The ball of radius 1 fills 16 % of the box of half side 1.5; what is empty has been found empty.
    assert 0.155 < trained.pipeline.model.occupancy.fraction < 0.26


def test_depth_is_that_of_the_ball(trained) -> None:
    camera = trained.pipeline.datamanager.eval_dataset.cameras[0:1]
    trained.pipeline.eval()
    outputs = trained.pipeline.model.get_outputs_for_camera(camera)
    # The camera is 4 from the centre of a ball of radius 1.
    assert outputs["depth"][16, 16].item() == pytest.approx(3.0, abs=0.15)
    assert outputs["accumulation"][16, 16].item() > 0.95
    assert outputs["accumulation"][0, 0].item() < 0.05
    assert outputs["rgb"][0, 0].tolist() == pytest.approx([1.0] * 3, abs=0.05)
    rgba = trained.pipeline.model.get_rgba_image(outputs)
    assert torch.allclose(rgba[16, 16, :3], outputs["rgb"][16, 16], atol=0.08)


def test_a_few_samples_render_what_all_steps_do(trained) -> None:
    """The samples that are chosen by what the grid knows, against every step in an occupied cell."""
    model = trained.pipeline.model.eval()
    camera = trained.pipeline.datamanager.eval_dataset.cameras[0:1]
    rays = camera.generate_rays(camera_indices=0).flatten()
    origins, directions = model._normalised(rays)
    model.renderer.substeps = 1  # as the steps below
    rendered = model._render(rays)
    with torch.no_grad():
        samples = sample_rays(
            origins, directions, model.occupancy, dataclasses.replace(model.renderer.steps, budget=4096)
        )
        density, geometry = model.field.density(samples.x)
        weights, _ = packed_weights(density * samples.dt, samples.ray, len(origins))
        rgb = accumulate(weights, model.field.colour(geometry, directions, samples.ray), samples.ray, len(origins))
        accumulation = accumulate(weights, torch.ones(len(samples), 1), samples.ray, len(origins))
    assert torch.allclose(rendered["accumulation"], accumulation, atol=3e-2)
    assert torch.allclose(rendered["rgb"], rgb + 1 - accumulation, atol=3e-2)
    assert len(model.renderer.render_samples(origins, directions)) <= len(samples)
    model.renderer.substeps = model.config.render_substeps


def test_rendering_divides_the_steps_of_the_training(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    model, renderer = trained.pipeline.model.eval(), trained.pipeline.model.renderer
    camera = trained.pipeline.datamanager.eval_dataset.cameras[0:1]
    rays = camera.generate_rays(camera_indices=0).flatten()
    assert renderer.steps.dt == pytest.approx(2 / model.config.steps_per_side)
    monkeypatch.setattr(renderer, "substeps", 1)
    coarse = model._render(rays)
    monkeypatch.setattr(renderer, "substeps", 2)
    rendered = model._render(rays)
    monkeypatch.setattr(renderer, "substeps", 1)
    monkeypatch.setattr(renderer, "steps", renderer.steps.longer(0.5))
    fine = model._render(rays)
    for name, image in fine.items():
        assert torch.equal(rendered[name], image)
    assert not torch.allclose(rendered["rgb"], coarse["rgb"], atol=1e-4)


def test_kar_residual_is_drawn_where_the_ball_is(trained) -> None:
    camera = trained.pipeline.datamanager.eval_dataset.cameras[0:1]
    trained.pipeline.eval()
    outputs = trained.pipeline.model.get_outputs_for_camera(camera)
    residual = outputs["kar_residual"]
    assert residual.shape == (32, 32, 1)
    assert residual[0, 0].item() == 0.0
    # 2 is the largest norm that f, four numbers in [0, 1], allows; a smooth ball is far below: 0.13 to 0.15.
    assert 0.05 < residual.max().item() < 0.3
    assert 0.02 < residual[outputs["accumulation"] > 0.9].mean().item() < 0.1


def test_gradients_reach_everything_that_trains(tmp_path) -> None:
    """The colour loss must not go through a detached copy of the colours (it once did)."""
    trainer = start(tiny_config(tmp_path, kar_form="point", kar_warmup=0.0, distortion_weight=0.0))
    pipeline = trainer.pipeline
    pipeline.train()
    _, losses, metrics = pipeline.get_train_loss_dict(0)
    assert set(losses) == {"rgb", "kar"}
    assert {"psnr", "rays", "samples", "occupancy", "a_0", "a_1"} <= set(metrics)
    losses["rgb"].backward()
    groups = pipeline.model.get_param_groups()
    for name in ("encoding", "networks"):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in groups[name]), name
    assert all(p.grad is None for p in groups["kar"])
    losses = next(losses for _ in range(2) if "kar" in (losses := pipeline.get_train_loss_dict(0)[1]))
    losses["kar"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in groups["kar"])


OPTIONS = [
    {"kar_form": "point", "kar_queries": 1},
    {"train_background": "black"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_train(tmp_path, options: dict) -> None:
    """The colour loss falls to 0.19 to 0.27 of what it began with."""
    trainer = start(tiny_config(tmp_path, steps=80, **options))
    trainer.config.viewer.quit_on_train_completion = True
    pipeline = trainer.pipeline
    pipeline.train()
    before = float(pipeline.get_train_loss_dict(0)[1]["rgb"])
    trainer.train()
    assert float(pipeline.get_train_loss_dict(0)[1]["rgb"]) < 0.4 * before


def test_weight_zero_is_the_plain_baseline(tmp_path) -> None:
    trainer = start(tiny_config(tmp_path, kar_weight=0.0, distortion_weight=0.0))
    trainer.pipeline.train()
    assert set(trainer.pipeline.get_train_loss_dict(0)[1]) == {"rgb"}
    assert set(trainer.pipeline.model.get_param_groups()) == {"encoding", "networks"}
    assert not any("kar" in name for name in trainer.pipeline.state_dict())
    trainer.pipeline.eval()
    camera = trainer.pipeline.datamanager.eval_dataset.cameras[0:1]
    assert "kar_residual" not in trainer.pipeline.model.get_outputs_for_camera(camera)


def test_a_bad_option_ends_in_one_line(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(tiny_config(tmp_path, kar_form="planes"))
    assert stopped.value.code == 2
    assert "kar-form planes: was removed in 0.2" in capsys.readouterr().err


def test_seed_makes_a_run_repeatable(tmp_path) -> None:
    first, second, other = (
        train(tiny_config(tmp_path, steps=8, seed=seed)).pipeline.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_rays_that_miss_the_box_see_the_background(trained) -> None:
    trained.pipeline.eval()
    away = RayBundle(
        origins=torch.full((4, 3), 5.0),
        directions=torch.nn.functional.normalize(torch.ones(4, 3), dim=-1),
        pixel_area=torch.ones(4, 1),
        camera_indices=torch.zeros(4, 1, dtype=torch.long),
    )
    outputs = trained.pipeline.model(away)
    assert outputs["rgb"].tolist() == [[1.0] * 3] * 4
    assert outputs["accumulation"].abs().max() == 0
    assert outputs["depth"].min() >= 0


@pytest.mark.parametrize(("use_alpha", "background"), [(True, "white"), (False, "white"), (False, "black")])
def test_behind_training_rays_is_what_the_images_show(tmp_path, use_alpha: bool, background: str) -> None:
    config = tiny_config(tmp_path)
    dataparser = config.pipeline.datamanager.dataparser
    dataparser.use_alpha, dataparser.background, dataparser.plain_background = use_alpha, background, False
    pipeline = start(config).pipeline
    rays, batch = pipeline.datamanager.next_train(0)
    outputs = pipeline.model(rays)
    if use_alpha:
        assert outputs["background"].shape == (len(rays), 3)
        assert outputs["background"].std() > 0.2  # 0.29 where it is uniform
        return
    assert outputs["background"].tolist() == [[float(background == "white")] * 3]
    corner = batch["image"][(batch["image"] == batch["image"][:, :1]).all(1)]
    assert (corner == 255 * (background == "white")).any()  # where the ball is not, the images are of that colour


def test_normals_point_out_of_the_ball(trained) -> None:
    trained.pipeline.eval()
    directions = torch.nn.functional.normalize(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    inward = RayBundle(
        origins=4 * directions,
        directions=-directions,
        pixel_area=torch.ones(300, 1),
        camera_indices=torch.zeros(300, 1, dtype=torch.long),
    )
    normals = 2 * trained.pipeline.model(inward)["normals"].detach() - 1
    # The ring of cameras sees the upper part of the ball best.
    seen = directions[:, 2] > 0
    # The slope of a hash grid is noisy point by point, but it must know outside from inside: 89 % and a mean of 0.52.
    cosine = (normals * directions).sum(-1)[seen]
    assert (cosine > 0).float().mean() > 0.8
    assert cosine.mean() > 0.4


def test_ray_count_follows_the_sample_budget(trained) -> None:
    rays = trained.pipeline.datamanager.get_train_rays_per_batch()
    samples = trained.pipeline.model.n_samples
    assert samples == pytest.approx(6000, rel=0.35)
    assert rays > 1.2 * 512  # what is empty has been found empty


def test_rows_are_padded_to_few_different_numbers() -> None:
    assert [padding(n) for n in (0, 1, 32, 33, 1000, 32768, 32769)] == [0, 31, 0, 31, 24, 0, 2047]
    assert all(padding(n) <= max(31, n / 15) for n in range(1, 5000))
    assert len({n + padding(n) for n in range(1, 65537)}) < 200


def test_networks_are_in_bfloat16_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    assert networks_in_bfloat16("bfloat16", "cpu")
    assert not networks_in_bfloat16("float32", "cuda")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert networks_in_bfloat16("auto", "cpu")
    assert not networks_in_bfloat16("auto", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, fast in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert networks_in_bfloat16("auto", "cuda") is fast


def test_tables_in_float16_are_for_tritons_kernels(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tmp_path)
    config.pipeline.model.table_precision = "float16"
    with pytest.raises(SystemExit, match="2"):
        start(config)
    assert "half precision is of implementation 'triton'" in capsys.readouterr().err


def test_bfloat16_networks_agree_with_float32() -> None:
    """In value and gradient, with a number of rows that needs padding."""
    torch.manual_seed(0)
    field = PeakRadianceField(FieldConfig(HashGridConfig(n_levels=2), bias=False, n_hidden=1), bfloat16=True)
    x, directions = torch.rand(45, 3) * 2 - 1, torch.nn.functional.normalize(torch.randn(45, 3), dim=-1)
    results = []
    for field.in_bfloat16 in (False, True):
        field.zero_grad()
        density, geometry = field.density(x)
        colour = field.colour(geometry, directions)
        (density.sum() + colour.sum()).backward()
        weight = field.colour_network.hidden[0].weight.grad
        results.append((density.detach(), colour.detach(), weight))
    for plain, reduced, tolerance in zip(*results, (1e-3, 1e-3, 0.15), strict=True):
        assert reduced.dtype == torch.float32
        # A gradient jumps where rounding turns a hidden unit on or off.
        assert (plain - reduced).norm() < tolerance * plain.norm()
    # Weights learn also after a pass without gradient, whose casts must not be kept.
    with torch.no_grad():
        field.density(x)
    field.zero_grad()
    field.density(x)[0].sum().backward()
    assert field.base.backbone.output.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("background", ["random", "white", "black"])
def test_no_start_ends_in_fog(tmp_path, background: str) -> None:
    """Six views of a ball, whatever stands behind it and with nothing carved: rays beside it are clear, others hit it.

    Fog for ever looks otherwise: everything is occupied, and all rays have an accumulation in between.
    """
    options = {"train_background": background, "cull_cells": False}
    trainer = train(tiny_config(tmp_path, steps=250, num_views=6, **options))
    trainer.pipeline.eval()
    cameras = trainer.pipeline.datamanager.train_dataset.cameras
    accumulation = trainer.pipeline.model.get_outputs_for_camera(cameras[0:1])["accumulation"]
    assert accumulation[16, 16] > 0.8
    assert accumulation[:2].mean() < 0.15
    assert trainer.pipeline.model.occupancy.fraction < 0.9


@pytest.mark.parametrize("background", ["random", "white"])
def test_the_start_is_not_grey(tmp_path, background: str) -> None:
    """What the density network hands to the colour network spreads over many directions from the first steps on. With
    one that carries nearly all, colours go grey before there is a shape to paint."""
    trainer = train(tiny_config(tmp_path, steps=40, train_background=background, cull_cells=False, kar_weight=0.0))
    field = trainer.pipeline.model.field
    with torch.no_grad():
        geometry = field.density(torch.rand(2000, 3) - 0.5)[1]
    spread = torch.linalg.svdvals(geometry - geometry.mean(0))
    assert (spread > 0.1 * spread[0]).sum() >= 7


CHOICES = [
    ({}, 6, KarAtSamples, 0.02),
    ({}, 20, type(None), 0.0),
    ({"kar_weight": 0.03}, 20, KarAtSamples, 0.03),
    ({"kar_form": "point"}, 20, KarAtSamples, 0.02),
    ({"kar_form": "unobserved"}, 6, KarUnobserved, 0.1),
    ({"kar_weight": 0.0}, 6, type(None), 0.0),
]


@pytest.mark.parametrize(("options", "views", "form", "weight"), CHOICES)
def test_kar_goes_by_the_number_of_views(tmp_path, options: dict, views: int, form: type, weight: float) -> None:
    write_blender_scene(tmp_path / "scene", n_train=20, n_val=1, n_test=1, size=8)
    model = start(tiny_config(tmp_path, num_views=views, **options)).pipeline.model
    assert type(model.kar_form) is form
    assert (0.0 if model.kar is None else model.kar.weight) == weight


def test_few_views_get_the_distortion_loss_and_few_harmonics(tmp_path) -> None:
    pipeline = start(tiny_config(tmp_path, num_views=6)).pipeline
    assert pipeline.model.config.distortion_weight == 0.03
    assert pipeline.model.field.direction_encoding.out_dim == 2**2
    pipeline.train()
    assert "distortion" in pipeline.get_train_loss_dict(0)[1]


def test_the_first_steps_are_long_and_cells_judged_by_them(tmp_path) -> None:
    """Four times as long at first, down to one; thin fog that has not grown yet is not taken for nothing."""
    trainer = start(tiny_config(tmp_path, coarse_steps=20))
    model, lengths = trainer.pipeline.model, []
    for step in (0, 10, 20, 30):
        for callback in trainer.callbacks:
            if TrainingCallbackLocation.BEFORE_TRAIN_ITERATION in callback.where_to_run:
                callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        lengths.append(model.renderer.least_coarseness)
    assert lengths == [4.0, 2.5, 1.0, 1.0]
    asked = []
    model.occupancy.refresh = asked.append
    model.renderer.least_coarseness = 2.5
    model._probe_occupancy()
    assert asked == [2.5]
