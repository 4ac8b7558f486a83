"""Paths along hand-made rings, grids, lines and walks: closed, smooth, near the cameras, looking where they look."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import Delaunay
from scipy.spatial.transform import Rotation

from peak_nerf.nerf.camera_path import camera_path, common_up, look_at, mean_pose

HALF_FOV = math.radians(25)
UP = np.array([0.0, 0.0, 1.0])
RNG = np.random.default_rng(0)


def ring(n: int, turn: float = 1.0, focus=(0.0, 0.0, 0.0), sense: float = 1.0) -> np.ndarray:
    """Cameras at distances 3 and 3.4 in turn, 25 degrees up, looking at the focus."""
    poses = []
    for i in range(n):
        angle, radius = sense * 2 * math.pi * turn * i / n, 3.0 + 0.4 * (i % 2)
        direction = np.array([math.cos(angle), math.sin(angle), math.tan(math.radians(25))])
        poses.append(look_at(focus + radius * direction / np.linalg.norm(direction), np.array(focus), UP))
    return np.stack(poses)


def grid(columns: int = 5, rows: int = 4) -> np.ndarray:
    """Cameras on a wall, looking along +y, each a little off."""
    poses = []
    for i in range(columns * rows):
        position = np.array([0.4 * (i % columns), 0.02 * RNG.normal(), 0.3 * (i // columns)])
        poses.append(look_at(position, position + np.array([0.05 * RNG.normal(), 1, 0.05 * RNG.normal()]), UP))
    return np.stack(poses)


def walk(n: int = 9) -> np.ndarray:
    """Forward along +y round a bend, eyes ahead."""
    s = np.linspace(0, 1.5, n)
    positions = np.stack([1 - np.cos(s), np.sin(s), 0.02 * RNG.normal(size=n)], axis=1) * 5
    ahead = np.stack([np.sin(s), np.cos(s), 0 * s], axis=1)
    return np.stack([look_at(p, p + a, UP) for p, a in zip(positions, ahead, strict=True)])


def check_rotations(poses: np.ndarray) -> None:
    rotations = poses[:, :, :3]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-9
    )
    assert np.linalg.det(rotations) == pytest.approx(1)


def steps(poses: np.ndarray) -> np.ndarray:
    """From each frame to the next, the last to the first included."""
    return np.linalg.norm(np.roll(poses[:, :, 3], -1, axis=0) - poses[:, :, 3], axis=1)


def turns(poses: np.ndarray) -> np.ndarray:
    rotations = Rotation.from_matrix(poses[:, :, :3])
    return (Rotation.from_matrix(np.roll(poses[:, :, :3], -1, axis=0)) * rotations.inv()).magnitude()


def outside(points: np.ndarray, cameras: np.ndarray) -> float:
    """The greatest distance of a point from the box around the cameras, over the box's diagonal."""
    low, high = cameras.min(0), cameras.max(0)
    return float(np.max([low - points, points - high]) / np.linalg.norm(high - low))


@pytest.mark.parametrize("n", [6, 24])
@pytest.mark.parametrize("focus", [(0.0, 0.0, 0.0), (1.0, -2.0, 0.5)])
def test_a_ring_gives_a_closed_orbit_that_looks_at_the_focus(n: int, focus: tuple[float, float, float]) -> None:
    cameras = ring(n, focus=focus)
    path = camera_path(cameras, 40, HALF_FOV)
    assert path.kind == "orbit"
    check_rotations(path.poses)
    to_focus = np.array(focus) - path.poses[:, :, 3]
    distance = np.linalg.norm(to_focus, axis=1)
    np.testing.assert_allclose(-path.poses[:, :, 2], to_focus / distance[:, None], atol=1e-6)
    assert (distance > 2.99).all()
    assert (distance < 3.41).all()
    np.testing.assert_allclose(-to_focus[:, 2] / distance, math.sin(math.radians(25)), atol=1e-6)
    assert steps(path.poses).max() < 1.3 * steps(path.poses).min()
    assert np.linalg.norm(path.poses[0, :, 3] - cameras[0, :, 3]) < 0.5  # begins where the capture did


@pytest.mark.parametrize("sense", [-1.0, 1.0])
def test_an_orbit_goes_round_as_the_photographer_did(sense: float) -> None:
    position = camera_path(ring(12, sense=sense), 30, HALF_FOV).poses[:, :, 3]
    assert np.cross(position[0, :2], position[1, :2]) * sense > 0


def test_an_orbit_follows_the_cameras_heights() -> None:
    """Two rings, the far half of the circle higher: the orbit rises and sinks again, by less than they differ."""
    angles = 2 * math.pi * np.arange(24) / 24
    heights = np.where(np.cos(angles) > 0, 0.5, 2.0)
    cameras = np.stack(
        [
            look_at(np.array([3 * math.cos(a), 3 * math.sin(a), h]), np.zeros(3), UP)
            for a, h in zip(angles, heights, strict=True)
        ]
    )
    height = camera_path(cameras, 36, math.radians(30)).poses[:, 2, 3]
    assert 0.5 < height.min() < 0.9
    assert 1.6 < height.max() < 2.2
    assert np.abs(np.diff(height)).max() < 0.4


def test_an_arc_is_walked_there_and_back() -> None:
    cameras = ring(12, turn=0.5)
    path = camera_path(cameras, 30, HALF_FOV)
    assert path.kind == "walk"
    check_rotations(path.poses)
    towards = -path.poses[:, :, 3] / np.linalg.norm(path.poses[:, :, 3], axis=1, keepdims=True)
    assert ((-path.poses[:, :, 2] * towards).sum(1) > math.cos(math.radians(4))).all()  # the subject stays in view
    np.testing.assert_allclose(path.poses[1:15], path.poses[:15:-1], atol=1e-9)  # the same frames on the way back


