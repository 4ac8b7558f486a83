"""The forms of KAR beside free space: each trains g and the field, and compares what it says it compares."""

import pytest
import torch

from peak_nerf.errors import PeakError
from peak_nerf.nerf.losses import kar_rays
from peak_nerf.nerf.losses.kar import KarStep, UnseenRays
from peak_nerf.nerf.losses.kar_planes import SIDE, KarOnPlanes
from peak_nerf.nerf.losses.kar_rays import KarOnRays
from tests.nerf.runs import start, tiny_config, train
from tests.nerf.scene_factory import write_nerfstudio_scene

FORMS = [
    {"kar_form": "point"},
    {"kar_form": "point", "kar_sampler": "global"},
    {"kar_form": "point", "kar_values": "opacity"},
    {"kar_form": "point", "kar_values": "colour"},
    {"kar_form": "point", "kar_values": "features"},
    {"kar_form": "point", "kar_query_rays": "seen"},
    {"kar_form": "point", "kar_query_rays": "unseen"},
    {"kar_form": "rays"},
    {"kar_form": "planes"},
]


@pytest.mark.parametrize("options", FORMS)
def test_every_form_trains_g_and_the_field(tmp_path, options: dict) -> None:
    trainer = start(tiny_config(tmp_path, kar_warmup=0.0, **options))
    pipeline = trainer.pipeline
    model = pipeline.model
    pipeline.train()
    model.renderer.dt = model.renderer.final_dt
    model.field.density_bias = 2.0  # rays hit something
    model.progress = 0.5
    pipeline.get_train_loss_dict(0)[1]["kar"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.get_param_groups()["kar"])
    table = model.field.grid.table.grad
    assert table is not None
    assert bool(table.abs().sum() > 0)


@pytest.mark.parametrize(("values", "channels"), [("both", 4), ("opacity", 1), ("colour", 3), ("features", 16)])
def test_what_is_compared(tmp_path, values: str, channels: int) -> None:
    kar = start(tiny_config(tmp_path, kar_form="point", kar_values=values)).pipeline.model.kar_form
    x = torch.rand(5, 3)
    assert kar._f(x, x).shape == (5, channels)


