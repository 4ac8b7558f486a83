"""Rays through scenes whose picture is known: against closed forms and fine numerical integration."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.nerf.render.contraction import infinity, per_distance, uncontract
from peak_nerf.nerf.render.field import PeakRadianceField
from peak_nerf.nerf.render.marcher import Steps
from peak_nerf.nerf.render.occupancy import OccupancyGrid
from peak_nerf.nerf.render.renderer import (
    CANDIDATES,
    MAX_COARSENESS,
    SKY_LEVELS,
    VolumeRenderer,
    scale_gradient,
)
from tests.nerf.losses.toy import ToyField, rays

ALL = 1 << 12


class Cloud(nn.Module):
    """Density 3 exp(-|x - c|^2 / w^2) and a smooth colour, in the world; at infinity its colour is that of u alone."""

    def __init__(self, centre: tuple[float, float, float], width: float, unbounded: bool) -> None:
        super().__init__()
        self.centre, self.width, self.unbounded = torch.tensor(centre), width, unbounded

    def density(self, u: Tensor, n_levels: int | None = None) -> tuple[Tensor, Tensor]:
        x = uncontract(u) if self.unbounded else u
        density = self.world(x)
        return (density / per_distance(u).clamp(min=1e-9) if self.unbounded else density), u

    def world(self, x: Tensor) -> Tensor:
        """Density per normalised length."""
        return 3 * torch.exp(-(x - self.centre.to(x)).square().sum(-1) / self.width**2)

    def colour(self, geometry: Tensor, directions: Tensor, ray: Tensor | None = None) -> Tensor:
        """Of a sample seen from its direction."""
        return torch.sigmoid(3 * geometry + (directions if ray is None else directions[ray]))


def renderer_of(
    field: nn.Module, n_cascades: int = 1, cone: float = 0.0, budget: int = ALL, **options
) -> VolumeRenderer:
    grid = OccupancyGrid(32, n_cascades=n_cascades, step=0.01, thin=0.01)
    steps = Steps(0.01, cone, budget)
    return VolumeRenderer(field, grid, steps, near=0.0, background=1.0, render_budget=budget, **options)


def integrated(renderer: VolumeRenderer, origin: Tensor, direction: Tensor, t_max: float) -> dict[str, Tensor]:
    """Colour, opacity and depth of one ray by 20,000 steps, in float64."""
    field, n = renderer.field, 20_000
    t = (torch.arange(n, dtype=torch.float64) + 0.5) * (t_max / n)
    x = origin.double() + t[:, None] * direction.double()
    tau = field.world(x) * (t_max / n)
    weights = torch.exp(tau - tau.cumsum(0)) * -torch.expm1(-tau)
    colour = field.colour(renderer.to_field(x), direction.double().expand(n, 3))
    accumulation = weights.sum()
    return {"rgb": weights @ colour, "accumulation": accumulation, "depth": weights @ t / accumulation}


SCENES = [
    ((0.2, 0.0, -0.1), 0.4, 1, 0.0, [-3.0, 0.1, 0.0], [1.0, 0.02, 0.0], 4.0),
    ((0.2, 0.0, -0.1), 0.4, 4, 1 / 256, [-3.0, 0.1, 0.0], [1.0, 0.02, 0.0], 10.0),
    ((3.0, 1.0, 0.0), 1.0, 4, 1 / 256, [0.3, 0.1, 0.2], [0.95, 0.3, -0.05], 6.0),
]
"""Centre and width of the cloud, cascades, cone, and a ray with the end of its integration."""


@pytest.mark.parametrize(("centre", "width", "n_cascades", "cone", "origin", "direction", "t_max"), SCENES)
def test_a_cloud_against_numerical_integration(centre, width, n_cascades, cone, origin, direction, t_max) -> None:
    unbounded = n_cascades > 1
    renderer = renderer_of(Cloud(centre, width, unbounded), n_cascades, cone)
    o, d = torch.tensor([origin]), F.normalize(torch.tensor([direction]), dim=-1)
    expected = integrated(renderer, o[0], d[0], t_max)
    assert 0.3 < expected["accumulation"] < 0.999
    seen = renderer.render(o, d)
    behind = renderer.field.colour(infinity(d), d)[0] if unbounded else torch.ones(3)
    whole = expected["rgb"].float() + (1 - expected["accumulation"].float()) * behind
    # Of steps as short as these many weigh less than 0.001 and are left without colour.
    torch.testing.assert_close(seen["rgb"][0], whole, atol=0.02, rtol=0)
    assert float(seen["accumulation"]) == pytest.approx(float(expected["accumulation"]), abs=5e-3)
    assert float(seen["depth"]) == pytest.approx(float(expected["depth"]), rel=5e-3)
    assert ("background" in seen) == unbounded
    # 32 samples, chosen by a grid that has seen the cloud, do nearly as well.
    cells = torch.arange(renderer.occupancy.occupied.numel()).repeat(2)
    positions = renderer.to_field(renderer.occupancy.points_in(cells))
    renderer.occupancy.observe(cells, renderer.density(positions)[0])
    renderer.occupancy.refresh()
    renderer.render_budget = 32
    few = renderer.render(o, d)
    assert not unbounded or len(renderer.render_samples(o, d)) <= 33
    torch.testing.assert_close(few["rgb"][0], whole, atol=0.03, rtol=0)
    # Training takes its samples at other places, and is right on average.
    renderer.steps, renderer.coarseness = Steps(0.01, cone, 32), 1.0
    many = o.repeat(500, 1), d.repeat(500, 1)
    foreground = renderer.training_rays(*many).foreground.mean(0)
    torch.testing.assert_close(foreground, expected["rgb"].float(), atol=0.02, rtol=0)


class Slab(Cloud):
    """Density 5 for x in [-0.2, 0.3)."""

    def world(self, x: Tensor) -> Tensor:
        return 5.0 * ((x[:, 0] >= -0.2) & (x[:, 0] < 0.3)).to(x.dtype)


def test_a_slab_by_its_closed_form() -> None:
    """Opacity 1 - exp(-5 L) for a chord of length L; where nothing is hit, depth is the box's far side."""
    renderer = renderer_of(Slab((0.0, 0.0, 0.0), 1.0, False))
    o = torch.tensor([[-3.0, 0.1, 0.0], [-3.0, 0.1, 0.0], [0.9, -3.0, 0.0]])
    d = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.2, 0.1], [0.0, 1.0, 0.0]]), dim=-1)
    seen = renderer.render(o, d)
    opacity = [1 - math.exp(-2.5), 1 - math.exp(-2.5 / float(d[1, 0])), 0.0]
    assert seen["accumulation"][:, 0].tolist() == pytest.approx(opacity, abs=5e-3)
    mean = 2.8 + (1 - 3.5 * math.exp(-2.5)) / (5 * (1 - math.exp(-2.5)))  # of an exponential that is cut off
    assert seen["depth"][0].item() == pytest.approx(mean, abs=0.01)
    assert seen["depth"][2].item() == pytest.approx(4.0)
    assert seen["rgb"][2].tolist() == [1.0] * 3


