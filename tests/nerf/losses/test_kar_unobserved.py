"""KAR in free space: cells count as hidden when they should, and only what is hidden is pulled at."""

import math

import pytest
import torch

from peak_nerf.nerf.losses.kar_unobserved import FORGET, LOG_EMPTY, LOG_SOLID, KarInFreeSpace, SeenCells, opacity_share
from tests.nerf.runs import start, tiny_config, train


def test_opacity_share_by_hand() -> None:
    middle = math.exp((LOG_EMPTY + LOG_SOLID) / 2)
    density = torch.tensor([0.0, math.exp(LOG_EMPTY), middle, math.exp(LOG_SOLID), math.exp(LOG_SOLID + 2)])
    assert opacity_share(density)[:, 0].tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)


def test_a_cell_is_hidden_once_no_ray_reaches_it() -> None:
    """Cell 0 is reached always, 1 in the first step only, 2 never but empty, 3 never."""
    seen, occupied = SeenCells(4, torch.device("cpu")), torch.tensor([True, True, False, True])
    seen.observe(torch.tensor([0, 1]))
    for _ in range(FORGET - 1):
        seen.observe(torch.tensor([0]))
        assert len(seen.hidden(occupied)) == 0
    seen.observe(torch.tensor([0]))
    assert seen.hidden(occupied).tolist() == [3]  # cell 1 has been reached FORGET steps ago, no more
    seen.observe(torch.tensor([0]))
    assert seen.hidden(occupied).tolist() == [1, 3]


@pytest.fixture
def pipeline(tmp_path):
    trainer = start(tiny_config(tmp_path, kar_form="free-space", kar_warmup=0.0, kar_bank=64))
    trainer.pipeline.train()
    assert isinstance(trainer.pipeline.model.kar_form, KarInFreeSpace)
    return trainer.pipeline


def test_nothing_is_asked_before_anything_can_be_hidden(pipeline) -> None:
    assert "kar" not in pipeline.get_train_loss_dict(0)[1]


@pytest.mark.parametrize("n_hidden", [0, 5])
def test_only_hidden_places_are_pulled_at(pipeline, n_hidden: int) -> None:
    """g always learns; the field has a gradient from KAR exactly where there are hidden cells."""
    model = pipeline.model
    model.kar_form.seen.step = FORGET + 1
    model.kar_form.hidden = torch.arange(n_hidden) + 16912  # in the middle of the box
    pipeline.get_train_loss_dict(0)[1]["kar"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.get_param_groups()["kar"])
    table = model.field.grid.table.grad
    assert (table is not None and bool(table.abs().sum() > 0)) == (n_hidden > 0)


def test_an_empty_scene_has_no_residual(pipeline) -> None:
    """f = 0 at every place that is not occupied."""
    kar = pipeline.model.kar_form
    pipeline.model.occupancy.occupied[:] = False
    x = 2 * torch.rand(50, 3) - 1
    assert kar.residual(x, x).abs().max() == 0


def test_hidden_matter_thins_out(pipeline) -> None:
    """KAR alone moves a solid hidden region towards the rest of the box, of which most is empty."""
    model = pipeline.model
    kar, occupancy = model.kar_form, model.occupancy
    model.field.density_bias = 4.0
    occupancy.occupied[:] = False
    occupancy.occupied[12:20, 12:20, 12:20] = True
    kar.seen.step, kar.hidden = FORGET + 1, occupancy.occupied.view(-1).nonzero()[:, 0]
    x = occupancy.points_in(kar.hidden)
    before = kar._f(x).mean().item()
    optimizer = torch.optim.Adam(model.field.parameters(), 1e-2)
    for _ in range(20):
        kar.seen.step = FORGET + 1  # no refresh: the cells stay hidden
        kar.hidden = occupancy.occupied.view(-1).nonzero()[:, 0]
        optimizer.zero_grad()
        pipeline.get_train_loss_dict(0)[1]["kar"].backward()
        optimizer.step()
    assert before > 0.8
    assert kar._f(x).mean() < before - 0.1


def test_the_ball_stays(tmp_path) -> None:
    """At ten times the weight, what cameras see is still there."""
    trainer = train(tiny_config(tmp_path, steps=300, kar_form="free-space", kar_weight=1.0))
    trainer.pipeline.eval()
    camera = trainer.pipeline.datamanager.eval_dataset.cameras[0:1]
    outputs = trainer.pipeline.model.get_outputs_for_camera(camera)
    assert outputs["accumulation"][16, 16] > 0.9
    assert outputs["accumulation"][0, 0] < 0.1
    assert outputs["depth"][16, 16].item() == pytest.approx(3.0, abs=0.5)
