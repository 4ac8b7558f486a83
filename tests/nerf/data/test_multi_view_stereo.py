"""Dense depth from pictures of known cameras."""

import dataclasses
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from peak_nerf.nerf.cameras import project
from peak_nerf.nerf.data import multi_view_stereo
from peak_nerf.nerf.data.multi_view_stereo import choose_sources, dense_depth, depth_map, inverse_depths
from peak_nerf.nerf.data.multi_view_stereo_numba import PATHS, aggregate, better_half, between
from peak_nerf.nerf.data.pinhole import PinholePicture, pinhole_picture
from peak_nerf.nerf.data.points import Sightings, SparsePoints
from tests.nerf.data.test_triangulation import FOCAL, SIZE, picture, pictures, poses, texture


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    return [torch.from_numpy(picture(pose)) for pose in poses(3)]


def cameras(c2w: np.ndarray, k1: float = 0.0) -> Cameras:
    distortion = torch.tensor([k1, 0, 0, 0, 0, 0]).expand(len(c2w), -1)
    matrices = torch.from_numpy(c2w[:, :3]).float()
    return Cameras(matrices, FOCAL, FOCAL, SIZE / 2, SIZE / 2, SIZE, SIZE, distortion_params=distortion)


def sparse(of: Cameras, unseen: Sequence[int] = ()) -> tuple[SparsePoints, Sightings]:
    """Points of the painted plane, z = 0, as all of the cameras but some see them."""
    xyz = torch.cat([torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) - 0.5, torch.zeros(60, 1)], 1)
    views = [i for i in range(len(of)) if i not in unseen]
    image, point = (x.flatten() for x in torch.meshgrid(torch.tensor(views), torch.arange(60), indexing="ij"))
    u, v, depth = project(of, image, xyz[point])
    points = SparsePoints(xyz, torch.zeros(60, 3, dtype=torch.uint8), torch.zeros(60))
    return points, Sightings(image, point, torch.stack((u, v), -1), depth, torch.zeros(len(image)))


@pytest.mark.parametrize("k1", [0.0, 0.1])
def test_points_lie_where_the_pictures_show_them(images, k1) -> None:
    """Of a lens with distortion too, whose pictures are those of the one without, warped."""
    seen_by, told = cameras(poses(3), k1), []
    if k1:
        images = [distorted(image, k1) for image in images]
    points, seen, _ = dense_depth(pictures(images), seen_by, *sparse(seen_by), lambda i, n: told.append((i, n)))
    assert told == [(i, 3) for i in range(1, 4)]
    # At every third pixel of what is painted, which fills some 60 % of each picture, and of some of the grey beside it.
    assert len(points.xyz) > 0.5 * 3 * (SIZE / 3) ** 2
    painted = points.xyz[:, :2].abs().amax(1) < 1.9
    assert painted.float().mean() > 0.8
    off = points.xyz[painted, 2].abs()  # of cameras 4 away
    assert off.median() < 0.01
    assert off.quantile(0.95) < 0.04
    column, row = ((points.xyz[painted, :2].numpy() + 2) * (768 / 4)).astype(int).T
    assert np.median(np.abs(texture()[row, column].astype(float) - points.rgb[painted].numpy())) < 12
    # Sightings: where the camera sees the point, that far along its axis, known to half a pixel.
    u, v, depth = project(seen_by, seen.image, points.xyz[seen.point])
    assert torch.allclose(torch.stack((u, v), -1), seen.xy, atol=1e-3)
    assert torch.allclose(depth, seen.depth, atol=1e-5)
    assert torch.allclose(seen.error, torch.tensor(0.5))
    assert torch.allclose(points.error, torch.tensor(0.5))
    count = torch.bincount(seen.point, minlength=len(points.xyz))
    assert count.min() >= 2
    assert count.float().mean() > 2.5
    pairs = torch.stack([seen.point, seen.image], -1)
    assert len(torch.unique(pairs, dim=0)) == len(pairs)  # no picture sees a point twice