def test_an_opaque_wall_hides_what_is_behind() -> None:
    renderer = renderer_of(Slab((0.0, 0.0, 0.0), 1.0, True), n_cascades=3, cone=1 / 256)
    renderer.field.world = lambda x: 2000.0 * ((x[:, 0] >= 0.5) & (x[:, 0] < 0.6)).float() + 7.0 * (x[:, 0] > 1).float()
    asked: list[int] = []
    sky = renderer.sky
    renderer.sky = lambda directions: asked.append(len(directions)) or sky(directions)
    o, d = torch.tensor([[-0.5, 0.1, 0.0]] * 2), torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    seen = renderer.render(o, d)
    assert asked == [1]  # only where a ray goes on
    assert seen["accumulation"][:, 0].tolist() == pytest.approx([1.0, 0.0], abs=1e-4)
    assert seen["depth"][0].item() == pytest.approx(1.0, abs=0.02)
    assert seen["background"][0].tolist() == [0.0] * 3
    torch.testing.assert_close(seen["rgb"][1], renderer.field.colour(infinity(d), d)[1])
    assert seen["depth"][1].item() == pytest.approx(3.5)  # the last cascade ends at -4


def test_scale_gradient() -> None:
    value, factor = torch.tensor([1.0, 2.0, 3.0], requires_grad=True), torch.tensor([0.0, 0.5, 1.0])
    scaled = scale_gradient(value, factor)
    assert torch.equal(scaled, value)
    (scaled**2).sum().backward()
    torch.testing.assert_close(value.grad, 2 * value.detach() * factor)


