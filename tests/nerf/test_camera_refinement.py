"""Refined poses move no world, and a scene's wrong poses become right."""

import math

import pytest
import torch
from nerfstudio.cameras.lie_groups import exp_map_SO3xR3
from nerfstudio.cameras.rays import RayBundle

from peak_nerf.nerf.camera_refinement import CameraRefinement, CameraRefinementConfig, refinement_is_due


def refinement(positions: torch.Tensor, rho: float = 2.0, mode: str = "SO3xR3") -> CameraRefinement:
    optimizer = CameraRefinementConfig(mode=mode).setup(num_cameras=len(positions), device="cpu")
    optimizer.gauge.fix(positions, rho)
    return optimizer


def set_raw(optimizer: CameraRefinement, values: torch.Tensor) -> None:
    with torch.no_grad():
        next(optimizer.parameters()).copy_(values)


def drift(positions: torch.Tensor, angle: float, growth: float, shift: float) -> torch.Tensor:
    """Adjustments (n, 6) of cameras that are moved by one similarity of the world."""
    turn = torch.tensor([0.3, -0.5, 0.8]) * angle
    rotation = exp_map_SO3xR3(torch.cat((torch.zeros(3), turn))[None])[0, :, :3]
    moved = (1 + growth) * (positions - 0.7) @ rotation.T + 0.7 + shift
    return torch.cat((moved - positions, turn.expand(len(positions), 3)), -1)


def similarity(before: torch.Tensor, after: torch.Tensor, turns: torch.Tensor, rho: float) -> tuple[float, ...]:
    """Scale, angle and shift of the least-squares similarity of cameras: Umeyama's, of each camera's position and six
    points along its axes, at r. In the mean these move by |t|^2 + 4 / 7 r^2 |w|^2, and r is such that this is rho^2."""
    axes = torch.cat((torch.zeros(1, 3), math.sqrt(7 / 4) * rho * torch.cat((torch.eye(3), -torch.eye(3)))))
    a = (before[:, None] + axes).reshape(-1, 3).double()
    b = (after[:, None] + axes @ turns.transpose(1, 2)).reshape(-1, 3).double()
    a0, b0 = a - a.mean(0), b - b.mean(0)
    u, s, vt = torch.linalg.svd(b0.T @ a0)
    rotation = u @ vt
    scale = float(s.sum() / a0.square().sum())
    angle = float(torch.acos(((rotation.trace() - 1) / 2).clamp(-1, 1)))
    return scale, angle, float((b.mean(0) - a.mean(0)).norm())


def test_a_common_drift_is_no_adjustment() -> None:
    torch.manual_seed(0)
    positions = torch.randn(9, 3)
    optimizer = refinement(positions)
    moved = drift(positions, angle=0.01, growth=0.02, shift=0.05)
    set_raw(optimizer, moved)
    assert moved.abs().max() > 0.05
    # What is left is of second order.
    assert optimizer.pose_adjustment.abs().max() < 5e-4
    own = optimizer.pose_adjustment.detach()
    random = 0.01 * torch.randn(9, 6)
    set_raw(optimizer, random)
    alone = optimizer.pose_adjustment.detach()
    set_raw(optimizer, random + moved)
    assert torch.allclose(optimizer.pose_adjustment, alone + own, atol=1e-6)
    assert (alone - random).abs().max() > 1e-3  # random adjustments have a common part, too


@pytest.mark.parametrize("rho", [0.5, 4.0])
def test_refined_cameras_are_aligned_with_those_before(rho: float) -> None:
    """The slow way: the least-squares similarity between cameras before and after is the identity."""
    torch.manual_seed(0)
    positions = torch.randn(12, 3) * torch.tensor([1.0, 2.0, 0.3])
    optimizer = refinement(positions, rho)
    raw = 0.005 * torch.randn(12, 6) + drift(positions, 0.01, 0.02, 0.05)
    set_raw(optimizer, raw)

    def aligned(adjustment: torch.Tensor) -> tuple[float, ...]:
        moves = exp_map_SO3xR3(adjustment.detach())
        return similarity(positions, positions + moves[:, :, 3], moves[:, :, :3], rho)

    scale, angle, shift = aligned(raw)
    assert abs(scale - 1) > 2e-3
    assert angle > 5e-3
    assert shift > 2e-2
    scale, angle, shift = aligned(optimizer.pose_adjustment)
    assert abs(scale - 1) < 2e-4
    assert angle < 2e-4
    assert shift < 1e-6


