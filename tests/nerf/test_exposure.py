"""Differing exposures are seen where there are any, learned, and nothing of them is left in what is rendered."""

import pytest
import torch

from peak_nerf.nerf.exposure import ExposureCorrection, exposures_differ


def smooth_pictures(n: int, spread: float) -> list[torch.Tensor]:
    """A window that moves over a noisy gradient, as n views of a scene; the log gains have this standard deviation."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.linspace(40, 160, 400)[None, :, None] + 20 * torch.rand(120, 400, 3, generator=generator)
    gains = (spread * torch.randn(n, generator=generator)).exp()
    return [(scene[:, 8 * i : 8 * i + 200] * gains[i]).clamp(0, 255).byte() for i in range(n)]


def poses_in_a_row(n: int) -> torch.Tensor:
    poses = torch.eye(4)[:3].repeat(n, 1, 1)
    poses[:, 0, 3] = torch.arange(n) / n
    return poses


@pytest.mark.parametrize(
    ("n", "spread", "differ"), [(20, 0.0, False), (20, 0.04, False), (20, 0.3, True), (6, 0.3, False)]
)
def test_exposures_are_compared_between_neighbours(n: int, spread: float, differ: bool) -> None:
    """Though the scene grows brighter from the first view to the last, by half an exposure."""
    assert exposures_differ(smooth_pictures(n, spread), poses_in_a_row(n)) == differ


def test_the_order_of_pictures_does_not_matter() -> None:
    pictures, order = smooth_pictures(20, 0.0), torch.randperm(20, generator=torch.Generator().manual_seed(1))
    poses = poses_in_a_row(20)[order]
    assert not exposures_differ([pictures[i] for i in order], poses)
    assert exposures_differ([pictures[i] for i in order], poses_in_a_row(20))  # wrong neighbours look different


def test_the_formula() -> None:
    """exp(g_i - g) c + b_i - b of two pictures, by hand: g = (0.2, 0.6), b = (0.0, 0.1)."""
    correction = ExposureCorrection(2)
    with torch.no_grad():
        correction.affine[:] = torch.tensor([[0.2] * 3 + [0.0] * 3, [0.6] * 3 + [0.1] * 3])
    colour = correction(torch.full((3, 3), 0.5), torch.tensor([0, 1, 1]))
    assert colour[:, 0].tolist() == pytest.approx(
        [0.5 * 0.81873 - 0.05, 0.5 * 1.22140 + 0.05, 0.5 * 1.22140 + 0.05], abs=1e-5
    )
    assert torch.equal(colour[:, 0], colour[:, 2])


def test_gains_are_found_and_the_scene_keeps_its_mean() -> None:
    """Colours of a scene and eight pictures' gains are learned together; the scene is that of the mean exposure."""
    torch.manual_seed(0)
    scene = 0.2 + 0.6 * torch.rand(100, 3)
    log_gain = 0.3 * torch.randn(8, 3)
    log_gain -= log_gain.mean(0)
    picture = torch.arange(8).repeat_interleave(100)
    seen = scene.repeat(8, 1) * log_gain.exp()[picture]
    correction = ExposureCorrection(8)
    learned = torch.full((100, 3), 0.5, requires_grad=True)
    adam = torch.optim.Adam([learned, *correction.parameters()], lr=2e-2)
    for _ in range(500):
        loss = (correction(learned.repeat(8, 1), picture) - seen).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert (learned - scene).abs().max() < 0.01
    gains = (correction.affine - correction.affine.mean(0))[:, :3]
    assert (gains - log_gain).abs().max() < 0.01
