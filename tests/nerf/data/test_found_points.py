"""Sparse points of photos that come without."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.found_points import find_points
from peak_nerf.nerf.data.observations import read_observations, write_observations
from peak_nerf.nerf.render.near_plane import before_points
from tests.nerf.data.test_triangulation import FOCAL, SIZE, picture
from tests.nerf.runs import start, tiny_config, train
from tests.nerf.scene_factory import ring_pose

AT = np.array([4e5, 5e6, 300.0])
"""Where the scene lies in the coordinates of its file."""


def write_scene(folder: Path, n: int = 9, scale: float = 1.0) -> Path:
    """Photos of a painted plane."""
    folder.mkdir()
    frames = []
    for i in range(n):
        pose = ring_pose(2 * math.pi * i / n, height=3.2)
        Image.fromarray(picture(pose)).save(folder / f"{i}.png")
        pose[:3, 3] = pose[:3, 3] * scale + (AT if scale != 1 else 0)
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose.tolist()})
    lens = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE / 2, "cy": SIZE / 2, "w": SIZE, "h": SIZE}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return folder


def photos_config(folder: Path, **model: Any) -> Any:
    config = tiny_config(folder, steps=1, **model)
    config.data = config.pipeline.datamanager.data = write_scene(folder / "photos")
    return config


def test_points_are_written_in_the_coordinates_of_the_file(tmp_path) -> None:
    """A plane in a file of map coordinates, whose unit is a tenth of that of the pictures' cameras."""
    scene = write_scene(tmp_path / "photos", scale=10.0)
    path = find_points(PeakDataParserConfig(), scene, tmp_path / "run")
    assert path == tmp_path / "run" / "observations.npz"
    found = read_observations(path)
    assert found.image_names.tolist() == [f"{i}.png" for i in range(1, 8)]  # 0 and 8 are held out
    off = (found.points - AT) / 10
    assert np.median(np.abs(off[:, 2])) < 0.01
    assert np.abs(off[:, :2]).max() > 1
    # What the parser makes of them is where they were found.
    outputs = PeakDataParserConfig(data=scene, found_points=path).setup().get_dataparser_outputs("train")
    seen, points = outputs.metadata["sightings"], outputs.metadata["points"]
    assert torch.allclose(seen.xy, torch.from_numpy(found.pixels))
    c2w = outputs.cameras.camera_to_worlds[seen.image]
    local = torch.linalg.solve(c2w[:, :3, :3], (points.xyz[seen.point] - c2w[:, :3, 3])[:, :, None])[:, :, 0]
    assert torch.allclose(-local[:, 2], seen.depth, atol=1e-4)
    off = (torch.stack([local[:, 0], -local[:, 1]], -1) / -local[:, 2:] * FOCAL + SIZE / 2 - seen.xy).norm(dim=-1)
    assert off.max() < 2.5
    assert torch.allclose(off, seen.error, atol=0.1, rtol=0.25)


