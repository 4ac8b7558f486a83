"""A picture by some of its rays: which are rendered, and what the others get."""

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from peak_nerf.nerf.render.pixel_selection import DEPTH_TOLERANCE, selected_pixels

Render = Callable[[RayBundle], dict[str, Tensor]]


class Picture:
    """What rays would give, by the number that each carries as its origin; counts the rays asked for."""

    def __init__(self, rgb: Tensor, accumulation: Tensor | None = None, depth: Tensor | None = None) -> None:
        ones = torch.ones_like(rgb[..., :1])
        images = {"rgb": rgb, "accumulation": ones if accumulation is None else accumulation}
        images["depth"] = ones if depth is None else depth
        self.shape, self.images = rgb.shape[:2], images
        self.asked: list[int] = []
        self.largest = 0

    def rays(self) -> RayBundle:
        number = torch.arange(self.shape[0] * self.shape[1]).reshape(*self.shape, 1).float()
        return RayBundle(number.expand(*self.shape, 3), torch.zeros(*self.shape, 3), torch.ones(*self.shape, 1))

    def render(self, rays: RayBundle) -> dict[str, Tensor]:
        number = rays.origins[:, 0].long()
        self.asked += number.tolist()
        self.largest = max(self.largest, len(number))
        return {name: image.flatten(0, 1)[number] for name, image in self.images.items()}

    def selected(self, tolerance: float = 0.03, chunk: int = 7) -> dict[str, Tensor]:
        return selected_pixels(self.render, self.rays(), tolerance, chunk)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 23), w=st.integers(1, 23), chunk=st.integers(1, 600))
def test_without_agreement_every_ray_is_rendered_once(h: int, w: int, chunk: int) -> None:
    """Whatever the sides, in parts of `chunk` at most; and with tolerance 0, whatever the picture."""
    for tolerance, rgb in ((1e-7, noise(h, w)), (0.0, torch.zeros(h, w, 3))):
        picture = Picture(rgb)
        assert torch.equal(picture.selected(tolerance, chunk)["rgb"], rgb)
        assert sorted(picture.asked) == list(range(h * w))
        assert picture.largest <= chunk


@pytest.mark.parametrize("size", [(2, 2), (2, 9), (9, 2), (10, 10), (11, 13)])
def test_of_a_plain_picture_the_border_and_every_fourth_ray_are_enough(size: tuple[int, int]) -> None:
    h, w = size
    picture = Picture(torch.full((*size, 3), 0.25), depth=torch.full((*size, 1), 3.0))
    images = picture.selected()
    inside = len(range(2, h - 1, 2)) * len(range(2, w - 1, 2))
    assert len(picture.asked) == len(set(picture.asked)) == inside + h * w - (h - 2) * (w - 2)
    for name, image in picture.images.items():
        assert torch.allclose(images[name], image)


def test_a_slope_is_interpolated_as_it_is() -> None:
    """Linear in rows and columns, so that means of opposite neighbours are right."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    slope = (0.003 * x + 0.004 * y)[..., None]
    picture = Picture(slope.expand(-1, -1, 3), depth=1 + 0.1 * slope)
    images = picture.selected()
    assert len(picture.asked) < 0.4 * 20 * 30
    for name, image in picture.images.items():
        assert torch.allclose(images[name], image, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "enough", "too_little"),
    [("rgb", 0.04, 0.02), ("accumulation", 0.04, 0.02), ("depth", 1.5 * DEPTH_TOLERANCE, 0.5 * DEPTH_TOLERANCE)],
)
def test_beside_an_edge_pixels_are_rendered(name: str, enough: float, too_little: float) -> None:
    """In colour, in opacity and in depth alike; across smaller differences they are interpolated."""
    for difference in (enough, too_little):
        edge = torch.full((12, 12, 1), 0.5)
        edge[:, 5:] *= 1 + (difference if name == "depth" else 2 * difference)
        rgb = edge.expand(-1, -1, 3) if name == "rgb" else torch.zeros(12, 12, 3)
        picture = Picture(rgb, **({} if name == "rgb" else {name: edge}))
        same = torch.equal(picture.selected()[name], picture.images[name])
        assert same == (difference == enough)
        assert set(picture.asked) >= {12 * y + x for y in range(12) for x in (4, 5)} or not same


def test_one_channel_that_differs_is_enough() -> None:
    rgb = torch.full((12, 12, 3), 0.5)
    rgb[6:, :, 2] = 0.6
    assert torch.equal(Picture(rgb).selected()["rgb"], rgb)