def composited(field: ToyField, x: Tensor, dt: Tensor, ray: Tensor, directions: Tensor) -> Tensor:
    """Colour of rays, by a loop over their samples."""
    out = []
    for r in range(len(directions)):
        through, colour = torch.ones(()), torch.zeros(3)
        for i in (ray == r).nonzero()[:, 0].tolist():
            density, geometry = field.density(x[i : i + 1])
            alpha = 1 - torch.exp(-density[0] * dt[i])
            colour = colour + through * alpha * field.colour(geometry, directions[r : r + 1])[0]
            through = through * (1 - alpha)
        out.append(colour)
    return torch.stack(out)


def test_gradients_of_training_rays_are_those_of_a_loop() -> None:
    """In the field's parameters and in the rays themselves."""
    field = ToyField()
    renderer = renderer_of(field, budget=12)
    o, d = (a.requires_grad_() for a in rays(6))
    rendered = renderer.training_rays(o, d)
    samples, to = rendered.samples, torch.randn(6, 3)
    x = o[samples.ray] + samples.t[:, None] * d[samples.ray]
    expected = composited(field, x, samples.dt, samples.ray, d)
    torch.testing.assert_close(rendered.foreground, expected, atol=1e-5, rtol=1e-4)
    wrt = (field.a, field.b, o, d)
    ours = torch.autograd.grad((rendered.foreground * to).sum(), wrt)
    theirs = torch.autograd.grad((expected * to).sum(), wrt)
    for gradient, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(rendered.accumulation[:, 0], torch.zeros(6).index_add(0, samples.ray, rendered.weights))
    torch.testing.assert_close(rendered.t_enter, _enter(o, d))


def _enter(o: Tensor, d: Tensor) -> Tensor:
    """Where rays from outside enter the box: the last of the faces that look at them."""
    return ((-torch.sign(d) - o) / d).amax(-1)


