"""The point form of KAR and what all forms share, on a field of two parameters."""

import pytest
import torch
from torch import Tensor

from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.nerf.losses.kar_samples import KarAtSamples
from peak_nerf.nerf.options import KarOptions
from tests.nerf.losses.toy import ToyField, toy_renderer, toy_step
from tests.nerf.runs import start, tiny_config


def point_form(slope: float = 1.0, warmup: float = 0.0, **options: float) -> KarAtSamples:
    torch.manual_seed(0)
    kar = KernelAlignmentRegularizer(3, n_features=8, weight=0.5, warmup=warmup)
    return KarAtSamples(kar, toy_renderer(ToyField(slope)), KarOptions(**{"kar_queries": 32, **options}))


def queries(form: KarAtSamples, n_virtual: int) -> tuple[Tensor, Tensor]:
    """What `compute` asks the residual of, and the positions of the batch's samples."""
    seen: list[Tensor] = []
    form.residual = lambda x, directions: seen.append(x) or x
    step = toy_step(form.renderer, n_virtual=n_virtual)
    form.compute(step)
    return seen[0], step.rendered.samples.x


def test_the_residual_is_its_definition() -> None:
    """f - sum_j A_j f_j with A = softmax(g(x)^T g(X)), point by point; anchors are within the radius."""
    form = point_form(kar_radius=0.1, kar_anchors=3)
    x, directions = torch.rand(5, 3) - 0.5, torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    asked = []
    field = form.renderer.field
    density = field.density
    field.density = lambda points: asked.append(points) or density(points)
    residual = form.residual(x, directions)
    (points,) = asked
    anchors = points[5:].reshape(5, 3, 3)
    assert 0.05 < (anchors - x[:, None]).abs().max() <= 0.1

    def f(points: Tensor, direction: Tensor) -> Tensor:
        sigma, _ = density(points)
        return torch.cat((1 - torch.exp(-0.1 * sigma)[:, None], torch.sigmoid(points + direction)), 1)

    for i in range(5):
        g, g_anchor = form.kar.similarity_features(x[i]), form.kar.similarity_features(anchors[i])
        attention = torch.softmax(g_anchor @ g, 0)
        expected = f(x[i : i + 1], directions[i])[0] - attention @ f(anchors[i], directions[i])
        torch.testing.assert_close(residual[i], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("n_virtual", "n_queries"), [(50, 32), (0, 16)])
def test_half_of_the_queries_are_of_the_batch(n_virtual: int, n_queries: int) -> None:
    """The other half are of virtual views, and missing where there are none."""
    x, samples = queries(point_form(), n_virtual)
    batch = {tuple(position) for position in samples.tolist()}
    assert len(x) == n_queries
    assert sum(tuple(position) in batch for position in x.tolist()) == 16


def test_too_few_queries_are_not_compared() -> None:
    assert point_form(kar_queries=16, kar_anchors=8).compute(toy_step(toy_renderer(ToyField()))) is None


def test_g_and_the_field_have_gradients() -> None:
    form = point_form()
    loss = form.loss(toy_step(form.renderer, n_virtual=20))
    assert loss is not None
    loss.backward()
    for parameters in (form.kar.parameters(), form.renderer.field.parameters()):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


@pytest.mark.parametrize("interval", [1, 3])
def test_every_few_steps_with_as_many_times_the_weight(interval: int) -> None:
    form = point_form(kar_interval=interval)
    form.residual = lambda x, _: torch.ones(len(x), 1)
    losses = [form.loss(toy_step(form.renderer)) for _ in range(6)]
    assert [loss is not None for loss in losses] == [step % interval == 0 for step in range(6)]
    assert losses[0] == pytest.approx(interval * 0.5)


def test_the_weight_rises() -> None:
    form = point_form(warmup=0.4, kar_interval=1)
    form.residual = lambda x, _: torch.ones(len(x), 1)
    assert form.loss(toy_step(form.renderer, progress=0.1)) == pytest.approx(0.125)


def test_the_drawn_residual_is_weighted_as_colour_is() -> None:
    """A residual of norm 2 everywhere is drawn as 2 times the opacity that samples of weight above 0.05 make up."""
    form = point_form()
    form.residual = lambda x, _: torch.full((len(x), 4), 1.0)
    origins, directions = torch.tensor([[-3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    x = torch.arange(-0.95, 1.0, 0.1)
    tau = 0.1 * torch.exp(x + 1)
    weights = (1 - torch.exp(-tau)) * torch.exp(-(tau.cumsum(0) - tau))
    expected = 2 * weights[weights > 0.05].sum()
    assert form.render(origins, directions).item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize(("form", "draws"), [("point", True), ("unobserved", False)])
def test_virtual_rays_are_drawn_where_a_form_needs_them(tmp_path, form: str, draws: bool) -> None:
    pipeline = start(tiny_config(tmp_path, kar_form=form, kar_warmup=0.0)).pipeline
    assert ("virtual_rays" in pipeline.datamanager.next_train(0)[1]) == draws
    pipeline.train()
    assert ("kar" in pipeline.get_train_loss_dict(0)[1]) == draws  # the other form first waits
