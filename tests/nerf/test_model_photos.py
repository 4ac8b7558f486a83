"""The model on photos: all of space in one field, poses and exposures that are corrected."""

import dataclasses

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from PIL import Image

from peak_nerf.nerf.render.marcher import PackedSamples
from tests.nerf.runs import start, tiny_config
from tests.nerf.scene_factory import write_nerfstudio_scene


def photos_config(folder, steps: int = 20, n: int = 9, **model):
    scene = folder / "photos"
    if not scene.exists():
        write_nerfstudio_scene(scene, n=n, size=32)
    config = tiny_config(folder, steps=steps, **model)
    config.data = config.pipeline.datamanager.data = scene
    return config


def test_colour_has_a_gradient_towards_poses(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of photos, by default; against differences, with samples at the same distances along the moved rays."""
    trainer = start(photos_config(tmp_path, network_precision="float32", kar_weight=0.0))
    model = trainer.pipeline.model
    assert model.camera_optimizer.config.mode == "SO3xR3"
    with torch.no_grad():  # a field with some shape
        model.field.base.encoding.encodings[0].table.normal_(std=0.5)
    adjustment = model.get_param_groups()["camera_opt"][0]
    bundle, batch = trainer.pipeline.datamanager.next_train(0)
    fixed = model.renderer.training_samples(*model._normalised(bundle))

    def training_samples(origins: torch.Tensor, directions: torch.Tensor) -> PackedSamples:
        x = origins[fixed.ray] + fixed.t[:, None] * directions[fixed.ray]
        return dataclasses.replace(fixed, x=model.renderer.to_field(x))

    monkeypatch.setattr(model.renderer, "training_samples", training_samples)
    model.renderer.gradient_reach = 0.0  # it changes gradients on purpose

    def loss(step: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        with torch.no_grad():
            adjustment.copy_(step)
        outputs = model(dataclasses.replace(bundle))
        return model.get_loss_dict(outputs, batch)["rgb"]

    loss(torch.zeros_like(adjustment)).backward()
    gradient = adjustment.grad.clone()
    assert (gradient.abs() > 0).all()
    steepest = gradient / gradient.norm()
    slope = (loss(2e-4 * steepest) - loss(-2e-4 * steepest)) / 4e-4
    assert float(slope.detach()) == pytest.approx(float(gradient.norm()), rel=0.05)


def test_views_that_are_held_out_stay_where_they_are(tmp_path) -> None:
    model = start(photos_config(tmp_path)).pipeline.model.eval()
    rays = RayBundle(
        torch.tensor([[4.0, 0.0, 0.0]] * 2),
        torch.tensor([[-1.0, 0.0, 0.0]] * 2),
        torch.ones(2, 1),
        camera_indices=torch.tensor([[0], [1]]),
    )
    before = model(dataclasses.replace(rays))
    with torch.no_grad():
        model.get_param_groups()["camera_opt"][0].normal_()
    after = model(dataclasses.replace(rays))
    assert torch.equal(before["rgb"], after["rgb"])


@pytest.mark.parametrize(
    ("exposure", "differ", "used"),
    [("auto", False, False), ("auto", True, True), ("off", True, False), ("affine", False, True)],
)
def test_exposure_is_corrected_where_it_differs(tmp_path, exposure: str, differ: bool, used: bool) -> None:
    config = photos_config(tmp_path, n=20, exposure=exposure)
    if differ:
        for i, path in enumerate(sorted((tmp_path / "photos" / "images").glob("*.png"))):
            Image.open(path).point(lambda value, i=i: (100 + value / 2) * (0.5 if i % 2 else 1.0)).save(path)
    pipeline = start(config).pipeline
    model = pipeline.model
    assert ("exposure" in model.get_param_groups()) == used
    assert ("exposure.affine" in model.state_dict()) == (exposure != "off")
    bundle, batch = pipeline.datamanager.next_train(0)
    model.get_loss_dict(model(bundle), batch)["rgb"].backward()
    if used:
        assert bool(model.exposure.affine.grad.abs().sum() > 0)


def test_exposure_of_pictures_with_alpha_is_refused(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        start(tiny_config(tmp_path, exposure="affine"))
    assert "--pipeline.model.exposure affine" in capsys.readouterr().err
    assert "exposure.affine" not in start(tiny_config(tmp_path)).pipeline.model.state_dict()


def test_photos_train_render_and_go_on(tmp_path) -> None:
    """All of space in one field: the loss falls, the sky is behind everything, a checkpoint comes out."""
    config = photos_config(tmp_path, steps=60, kar_form="point", kar_warmup=0.0)
    trainer = start(config)
    pipeline, model = trainer.pipeline, trainer.pipeline.model
    assert model.renderer.unbounded
    assert model.occupancy.occupied.shape == (6, 32, 32, 32)
    pipeline.train()
    before = pipeline.get_train_loss_dict(0)[1]
    assert {"rgb", "kar", "distortion"} <= set(before)
    assert float(before["distortion"]) == 0  # its weight rises with the training
    config.viewer.quit_on_train_completion = True
    trainer.train()
    pipeline.train()
    after = pipeline.get_train_loss_dict(0)[1]
    assert float(after["rgb"]) < 0.5 * float(before["rgb"])
    assert float(after["distortion"]) > 0
    model.eval()
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    outputs = model.get_outputs_for_camera(camera)
    assert all(bool(image.isfinite().all()) for image in outputs.values())
    by_nerfstudios_rays = model.get_outputs_for_camera_ray_bundle(camera.generate_rays(0, keep_shape=True))
    torch.testing.assert_close(outputs["rgb"], by_nerfstudios_rays["rgb"], atol=1e-3, rtol=0)
    foreground = outputs["rgb_field"] - (1 - outputs["accumulation"]) * outputs["background"]
    assert float(foreground.min()) > -1e-5
    rgba = model.get_rgba_image(outputs, "rgb_field")
    torch.testing.assert_close(rgba[..., :3] * rgba[..., 3:], foreground.clamp(0, 1), atol=1e-3, rtol=0)
    again = photos_config(tmp_path, steps=61, kar_form="point", kar_warmup=0.0)
    again.load_dir, again.timestamp = config.get_checkpoint_dir(), "again"
    loaded = start(again).pipeline.model.eval()
    torch.manual_seed(0)
    rendered = loaded.get_outputs_for_camera(camera)
    assert "rgb_field" not in rendered  # a training that goes on changes the field, and has no residuals before its end
    for name, was in (("rgb", "rgb_field"), ("accumulation", "accumulation"), ("depth", "depth")):
        torch.testing.assert_close(rendered[name], outputs[was])


@pytest.mark.parametrize(("views", "asked", "expected"), [(4, None, 0.03), (18, None, 0.03), (18, 0.0, 0.0)])
def test_photos_have_the_distortion_loss(tmp_path, views: int, asked: float | None, expected: float) -> None:
    config = photos_config(tmp_path, n=22, distortion_weight=asked)
    config.pipeline.datamanager.dataparser.num_views = views
    model = start(config).pipeline.model
    assert model.num_train_data == views
    assert model.config.distortion_weight == expected


@pytest.mark.parametrize(("asked", "factor"), [(None, 0.25), (0.75, 0.75)])
def test_networks_of_few_photos_learn_slowly(tmp_path, asked: float | None, factor: float) -> None:
    config = photos_config(tmp_path, network_rate=asked)
    preset = config.optimizers["networks"]["optimizer"].lr
    trainer = start(config)
    assert trainer.optimizers.optimizers["networks"].defaults["lr"] == pytest.approx(factor * preset)
    assert trainer.optimizers.optimizers["encoding"].defaults["lr"] == config.optimizers["encoding"]["optimizer"].lr


@pytest.mark.parametrize(("annealing", "withheld"), [(0.5, [1.0, 0.5, 0.0, 0.0]), (0.0, [0.0] * 4)])
def test_rays_come_to_begin_at_the_near_plane(tmp_path, annealing: float, withheld: list[float]) -> None:
    trainer = start(photos_config(tmp_path, near_annealing=annealing))
    model, seen = trainer.pipeline.model, []
    for progress in (0.0, 0.25, 0.5, 1.0):
        for callback in model.get_training_callbacks(
            TrainingCallbackAttributes(trainer.optimizers, None, None, trainer)
        ):
            model.progress = progress
            if TrainingCallbackLocation.BEFORE_TRAIN_ITERATION in callback.where_to_run:
                callback.run_callback_at_location(5, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        seen.append(model.renderer.withheld)
    assert seen == withheld


def test_cells_that_few_cameras_see_stay_empty(tmp_path) -> None:
    """Of 42 photos, three cameras must see a cell; with one, more cells stay. Of few photos one camera is enough."""
    kept = [start(photos_config(tmp_path, n=48, min_cameras=n)).pipeline.model.occupancy for n in (1, 3)]
    one, three = (grid.visible for grid in kept)
    assert bool((one | ~three).all())
    assert 0 < three.sum() < one.sum()
    assert torch.equal(kept[1].occupied, three)
    few = [start(photos_config(tmp_path / "few", n=16, min_cameras=n)).pipeline.model.occupancy for n in (1, 3)]
    assert torch.equal(few[0].visible, few[1].visible)


def test_an_unbounded_checkpoint_of_before_ends_in_one_line(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = start(photos_config(tmp_path)).pipeline
    state = pipeline.state_dict() | {"_model.far.field.base.encoding.encodings.0.table": torch.zeros(1)}
    with pytest.raises(SystemExit):
        pipeline.load_pipeline(state, 0)
    assert "the checkpoint has a background field of its own" in capsys.readouterr().err
