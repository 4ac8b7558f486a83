"""Pixels drawn from tables are those of the pictures, and those of smaller copies are their means."""

import numpy as np
import pytest
import torch

from peak_nerf.nerf.data import pixels
from peak_nerf.nerf.data.pixels import PixelTable, pixel_tables, shrink, shrink_mask


def pictures(sizes: list[tuple[int, int]], channels: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (h, w, channels), generator=generator).byte() for h, w in sizes]


@pytest.mark.parametrize("sizes", [[(6, 8)] * 3, [(6, 8), (8, 6), (3, 5)]])
@pytest.mark.parametrize("factor", [1, 2])
def test_colours_are_those_at_their_place(sizes: list[tuple[int, int]], factor: int) -> None:
    images = pictures(sizes)
    drawn = PixelTable(images, None, "cpu", factor).draw(2000)
    for i, image in enumerate(images):
        small = shrink(image, factor)
        own = drawn.camera == i
        row, column = (drawn.v[own] / factor).long(), (drawn.u[own] / factor).long()
        assert torch.equal(drawn.v[own], (row + 0.5) * factor)
        assert torch.equal(drawn.u[own], (column + 0.5) * factor)
        assert torch.equal(drawn.colour[own], small[row, column])
        assert len(torch.stack((row, column)).unique(dim=1)[0]) == small.shape[0] * small.shape[1]


def test_a_shrunken_pixel_is_the_mean_of_its_pixels() -> None:
    image = pictures([(9, 6)])[0]
    expected = np.stack([image[r : r + 4, c : c + 4].float().mean((0, 1)) for r in (0, 4) for c in (0,)])
    assert np.abs(shrink(image, 4).reshape(2, 3).numpy() - expected).max() <= 0.5  # of a byte


def test_transparent_pixels_have_no_colour_to_give() -> None:
    """Of one red pixel and three transparent ones that are green, a quarter of red: worked out by hand."""
    image = torch.tensor([[[200, 0, 0, 255], [0, 255, 0, 0]], [[0, 255, 0, 0], [0, 255, 0, 0]]]).byte()
    assert shrink(image, 2).tolist() == [[[200, 0, 0, 64]]]
    # Half transparent blue beside opaque red: colours in the ratio of alphas.
    image = torch.tensor([[[255, 0, 0, 255], [0, 0, 255, 51]]] * 2).byte()
    assert shrink(image, 2).tolist() == [[[212, 0, 42, 153]]]
    assert shrink(torch.zeros(2, 2, 4).byte(), 2).tolist() == [[[0, 0, 0, 0]]]


def test_masks_leave_out_every_pixel_that_they_touch() -> None:
    images = pictures([(8, 8)] * 2)
    masks = [torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)]
    masks[0][3, 2] = False
    assert shrink_mask(masks[0], 4).tolist() == [[False, True], [True, True]]
    full, small = PixelTable(images, masks, "cpu"), PixelTable(images, masks, "cpu", 4)
    assert (len(full), len(small)) == (63, 3)
    for table in (full, small):
        drawn = table.draw(500)
        assert (drawn.camera == 0).all()
        assert masks[0][drawn.v.long(), drawn.u.long()].all()
    assert not ((drawn.u < 4) & (drawn.v < 4)).any()  # of the small copy


def test_which_copies_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "SMALLEST", 8)
    images = pictures([(8, 6)] * 2)

    def factors(images: list[torch.Tensor], masks: list[torch.Tensor] | None = None, on: bool = True) -> list:
        return [(end, table.factor) for end, table in pixel_tables(images, masks, "cpu", on)]

    assert factors(images) == [(0.1, 4), (0.3, 2), (1.0, 1)]
    assert factors(images, on=False) == [(1.0, 1)]
    assert factors(pictures([(8, 6), (7, 6)])) == [(1.0, 1)]
    # A chequered mask leaves no whole pixel in any copy.
    chequered = (torch.arange(8)[:, None] + torch.arange(6)) % 2 == 0
    assert factors(images, [chequered] * 2) == [(1.0, 1)]
    stripe = torch.zeros(8, 6, dtype=torch.bool)
    stripe[2:6, 2:6] = True
    assert factors(images, [stripe] * 2) == [(0.3, 2), (1.0, 1)]
