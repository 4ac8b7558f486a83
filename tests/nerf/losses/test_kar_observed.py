"""KAR with observed anchors: values are data, and only f learns from them."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.points import Sightings, SparsePoints
from peak_nerf.nerf.losses import kar_observed
from peak_nerf.nerf.losses.kar import KarStep
from peak_nerf.nerf.losses.kar_observed import AnchorBank, KarObserved, SightLines
from peak_nerf.nerf.losses.kar_unobserved import LOG_EMPTY, LOG_SOLID
from peak_nerf.nerf.options import KarOptions
from peak_nerf.nerf.render.marcher import Steps
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.renderer import VolumeRenderer
from tests.nerf.losses.toy import ToyField, rays
from tests.waits import waits

CAMERAS = torch.tensor([[0.0, 0.0, 2.0], [0.5, 0.0, 2.0]])


@pytest.fixture(autouse=True)
def few_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kar_observed, "MANY", 40)


def wall(n: int = 30) -> SightLines:
    """Points on a wall at z = 0, each seen by two cameras before it."""
    generator = torch.Generator().manual_seed(3)
    xyz = 2 * torch.rand(n, 3, generator=generator) - 1
    xyz[:, 2] = 0
    camera, point = torch.arange(2).repeat_interleave(n), torch.arange(n).repeat(2)
    return SightLines(xyz, torch.rand(n, 3, generator=generator), CAMERAS[camera], point)


def form_on(seen: SightLines, n_cascades: int = 1, warmup: float = 0.0, slope: float = 1.0) -> KarObserved:
    torch.manual_seed(0)
    occupancy = OccupancyGrid(32, n_cascades=n_cascades)
    renderer = VolumeRenderer(ToyField(slope), occupancy, Steps(0.1, 0.0, 32), near=0.0, background=1.0)
    kar = KernelAlignmentRegularizer(3, n_features=8, weight=0.5, warmup=warmup)
    return KarObserved(kar, renderer, KarOptions(kar_queries=32, kar_anchors=4, kar_interval=1), seen)


def step_of(form: KarObserved, n_virtual: int = 20, progress: float = 1.0) -> KarStep:
    origins, directions = rays(40)
    virtual_rays = rays(n_virtual, seed=1) if n_virtual else None
    return KarStep(form.renderer.training_rays(origins, directions), directions, virtual_rays, progress)


def expected_deviation(form: KarObserved, x: Tensor, value: Tensor, left_out: int | None = None) -> Tensor:
    """sum_i A(x, x_i) M_i (value - y_i) at one position over its 4 nearest anchors, one channel at a time."""
    bank = form.bank
    distance = (bank.x - x).norm(dim=1)
    if left_out is not None:
        distance[left_out] = torch.inf
    near = distance.argsort()[:4]
    g = form.kar.similarity_features(x)
    attention = torch.softmax(torch.stack([form.kar.similarity_features(bank.x[i]) @ g for i in near]), 0)
    deviation = torch.zeros(4)
    for a, i in zip(attention, near, strict=True):
        channels = 4 if i < bank.n_points else 1
        for c in range(channels):
            deviation[c] += a * (value[c] - bank.y[i, c])
    return deviation


def test_the_residual_is_its_definition() -> None:
    """Anchor by anchor; f is the clamped log density and colour, and fades by the distance over the spacing."""
    form = form_on(wall())
    x = torch.cat((form.bank.x[:6] + 0.02, 1.6 * torch.rand(14, 3) - 0.8))
    directions = F.normalize(torch.randn(20, 3), dim=-1)
    residual = form.residual(x, directions)
    field, bank, says = form.renderer.field, form.bank, []
    for i in range(20):
        sigma = field.density(x[i : i + 1])[0].item()
        f = min(1.0, max(0.0, (math.log(sigma) - LOG_EMPTY) / (LOG_SOLID - LOG_EMPTY)))
        value = torch.cat((torch.tensor([f]), torch.sigmoid(x[i] + directions[i])))
        distance = (bank.x - x[i]).norm(dim=1)
        nearest = distance.argmin()
        spacing = (bank.x - bank.x[nearest]).norm(dim=1).sort()[0][1:5].mean()
        says.append(torch.exp(-((distance[nearest] / spacing) ** 2)))
        expected = says[-1] * expected_deviation(form, x[i], value)
        torch.testing.assert_close(residual[i], expected, atol=1e-5, rtol=0)
    assert min(says) < 0.7 < 0.95 < max(says)


def test_far_from_all_anchors_nothing_is_said() -> None:
    form = form_on(wall())
    x = torch.tensor([[0.0, 0.0, -9.0]])
    assert form.residual(x, F.normalize(x, dim=-1)).abs().max() < 1e-6


def test_an_anchor_is_predicted_by_its_others() -> None:
    """Points by all channels, empty positions by the density alone."""
    form = form_on(wall())
    bank = form.bank
    anchors = torch.arange(len(bank.x))
    found = form.left_out(anchors)
    for i in anchors.tolist():
        expected = expected_deviation(form, bank.x[i], bank.y[i], left_out=i)
        if i >= bank.n_points:
            expected[1:] = 0
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=0)
    assert (found[: bank.n_points, 1:].norm(dim=1) > 0).any()


def test_anchors_in_one_place_are_not_their_own_neighbours() -> None:
    """Ten in one place: the search may return an anchor itself anywhere among them, or not at all."""
    x = torch.cat((torch.zeros(10, 3), torch.rand(5, 3) + 1))
    bank = AnchorBank(x, torch.zeros(15, 4), torch.ones(15, 4), 4, 10)
    assert bank.neighbours.shape == (15, 4)
    assert not (bank.neighbours == torch.arange(15)[:, None]).any()
    assert bank.spacing[:10].max() == 0
    near, say = bank.nearest(torch.zeros(1, 3) + 0.5)
    assert say.item() == 0
    assert near.max() < 10


def test_looking_at_all_anchors_finds_those_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU does, in chunks and without waiting."""
    x, queries = torch.rand(50, 3), torch.rand(20, 3)
    banks, found = [], []
    for on_gpu in (False, True):
        monkeypatch.setattr(kar_observed, "runs_ahead", lambda device, on_gpu=on_gpu: on_gpu)
        monkeypatch.setattr(kar_observed, "CHUNK", 16)
        with waits() as what:
            banks.append(AnchorBank(x, torch.zeros(50, 4), torch.ones(50, 4), 4, 10))
            found.append(banks[-1].nearest(queries))
        assert bool(what) != on_gpu, what
    assert banks[0].neighbours.tolist() == banks[1].neighbours.tolist()
    torch.testing.assert_close(banks[1].spacing, banks[0].spacing)
    assert found[0][0].tolist() == found[1][0].tolist()
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("n_cascades", [1, 3])
def test_the_bank_is_what_cameras_saw(n_cascades: int) -> None:
    """Points with their colours; between them and a camera, no nearer to the point than the margin, f = 0."""
    form = form_on(wall(), n_cascades)
    bank, seen = form.bank, form.seen
    assert bank.n_points == 30
    assert len(bank.x) == 70
    x = bank.x * (2 if n_cascades > 1 else 1)  # contraction halves what is in the box
    for i in range(30):
        j = (seen.xyz - x[i]).norm(dim=1).argmin()
        torch.testing.assert_close(x[i], seen.xyz[j], atol=1e-6, rtol=0)
        torch.testing.assert_close(bank.y[i], torch.cat((torch.ones(1), seen.rgb[j])))
    assert (bank.known[:30] == 1).all()
    assert (bank.y[30:, 0] == 0).all()
    assert (bank.known[30:] == torch.tensor([1.0, 0.0, 0.0, 0.0])).all()
    ways = []
    for position in x[30:][bank.x[30:].abs().amax(1) < 0.5 if n_cascades > 1 else slice(None)]:
        towards = seen.xyz[seen.point] - seen.origin
        way = ((position - seen.origin) * towards).sum(1) / towards.square().sum(1)
        off = (seen.origin + way[:, None] * towards - position).norm(dim=1)
        assert off.min() < 1e-5
        ways.append(way[off.argmin()].item())
    assert max(ways) < kar_observed.CLEAR
    assert max(ways) > 0.8


