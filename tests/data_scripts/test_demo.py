"""The demo's pure helpers: commands, orbit, pictures and record."""

from __future__ import annotations

import json
import stat
import sys

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from tests.data_scripts.scripts import load_script

demo = load_script("demo")


def test_train_command_names_the_views_and_only_given_steps(tmp_path):
    short = demo.train_command(demo.Settings(out=tmp_path, steps=7, views=9))
    assert short[:2] == ["ns-train", "peak-lite"]
    assert short[-3:] == ["peak-data", "--num-views", "9"]
    assert short[short.index("--max-num-iterations") + 1] == "7"
    assert "--max-num-iterations" not in demo.train_command(demo.Settings(out=tmp_path, steps=None))


def test_eval_command_loads_the_config_that_training_writes(tmp_path):
    command = demo.eval_command(demo.Settings(out=tmp_path))
    expected = tmp_path / "runs" / "demo" / "peak-lite" / "run" / "config.yml"
    assert command[command.index("--load-config") + 1] == str(expected)


@pytest.mark.parametrize("change", [{"views": 0}, {"views": 101}, {"steps": 0}])
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(PeakError, match="--"):
        demo.Settings(**change).check()


@pytest.fixture
def fake_program(tmp_path, monkeypatch):
    """Put a stand-in program next to a pretended Python."""
    if sys.platform == "win32":
        pytest.skip("needs a shell")

    def make(body: str) -> str:
        program = tmp_path / "ns-fake"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return "ns-fake"

    return make


def test_a_failing_step_ends_with_its_own_code_and_one_line(fake_program, capfd):
    with pytest.raises(SystemExit) as end:
        demo.run_step([fake_program("exit 7")])
    assert end.value.code == 7
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def test_a_step_passes_its_output_through(fake_program, capfd):
    assert demo.run_step([fake_program('echo "hello $1"'), "there"]) >= 0
    assert "hello there" in capfd.readouterr().out


def test_a_missing_program_is_a_peak_error(fake_program):
    fake_program("exit 0")
    with pytest.raises(PeakError, match="pip install"):
        demo.run_step(["ns-nowhere"])


def test_orbit_is_closed_and_made_of_rotations_that_look_at_the_origin():
    poses = demo.orbit_poses(40)
    assert poses.shape == (40, 4, 4)
    rotation, position = poses[:, :3, :3], poses[:, :3, 3]
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (40, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(position, 4 * rotation[:, :, 2], atol=1e-12)  # looks along -z at the origin
    steps = np.linalg.norm(position - np.roll(position, 1, axis=0), axis=1)
    assert steps.max() < 1.2 * steps.min()


def test_to_model_space_by_hand():
    pose = np.eye(4)[None]
    pose[0, :3, 3] = [1, 2, 3]
    transform = np.array([[0.0, -1, 0, 10], [1, 0, 0, 0], [0, 0, 1, 0]])  # quarter turn about z, then x + 10
    moved = demo.to_model_space(pose, transform, 0.5)
    np.testing.assert_allclose(moved[0], np.array([[0, -1, 0, 4], [1, 0, 0, 0.5], [0, 0, 1, 1.5]]))


def test_to_model_space_identity_keeps_poses():
    poses = demo.orbit_poses(3)
    np.testing.assert_allclose(demo.to_model_space(poses, np.eye(4)[:3], 1.0), poses[:, :3])


def test_depth_picture_is_white_where_nothing_is_and_brighter_when_nearer():
    depth, accumulation = np.array([[2.0, 4.0, 6.0, 9.0]]), np.array([[1.0, 1.0, 1.0, 0.0]])
    picture = demo.depth_picture(depth, accumulation)
    np.testing.assert_array_equal(picture[0, 3], 1)
    brightness = picture[0, :3].sum(-1)
    assert brightness[0] > brightness[1] > brightness[2]
    assert demo.depth_picture(depth, 0 * accumulation).min() == 1


def test_on_white_by_hand():
    rgba = np.array([[[1.0, 0.0, 0.0, 0.25]]])
    np.testing.assert_allclose(demo.on_white(rgba), [[[1.0, 0.75, 0.75]]])
    np.testing.assert_array_equal(demo.on_white(rgba[..., :3]), rgba[..., :3])


def test_grid_places_every_picture_and_amplifies_the_difference():
    truth, rendering = np.full((10, 12, 3), 0.5), np.full((10, 12, 3), 0.6)
    row = demo.compare(truth, rendering, np.zeros((10, 12, 3)))
    sheet = np.asarray(demo.compose_grid([row, row, row], ["a", "b", "c", "d"], gap=2, band=14))
    assert sheet.shape == (14 + 3 * 12 - 2, 4 * 14 - 2, 3)
    for i in range(3):
        centres = [sheet[14 + 12 * i + 5, 14 * j + 6, 0] for j in range(4)]
        assert centres == [128, 153, 102, 0]
    assert (sheet[:14] < 255).any()  # the captions


def test_gif_loops_over_all_frames(tmp_path):
    frames = [np.full((8, 8, 3), level) for level in (0.1, 0.5, 0.9)]
    demo.save_gif(frames, tmp_path / "orbit.gif")
    with Image.open(tmp_path / "orbit.gif") as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0
        for i, frame in enumerate(frames):
            gif.seek(i)
            np.testing.assert_allclose(np.asarray(gif.convert("RGB")) / 255, frame, atol=0.02)


def test_gif_keeps_a_white_background_pure(tmp_path):
    rng = np.random.default_rng(0)
    frames = [np.where(np.arange(24)[:, None, None] < 12, 1.0, rng.random((24, 24, 3))) for _ in range(3)]
    demo.save_gif(frames, tmp_path / "orbit.gif")
    with Image.open(tmp_path / "orbit.gif") as gif:
        assert np.asarray(gif.convert("RGB"))[:10].min() == 255


def test_record_is_strict_json_without_absent_metrics(tmp_path):
    settings = demo.Settings(out=tmp_path, steps=100)
    record = demo.metrics_record(settings, {"psnr": 25.5, "ssim": 0.9, "lpips": float("nan"), "fps": 2}, 61.234, 8, 12)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert "lpips" not in record
    expected = {"task": "nerf", "method": "peak-lite", "seed": 42, "psnr": 25.5, "ssim": 0.9, "seconds": 61.23}
    assert {k: record[k] for k in expected} == expected
    assert record["settings"] == {"views": 25, "steps": 100}
    assert record["n_parameters"] == 12
    assert "torch" in record["versions"]


def test_record_keeps_lpips_and_refuses_a_broken_psnr(tmp_path):
    settings = demo.Settings(out=tmp_path)
    assert demo.metrics_record(settings, {"psnr": 1, "ssim": 1, "lpips": 0.1}, 1, 1, 1)["lpips"] == 0.1
    with pytest.raises(PeakError, match="psnr"):
        demo.metrics_record(settings, {"psnr": float("nan"), "ssim": 1}, 1, 1, 1)


@pytest.mark.parametrize("text", ["", "[]", '{"results": {"psnr": "x"}}', '{"results": 3}'])
def test_a_broken_eval_file_is_a_peak_error(tmp_path, text):
    (tmp_path / "eval.json").write_text(text)
    with pytest.raises(PeakError, match="ns-eval"):
        demo.read_results(tmp_path / "eval.json")


def test_results_are_read(tmp_path):
    (tmp_path / "eval.json").write_text('{"results": {"psnr": 20, "ssim": 0.5}}')
    assert demo.read_results(tmp_path / "eval.json") == {"psnr": 20.0, "ssim": 0.5}
