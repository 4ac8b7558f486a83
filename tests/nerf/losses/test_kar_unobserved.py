"""KAR in unobserved regions: cells count as hidden when they should, and only what is hidden is regularised."""

import math

import pytest
import torch

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.nerf.losses.kar_unobserved import (
    FORGET,
    LOG_EMPTY,
    LOG_SOLID,
    KarUnobserved,
    SeenCells,
    relative_log_density,
)
from peak_nerf.nerf.options import KarOptions
from peak_nerf.nerf.render.field import PeakRadianceField
from peak_nerf.nerf.render.marcher import Steps
from peak_nerf.nerf.render.marked import Marked
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.renderer import VolumeRenderer
from tests.nerf.losses.toy import ToyField, toy_renderer, toy_step
from tests.nerf.runs import tiny_config, train

N_BANK = 16


def form_on(renderer: VolumeRenderer) -> KarUnobserved:
    torch.manual_seed(0)
    kar = KernelAlignmentRegularizer(3, n_features=8, norm="huber", weight=0.1, warmup=0.0)
    return KarUnobserved(kar, renderer, KarOptions(kar_bank=N_BANK, kar_queries=12))


def hidden(form: KarUnobserved, cells: torch.Tensor) -> Marked:
    mask = torch.zeros_like(form.renderer.occupancy.occupied).view(-1)
    mask[cells] = True
    return Marked(mask)


def average(f: torch.Tensor, g_query: torch.Tensor, g: torch.Tensor, without: int | None = None) -> torch.Tensor:
    """A(x, X) f(X) at one query."""
    logits = g @ g_query
    if without is not None:
        logits[without] = -torch.inf
    return torch.softmax(logits, 0) @ f


def huber(residual: torch.Tensor) -> torch.Tensor:
    return 2 * 0.03 * ((residual.square().sum() + 0.03**2).sqrt() - 0.03)


def test_relative_log_density_by_hand() -> None:
    middle = math.exp((LOG_EMPTY + LOG_SOLID) / 2)
    density = torch.tensor([0.0, math.exp(LOG_EMPTY), middle, math.exp(LOG_SOLID), math.exp(LOG_SOLID + 2)])
    assert relative_log_density(density)[:, 0].tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)


def test_a_cell_is_hidden_once_no_ray_reaches_it() -> None:
    """Cell 0 is reached always, 1 in the first step only, 2 never but empty, 3 never."""
    seen, occupied = SeenCells(4, torch.device("cpu")), torch.tensor([True, True, False, True])
    cells = torch.tensor([0, 1, 3])
    first, later = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    seen.observe(cells, first)
    for _ in range(FORGET - 1):
        seen.observe(cells, later)
        assert seen.hidden(occupied).tolist() == [False] * 4
    seen.observe(cells, later)
    assert seen.hidden(occupied).nonzero().tolist() == [[3]]  # cell 1 has been reached FORGET steps ago, no more
    seen.observe(cells, later)
    assert seen.hidden(occupied).nonzero().tolist() == [[1], [3]]


