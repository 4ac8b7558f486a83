"""Where the box of a capture goes, and what is behind it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import dataparser
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.scene_box import Views, choose_space, cube_of_points, focus_point, look_inward
from tests.nerf.scene_factory import ring_pose, write_nerfstudio_scene


def ring(n: int = 8, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    poses = torch.from_numpy(np.stack([ring_pose(2 * math.pi * i / n, 1.0) for i in range(n)])).float()
    poses[:, :3, 3] += torch.tensor(offset)
    return poses


def test_the_focus_is_where_the_axes_meet() -> None:
    torch.testing.assert_close(focus_point(ring(offset=(1.0, -2.0, 0.5))), torch.tensor([1.0, -2.0, 0.5]))
    same_way = ring()[:1].repeat(3, 1, 1)
    same_way[:, :3, 3] += torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert focus_point(same_way) is None


def test_cameras_that_look_outward_do_not_look_inward() -> None:
    poses = ring()
    assert look_inward(poses, torch.zeros(3), 0.3)
    poses[:, :3, 2] *= -1
    assert not look_inward(poses, torch.zeros(3), 0.3)


def test_an_object_with_alpha_gets_the_box_that_cameras_see() -> None:
    space = choose_space("auto", ring(), math.atan(0.25), True, 4.0)
    assert not space.unbounded
    assert space.half == pytest.approx(1.05 * 4 * 0.25)
    assert "alpha, the cameras look at one point" in space.line()


WIDE_35 = 4 * math.tan(0.35)
WIDE = 4 * math.tan(0.3)
"""Half the width of the pictures of `ring` at its centre, where half their angle of view is 0.3; on disk it is 0.35."""


@pytest.mark.parametrize(
    ("space", "has_alpha", "unbounded", "half", "said"),
    [
        (
            "auto",
            False,
            True,
            WIDE,
            "unbounded scene, contracted beyond its box of +-1.24 around (0, 0, 0): photos with",
        ),
        ("box", False, False, 4.0, "bounded scene in a box of +-4 around (0, 0, 0): photos without alpha, the cube of"),
        ("unbounded", True, True, WIDE, "alpha, the cameras look at one point (--space unbounded)"),
    ],
)
def test_photos_are_unbounded_unless_told(space, has_alpha: bool, unbounded: bool, half: float, said: str) -> None:
    chosen = choose_space(space, ring(), 0.3, has_alpha, 4.0)
    assert (chosen.unbounded, chosen.half) == (unbounded, pytest.approx(half))
    assert said in chosen.line()


def test_the_focus_is_exact_far_from_the_origin() -> None:
    poses = torch.from_numpy(np.stack([ring_pose(0.8 * i) for i in range(8)]))
    offset = torch.tensor([5e5, 5e6, 100.0], dtype=torch.float64)
    poses[:, :3, 3] += offset
    focus = focus_point(poses)
    assert focus is not None
    torch.testing.assert_close(focus - offset, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-7)
    assert look_inward(poses, focus, 0.01)


def grid(half: float, n: int = 11) -> torch.Tensor:
    """(n^3, 3) in a cube around the origin."""
    return torch.cartesian_prod(*[torch.linspace(-half, half, n)] * 3)


def seen_by_one(xyz: torch.Tensor, depth: float = 4.0) -> Views:
    return Views(torch.zeros(len(xyz), dtype=torch.int64), xyz, torch.full((len(xyz),), depth))


@pytest.mark.parametrize(
    ("half", "expected"),
    [(1.0, 1.0), (0.3, 0.5 * WIDE), (9.0, WIDE)],  # what is there; half the width of the pictures; that width
)
def test_the_cube_of_what_cameras_look_at(half: float, expected: float) -> None:
    """11 points along each axis, of which the outer ones, 1 in 11 each, are more than 5 %: none is skipped."""
    centre, got = cube_of_points(seen_by_one(grid(half)), torch.zeros(3), 4.0, 0.3)
    assert got == pytest.approx(expected)
    torch.testing.assert_close(centre, torch.zeros(3), atol=1e-6, rtol=0)


def test_five_percent_at_either_end_do_not_count() -> None:
    """Of 101 evenly spaced points the sixth from either end: 0.9 of their reach."""
    line = torch.linspace(-1, 1, 101)[:, None].expand(-1, 3)
    centre, half = cube_of_points(seen_by_one(line), torch.zeros(3), 4.0, 0.3)
    assert half == pytest.approx(0.9)
    assert not centre.any()


def test_the_cube_is_where_the_points_are_but_holds_the_focus() -> None:
    points = grid(0.8)
    centre, half = cube_of_points(seen_by_one(points + torch.tensor([0.3, -9.0, 0.0])), torch.zeros(3), 4.0, 0.3)
    assert half == pytest.approx(0.8)
    torch.testing.assert_close(centre, torch.tensor([0.3, -0.5 * WIDE, 0.0]))


def test_what_is_far_behind_does_not_move_the_cube() -> None:
    """Twice the distance of the focus and more."""
    near, far = seen_by_one(grid(1.0)), seen_by_one(grid(9.0) + torch.tensor([30.0, 0.0, 0.0]), 8.01)
    both = Views(*(torch.cat(pair) for pair in zip(vars(near).values(), vars(far).values(), strict=True)))
    centre, half = cube_of_points(both, torch.zeros(3), 4.0, 0.3)
    assert half == pytest.approx(1.0)
    torch.testing.assert_close(centre, torch.zeros(3), atol=1e-6, rtol=0)


def test_without_a_focus_the_cube_is_around_what_each_camera_sees_near() -> None:
    """Camera 0 has its median at 1 and drops what is beyond 2; camera 1 at 10 and keeps all.

    Of what is left 5 % is one layer of a grid: along x from -0.8 to 7.6.
    """
    xyz = torch.cat([grid(1.0), grid(1.0)[:500] + 50, grid(2.0) + torch.tensor([6.0, 0.0, 0.0])])
    camera = torch.cat([torch.zeros(1831), torch.ones(1331)]).long()
    depth = torch.cat([torch.ones(1331), torch.full((500,), 2.1), torch.full((1331,), 10.0)])
    centre, half = cube_of_points(Views(camera, xyz, depth), None, 0.0, 0.3)
    assert half == pytest.approx(4.2)
    torch.testing.assert_close(centre, torch.tensor([3.4, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_points_go_before_bounds_and_few_points_do_not() -> None:
    bounds = torch.tensor([[2.0, 10.0]]).repeat(8, 1)
    chosen = choose_space("auto", ring(), 0.3, False, 4.0, bounds, seen_by_one(grid(1.0)))
    assert (chosen.unbounded, chosen.half) == (True, pytest.approx(1.0))
    assert "around the sparse points that they see near" in chosen.line()
    few = choose_space("auto", ring(), 0.3, False, 4.0, None, seen_by_one(grid(1.0)[:49]))
    assert few.half == pytest.approx(WIDE)


@pytest.mark.parametrize("has_alpha", [True, False])
def test_a_bounded_box_holds_all_points(has_alpha: bool) -> None:
    points = grid(0.5) + torch.tensor([0.0, 0.0, 7.0])
    chosen = choose_space("box", ring(), 0.3, has_alpha, 4.0, None, seen_by_one(points))
    assert not chosen.unbounded
    low, high = chosen.centre - chosen.half, chosen.centre + chosen.half
    assert bool(((points >= low) & (points <= high)).all())
    without = choose_space("box", ring(), 0.3, has_alpha, 4.0)
    assert bool((low <= without.centre - without.half + 1e-5).all())
    assert bool((high >= without.centre + without.half - 1e-5).all())


def test_an_object_that_no_box_is_sure_to_hold_is_unbounded() -> None:
    """Alpha, but cameras that look along a wall: a cube around them would cut what they see."""
    chosen = choose_space("auto", forward_facing(), 0.3, True, 4.0)
    assert chosen.unbounded
    assert not choose_space("box", forward_facing(), 0.3, True, 4.0).unbounded
    assert not choose_space("auto", forward_facing(), 0.3, True, 4.0, BOUNDS).unbounded


def test_cameras_that_look_about_keep_their_cube() -> None:
    poses = ring()
    poses[:, :3, 2] *= -1
    chosen = choose_space("auto", poses, 0.3, False, 4.0)
    assert (chosen.unbounded, chosen.half) == (True, 4.0)
    assert "do not look at one point" in chosen.line()


def forward_facing(forward: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> torch.Tensor:
    """Four parallel cameras 1 apart, to the right of the origin."""
    ahead = torch.tensor(forward) / math.hypot(*forward)
    up = torch.tensor([0.0, 0.0, 1.0])
    right = torch.linalg.cross(ahead, up)
    steps = torch.arange(4.0)[:, None] * right
    return torch.cat([torch.stack([right, up, -ahead], 1).expand(4, 3, 3), steps[:, :, None]], 2)


BOUNDS = torch.tensor([[2.0, 10.0]]).repeat(4, 1)


def test_parallel_cameras_get_a_box_ahead_of_them() -> None:
    """It begins at 0.9 of the near depth; its half side is twice that depth."""
    chosen = choose_space("auto", forward_facing(), math.atan(0.25), False, 1.0, BOUNDS)
    assert chosen.unbounded
    assert chosen.half == pytest.approx(4.0)
    torch.testing.assert_close(chosen.centre, torch.tensor([1.5, 5.8, 0.0]))
    assert "photos without alpha, the cameras face forward and their near depth is known" in chosen.line()


@pytest.mark.parametrize(("tan_half_fov", "half"), [(0.25, 4.1), (0.5, 6.5)])
def test_a_bounded_box_ahead_holds_all_that_is_seen(tan_half_fov: float, half: float) -> None:
    """In depth 1.8 to 10, that is 4.1; across 1.5 between the cameras and 10 tan of their view; plus 5 %."""
    chosen = choose_space("box", forward_facing(), math.atan(tan_half_fov), False, 1.0, BOUNDS)
    assert not chosen.unbounded
    assert chosen.half == pytest.approx(1.05 * half)
    torch.testing.assert_close(chosen.centre, torch.tensor([1.5, 1.8 + 1.05 * half, 0.0]))


@pytest.mark.parametrize("forward", [(1.0, 1.0, 0.0), (-2.0, 1.0, 0.0)])
def test_no_corner_of_the_box_ahead_is_nearer_than_its_front(forward: tuple[float, float, float]) -> None:
    chosen = choose_space("auto", forward_facing(forward), 0.3, False, 1.0, BOUNDS)
    corners = chosen.centre + chosen.half * torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    nearest = (corners @ torch.tensor(forward) / math.hypot(*forward)).min()
    assert float(nearest) == pytest.approx(1.8, abs=1e-5)


def test_no_camera_stands_in_the_box_ahead() -> None:
    """One camera has walked forward, past what the last one sees first."""
    poses = forward_facing()
    poses[3, 1, 3] = 3.0
    chosen = choose_space("auto", poses, 0.3, False, 1.0, BOUNDS)
    assert float(chosen.centre[1]) - chosen.half == pytest.approx(3.0)


def test_a_box_ahead_is_around_what_converging_cameras_look_at() -> None:
    """Its centre is the mean of the points where the optical axes pass the depth of the centre."""
    turned, straight = forward_facing((1.0, 1.0, 0.0))[:1], forward_facing()[3:]
    poses = torch.cat([turned, straight])
    chosen = choose_space("auto", poses, 0.3, False, 1.0, torch.tensor([[2.0, 10.0], [2.0, 10.0]]))
    camera, axis = poses[:, :, 3], -poses[:, :, 2]
    forward = axis.mean(0) / axis.mean(0).norm()
    hits = camera + axis * ((chosen.centre @ forward - camera @ forward) / (axis @ forward))[:, None]
    torch.testing.assert_close(hits.mean(0), chosen.centre)


def test_cameras_around_an_object_keep_its_box_whatever_the_bounds() -> None:
    bounds = torch.tensor([[2.0, 10.0]]).repeat(8, 1)
    with_bounds, without = (choose_space("auto", ring(), 0.3, False, 4.0, b) for b in (bounds, None))
    assert (with_bounds.half, with_bounds.reason) == (without.half, without.reason)
    torch.testing.assert_close(with_bounds.centre, without.centre)


def test_the_parser_says_what_it_chose_in_one_line(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(dataparser, "_said", set())
    photos = PeakDataParserConfig(data=write_nerfstudio_scene(tmp_path / "photos"))
    outputs = photos.setup().get_dataparser_outputs("train")
    assert outputs.metadata["unbounded"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "box of" in line]
    assert len(lines) == 1
    assert lines[0].startswith("peak-data: unbounded scene, contracted beyond its box of +-0.37")
    assert lines[0].endswith("one point; --space and --scene-scale change it")
    cut_out = PeakDataParserConfig(data=write_nerfstudio_scene(tmp_path / "object", alpha=True))
    train, test = (cut_out.setup().get_dataparser_outputs(split) for split in ("train", "test"))
    assert not train.metadata["unbounded"]
    torch.testing.assert_close(train.scene_box.aabb, test.scene_box.aabb)
    # The ball of radius 1 that the pictures show lies in the box, which is smaller than the cameras' cube.
    centre = train.dataparser_scale * train.dataparser_transform[:, 3]
    low, high = train.scene_box.aabb
    assert bool(((centre - train.dataparser_scale > low) & (centre + train.dataparser_scale < high)).all())
    assert float((high - low).max()) < 1.5


@pytest.mark.parametrize(("aabb_scale", "half"), [(16, WIDE_35), (0.5, 0.25 / 0.33)])
def test_instant_ngp_photos_are_as_wide_as_the_pictures_at_most_its_box(
    tmp_path: Path, aabb_scale: float, half: float
) -> None:
    data = write_nerfstudio_scene(tmp_path, aabb_scale=aabb_scale)
    outputs = PeakDataParserConfig(data=data).setup().get_dataparser_outputs("train")
    assert outputs.metadata["unbounded"]
    low, high = outputs.scene_box.aabb
    torch.testing.assert_close((high - low) / 2, torch.full((3,), half))
    torch.testing.assert_close((high + low) / 2, torch.zeros(3), atol=1e-6, rtol=0)
    boxed = PeakDataParserConfig(data=data, space="box").setup().get_dataparser_outputs("train")
    torch.testing.assert_close(boxed.scene_box.aabb[1], torch.full((3,), aabb_scale * 0.5 / 0.33))


def test_frames_without_an_image_are_listed_and_left_out(tmp_path: Path, capsys) -> None:
    data = write_nerfstudio_scene(tmp_path, n=9)
    for name in ("frame_00001.png", "frame_00007.png"):
        (data / "images" / name).unlink()
    config = PeakDataParserConfig(data=data)
    outputs = config.setup().get_dataparser_outputs("train")
    assert [path.name for path in outputs.image_filenames] == [f"frame_{i:05d}.png" for i in range(2, 7)]
    assert config.resolve_views() == (0, 1, 2, 3, 4)
    said = capsys.readouterr().out
    assert "2 of 7 frames have no image and are left out: images/frame_00001.png, images/frame_00007.png" in said
    (data / "images" / "frame_00000.png").unlink()
    (data / "images" / "frame_00008.png").unlink()
    with pytest.raises(PeakError, match=r"frame_00000.png: image is missing \(2 of 2 that .*; also frame_00008.png\)"):
        PeakDataParserConfig(data=data).setup().get_dataparser_outputs("test")
