"""The flight through a tiny trained run, and the pieces it is made of."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf import flythrough
from peak_nerf.nerf.flythrough import (
    Options,
    comparison_rows,
    field_of_view,
    flight,
    fly,
    frame_size,
    load_run,
    pinhole_cameras,
    render_frames,
    to_model_space,
)
from tests.nerf.runs import tiny_config, train
from tests.nerf.scene_factory import edit_frame, edit_json, write_nerfstudio_scene


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on photos on a ring, every other with its own focal length, as `peak photos` writes them."""
    folder = tmp_path_factory.mktemp("run")
    scene = write_nerfstudio_scene(folder / "scene", n=18, size=32, k1=-0.05, k2=0.01)
    for i in range(0, 18, 2):
        edit_frame(scene / "transforms.json", i, fl_x=45.0, fl_y=45.0, w=32, h=32)
    edit_json(scene / "transforms.json", fl_x=43.0, fl_y=43.0)
    made = tiny_config(folder, steps=30)
    train(made)
    return made.get_base_dir() / "config.yml"


def test_a_run_leaves_a_gif_a_comparison_and_a_record(config: Path, tmp_path: Path) -> None:
    record = fly(Options(config, tmp_path / "out", frames=6, width=20))
    assert json.loads((tmp_path / "out" / "flythrough.json").read_text()) == record
    assert record["seconds"] > 0
    kept = {name: record[name] for name in ("path", "frames", "width", "height", "test_views")}
    assert kept == {"path": "orbit", "frames": 6, "width": 20, "height": 20, "test_views": 3}
    with Image.open(tmp_path / "out" / "flythrough.gif") as gif:
        assert (gif.size, gif.n_frames, gif.info["loop"]) == ((20, 20), 6, 0)
    with Image.open(tmp_path / "out" / "side_by_side.png") as sheet:
        assert sheet.size == (4 * 20 + 3 * 4, 20 + 3 * 20 + 2 * 4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "flythrough.gif", "flythrough.json", "side_by_side.png",
    ]  # fmt: skip


def test_the_path_goes_along_the_cameras_of_all_splits(config: Path) -> None:
    run = load_run(config)
    cameras = torch.cat([run.train_set.cameras.camera_to_worlds, run.test_set.cameras.camera_to_worlds]).numpy()
    assert len(cameras) == 18
    path = flight(run, 12)
    assert path.kind == "orbit"
    low, high = cameras[:, :, 3].min(0) - 0.05, cameras[:, :, 3].max(0) + 0.05
    assert (path.poses[:, :, 3] > low).all()
    assert (path.poses[:, :, 3] < high).all()
    first = run.test_set.cameras.camera_to_worlds[0].numpy()  # frame 0 of the scene, a test view
    assert np.linalg.norm(path.poses[0, :, 3] - first[:, 3]) < 0.3
    assert np.linalg.norm(path.poses[0, :, 3] - path.poses[6, :, 3]) > 1


def test_rows_are_truth_and_rendering_of_one_view(config: Path) -> None:
    run = load_run(config)
    rows = comparison_rows(run, 16)
    assert len(rows) == 3  # of three test views, none twice
    truth, rendering, difference, depth = rows[1]
    assert truth.shape == rendering.shape == depth.shape == (16, 16, 3)
    picture = run.test_set.get_image_float32(1).numpy()
    np.testing.assert_allclose(truth, picture.reshape(16, 2, 16, 2, 3).mean((1, 3)), atol=1e-6)
    np.testing.assert_allclose(difference, np.clip(4 * np.abs(truth - rendering), 0, 1))
    assert comparison_rows(run)[0][0].shape == (32, 32, 3)
    assert int(run.test_set.cameras.width[0]) == 32  # the run's own cameras are as they were


def test_frames_of_the_way_back_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def fake(model: object, camera: Cameras) -> dict[str, np.ndarray]:
        seen.append(float(camera.camera_to_worlds[0, 0, 3]))
        return {"rgb": np.full((2, 2, 3), seen[-1])}

    monkeypatch.setattr(flythrough, "render", fake)
    poses = np.tile(np.eye(4)[:3], (5, 1, 1))
    poses[:, 0, 3] = [0.0, 0.5, 1.0, 0.5 + 1e-8, 0.25]
    frames = render_frames(None, pinhole_cameras(poses, (2, 2), (1.0, 1.0)))
    assert seen == [0.0, 0.5, 1.0, 0.25]
    assert [frame[0, 0, 0] for frame in frames] == [0.0, 0.5, 1.0, 0.5, 0.25]


def test_the_field_of_view_is_the_median_and_frames_have_square_pixels() -> None:
    poses = torch.eye(4)[:3].expand(3, 3, 4)
    width, height = torch.tensor([[400], [400], [300]]), torch.tensor([[300], [300], [400]])
    focal = torch.tensor([[400.0], [200.0], [300.0]])
    view = field_of_view(Cameras(poses, focal, focal, 200.0, 150.0, width, height))
    assert view == (0.5, pytest.approx(2 / 3))
    assert frame_size((0.5, 0.375), 400) == (400, 300)
    assert frame_size((0.3, 0.4), 401) == (300, 400)
    camera = pinhole_cameras(poses.numpy(), (400, 300), (0.5, 0.375))
    assert float(camera.fx[0]) == float(camera.fy[0]) == 400
    rays = camera[0:1].generate_rays(0, keep_shape=True).directions
    assert math.degrees(math.acos(float(rays[150, 0] @ rays[150, -1]))) == pytest.approx(2 * 26.565, abs=0.2)


def test_to_model_space_by_hand() -> None:
    pose = np.eye(4)[None, :3]
    pose[0, :3, 3] = [1, 2, 3]
    transform = np.array([[0.0, -1, 0, 10], [1, 0, 0, 0], [0, 0, 1, 0]])  # quarter turn about z, then x + 10
    moved = to_model_space(np.concatenate([pose, np.eye(4)[None, 3:]], axis=1), transform, 0.5)
    np.testing.assert_allclose(moved[0], np.array([[0, -1, 0, 4], [1, 0, 0, 0.5], [0, 0, 1, 1.5]]))
    same = to_model_space(np.eye(4)[None], np.eye(4)[:3], 1.0)
    np.testing.assert_allclose(same, np.eye(4)[None, :3])


def test_errors_are_one_line(config: Path, tmp_path: Path) -> None:
    with pytest.raises(PeakError, match=r"--load-config wants the config\.yml of a trained run"):
        fly(Options(tmp_path / "config.yml", tmp_path / "out"))
    with pytest.raises(PeakError, match="--frames: must be from 2 to 1000, got 1"):
        fly(Options(config, tmp_path, frames=1))
    (tmp_path / "file").touch()
    with pytest.raises(PeakError, match="cannot be written"):
        fly(Options(config, tmp_path / "file" / "out"))