def test_pixels_are_those_of_the_full_size(tmp_path) -> None:
    scene = write_scene(tmp_path / "photos")
    (scene / "images_2").mkdir()
    for path in scene.glob("*.png"):
        Image.open(path).resize((SIZE // 2, SIZE // 2), Image.Resampling.BOX).save(scene / "images_2" / path.name)
    config = PeakDataParserConfig(data=scene, downscale_factor=2)
    path = find_points(config, None, tmp_path / "run")
    assert read_observations(path).pixels.max() > 0.6 * SIZE
    config.found_points = path
    for split in ("train", "test"):
        outputs = config.setup().get_dataparser_outputs(split)
        assert outputs.cameras.width[0] == SIZE // 2
    seen = config.setup().get_dataparser_outputs("train").metadata["sightings"]
    assert seen.xy.max() < SIZE / 2


def test_they_say_where_an_llff_scene_is(tmp_path) -> None:
    scene = write_scene(tmp_path / "photos")
    names = sorted(path.name for path in scene.glob("*.png"))
    (scene / "images").mkdir()
    rows = []
    for i, name in enumerate(names):
        (scene / name).rename(scene / "images" / name)
        right, up, back, position = ring_pose(2 * math.pi * i / len(names), height=3.2)[:3].T
        matrix = np.stack([-up, right, back, position, np.array([SIZE, SIZE, FOCAL])], axis=1)
        rows.append([*matrix.ravel(), 2.0, 9.0])
    (scene / "transforms.json").unlink()
    np.save(scene / "poses_bounds.npy", np.array(rows))
    path = find_points(PeakDataParserConfig(), scene, tmp_path / "run")
    config = PeakDataParserConfig(data=scene)
    without = config.setup().get_dataparser_outputs("test").scene_box.aabb
    config.found_points = path
    aabb = config.setup().get_dataparser_outputs("test").scene_box.aabb
    assert not torch.allclose(aabb, without)
    assert torch.allclose(config.setup().get_dataparser_outputs("train").scene_box.aabb, aabb)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_training_finds_them_and_its_evaluation_has_them(tmp_path, wanted, capsys, monkeypatch) -> None:
    monkeypatch.setattr("peak_nerf.nerf.data.dataparser._said", set())
    config = photos_config(tmp_path, kar_weight=0.0)
    config.pipeline.datamanager.dataparser.triangulate = "auto" if wanted else "never"
    pipeline = start(config).pipeline
    said = capsys.readouterr().out
    assert ("found in its pictures" in said) == wanted
    assert ("around the sparse points" in said) == wanted
    assert "the cameras look at one point; --space" not in said.replace("\n", " ") or not wanted
    assert (pipeline.model.config.depth_weight > 0) == wanted
    assert (pipeline.datamanager.sighted is not None) == wanted
    run = config.get_base_dir()
    assert (run / "observations.npz").exists() == wanted
    if wanted:
        assert len(pipeline.datamanager.sighted) > 200
        _, batch = pipeline.datamanager.next_train(0)
        assert len(batch["sighted"]) > 0
    read = yaml.load((run / "config.yml").read_text(), Loader=yaml.Loader)
    assert read.pipeline.datamanager.dataparser.found_points == (run / "observations.npz" if wanted else None)
    again = read.pipeline.setup(device="cpu", test_mode="test")
    assert torch.equal(again.datamanager.train_dataset.scene_box.aabb, pipeline.model.scene_box.aabb)
    metadata = again.datamanager.train_dataset.metadata
    assert ("sightings" in metadata) == wanted
    near = before_points(metadata["sightings"].depth) if wanted else 0.05
    for model in (pipeline.model, again.model):  # rays of evaluation begin where those of training do
        assert model.renderer.near * model.half_extent == pytest.approx(near)


def test_observed_anchors_are_there_in_evaluation_too(tmp_path) -> None:
    config = photos_config(tmp_path, kar_form="observed", kar_weight=0.01)
    trained = start(config).pipeline
    pipeline = config.pipeline.setup(device="cpu", test_mode="test")
    assert pipeline.state_dict().keys() == trained.state_dict().keys()
    pipeline.eval()
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    assert pipeline.model.get_outputs_for_camera(camera)["kar_residual"].isfinite().all()


def test_a_run_that_goes_on_keeps_its_points(tmp_path, capsys) -> None:
    """And does not search again, whether it had some or not."""
    first = photos_config(tmp_path, kar_weight=0.0)
    trainer = train(first)
    points = (first.get_base_dir() / "observations.npz").read_bytes()
    capsys.readouterr()
    for had in (True, False):
        if not had:
            (first.get_base_dir() / "observations.npz").unlink()
        second = tiny_config(tmp_path, steps=1, kar_weight=0.0)
        second.data = second.pipeline.datamanager.data = first.data
        second.load_dir, second.timestamp = trainer.checkpoint_dir, f"again-{had}"
        second.save_config()
        copy = second.get_base_dir() / "observations.npz"
        assert copy.exists() == had
        assert second.pipeline.datamanager.dataparser.found_points == (copy if had else None)
        if had:
            assert np.array_equal(read_observations(copy).points, read_observations_of(points, tmp_path).points)
    assert "found in its pictures" not in capsys.readouterr().out


def read_observations_of(content: bytes, folder: Path) -> Any:
    (folder / "kept.npz").write_bytes(content)
    return read_observations(folder / "kept.npz")


def test_none_are_looked_for_where_they_are_not_wanted(tmp_path, monkeypatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("looked for points")

    scene = write_scene(tmp_path / "photos")
    path = find_points(PeakDataParserConfig(), scene, tmp_path / "run")
    monkeypatch.setattr("peak_nerf.nerf.data.found_points.triangulate", never)
    for config in (
        PeakDataParserConfig(triangulate="never"),
        PeakDataParserConfig(space="box"),
        PeakDataParserConfig(num_views=1),
    ):
        assert find_points(config, scene, tmp_path / "none") is None
    monkeypatch.setattr("peak_nerf.nerf.data.found_points.MOST_PICTURES", 6)
    assert find_points(PeakDataParserConfig(), scene, tmp_path / "none") is None  # 7 are trained on
    for config in (
        PeakDataParserConfig(num_views=6),
        PeakDataParserConfig(num_views=6, space="box", triangulate="always"),
    ):
        with pytest.raises(AssertionError):
            find_points(config, scene, tmp_path / "none")
    # The scene knows its own.
    observed = read_observations(path)
    write_observations(scene / "observations.npz", observed)
    assert find_points(PeakDataParserConfig(num_views=6), scene, tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_too_few_are_left_out(tmp_path, capsys) -> None:
    scene = write_scene(tmp_path / "photos")
    for path in scene.glob("*.png"):
        Image.new("RGB", (SIZE, SIZE), "grey").save(path)
    assert find_points(PeakDataParserConfig(), scene, tmp_path / "run") is None
    assert "only 0 were found" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_points_of_a_scene_that_has_changed_since_are_refused(tmp_path) -> None:
    scene = write_scene(tmp_path / "photos")
    config = PeakDataParserConfig(data=scene, found_points=find_points(PeakDataParserConfig(), scene, tmp_path / "run"))
    text = json.loads((scene / "transforms.json").read_text())
    for frame in text["frames"]:
        frame["transform_matrix"][2][3] += 5
    (scene / "transforms.json").write_text(json.dumps(text))
    with pytest.raises(PeakError, match=r"observations.npz: is not of the cameras of .*transforms.json; train again"):
        config.setup().get_dataparser_outputs("train")
    config.found_points.unlink()
    with pytest.raises(PeakError, match="no such file; train again"):
        config.setup().get_dataparser_outputs("train")