def test_the_bank_is_drawn_anew() -> None:
    form = form_on(wall())
    banks = []
    for _ in range(2 * kar_observed.REFRESH):
        form.compute(step_of(form, n_virtual=0))
        banks.append(form.bank)
    assert len({id(bank) for bank in banks}) == 2
    assert banks[0] is banks[kar_observed.REFRESH - 1]


def test_f_learns_from_the_residual_and_g_from_the_anchors() -> None:
    """Each has no gradient from the other's term."""
    form = form_on(wall())
    g, f = list(form.kar.parameters()), list(form.renderer.field.parameters())
    x = form.bank.x[:20]
    form.kar.mean_norm(form.residual(x, F.normalize(x + 1, dim=-1))).backward()
    assert all(p.grad is None for p in g)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in f)
    form.renderer.field.zero_grad(set_to_none=True)
    form.kar.mean_norm(form.left_out(torch.arange(20))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in g)
    assert all(p.grad is None for p in f)
    assert not form.bank.y.requires_grad


@pytest.mark.parametrize(("bias", "index", "sign"), [(-30.0, 0, 1), (11.0, -1, -1)])
def test_matter_returns_from_the_void_and_leaves_the_solid(bias: float, index: int, sign: int) -> None:
    """Where f is held to 0 at a point, or to 1 at an empty position, it still has a gradient, to where it should go."""
    form = form_on(wall(), slope=0.0)
    field = form.renderer.field
    with torch.no_grad():
        field.b.fill_(bias)
    x = form.bank.x[index][None]
    f = form._f(x, x)[:, 0]
    assert f.item() == (0 if sign > 0 else 1)
    form.residual(x, x)[:, 0].abs().sum().backward()
    assert -sign * field.b.grad > 0