def distorted(image: torch.Tensor, k1: float) -> torch.Tensor:
    """The picture that a lens with this k1 takes of what the image shows."""
    v, u = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    x, y = ((a + 0.5 - SIZE / 2) / FOCAL for a in (u, v))
    without_x, without_y = x.copy(), y.copy()
    for _ in range(20):  # undoes x (1 + k1 r^2)
        r2 = without_x**2 + without_y**2
        without_x, without_y = x / (1 + k1 * r2), y / (1 + k1 * r2)
    at = [(a * FOCAL + SIZE / 2 - 0.5).astype(np.float32) for a in (without_x, without_y)]
    return torch.from_numpy(cv2.remap(image.numpy(), at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def test_large_pictures_are_shrunk_and_pixels_are_those_of_the_whole_size(images, monkeypatch) -> None:
    monkeypatch.setattr(multi_view_stereo, "MOST_PIXELS", (SIZE // 2) ** 2)
    seen_by = cameras(poses(3))
    points, seen, _ = dense_depth(pictures(images), seen_by, *sparse(seen_by))
    assert 0.5 * 3 * (SIZE / 6) ** 2 < len(points.xyz) <= 3 * (SIZE / 6) ** 2
    assert seen.xy.max() > 0.9 * SIZE
    assert points.xyz[:, 2].abs().median() < 0.02
    assert torch.allclose(seen.error, torch.tensor(1.0))


def test_many_pictures_are_shrunk_further(monkeypatch) -> None:
    """A quarter of the pixels of 128 pictures: with half as many planes, an eighth of the time of each."""
    made = []
    real = multi_view_stereo.pinhole_picture
    monkeypatch.setattr(multi_view_stereo, "pinhole_picture", lambda *rest: made.append(rest[-1]) or real(*rest))
    for n in (3, 16, 128):
        seen_by = cameras(poses(n))
        none = SparsePoints(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.uint8), torch.zeros(1))
        nothing = Sightings(
            *(torch.zeros(0, dtype=torch.long) for _ in range(2)), torch.zeros(0, 2), *torch.zeros(2, 0)
        )
        dense_depth(lambda i: (torch.zeros(12, 16, 3, dtype=torch.uint8), None), seen_by, none, nothing)
        assert made.pop() == {3: 100_000, 16: 100_000, 128: 25_000}[n]


def test_what_a_mask_hides_has_no_points(images) -> None:
    mask = torch.ones(SIZE, SIZE, dtype=torch.bool)
    mask[:, : SIZE // 2] = False
    seen_by = cameras(poses(3))
    _, seen, _ = dense_depth(pictures(images, mask), seen_by, *sparse(seen_by))
    assert len(seen.xy) > 1000
    assert seen.xy[:, 0].min() > SIZE / 2 - 1


def test_pictures_of_different_things_and_empty_ones_give_few_points_and_none() -> None:
    generator = torch.Generator().manual_seed(0)
    different = [torch.randint(256, (SIZE, SIZE, 3), generator=generator, dtype=torch.uint8) for _ in range(3)]
    seen_by = cameras(poses(3))
    points, _, _ = dense_depth(pictures(different), seen_by, *sparse(seen_by))
    assert len(points.xyz) < 0.03 * 3 * (SIZE / 3) ** 2
    grey = [torch.full((SIZE, SIZE, 3), 128, dtype=torch.uint8)] * 3
    points, seen, _ = dense_depth(pictures(grey), seen_by, *sparse(seen_by))
    assert len(points.xyz) == len(points.rgb) == len(seen.point) == 0


def test_a_picture_that_shares_no_points_has_no_depth(images) -> None:
    seen_by = cameras(poses(3))
    points, seen, _ = dense_depth(pictures(images), seen_by, *sparse(seen_by, unseen=[1]))
    assert seen.image.unique().tolist() == [0, 2]
    assert len(points.xyz) > 1000
    points, seen, _ = dense_depth(pictures(images), seen_by, *sparse(seen_by, unseen=[1, 2]))
    assert len(points.xyz) == len(seen.point) == 0


def test_rays_at_too_small_an_angle_tell_nothing(images) -> None:
    """Cameras a thousandth of a radian apart."""
    near = np.stack([poses(1)[0]] * 2)
    near[1, 0, 3] += 0.004
    seen_by = cameras(near)
    points, _, _ = dense_depth(pictures([torch.from_numpy(picture(pose)) for pose in near]), seen_by, *sparse(seen_by))
    assert len(points.xyz) == 0


def test_sources_share_the_most_points() -> None:
    """Of six pictures: 0 shares 40 with 1, 35 with 4, 30 with 2, 20 with 3, one too few with 5."""
    saw = {0: range(100), 1: range(40), 2: range(30), 3: range(80, 110), 4: range(45, 80), 5: range(19)}
    pairs = torch.tensor([(i, p) for i, points in saw.items() for p in points])
    seen = Sightings(pairs[:, 0], pairs[:, 1], torch.empty(0, 2), torch.empty(0), torch.empty(0))
    assert choose_sources(seen, 6, 110) == [[1, 4, 2, 3], [0, 2], [0, 1], [0], [0], []]
    assert max(map(len, choose_sources(Sightings(*_all_seen(8)), 8, 30))) == multi_view_stereo.SOURCES


def _all_seen(n: int) -> tuple[torch.Tensor, ...]:
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(30))
    return pairs[:, 0], pairs[:, 1], torch.empty(0, 2), torch.empty(0), torch.empty(0)


def side_by_side(baseline: float, greys: Sequence[np.ndarray]) -> list[PinholePicture]:
    """Cameras that look along z, each `baseline` to the right of the one before."""
    h, w = greys[0].shape
    k = np.array([[100.0, 0, (w - 1) / 2], [0, 100.0, (h - 1) / 2], [0, 0, 1]])
    return [
        PinholePicture(
            np.repeat(grey[..., None], 3, 2), np.ones((h, w), np.uint8), k, np.eye(3), np.array([baseline * i, 0, 0])
        )
        for i, grey in enumerate(greys)
    ]


def test_planes_are_a_pixel_apart() -> None:
    """A point moves by f b / z pixels: from far away to z = 2 by 100 * 1.6 / 2 = 80."""
    pair = side_by_side(1.6, [np.zeros((40, 60), np.uint8)] * 2)
    inverse = inverse_depths(pair[0], pair[1:], near=2.0)
    assert len(inverse) == 80
    assert inverse[-1] == pytest.approx(0.5)
    assert inverse[0] == pytest.approx(0.5 / 1000)
    assert np.diff(inverse).std() < 1e-9
    assert len(inverse_depths(pair[0], pair[1:], near=100.0)) == multi_view_stereo.FEWEST_PLANES
    assert len(inverse_depths(pair[0], pair[1:], near=0.1)) == multi_view_stereo.MOST_PLANES


def test_a_step_between_two_surfaces_stays_sharp_and_what_one_picture_hides_another_shows() -> None:
    """A card at z = 2 before a wall at z = 4; columns of the wall beside it are hidden from one neighbour each."""
    h, w, noise = 60, 120, np.random.default_rng(0).integers(0, 255, (2, 60, 400)).astype(np.uint8)
    greys = []
    for i in range(3):  # 100 * 0.24 / 4 = 6 pixels for each camera, and 12 for the card
        wall, card = noise[0, :, 100 + 6 * i :][:, :w], noise[1, :, 100 + 12 * i :][:, :w]
        column = np.arange(w) + 12 * i
        greys.append(np.where((column >= 55) & (column < 85), card, wall))
    one = side_by_side(0.24, greys)
    depth = depth_map(one[1], [one[0], one[2]], near=1.0)
    truth = np.full((h, w), 4.0)
    truth[:, 55 - 12 : 85 - 12] = 2.0
    middle = np.s_[5:-5, 15:-15]
    wrong = np.abs(depth[middle] / truth[middle] - 1) > 0.03
    assert wrong.mean() < 0.08  # within half a window of the two steps
    assert not wrong[:, 4:22].any()
    assert not wrong[:, 64:].any()


def test_pictures_agree_within_a_pixel() -> None:
    """A wall at z = 4, which is 6 pixels away in the other picture; where that has it nearer or farther, it leads back
    as many pixels aside as the two depths differ there: 100 * 0.24 * (1 / z - 1 / 4)."""
    one, other = side_by_side(0.24, [np.zeros((30, 60), np.uint8)] * 2)
    v, u = (x.ravel() for x in np.mgrid[5:25, 20:40])
    x = one.points_at(u, v, np.full(len(u), 4.0))
    for aside, agrees in ((0.0, True), (0.9, True), (-0.9, True), (1.1, False), (-1.1, False), (4.0, False)):
        depth = np.full((30, 60), 1 / (1 / 4 + aside / 24), np.float32)
        assert (multi_view_stereo._leads_back(one, u, v, x, other, depth) == agrees).all(), aside
    assert not multi_view_stereo._leads_back(one, u, v, x, other, np.zeros((30, 60), np.float32)).any()
    beside = one.points_at(u - 35, v, np.full(len(u), 4.0))  # what the other one's frame has not
    assert not multi_view_stereo._leads_back(one, u - 35, v, beside, other, np.full((30, 60), 4, np.float32)).all()


def test_the_better_half_is_of_those_that_have_the_pixel() -> None:
    score, none = np.float32([0.9, 0.1, 0.5, 0.3]), np.nan
    four = better_half(score[:, None, None], 100)[0, 0]
    assert four == round(100 * (1 - 0.7))
    cases = {(0.9, none, 0.5, 0.3): 30, (none, 0.1, none, 0.3): 70, (none, none, 0.5, none): 50, (none,) * 4: 100}
    for values, expected in cases.items():
        assert abs(int(better_half(np.float32(values)[:, None, None], 100)[0, 0]) - expected) <= 1
    assert better_half(np.float32([[[-1.0]]]), 127)[0, 0] == 254


def test_costs_along_paths_are_those_of_the_formula() -> None:
    """Against S written down as it stands, path by path."""
    generator = np.random.default_rng(0)
    h, w, n = 5, 6, 7
    cost = generator.integers(0, 254, (h, w, n)).astype(np.uint8)
    grey = generator.integers(0, 40, (h, w)).astype(np.float32)
    step, jump, edge = 6, 76.0, 8.0
    total = np.zeros((h, w, n))
    for down, right in PATHS:
        rows, columns = range(h)[:: down or 1], range(w)[:: right or 1]
        path = np.zeros((h, w, n))
        for y, x in itertools.product(rows, columns):
            path[y, x] = cost[y, x]
            if not (0 <= y - down < h and 0 <= x - right < w):
                continue
            before = path[y - down, x - right]
            other = int(max(step, jump / (1 + abs(grey[y, x] - grey[y - down, x - right]) / edge)))
            for k in range(n):
                ways = [before[k], before.min() + other]
                ways += [before[i] + step for i in (k - 1, k + 1) if 0 <= i < n]
                path[y, x, k] += min(ways) - before.min()
        total += path
    assert len(set(PATHS)) == 8
    assert np.array_equal(aggregate(cost, grey, step, jump, edge), total)


def test_pictures_without_sources_have_no_depth() -> None:
    one = pinhole_picture(cameras(poses(1)), 0, torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8), None, 10**6)
    assert not depth_map(one, [], near=1.0).any()


def test_guesses_are_the_second_farthest_of_what_lies_around() -> None:
    """A card of inverse depth 2 to the left of a hole, a wall of 1 to its right; by hand, one row and all of them."""
    row = np.float32([[2, 2, 0, 0, 1, 1]])
    assert between(row, 4).tolist() == [[0, 0, 2, 2, 0, 0]]  # along one line alone the second is the nearer one
    rows = np.repeat(row, 9, axis=0)
    assert between(rows, 4)[4].tolist() == [0, 0, 1, 1, 0, 0]  # diagonals meet the wall as well
    assert not between(rows, 1).any()  # out of reach on one side or the other
    assert between(rows[:, :4], 4).tolist() == np.zeros((9, 4)).tolist()  # at the border nothing lies opposite
    assert not between(np.zeros((5, 5), np.float32), 4).any()


def test_what_one_picture_alone_shows_is_guessed_from_what_is_beside_it() -> None:
    """Two cameras before a card and a wall: at the card's side each sees a strip of wall that the other does not."""
    generator = np.random.default_rng(0)
    wall, card = generator.integers(0, 255, (2, 120, 400)).astype(np.uint8)
    greys = []
    for i in range(2):  # the wall, 4 away, moves by 30 pixels, the card, 2 away, by 60
        column = np.arange(240) + 60 * i
        greys.append(np.where((column >= 120) & (column < 180), card[:, 60 * i :][:, :240], wall[:, 30 * i :][:, :240]))
    c2w = np.repeat(np.diag([1.0, -1.0, -1.0])[None], 2, 0)
    position = np.float64([[[0], [0], [0]], [[1.2], [0], [0]]])
    matrices = torch.from_numpy(np.concatenate([c2w, position], 2)).float()
    seen_by = Cameras(matrices, 100.0, 100.0, 120.0, 60.0, 240, 120)
    rgb = [torch.from_numpy(np.repeat(grey[..., None], 3, 2)) for grey in greys]
    points, seen = sparse(seen_by)
    found = dense_depth(
        pictures(rgb), seen_by, points, dataclasses.replace(seen, depth=torch.full((len(seen.depth),), 3.0))
    )
    # Left of the card the first picture has wall that the second one's card hides: columns 90 to 120.
    first = found.guesses.image == 0
    at = found.guesses.xy[first]
    strip = (at[:, 0] > 94) & (at[:, 0] < 116) & (at[:, 1] > 12) & (at[:, 1] < 108)
    assert strip.sum() > 0.7 * (22 / 2) * (96 / 2)
    assert found.guesses.xyz[first][strip, 2].median() == pytest.approx(4.0, abs=0.1)
    known = found.points.xyz[found.seen.point[found.seen.image == 0]]
    where = found.seen.xy[found.seen.image == 0]
    assert known[(where[:, 0] > 130) & (where[:, 0] < 170), 2].median() == pytest.approx(2.0, abs=0.05)
    assert known[where[:, 0] > 220, 2].median() == pytest.approx(4.0, abs=0.1)
