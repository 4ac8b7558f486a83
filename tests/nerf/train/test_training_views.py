"""What a training of photos leaves for renderings of other views: in its checkpoint, and used by every command."""

import copy

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from peak_nerf.nerf.train import training_views
from tests.nerf.runs import start, tiny_config, train
from tests.nerf.scene_factory import write_nerfstudio_scene


def photos_config(folder, steps: int = 20, **model):
    scene = folder / "photos"
    if not scene.exists():
        write_nerfstudio_scene(scene, n=9, size=32)
    config = tiny_config(folder, steps=steps, **model)
    config.data = config.pipeline.datamanager.data = scene
    return config


def image(pipeline, i: int = 0) -> dict[str, torch.Tensor]:
    camera = pipeline.datamanager.eval_dataset.cameras[i : i + 1]
    with torch.no_grad():
        return pipeline.model.eval().get_outputs_for_camera(camera)


def state(checkpoint) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["pipeline"]


def test_a_checkpoint_renders_as_the_training_did(tmp_path) -> None:
    config = photos_config(tmp_path)
    trainer = train(config)
    trained = image(trainer.pipeline)
    assert not torch.equal(trained["rgb"], trained["rgb_field"])
    assert trained["rgb"].min() >= 0
    assert trained["rgb"].max() <= 1
    _, pipeline, checkpoint, _ = eval_setup(config.get_base_dir() / "config.yml")
    loaded = image(pipeline)
    for name in ("rgb", "rgb_field"):
        torch.testing.assert_close(loaded[name], trained[name])
    assert "_model.training_renderings.colour" in state(checkpoint)
    scores, _ = pipeline.model.get_image_metrics_and_images(loaded, pipeline.datamanager.eval_dataset[0])
    truth = pipeline.datamanager.eval_dataset[0]["image"]
    for name, rgb in (("psnr", loaded["rgb"]), ("psnr_field", loaded["rgb_field"])):
        wanted = -10 * torch.log10((rgb.clamp(0, 1) - truth).square().mean())
        assert scores[name] == pytest.approx(float(wanted), abs=0.01)


def test_where_nerfstudio_reads_no_pictures_views_are_the_same(tmp_path) -> None:
    """`ns-render dataset` and `camera-path` set up for inference: neither trains nor scores."""
    config = photos_config(tmp_path)
    train(config)
    views = {}
    for mode in ("test", "inference"):
        _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml", test_mode=mode)
        camera = pipeline.datamanager.train_dataset.cameras[1:2]
        with torch.no_grad():
            views[mode] = pipeline.model.eval().get_outputs_for_camera(camera)
    assert set(views["inference"]) == set(views["test"])
    for name in ("rgb", "rgb_field", "depth", "accumulation"):
        torch.testing.assert_close(views["inference"][name], views["test"][name], msg=name)
    assert not torch.equal(views["inference"]["rgb"], views["inference"]["rgb_field"])


def test_refined_cameras_are_where_their_rays_were(tmp_path) -> None:
    config = photos_config(tmp_path, steps=40)
    trainer = train(config)
    model, datamanager = trainer.pipeline.model, trainer.pipeline.datamanager
    with torch.no_grad():
        model.get_param_groups()["camera_opt"][0].normal_(std=0.05)
    camera = torch.tensor([0, 3, 5])
    where = torch.tensor([3.2, 20.1, 30.7])
    bundle = datamanager.pixel_rays.bundle(camera, where, where.flip(0))
    with torch.no_grad():
        model.camera_optimizer.apply_to_raybundle(bundle)
    refined = training_views.refined_cameras(model, datamanager)
    torch.testing.assert_close(refined.camera_to_worlds[camera, :, 3], bundle.origins)
    assert not torch.allclose(refined.camera_to_worlds, datamanager.cameras.camera_to_worlds, atol=1e-3)
    moved = type(datamanager.pixel_rays)(refined).bundle(camera, where, where.flip(0))
    torch.testing.assert_close(moved.directions, bundle.directions, atol=1e-5, rtol=0)


def test_without_there_are_none(tmp_path) -> None:
    trainer = train(photos_config(tmp_path, photo_residuals=0))
    assert trainer.pipeline.model.residuals is None
    assert "rgb_field" not in image(trainer.pipeline)
    assert not any("training_renderings" in name for name in trainer.pipeline.state_dict())


