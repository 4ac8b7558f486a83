"""PEAK in nerfstudio's own nerfacto: offline, on the CPU, with gradients everywhere they belong, and reloaded."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from nerfstudio.field_components.mlp import MLPWithHashEncoding
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.utils.eval_utils import eval_setup
from torch import nn

from peak_nerf.nerf import mixin, registration
from peak_nerf.nerf.mixin import FastHashEncoding, MissingMetric, add_polynomial, replace_hash_encodings
from peak_nerf.nerf.nerfacto import PeakNerfactoModelConfig
from peak_nerf.nerf.train.checkpoint_file import latest_checkpoint
from tests.nerf.runs import nerfacto_config, start, train
from tests.nerf.scene_factory import write_blender_scene, write_nerfstudio_scene


@pytest.fixture
def blender(tmp_path):
    return write_blender_scene(tmp_path / "ball", n_train=6, n_val=1, n_test=2, size=16)


def test_queries_where_no_number_is_given(blender, tmp_path) -> None:
    assert start(nerfacto_config(blender, tmp_path / "out", kar_queries=None)).pipeline.model.config.kar_queries == 128


def test_twenty_steps_then_the_same_field_from_its_checkpoint(blender, tmp_path) -> None:
    config = nerfacto_config(blender, tmp_path / "out", steps=20)
    trainer = train(config)
    model = trainer.pipeline.model
    assert isinstance(model, NerfactoModel)
    assert (config.pipeline.model.kar_weight, model.config.kar_weight, model.kar.weight) == (None, 0.01, 0.01)
    assert isinstance(model.lpips, MissingMetric)  # built without a network
    assert torch.load(latest_checkpoint(config.get_checkpoint_dir()), weights_only=True)["step"] == 19
    metrics = trainer.pipeline.get_average_eval_image_metrics()
    assert {"psnr", "ssim"} <= set(metrics)
    assert "lpips" not in metrics
    json.dumps(metrics, allow_nan=False)
    _, pipeline, _, step = eval_setup(config.get_base_dir() / "config.yml")
    assert step == 19
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(pipeline.model.named_parameters())[name]), name


def test_the_loss_has_kar_and_its_gradient_reaches_g_and_the_polynomial(blender, tmp_path) -> None:
    trainer = start(nerfacto_config(blender, tmp_path / "out"))
    model = trainer.pipeline.model
    model.progress = 1.0
    _, losses, metrics = trainer.pipeline.get_train_loss_dict(0)
    assert losses["kar"] > 0
    assert (metrics["a_0"], metrics["a_1"]) == (pytest.approx(1.0), pytest.approx(1.0))
    losses["kar"].backward()
    for parameters in (model.kar.parameters(), model.polynomials[0].parameters(), model.field.mlp_base.parameters()):
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters)
    groups = model.get_param_groups()
    assert set(groups["kar"]) == set(model.kar.parameters())
    assert model.polynomials[0].raw_coefficients in set(groups["fields"])
    left = {name for name, p in model.named_parameters() if not any(p is q for group in groups.values() for q in group)}
    assert left == {"device_indicator_param"}  # nerfstudio's own, empty


def test_kar_is_the_weighted_mean_residual(blender, tmp_path) -> None:
    """Against the definition, with g and f evaluated point by point."""
    trainer = start(nerfacto_config(blender, tmp_path / "out", kar_weight=0.5, kar_warmup=0.0, kar_queries=5))
    model = trainer.pipeline.model
    with torch.no_grad():  # a field that varies: at the start |f - A f| is all rounding
        for grid in (m for m in model.field.modules() if isinstance(m, FastHashEncoding)):
            for parameter in grid.parameters():
                parameter.uniform_(-10, 10)
    rays, _ = trainer.pipeline.datamanager.next_train(0)
    outputs = model(rays)
    seen = []
    plain = model.kar_values
    model.kar_values = lambda samples: seen.append((samples, plain(samples))) or seen[-1][1]
    loss = model.kar_loss(outputs)
    ((samples, f),) = seen
    x = samples.frustums.get_positions()
    g = model.kar.similarity_features(model.kar_coordinates(x))
    norms = []
    for i in range(5):
        anchors = slice(5 + 8 * i, 13 + 8 * i)
        attention = torch.softmax(g[anchors] @ g[i], 0)
        norms.append((f[i] - attention @ f[anchors]).norm())
        reach = (x[anchors] - x[i]).abs().max()
        assert 0 < reach <= 0.015 * 1.5 + 1e-6  # the Blender box's half side is 1.5
        assert torch.equal(samples.frustums.directions[anchors], samples.frustums.directions[[i] * 8])
    assert loss.item() > 1e-3
    assert loss.item() == pytest.approx(0.5 * torch.stack(norms).mean().item(), rel=1e-3, abs=1e-6)


def test_without_kar_and_polynomial_it_is_nerfacto(blender, tmp_path) -> None:
    trainer = start(nerfacto_config(blender, tmp_path / "out", kar_weight=0.0, polynomial_degree=None))
    _, losses, _ = trainer.pipeline.get_train_loss_dict(0)
    assert "kar" not in losses
    assert "kar" not in trainer.pipeline.model.get_param_groups()
    assert trainer.pipeline.model.polynomials == []


def test_a_capture_is_contracted_and_g_sees_contracted_space(tmp_path) -> None:
    scene = write_nerfstudio_scene(tmp_path / "capture", n=9, size=16)
    trainer = start(nerfacto_config(scene, tmp_path / "out"))
    model = trainer.pipeline.model
    assert model.field.spatial_distortion is not None
    _, losses, _ = trainer.pipeline.get_train_loss_dict(0)
    assert math.isfinite(float(sum(losses.values())))
    far = torch.tensor([[0.5, 0.0, 0.0], [1000.0, 0.0, 0.0]])
    assert model.kar_coordinates(far)[:, 0].tolist() == pytest.approx([0.25, 0.9995])
    assert model._reach(far)[:, 0].tolist() == pytest.approx([0.03, 30.0])


def test_a_capture_is_rendered_in_units_of_its_box(tmp_path) -> None:
    """Against nerfacto itself on rays that are moved and scaled by hand; depths are those of the world."""
    scene = write_nerfstudio_scene(tmp_path / "capture", n=9, size=16)
    pipeline = start(nerfacto_config(scene, tmp_path / "out")).pipeline
    model = pipeline.model.eval()
    low, high = model.scene_box.aabb
    model.centre, model.half_extent = torch.tensor([0.1, -0.2, 0.3]), 2.5  # of a box elsewhere
    with torch.no_grad():
        rays = model.collider(pipeline.datamanager.eval_dataset.cameras.generate_rays(0).flatten())
        moved = dataclasses.replace(rays, origins=(rays.origins - model.centre) / 2.5)
        ours, theirs = model.get_outputs(rays), NerfactoModel.get_outputs(model, moved)
        cropped = model(dataclasses.replace(rays, nears=2.5 * rays.nears, fars=2.5 * rays.fars))
    assert torch.equal(ours["rgb"], cropped["rgb"])
    assert torch.equal(ours["rgb"], theirs["rgb"])
    for name in ("depth", "expected_depth", "prop_depth_0", "prop_depth_1"):
        torch.testing.assert_close(ours[name], 2.5 * theirs[name])
    fresh = start(nerfacto_config(scene, tmp_path / "fresh")).pipeline.model
    torch.testing.assert_close(fresh.centre, (low + high) / 2)
    assert fresh.half_extent == pytest.approx(float((high - low).max() / 2))


def test_a_bounded_scene_and_runs_of_before_stay_in_world_units(blender, tmp_path) -> None:
    model = start(nerfacto_config(blender, tmp_path / "out")).pipeline.model
    assert (model.centre.tolist(), model.half_extent) == ([0.0] * 3, 1.0)
    config = nerfacto_config(blender, tmp_path / "old").pipeline.model
    assert config.scale_to_box
    assert copy.copy(config).scale_to_box
    old = PeakNerfactoModelConfig.__new__(PeakNerfactoModelConfig)
    old.__setstate__({name: value for name, value in config.__dict__.items() if name != "scale_to_box"})
    assert not old.scale_to_box


def test_the_polynomial_stands_beside_the_grid() -> None:
    network = MLPWithHashEncoding(num_levels=2, max_res=32, log2_hashmap_size=10, layer_width=8, out_dim=3)
    polynomial = add_polynomial(network, 2)
    grid, mlp = network.model[0].encoding, network.model[1]
    x = torch.rand(7, 3)
    expected = mlp(torch.cat((grid(x), polynomial(2 * x - 1)), -1))
    assert torch.equal(network(x), expected)
    assert mlp.in_dim == 4 + 10


def test_our_grid_stands_in_for_nerfstudios() -> None:
    """Also where an encoding has two names, as in nerfstudio's density field."""
    network = MLPWithHashEncoding(num_levels=2, max_res=32, log2_hashmap_size=10, layer_width=8, out_dim=3)
    holder = nn.Module()
    holder.alias, holder.network = network.model[0], network
    replace_hash_encodings(holder, "cpu")
    assert isinstance(holder.alias, FastHashEncoding)
    assert holder.alias is network.model[0]
    assert network(torch.rand(2, 5, 3)).shape == (2, 5, 3)


def test_a_field_without_a_hashed_network_is_one_line(blender, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(mixin, "MLPWithHashEncoding", int)
    with pytest.raises(SystemExit):
        start(nerfacto_config(blender, tmp_path / "out"))
    assert "override hashed_networks" in capsys.readouterr().err


def test_the_method_is_registered() -> None:
    assert registration.peak_nerfacto.config.method_name == "peak-nerfacto"