@pytest.mark.parametrize(("n", "free"), [(1, 0), (2, 5), (3, 11), (10, 53)])
def test_how_much_is_free(n: int, free: int) -> None:
    """6 n numbers less the 7 of a similarity; a single camera cannot be refined, of two 5 are free as ever."""
    torch.manual_seed(0)
    optimizer = refinement(torch.randn(n, 3))
    inputs = torch.eye(6 * n).reshape(6 * n, n, 6)
    outputs = torch.stack([optimizer.gauge(a).flatten() for a in inputs])
    assert int(torch.linalg.matrix_rank(outputs, tol=1e-4)) == free
    assert torch.allclose(outputs @ outputs, outputs, atol=1e-5)  # a projection


def test_cameras_in_one_place_have_no_scale() -> None:
    optimizer = refinement(torch.ones(5, 3))
    outputs = torch.stack([optimizer.gauge(a).flatten() for a in torch.eye(30).reshape(30, 5, 6)])
    assert int(torch.linalg.matrix_rank(outputs, tol=1e-4)) == 24


def test_rays_move_as_nerfstudio_moves_them() -> None:
    torch.manual_seed(0)
    optimizer = refinement(torch.randn(4, 3))
    set_raw(optimizer, 0.1 * torch.randn(4, 6))
    camera = torch.randint(4, (50, 1))
    origins, directions = torch.randn(2, 50, 3)

    def bundle() -> RayBundle:
        return RayBundle(origins, directions, pixel_area=torch.ones(50, 1), camera_indices=camera)

    ours, theirs = bundle(), bundle()
    optimizer.apply_to_raybundle(ours)
    super(CameraRefinement, optimizer).apply_to_raybundle(theirs)
    assert torch.allclose(ours.origins, theirs.origins, atol=1e-6)
    assert torch.allclose(ours.directions, theirs.directions, atol=1e-6)
    ours.origins.square().sum().backward()
    assert next(optimizer.parameters()).grad is not None


@pytest.mark.parametrize(
    ("kind", "unbounded", "mode", "expected"),
    [
        ("nerfstudio", True, "auto", "SO3xR3"),
        ("llff", True, "auto", "SO3xR3"),
        ("nerfstudio", False, "auto", "off"),
        ("blender", False, "auto", "off"),
        (None, True, "auto", "off"),
        ("blender", False, "SO3xR3", "SO3xR3"),
        ("llff", True, "off", "off"),
    ],
)
def test_what_auto_means(kind: str | None, unbounded: bool, mode: str, expected: str) -> None:
    assert CameraRefinementConfig(mode=mode).resolved(kind, unbounded).mode == expected


def test_off_is_nothing() -> None:
    optimizer = refinement(torch.randn(4, 3), mode="off")
    assert not list(optimizer.parameters())
    assert not optimizer.state_dict()


def test_held_out_cameras_stay_right_while_training_cameras_are_refined() -> None:
    """Points and twelve training cameras whose poses are wrong are fitted to what these cameras saw.

    Four cameras that were not part of it then see the points where they did, as far as the wrong poses allow, and
    where refinement is left to drift they do not: the world has been pushed at the start.
    """
    torch.manual_seed(0)
    points = torch.rand(60, 3) - 0.5
    directions = torch.nn.functional.normalize(torch.randn(16, 3), dim=-1)
    positions = 3 * directions
    seen = torch.nn.functional.normalize(points[None] - positions[:, None], dim=-1)
    wrong = 0.01 * torch.randn(12, 6)
    push = drift(positions[:12], 0.02, 0.0, 0.05)

    def held_out_error(fixed: bool) -> float:
        optimizer = CameraRefinementConfig(mode="SO3xR3").setup(num_cameras=12, device="cpu")
        if fixed:
            optimizer.gauge.fix(positions[:12], 3.0)
        set_raw(optimizer, push)
        x = (points + 0.01 * torch.randn_like(points)).requires_grad_(True)
        adam = torch.optim.Adam([x, *optimizer.parameters()], lr=2e-3)
        for step in range(600):
            adam.param_groups[0]["lr"] = 2e-3 * 0.02 ** (step / 600)
            moves = exp_map_SO3xR3(optimizer.pose_adjustment + wrong)
            to_points = torch.nn.functional.normalize(x[None] - (positions[:12] + moves[:, :, 3])[:, None], dim=-1)
            loss = (to_points - seen[:12] @ moves[:, :, :3].transpose(1, 2)).square().sum(-1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert float(loss.detach()) < 1e-6
        to_points = torch.nn.functional.normalize(x.detach()[None] - positions[12:, None], dim=-1)
        return float((to_points - seen[12:]).norm(dim=-1).mean())

    # Twelve poses wrong by 0.01 leave 0.01 / sqrt(12) = 0.003 in common.
    assert held_out_error(fixed=True) < 0.004
    assert held_out_error(fixed=False) > 0.008


def test_cameras_wait_until_there_is_something_to_see_and_then_move_every_few_steps() -> None:
    assert not any(refinement_is_due(step, 0.29) for step in range(8))
    assert [step for step in range(9) if refinement_is_due(step, 0.3)] == [0, 4, 8]