def test_gradients_near_a_camera_are_scaled() -> None:
    """A = 1 - exp(-sum density dt), so each sample's part of dA/db is density dt exp(-sum), times (t / reach)^2."""
    field, reach = ToyField(), 0.5
    o, d = torch.tensor([[-0.9, 0.1, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    values = {}
    for gradient_reach in (0.0, reach):
        torch.manual_seed(0)
        renderer = renderer_of(field, gradient_reach=gradient_reach)
        rendered = renderer.training_rays(o, d)
        (slope,) = torch.autograd.grad(rendered.accumulation.sum(), field.b)
        tau = rendered.density.detach() * rendered.samples.dt
        factor = (rendered.samples.t / reach).square().clamp(max=1) if gradient_reach else torch.ones_like(tau)
        assert float(slope) == pytest.approx(float((tau * factor).sum() * torch.exp(-tau.sum())), rel=1e-4)
        values[gradient_reach] = rendered.foreground
    assert float(rendered.samples.t.min()) < 0.2
    torch.testing.assert_close(values[0.0], values[reach])


def test_steps_are_as_long_as_their_number_allows() -> None:
    """In fog they grow until a ray has some 128 of them; once only a few cells are occupied, they are short again."""
    renderer = renderer_of(ToyField(), budget=8)
    renderer.steps = Steps(0.002, 0.0, 8)
    o, d = torch.tensor([[-3.0, 0.1, 0.0]]).repeat(50, 1), torch.tensor([[1.0, 0.0, 0.0]]).repeat(50, 1)
    for _ in range(40):
        rendered = renderer.training_rays(o, d)
    assert renderer.coarseness == pytest.approx(2 / 0.002 / CANDIDATES, rel=0.05)  # 1000 steps across the box
    assert rendered.samples.n_candidates == pytest.approx(50 * CANDIDATES, rel=0.05)
    # What the losses measure does not depend on it.
    stood_for = torch.zeros(50).index_add(0, rendered.samples.ray, rendered.length)
    assert float(stood_for.mean()) == pytest.approx(2.0, rel=0.05)
    visible = torch.zeros(1, 32, 32, 32, dtype=torch.bool)
    visible[:, :4] = True
    renderer.occupancy.restrict(visible)
    for _ in range(40):
        renderer.training_rays(o, d)
    assert renderer.coarseness == 1.0
    renderer.occupancy = OccupancyGrid(32)
    renderer.steps = Steps(0.0001, 0.0, 8)
    for _ in range(40):
        renderer.training_rays(o, d)
    assert renderer.coarseness == MAX_COARSENESS


def test_normals_point_out_of_a_cloud() -> None:
    """Of a ray towards its middle: straight back, in [0, 1] as colours are."""
    for n_cascades, centre in ((1, (0.2, 0.0, -0.1)), (4, (3.0, 1.0, 0.0))):
        renderer = renderer_of(Cloud(centre, 0.4 * n_cascades, n_cascades > 1), n_cascades)
        o = torch.tensor([[0.0, 0.0, 1.0], [-0.9, 0.9, 0.3]])
        d = F.normalize(torch.tensor(centre) - o, dim=-1)
        normals = 2 * renderer.normals(o, d) - 1
        torch.testing.assert_close(normals.detach(), -d, atol=0.02, rtol=0)


def test_in_a_bounded_scene_the_field_says_what_is_hidden() -> None:
    """All candidates before the place where the field leaves a ray opaque, and none behind; the grid has no say.

    The grid calls everything opaque, as it does at the rim of a cell that matter only touches.
    """
    renderer = renderer_of(Slab((0.0, 0.0, 0.0), 1.0, False), budget=4)
    renderer.occupancy.opacity[:] = 1.0
    renderer.occupancy.digest()
    renderer.coarseness = 1.0
    n = 20
    o, d = torch.tensor([[-3.0, 0.1, 0.0]]).repeat(n, 1), torch.tensor([[1.0, 0.0, 0.0]]).repeat(n, 1)
    renderer.field.world = lambda x: 40.0 * ((x[:, 0] >= -0.2) & (x[:, 0] < 0.3)).to(x.dtype)
    samples = renderer.training_samples(o, d)
    x = -3.0 + samples.t
    assert len(samples) == pytest.approx(n * (0.8 + math.log(1000) / 40) / 0.01, abs=2 * n)
    assert float(x.max()) == pytest.approx(-0.2 + math.log(1000) / 40, abs=0.011)
    assert torch.allclose(samples.dt, torch.tensor(0.01))
    # What is empty before it is sampled all the same: matter may yet appear there.
    assert int((x < -0.2).sum()) == pytest.approx(80 * n, abs=n)


def test_random_positions_are_behind_surfaces_too() -> None:
    """KAR asks there: no camera sees it, and nothing else says what is there."""
    renderer = renderer_of(Slab((0.0, 0.0, 0.0), 1.0, False))
    renderer.coarseness = 1.0
    renderer.field.world = lambda x: 400.0 * ((x[:, 0] >= -0.2) & (x[:, 0] < 0.3)).to(x.dtype)
    torch.manual_seed(0)
    o, d = torch.tensor([[-3.0, 0.1, 0.0]]).repeat(20, 1), torch.tensor([[1.0, 0.0, 0.0]]).repeat(20, 1)
    x, directions = renderer.random_samples(o, d, 2000)
    assert float(renderer.training_samples(o, d).x[:, 0].max()) < -0.15
    assert float((x[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.04)
    assert torch.equal(directions, d[:1].expand(2000, 3))


def test_steps_are_no_shorter_than_training_asks() -> None:
    renderer = renderer_of(ToyField(), budget=8)
    renderer.least_coarseness = 3.0
    o, d = torch.tensor([[-3.0, 0.1, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    for _ in range(40):
        rendered = renderer.training_rays(o, d)
    assert renderer.coarseness == 3.0
    assert rendered.samples.n_candidates == pytest.approx(2 / 0.03, abs=2)


@pytest.mark.parametrize(("withheld", "expected"), [(1.0, 2.0), (0.5, 1.0), (0.0, 0.01)])
def test_rays_of_training_begin_at_the_box_at_first(withheld: float, expected: float) -> None:
    """A camera two units before the box; one inside it begins at the near plane anyhow, as rendered rays do."""
    renderer = renderer_of(Cloud((0.0, 0.0, 0.0), 0.5, True), n_cascades=4, cone=1 / 256)
    renderer.near, renderer.withheld = 0.01, withheld
    origins = torch.tensor([[0.1, 0.0, -3.0], [0.2, 0.1, 0.3]])
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3).contiguous()
    torch.testing.assert_close(renderer.beginnings(origins), torch.tensor([expected, 0.01]))
    samples = renderer.training_samples(origins, directions)
    step = renderer.steps.longer(renderer.coarseness).dt
    assert expected <= float(samples.t[samples.ray == 0].min()) < expected + 2 * step
    assert float(samples.t[samples.ray == 1].min()) < 0.01 + 2 * step
    rendered = renderer.render_samples(origins, directions)
    assert float(rendered.t[rendered.ray == 0].min()) < 0.01 + 2 * step


def test_the_sky_has_no_detail() -> None:
    """Features of the coarse levels alone reach it; the polynomial encoding does too."""
    config = FieldConfig(
        HashGridConfig(n_levels=6, n_features=2, log2_table_size=10),
        polynomial_degree=1,
        bias=False,
        n_hidden=1,
        relu_init="he",
    )
    field = PeakRadianceField(config)
    renderer = renderer_of(field, n_cascades=4)
    directions = F.normalize(torch.randn(50, 3), dim=-1)
    coarse = int(field.grid._grid[2][:SKY_LEVELS].sum())
    with torch.no_grad():
        field.grid.table.normal_()
        before = renderer.sky(directions)
        field.grid.table[coarse:].normal_()
        torch.testing.assert_close(renderer.sky(directions), before)
        field.grid.table[:coarse].normal_()
        assert float((renderer.sky(directions) - before).abs().max()) > 0.01
        without_grid = field.density(torch.tensor([[0.9, 0.1, 0.2], [-0.9, 0.3, -0.4]]), 0)[1]
        assert float((without_grid[0] - without_grid[1]).abs().max()) > 1e-3


def test_rays_of_a_bounded_scene_get_all_their_steps() -> None:
    """Thousands of them too: the last part of a ray that nothing stops is seen as its first."""
    renderer = renderer_of(Cloud((0.0, 0.0, 0.0), 0.01, False), budget=8)
    renderer.steps = Steps(5e-4, 0.0, 8)
    samples = renderer.render_samples(torch.tensor([[0.1, 0.1, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert len(samples) == pytest.approx(4000, abs=2)
    torch.testing.assert_close(samples.dt, torch.full_like(samples.dt, 5e-4))


def test_rendering_of_unbounded_space_has_the_steps_of_training() -> None:
    """There a ray has few samples anyhow; in a bounded scene steps are divided."""
    rays = torch.tensor([[0.1, 0.1, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    for n_cascades, cone, ratio in ((4, 1 / 256, 1.0), (1, 0.0, 0.25)):
        renderer = renderer_of(Cloud((0.0, 0.0, 0.0), 0.01, n_cascades > 1), n_cascades, cone, substeps=4)
        samples = renderer.render_samples(*rays)
        torch.testing.assert_close(samples.dt, ratio * renderer.steps.length(samples.t), rtol=1e-4, atol=0)