def test_both_terms_are_their_definition() -> None:
    """The same draws, then the sums written out: the bank against itself, and hidden places against the bank."""
    form = form_on(toy_renderer(ToyField(4.0)))
    step = toy_step(form.renderer)
    form.seen.step, form.hidden = FORGET + 1, hidden(form, torch.arange(100, 140))
    torch.manual_seed(5)
    loss = form.compute(step)
    torch.manual_seed(5)
    samples, density = step.rendered.samples, step.rendered.density
    seen = (step.rendered.transmittance > 0.05).nonzero()[:, 0]
    assert 0 < len(seen) < len(samples)
    chosen = seen[torch.randint(len(seen), (N_BANK // 2,))]
    bank = torch.cat((samples.x[chosen].clamp(-1, 1), 2 * torch.rand(N_BANK - N_BANK // 2, 3) - 1))
    field = form.renderer.field
    f_bank = relative_log_density(torch.cat((density[chosen], field.density(bank[N_BANK // 2 :])[0])))
    g_bank = form.kar.similarity_features(bank)
    first = [huber(f_bank[i] - average(f_bank, g_bank[i], g_bank, i)) for i in range(N_BANK)]
    x = form.renderer.occupancy.points_in(100 + torch.randint(40, (12,)))
    g, f = form.kar.similarity_features(x), relative_log_density(field.density(x)[0])
    second = [huber(f[i] - average(f_bank, g[i], g_bank)) for i in range(12)]
    expected = torch.stack(first).mean() + torch.stack(second).mean()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)


def test_nothing_is_computed_before_anything_can_be_hidden() -> None:
    form = form_on(toy_renderer(ToyField()))
    assert form.loss(toy_step(form.renderer)) is None
    form.seen.step = FORGET
    assert form.loss(toy_step(form.renderer)) is not None


@pytest.mark.parametrize("n_hidden", [0, 5])
def test_only_hidden_places_have_a_gradient(n_hidden: int) -> None:
    """g always learns; the field has a gradient from KAR exactly where there are hidden cells."""
    form = form_on(toy_renderer(ToyField()))
    form.seen.step, form.hidden = FORGET + 1, hidden(form, torch.arange(n_hidden) + 200)
    loss = form.loss(toy_step(form.renderer))
    assert loss is not None
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in form.kar.parameters())
    slope = form.renderer.field.a.grad
    assert (slope is not None and bool(slope.abs().sum() > 0)) == (n_hidden > 0)


def test_an_empty_scene_has_no_residual() -> None:
    """f = 0 at every place that is not occupied."""
    form = form_on(toy_renderer(ToyField()))
    form.renderer.occupancy.occupied[:] = False
    x = 2 * torch.rand(50, 3) - 1
    assert form.residual(x, x).abs().max() == 0


def test_hidden_matter_thins_out() -> None:
    """KAR alone moves a solid hidden region towards the rest of the box, of which most is empty."""
    grid = HashGridConfig(n_levels=4, n_features=4, log2_table_size=12, finest_resolution=64)
    field = PeakRadianceField(FieldConfig(hash_grid=grid, bias=False, n_hidden=1), density_bias=4.0)
    form = form_on(VolumeRenderer(field, OccupancyGrid(32), Steps(2 / 48, 0.0, 64), near=0.0, background=1.0))
    occupancy = form.renderer.occupancy
    occupancy.occupied[:] = False
    occupancy.occupied[:, 12:20, 12:20, 12:20] = True
    occupancy.restrict(occupancy.occupied.clone())
    cells = occupancy.occupied.view(-1).nonzero()[:, 0]
    x = occupancy.points_in(cells)
    before = form._f(x).mean().item()
    optimizer = torch.optim.Adam(field.parameters(), 1e-2)
    for _ in range(20):
        form.seen.step, form.hidden = FORGET + 1, hidden(form, cells)  # no refresh: the cells stay hidden
        optimizer.zero_grad()
        loss = form.loss(toy_step(form.renderer))
        assert loss is not None
        loss.backward()
        optimizer.step()
    assert before > 0.8
    assert form._f(x).mean() < before - 0.1


def test_the_ball_stays(tmp_path) -> None:
    """At ten times the weight, what cameras see is still there."""
    trainer = train(tiny_config(tmp_path, steps=300, kar_form="unobserved", kar_weight=1.0))
    trainer.pipeline.eval()
    camera = trainer.pipeline.datamanager.eval_dataset.cameras[0:1]
    outputs = trainer.pipeline.model.get_outputs_for_camera(camera)
    assert outputs["accumulation"][16, 16] > 0.9
    assert outputs["accumulation"][0, 0] < 0.1
    assert outputs["depth"][16, 16].item() == pytest.approx(3.0, abs=0.5)
