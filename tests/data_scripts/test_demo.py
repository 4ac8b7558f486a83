"""The demo's pure helpers: commands, orbit, pictures and record."""

from __future__ import annotations

import json

import numpy as np
import pytest

from peak_nerf.errors import PeakError
from tests.data_scripts.scripts import load_script

demo = load_script("demo")


def test_train_command_names_the_views_and_only_given_steps(tmp_path):
    short = demo.train_command(demo.Settings(out=tmp_path, steps=7, views=9))
    assert short[:2] == ["ns-train", "peak"]
    assert short[-3:] == ["peak-data", "--num-views", "9"]
    assert short[short.index("--max-num-iterations") + 1] == "7"
    assert "--max-num-iterations" not in demo.train_command(demo.Settings(out=tmp_path, steps=None))


def test_eval_command_loads_the_config_that_training_writes(tmp_path):
    command = demo.eval_command(demo.Settings(out=tmp_path))
    expected = tmp_path / "runs" / "demo" / "peak" / "run" / "config.yml"
    assert command[command.index("--load-config") + 1] == str(expected)


@pytest.mark.parametrize("change", [{"views": 0}, {"views": 101}, {"steps": 0}])
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(PeakError, match="--"):
        demo.run_demo(demo.Settings(**change))


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


def test_record_is_strict_json_without_absent_metrics(tmp_path):
    settings = demo.Settings(out=tmp_path, steps=100)
    record = demo.metrics_record(settings, {"psnr": 25.5, "ssim": 0.9, "lpips": float("nan"), "fps": 2}, 61.234, 8, 12)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert "lpips" not in record
    expected = {"task": "nerf", "method": "peak", "seed": 42, "psnr": 25.5, "ssim": 0.9, "seconds": 61.23}
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