def test_fine_features_come_in_late(tmp_path) -> None:
    model = start(tiny_config(tmp_path, kar_form="point", kar_values="features")).pipeline.model
    x = torch.rand(5, 3)
    features, levels = model.field.grid(x), 4
    model.kar_form.progress = 0.0
    early = model.kar_form._f(x, x)
    assert torch.equal(early[:, : 16 // levels], features[:, : 16 // levels])
    assert (early[:, 16 // levels * 2 :] == 0).all()
    model.kar_form.progress = 1.0
    assert torch.equal(model.kar_form._f(x, x), features)


@pytest.mark.parametrize(("whose", "of_the_batch"), [("seen", 32), ("both", 16), ("unseen", 0)])
def test_whose_rays_are_asked(tmp_path, whose: str, of_the_batch: int) -> None:
    pipeline = start(tiny_config(tmp_path, kar_form="point", kar_query_rays=whose)).pipeline
    model, kar = pipeline.model, pipeline.model.kar_form
    pipeline.train()
    bundle, _ = pipeline.datamanager.next_train(0)
    outputs = model(bundle)
    rays = model._unseen(pipeline.datamanager.unseen_view_rays(50))
    asked: list[torch.Tensor] = []
    kar.residual = lambda x, _: asked.append(x) or x
    kar.ask(KarStep(outputs["samples"], outputs["density"], outputs["directions"], rays, 1.0))
    batch = {tuple(x) for x in outputs["samples"].x.tolist()}
    assert len(asked[0]) == 32
    assert sum(tuple(x) in batch for x in asked[0].tolist()) == of_the_batch


# Rays


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory):
    """A ball and the rays form on it. Its depth is right to 0.05; with half the steps it was at the bound of 0.1."""
    config = tiny_config(tmp_path_factory.mktemp("ball"), steps=600, kar_form="rays", num_views=12)
    trainer = train(config)
    trainer.pipeline.train()
    assert isinstance(trainer.pipeline.model.kar_form, KarOnRays)
    return trainer.pipeline


def unseen(pipeline) -> UnseenRays:
    torch.manual_seed(0)
    return pipeline.model._unseen(pipeline.datamanager.unseen_view_rays(200))


def asked(pipeline, rays: UnseenRays | None) -> torch.Tensor | None:
    torch.manual_seed(1)
    empty = pipeline.model.renderer.marcher(torch.zeros(0, 3), torch.zeros(0, 3)).next()
    return pipeline.model.kar_form.ask(KarStep(empty, torch.zeros(0), torch.zeros(0, 3), rays, 1.0))


def test_cameras_recorded_the_point_that_they_look_at(ball) -> None:
    """Points on the upper half of the ball that a camera sees have the colour of their normal; others are not in it."""
    datamanager = ball.datamanager
    camera = torch.arange(12)
    position = datamanager.cameras.camera_to_worlds[camera, :, 3]
    nearest = torch.nn.functional.normalize(position + torch.tensor([0.0, 0.0, 2.0]), dim=-1)
    where, recorded, inside = datamanager.look_at(nearest, camera)
    assert torch.equal(where, position)
    assert inside.all()
    assert torch.allclose(recorded[:, :3].float() / 255, 0.5 + 0.5 * nearest, atol=0.1)
    assert not datamanager.look_at(2 * position, camera)[2].any()  # behind the camera
    beside = nearest + 4 * torch.linalg.cross(nearest, torch.tensor([0.0, 0.0, 1.0]).expand(12, 3))
    assert not datamanager.look_at(beside, camera)[2].any()


def test_anchors_lie_on_the_ball_and_far_cameras_see_nothing(ball, monkeypatch: pytest.MonkeyPatch) -> None:
    """X of a camera that sees x is x; a camera on the other side sees the ball's back, which is not x."""
    monkeypatch.setattr(kar_rays, "REACH", 0.1)  # of 32 pixels one is 0.06 wide
    model = ball.model
    position = ball.datamanager.cameras.camera_to_worlds[:, :, 3] / model.half_extent
    x = torch.nn.functional.normalize(position, dim=-1) / model.half_extent
    opposite = (torch.arange(12) + 6) % 12
    cameras = torch.stack((torch.arange(12), opposite), 1)
    rays = UnseenRays(position, -position, cameras, model._look_at)
    anchors, y, seen = model.kar_form._anchors(x, rays, torch.arange(12))
    assert seen[:, 0].float().mean() > 0.8
    assert not seen[:, 1].any()
    assert (anchors[:, 0] - x)[seen[:, 0]].norm(dim=-1).max() < 0.1
    assert y.shape == (12, 2, 4)
    assert y.max() <= 1


def test_what_cameras_agree_on_has_a_small_residual(ball) -> None:
    """Inverted pictures are far from what the field shows, true ones near."""
    rays = unseen(ball)
    true = asked(ball, rays)

    def inverted(x, camera):
        position, recorded, inside = ball.model._look_at(x, camera)
        return position, torch.cat((1 - recorded[:, :3], recorded[:, 3:]), 1), inside

    false = asked(ball, UnseenRays(rays.origins, rays.directions, rays.cameras, inverted))
    assert 0 < true < 0.5 * false


def test_rays_that_no_camera_tells_about_do_not_count(ball) -> None:
    rays = unseen(ball)

    def blind(x, camera):
        position, recorded, inside = ball.model._look_at(x, camera)
        return position, recorded, torch.zeros_like(inside)

    assert asked(ball, UnseenRays(rays.origins, rays.directions, rays.cameras, blind)) == 0
    assert asked(ball, None) is None


RAYS = ("kar-form rays", {"kar_form": "rays"})
UNSEEN = ("kar-query-rays unseen", {"kar_form": "point", "kar_query_rays": "unseen"})


@pytest.mark.parametrize(
    ("asked", "missing"),
    [
        (RAYS, "distortion"),
        (RAYS, "one training view"),
        (RAYS, "unseen-rays"),
        (UNSEEN, "one training view"),
        (UNSEEN, "unseen-rays"),
    ],
)
def test_rays_that_could_ask_nothing_are_refused(tmp_path, asked: tuple[str, dict], missing: str) -> None:
    option, options = asked
    config = tiny_config(tmp_path, num_views=1 if missing == "one training view" else None, **options)
    if missing == "distortion":
        scene = write_nerfstudio_scene(tmp_path / "photos", n=9, size=32, k1=0.05)
        config.data = config.pipeline.datamanager.data = scene
    if missing == "unseen-rays":
        config.pipeline.datamanager.unseen_rays = 0
    with pytest.raises((PeakError, SystemExit)) as error:
        start(config)
    said = str(error.value.__context__ or error.value)
    assert said.startswith(f"--pipeline.model.{option}: ")
    assert missing in said


@pytest.mark.parametrize(
    ("form", "whose", "draws"),
    [
        ("rays", "seen", True),
        ("planes", "both", False),
        ("free-space", "both", False),
        ("point", "both", True),
        ("point", "seen", False),
    ],
)
def test_unseen_rays_are_drawn_where_a_form_asks(tmp_path, form: str, whose: str, draws: bool) -> None:
    datamanager = start(tiny_config(tmp_path, kar_form=form, kar_query_rays=whose)).pipeline.datamanager
    assert ("unseen" in datamanager.next_train(0)[1]) == draws


# Planes


def test_planes_compare_rows_and_columns(tmp_path) -> None:
    """The energy is 1/2 sum_ij W_ij |f_i - f_j|^2 of rows plus that of columns, written out; 0 for a constant."""
    pipeline = start(tiny_config(tmp_path, kar_form="planes")).pipeline
    kar = pipeline.model.kar_form
    assert isinstance(kar, KarOnPlanes)
    pipeline.train()
    bundle, _ = pipeline.datamanager.next_train(0)
    outputs = pipeline.model(bundle)
    step = KarStep(outputs["samples"], outputs["density"], outputs["directions"], None, 1.0)
    kar._f = lambda x, _: torch.ones(len(x), 1)
    assert kar.ask(step).item() == pytest.approx(0, abs=1e-6)
    points = []

    def f(x, _):
        points.append(x)
        return torch.sin(x + x**2).sum(1, keepdim=True)

    kar._f = f
    measured = kar.ask(step).item()
    x = points[0].reshape(SIDE, SIDE, 3)
    expected = 0.0
    for grid in (x, x.transpose(0, 1)):
        g = kar.kar.similarity_features(grid.mean(dim=1))
        logits = (g @ g.T).fill_diagonal_(-torch.inf)
        a = logits.softmax(1)
        w = (a + a.T) / 2
        rows = f(grid.reshape(-1, 3), None).reshape(SIDE, SIDE)
        expected += 0.5 * float((w * torch.cdist(rows, rows).square()).sum()) / SIDE**2
    assert measured == pytest.approx(expected, rel=1e-3)
    spacing = (x[1, 0] - x[0, 0]).norm()
    assert spacing.item() == pytest.approx(kar.config.kar_radius / 2, rel=1e-3)
