"""Residuals of photos, found again by depth: on a wall with a known pattern, in views that are worked out."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from peak_nerf.nerf import photo_residuals
from peak_nerf.nerf.data.pixel_rays import rays_of_picture
from peak_nerf.nerf.photo_residuals import (
    PARALLAX,
    TRUST,
    PhotoResiduals,
    TrainingPhoto,
    TrainingRenderings,
    chosen_renderings,
    render_training_views,
)

SIZE, FOCAL, WALL = 64, 80.0, 4.0
GREY = 0.5


def cameras(
    positions: list[tuple[float, float]], kind: CameraType = CameraType.PERSPECTIVE, size: int = SIZE
) -> Cameras:
    """At (x, y, 0), looking along -z at a wall at z = -WALL."""
    poses = torch.eye(4)[None, :3].repeat(len(positions), 1, 1)
    for pose, (x, y) in zip(poses, positions, strict=True):
        pose[:2, 3] = torch.tensor([x, y])
    return Cameras(poses, FOCAL, FOCAL, size / 2, size / 2, size, size, camera_type=kind)


def pattern(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(..., 3), what the wall shows, around GREY."""
    wave = 0.2 * torch.sin(3 * x) * torch.cos(2 * y)
    return torch.stack((GREY + wave, GREY - wave, GREY + 0.5 * wave), -1)


def photo_of(views: Cameras, i: int) -> torch.Tensor:
    rays = rays_of_picture(views[i : i + 1])
    hit = rays.origins + rays.directions * (-WALL / rays.directions[..., 2:])
    return (pattern(hit[..., 0], hit[..., 1]) * 255).round() / 255


def wall(views: Cameras) -> Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """A field that knows where the wall is, and takes it for grey."""

    def render(view: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        rays = rays_of_picture(views[view : view + 1], stride)
        distance = -WALL / rays.directions[..., 2]
        return torch.full((*distance.shape, 3), GREY), distance

    return render


def residuals(
    views: Cameras,
    render: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]] | None = None,
    known: torch.Tensor | None = None,
    n_views: int = 3,
) -> PhotoResiduals:
    made = render_training_views(views, render or wall(views))
    assert made is not None
    return PhotoResiduals(views, lambda i: TrainingPhoto(photo_of(views, i), known), made, n_views)


def seen_by(
    result: PhotoResiduals, position: tuple[float, float], depth: float = WALL
) -> tuple[torch.Tensor, torch.Tensor]:
    """The grey wall with residuals, of a camera at a position, and the truth."""
    view = cameras([position])
    rays = rays_of_picture(view)
    distance = -depth / rays.directions[..., 2:]
    grey = torch.full((SIZE, SIZE, 3), GREY)
    return result.add(grey, rays.origins, rays.directions, distance), photo_of(view, 0)