def test_the_loss_is_both_terms_and_its_weight_rises() -> None:
    """The same draws, then the terms written out; lambda = 0.5, half of the way into its rise."""
    form = form_on(wall(), warmup=0.4)
    step = step_of(form, progress=0.2)
    form.evaluations = 1  # no new bank
    torch.manual_seed(5)
    loss = form.loss(step)
    torch.manual_seed(5)
    x, directions = form.ray_queries(step)
    anchors = torch.cat((torch.randint(30, (16,)), torch.randint(30, 70, (16,))))
    expected = form.left_out(anchors).norm(dim=1).mean() + form.residual(x, directions).norm(dim=1).mean()
    assert loss is not None
    torch.testing.assert_close(loss, 0.25 * expected)


def test_without_samples_there_is_no_loss() -> None:
    form = form_on(wall())
    form.renderer.occupancy.restrict(torch.zeros_like(form.renderer.occupancy.visible))
    assert form.loss(step_of(form)) is None


def test_f_comes_to_what_was_observed() -> None:
    """KAR alone makes the wall more solid than the space before it, of a field that has it the other way round."""
    form = form_on(wall())
    field = form.renderer.field
    field.a.data[:] = torch.tensor([0.0, 0.0, 1.0])
    optimizer = torch.optim.Adam(field.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        form.kar.mean_norm(form.residual(form.bank.x, F.normalize(form.bank.x + 3, dim=-1))).backward()
        optimizer.step()
    wall_density, air_density = (field.density(torch.tensor([[0.0, 0.0, z]]))[0].item() for z in (0.0, 1.0))
    assert wall_density > 3 * air_density


def metadata(n_seen: int = 3) -> dict[str, Any]:
    points = SparsePoints(
        torch.tensor([[2.0, 0.0, 0.0], [4.0, 2.0, 0.0]]), torch.tensor([[255, 0, 51], [0, 0, 0]], dtype=torch.uint8),
        torch.zeros(2),
    )  # fmt: skip
    image, point = torch.tensor([1, 0, 1])[:n_seen], torch.tensor([0, 1, 1])[:n_seen]
    seen = Sightings(image, point, torch.zeros(n_seen, 2), torch.ones(n_seen), torch.zeros(n_seen))
    return {"points": points, "sightings": seen, "camera_positions": torch.tensor([[2.0, 2.0, 2.0], [0.0, 2.0, 2.0]])}


def test_sight_lines_are_in_normalised_space() -> None:
    seen = SightLines.of_scene(metadata(), torch.tensor([2.0, 0.0, 0.0]), 2.0)
    assert seen.xyz.tolist() == [[0, 0, 0], [1, 1, 0]]
    torch.testing.assert_close(seen.rgb, torch.tensor([[1.0, 0.0, 0.2], [0.0, 0.0, 0.0]]))
    assert seen.origin.tolist() == [[-1, 1, 1], [0, 1, 1], [-1, 1, 1]]
    assert seen.point.tolist() == [0, 1, 1]


@pytest.mark.parametrize("given", [{}, {"points": metadata()["points"]}, metadata(0)])
def test_a_scene_whose_points_nobody_saw_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(PeakError, match=r"kar-form observed: the scene has no sparse points .*peak photos"):
        SightLines.of_scene(given, torch.zeros(3), 1.0)