def test_a_grid_gives_a_spiral_within_it() -> None:
    cameras = grid()
    path = camera_path(cameras, 40, HALF_FOV, subject=2.0)
    assert path.kind == "spiral"
    check_rotations(path.poses)
    position = path.poses[:, :, 3]
    assert Delaunay(cameras[:, [0, 2], 3]).find_simplex(position[:, [0, 2]]).min() >= 0
    assert np.ptp(position[:, 0]) > 0.5 * np.ptp(cameras[:, 0, 3])
    assert np.ptp(position[:, 2]) > 0.5 * np.ptp(cameras[:, 2, 3])
    middle = mean_pose(cameras)
    target = middle[:, 3] - 2.0 * middle[:, 2]
    towards = (target - position) / np.linalg.norm(target - position, axis=1, keepdims=True)
    np.testing.assert_allclose(-path.poses[:, :, 2], towards, atol=1e-9)
    assert steps(path.poses).max() < 3 * steps(path.poses).min()
    straight = camera_path(cameras, 40, HALF_FOV).poses
    np.testing.assert_allclose(straight[:, :, :3], np.broadcast_to(middle[:, :3], (40, 3, 3)), atol=1e-12)


@pytest.mark.parametrize("cameras", [walk(), walk(3), grid(8, 1), ring(5, turn=0.2)], ids=["bend", "3", "line", "arc"])
def test_a_walk_stays_with_the_cameras_and_is_smooth(cameras: np.ndarray) -> None:
    path = camera_path(cameras, 60, HALF_FOV)
    assert path.kind == "walk"
    check_rotations(path.poses)
    assert outside(path.poses[:, :, 3], cameras[:, :, 3]) < 1e-9
    np.testing.assert_allclose(path.poses[0], cameras[0], atol=1e-9)
    np.testing.assert_allclose(path.poses[30], cameras[-1], atol=1e-9)
    second = np.diff(path.poses[:31, :, 3], n=2, axis=0)
    assert np.linalg.norm(second, axis=1).max() < 0.35 * steps(path.poses).max()
    assert turns(path.poses).max() < math.radians(12)


def test_a_walk_takes_its_time_from_the_way_not_from_the_cameras() -> None:
    """Cameras at 0, 1, 2, 3 and 9: a quarter of the frames in, half of the way there, since cos(pi / 2) = 0."""
    places = np.array([0.0, 1.0, 2.0, 3.0, 9.0])[:, None] * np.array([1.0, 0.0, 0.0])
    cameras = np.stack([look_at(place, place + np.array([1.0, 0.0, 0.0]), UP) for place in places])
    position = camera_path(cameras, 24, HALF_FOV).poses[:, 0, 3]
    np.testing.assert_allclose(position[[0, 4, 6, 12]], [0, 9 / 4, 9 / 2, 9], atol=0.02)


def test_opposite_cameras_have_a_middle_that_is_a_rotation() -> None:
    """Half turns about x, y and z average to -1/3, which is a reflection."""
    cameras = np.zeros((3, 3, 4))
    for i in range(3):
        cameras[i, :, :3] = 2 * np.diag(np.eye(3)[i]) - np.eye(3)
    check_rotations(mean_pose(cameras)[None])


def test_a_walk_in_no_order_goes_from_neighbour_to_neighbour() -> None:
    cameras = walk(12)
    shuffled = cameras[np.random.default_rng(1).permutation(12)]
    position = camera_path(shuffled, 60, HALF_FOV).poses[:, :, 3]
    assert (
        np.linalg.norm(np.diff(position[:31], axis=0), axis=1).sum()
        < 1.2 * np.linalg.norm(np.diff(cameras[:, :, 3], axis=0), axis=1).sum()
    )
    ends = {0, 11}
    assert int(np.argmin(np.linalg.norm(cameras[:, :, 3] - position[0], axis=1))) in ends


def test_few_cameras_and_cameras_of_one_spot() -> None:
    one = walk(1)
    np.testing.assert_array_equal(camera_path(one, 5, HALF_FOV).poses, np.repeat(one, 5, axis=0))
    two = camera_path(walk(2), 9, HALF_FOV)
    check_rotations(two.poses)
    spot = np.stack([look_at(np.zeros(3), np.array([math.cos(a), math.sin(a), 0]), UP) for a in np.linspace(0, 2, 9)])
    turning = camera_path(spot, 40, HALF_FOV)
    check_rotations(turning.poses)
    assert not turning.poses[:, :, 3].any()
    assert turns(turning.poses)[1:18].min() > 0
    with pytest.raises(ValueError, match="at least one camera"):
        camera_path(np.zeros((0, 3, 4)), 5, HALF_FOV)


def test_up_is_across_all_level_cameras() -> None:
    """Cameras that look steeply down a half circle: the mean of their own ups would lean."""
    cameras = ring(9, turn=0.5)
    np.testing.assert_allclose(common_up(cameras), UP, atol=1e-6)
    np.testing.assert_allclose(common_up(grid()), UP, atol=0.1)
    rolled = Rotation.from_euler("x", 70, degrees=True).as_matrix()
    np.testing.assert_allclose(
        common_up(np.concatenate([rolled @ cameras[:, :, :3], cameras[:, :, 3:]], axis=2)), rolled @ UP, atol=1e-6
    )