INNER = slice(12, -12)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_another_view_of_a_wall_has_its_pattern(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """(1 - TRUST) of the pattern is missing, whichever photos it comes from."""
    monkeypatch.setattr(photo_residuals, "MOST_PIXELS", 4 * math.ceil(SIZE / stride) ** 2)
    views = cameras([(-0.3, 0.0), (0.2, 0.1), (0.0, -0.3), (0.3, 0.3)])
    result = residuals(views)
    assert result.stride == stride
    rendered, truth = seen_by(result, (0.05, 0.02))
    wanted = GREY + TRUST * (truth - GREY)
    assert (rendered - wanted)[INNER, INNER].abs().max() < 0.006  # of a pattern of 0.2
    assert rendered.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_field_that_knows_the_photos_gets_nothing(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renderings are compared with the photos' own pixels: half a pixel beside would leave a residual of a ramp."""
    monkeypatch.setattr(photo_residuals, "MOST_PIXELS", math.ceil(SIZE / stride) ** 2)
    views = cameras([(0.0, 0.0)])

    def ramp(rays) -> torch.Tensor:
        hit = rays.origins + rays.directions * (-WALL / rays.directions[..., 2:])
        return torch.stack((0.5 + 0.2 * hit[..., 0], 0.5 + 0.2 * hit[..., 1], 0.5 + 0 * hit[..., 0]), -1)

    def render(view: int, every: int) -> tuple[torch.Tensor, torch.Tensor]:
        rays = rays_of_picture(views[view : view + 1], every)
        return ramp(rays), -WALL / rays.directions[..., 2]

    made = render_training_views(views, render)
    assert made is not None
    photo = (ramp(rays_of_picture(views)) * 255).round() / 255
    result = PhotoResiduals(views, lambda i: TrainingPhoto(photo, None), made, 1)
    assert result._residual(0)[INNER, INNER].abs().max() <= 1.01 / 255


def test_what_a_photo_does_not_see_is_left_to_the_field() -> None:
    views = cameras([(0.0, 0.0), (0.2, 0.0)])
    # Something stands before the wall there: the photos' own distance is another.
    rendered, _ = seen_by(residuals(views), (0.1, 0.0), depth=WALL / 2)
    assert (rendered == GREY).all()
    # The wall is seen, but not by a camera far beside.
    rendered, _ = seen_by(residuals(views), (30.0, 0.0))
    assert (rendered == GREY).all()


def test_points_behind_a_camera_are_not_in_its_photo() -> None:
    views = cameras([(0.0, 0.0)])
    rays = rays_of_picture(views)
    back = rays.directions * torch.tensor([1.0, 1.0, -1.0])
    distance = WALL / back[..., 2:]
    grey = torch.full((SIZE, SIZE, 3), GREY)
    assert (residuals(views).add(grey, rays.origins, back, distance) == GREY).all()


def test_what_masks_hide_is_not_used() -> None:
    views = cameras([(0.0, 0.0)])
    known = torch.ones(SIZE, SIZE, dtype=torch.bool)
    known[:, : SIZE // 2] = False
    rendered, truth = seen_by(residuals(views, known=known), (0.0, 0.0))
    assert (rendered[:, : SIZE // 2 - 1] == GREY).all()
    kept = (slice(4, -4), slice(SIZE // 2 + 1, -4))
    assert (rendered - truth)[kept].abs().max() < 0.03
    assert (truth[kept] - GREY).abs().max() > 0.1


def vouched(result: PhotoResiduals, position: tuple[float, float], depth: float = WALL) -> torch.Tensor:
    rays = rays_of_picture(cameras([position]))
    return result.seen(rays.origins, rays.directions, -depth / rays.directions[..., 2:])


def test_photos_vouch_for_what_they_show_inside_their_frames() -> None:
    """A camera half a picture beside has half of its view in the photo."""
    half = WALL * SIZE / FOCAL / 2
    seen = vouched(residuals(cameras([(0.0, 0.0), (0.0, 0.1)])), (half, 0.0))
    assert (seen[4:-4, : SIZE // 2 - 1] == 1).all()
    assert (seen[:, SIZE // 2 + 1 :] == 0).all()


def test_a_wrong_depth_counts_by_what_it_displaces_by_hand() -> None:
    """The photo, 0.1 beside, has the wall behind the point: at the wall's distance the ray is b / 2 - b / 4 beside."""
    seen = vouched(residuals(cameras([(0.0, 0.0)])), (0.1, 0.0), depth=WALL / 2)
    shift = math.atan(0.1 / (WALL / 2)) - math.atan(0.1 / WALL)
    middle = seen[SIZE // 2 - 1 : SIZE // 2 + 1, SIZE // 2 - 1 : SIZE // 2 + 1].mean()
    assert float(middle) == pytest.approx(math.exp(-((shift / PARALLAX) ** 2)), rel=0.03)
    assert (vouched(residuals(cameras([(0.0, 0.0)])), (0.0, 0.0), depth=WALL / 2)[4:-4, 4:-4] == 1).all()


def test_what_masks_leave_out_counts_as_seen() -> None:
    seen = vouched(residuals(cameras([(0.0, 0.0)]), known=torch.zeros(SIZE, SIZE, dtype=torch.bool)), (0.0, 0.0))
    assert (seen[4:-4, 4:-4] == 1).all()


def filling(views: Cameras) -> PhotoResiduals:
    made = render_training_views(views, wall(views))
    assert made is not None
    return PhotoResiduals(views, lambda i: TrainingPhoto(photo_of(views, i), None), made, 3, fills=True)


def test_what_no_photo_shows_is_filled_in_and_said() -> None:
    """Where the wall goes on beyond the photo, the field has painted it black."""
    half = WALL * SIZE / FOCAL / 2
    rays = rays_of_picture(cameras([(half, 0.0)]))
    painted = torch.full((SIZE, SIZE, 3), GREY)
    painted[:, SIZE // 2 :] = 0
    outputs = {"rgb": painted, "depth": -WALL / rays.directions[..., 2:]}
    filling(cameras([(0.0, 0.0)])).add_to(outputs, rays)
    assert torch.equal(outputs["rgb_field"], painted)
    assert outputs["seen"].shape == (SIZE, SIZE, 1)
    assert (outputs["seen"][8:-8, : SIZE // 2 - 6] == 1).all()
    assert (outputs["seen"][:, SIZE // 2 + 6 :] == 0).all()
    assert outputs["rgb"][:, SIZE // 2 + 6 :].min() > GREY - 0.25
    shown = {"rgb": painted, "depth": outputs["depth"]}
    residuals(cameras([(0.0, 0.0)])).add_to(shown, rays)
    assert "seen" not in shown
    assert (shown["rgb"][:, SIZE // 2 + 6 :] == 0).all()


def test_nothing_is_filled_in_where_not_all_photos_were_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the others may show it."""
    views = cameras([(x / 10, 0.0) for x in range(20)])
    assert filling(views).fills
    monkeypatch.setattr(photo_residuals, "MOST_PIXELS", 10 * math.ceil(SIZE / photo_residuals.COARSEST) ** 2)
    assert not filling(views).fills


def test_the_nearest_angle_counts_most_by_hand() -> None:
    """Two photos that differ by a constant: at the wall's point before the view, w_i = 1 / (theta_i + BLUNT)."""
    views = cameras([(-0.4, 0.0), (0.8, 0.0)])
    made = render_training_views(views, wall(views))
    assert made is not None
    flat = [torch.full((SIZE, SIZE, 3), value / 255) for value in (151, 103)]
    result = PhotoResiduals(views, lambda i: TrainingPhoto(flat[i], None), made, 2)
    rendered, _ = seen_by(result, (0.0, 0.0))
    grey = 128  # as renderings are kept
    theta = [math.atan(0.4 / WALL), math.atan(0.8 / WALL)]
    w = [1 / (angle + photo_residuals.BLUNT) for angle in theta]
    mean = (w[0] * (151 - grey) + w[1] * (103 - grey)) / (w[0] + w[1]) / 255
    assert float(rendered[SIZE // 2, SIZE // 2, 0]) == pytest.approx(GREY + TRUST * mean, abs=3e-3)


def test_only_so_many_photos_are_looked_at() -> None:
    views = cameras([(-0.6, 0.0), (0.01, 0.0), (0.6, 0.0)])
    asked: list[int] = []
    made = render_training_views(views, wall(views))
    assert made is not None

    def photo(i: int) -> TrainingPhoto:
        asked.append(i)
        return TrainingPhoto(photo_of(views, i), None)

    result = PhotoResiduals(views, photo, made, 1)
    one, truth = seen_by(result, (0.0, 0.0))
    wanted = GREY + TRUST * (truth - GREY)
    assert (one - wanted)[INNER, INNER].abs().max() < 0.006
    monochrome = PhotoResiduals(
        views,
        lambda i: TrainingPhoto(torch.zeros(SIZE, SIZE, 3), None) if i != 1 else photo(i),
        made,
        1,
    )
    again, _ = seen_by(monochrome, (0.0, 0.0))
    assert torch.equal(again, one)


def test_a_photo_joins_and_leaves_without_a_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of different brightness: as a flight passes the second, the third takes the place of the first."""
    views = cameras([(x, 0.0) for x in (-1.5, -0.5, 0.5, 1.5)])
    made = render_training_views(views, wall(views))
    assert made is not None
    result = PhotoResiduals(views, lambda i: TrainingPhoto(photo_of(views, i) + 0.2 * i - 0.3, None), made, 2)

    def greatest_step() -> float:
        flight = [seen_by(result, (x, 0.0))[0][INNER, INNER].mean() for x in torch.linspace(-0.6, -0.4, 21).tolist()]
        return max(abs(float(b - a)) for a, b in itertools.pairwise(flight))

    smooth = greatest_step()
    monkeypatch.setattr(photo_residuals, "SOFT", 1e-9)
    assert greatest_step() > 0.02
    assert smooth < 0.01


def test_how_many_views_and_how_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    views = cameras([(float(i), 0.0) for i in range(10)])
    n = SIZE * SIZE
    for most, stride, chosen in (
        (10 * n, 1, list(range(10))),
        (10 * n - 1, 2, list(range(10))),
        (10 * n // 4, 2, list(range(10))),
        (10 * n // 4 - 1, 3, list(range(10))),
        (3 * 22**2, 3, [0, 4, 9]),
        (1, 3, [0]),
    ):
        monkeypatch.setattr(photo_residuals, "MOST_PIXELS", most)
        assert chosen_renderings(views) == (stride, chosen), most


def test_only_perspective_photos_have_residuals() -> None:
    views = cameras([(0.0, 0.0)], CameraType.FISHEYE)
    assert render_training_views(views, wall(views)) is None


def test_renderings_of_other_photos_are_refused() -> None:
    views = cameras([(0.0, 0.0), (0.1, 0.0)])
    made = render_training_views(views, wall(views))
    assert made is not None
    photo = lambda i: TrainingPhoto(photo_of(views, i), None)  # noqa: E731
    with pytest.raises(ValueError, match="views that the scene does not have"):
        PhotoResiduals(cameras([(0.0, 0.0)]), photo, made, 1)
    with pytest.raises(ValueError, match="pictures of other sizes"):
        PhotoResiduals(cameras([(0.0, 0.0), (0.1, 0.0)], size=SIZE + 1), photo, made, 1)
    with pytest.raises(ValueError, match="views that the scene does not have"):
        PhotoResiduals(views, photo, TrainingRenderings(0, 0), 1)