@pytest.mark.parametrize("background", ["white", "black"])
def test_pictures_with_alpha_stand_before_the_background(tmp_path, background: str) -> None:
    config = tiny_config(tmp_path, steps=5)
    config.pipeline.datamanager.dataparser.background = background
    trainer = train(config)
    datamanager = trainer.pipeline.datamanager
    for i in (0, 7):
        rgba = datamanager.train_dataset[i]["image"]
        wanted = rgba[..., :3] * rgba[..., 3:] + float(background == "white") * (1 - rgba[..., 3:])
        torch.testing.assert_close(trainer.pipeline.model.residuals.photo(i).colour, wanted)
    assert not torch.equal(*(image(trainer.pipeline)[name] for name in ("rgb", "rgb_field")))


def test_a_run_can_be_looked_at_without(tmp_path) -> None:
    config = photos_config(tmp_path)
    train(config)
    without = copy.deepcopy(config)
    without.pipeline.model.photo_residuals = 0
    path = config.get_base_dir() / "config.yml"
    path.write_text(path.read_text().replace("photo_residuals: 5", "photo_residuals: 0"))
    _, pipeline, _, _ = eval_setup(path)
    assert pipeline.model.residuals is None
    assert "rgb_field" not in image(pipeline)


def test_what_no_photo_shows_is_filled_in_unless_that_is_off(tmp_path) -> None:
    """Of a run as it is, and with the option changed in its config.yml."""
    config = photos_config(tmp_path)
    pipeline = train(config).pipeline
    assert pipeline.model.residuals.fills
    rendered = image(pipeline)
    assert rendered["seen"].shape == (*rendered["rgb"].shape[:2], 1)
    path = config.get_base_dir() / "config.yml"
    path.write_text(path.read_text().replace("fill_unseen: true", "fill_unseen: false"))
    _, pipeline, _, _ = eval_setup(path)
    assert not pipeline.model.residuals.fills
    assert "seen" not in image(pipeline)


def test_a_training_that_goes_on_makes_them_anew(tmp_path) -> None:
    config = photos_config(tmp_path)
    first = train(config)
    kept = first.pipeline.model.training_renderings.colour.clone()
    again = photos_config(tmp_path, steps=60)
    again.load_dir, again.timestamp = config.get_checkpoint_dir(), "again"
    trainer = start(again)
    # A field that changes is not what was rendered.
    assert trainer.pipeline.model.residuals is None
    assert not any("training_renderings" in name for name in trainer.pipeline.state_dict())
    again.viewer.quit_on_train_completion = True
    trainer.train()
    assert not torch.equal(trainer.pipeline.model.training_renderings.colour, kept)


def test_ctrl_c_leaves_them_out_and_the_run_is_whole(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_views, "rendered_training_views", interrupted)
    config = photos_config(tmp_path, steps=5)
    trainer = train(config)
    assert "photo residuals are left out" in capsys.readouterr().out
    assert [path.name for path in config.get_checkpoint_dir().iterdir()] == ["step-000000004.ckpt"]
    assert trainer.pipeline.model.residuals is None
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    assert "rgb_field" not in image(pipeline)


def test_renderings_that_are_not_of_these_photos_are_left_out(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = train(photos_config(tmp_path, steps=5))
    model, datamanager = trainer.pipeline.model, trainer.pipeline.datamanager
    model.training_renderings.stride.fill_(2)
    training_views.attach(model, datamanager)
    assert model.residuals is None
    assert "the photos are not those of the training" in capsys.readouterr().out


def test_masks_leave_residuals_out(tmp_path) -> None:
    trainer = train(photos_config(tmp_path, steps=5))
    model, datamanager = trainer.pipeline.model, trainer.pipeline.datamanager
    assert model.residuals.photo(0).known is None
    seen = torch.arange(len(datamanager.full_size.colours)) % 3 == 0
    datamanager.full_size.drawable = seen.nonzero()[:, 0]
    training_views.attach(model, datamanager)
    for i in (0, 4):
        assert torch.equal(model.residuals.photo(i).known.flatten(), seen[i * 1024 : (i + 1) * 1024])


def test_time_for_them_is_no_training(tmp_path) -> None:
    config = photos_config(tmp_path, steps=5)
    trainer = train(config)
    assert trainer.seconds_photo_residuals > 0
    assert trainer.elapsed() < trainer.seconds + 1e-6
