"""`ns-export` on our runs: to the end, in the coordinates of the input, or one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from peak_nerf.nerf.train.exports import check_export
from tests.nerf.runs import nerfacto_config, tiny_config, train
from tests.nerf.scene_factory import write_nerfstudio_scene

exporter = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=ImportError)  # its open3d wants libusb

MIDDLE = np.array([448262.3, 5411932.7, 310.5])
"""Of the ball, in metres of a map."""
RADIUS = 3.0


def write_map_scene(path: Path) -> Path:
    """The ball of the tests, of another size and where a map has it."""
    write_nerfstudio_scene(path, n=12, size=32, alpha=True)
    scene = json.loads((path / "transforms.json").read_text())
    for frame in scene["frames"]:
        pose = np.array(frame["transform_matrix"])
        pose[:3, 3] = RADIUS * pose[:3, 3] + MIDDLE
        frame["transform_matrix"] = pose.tolist()
    (path / "transforms.json").write_text(json.dumps(scene))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    write_map_scene(folder / "scene")
    config = tiny_config(folder, steps=150, kar_weight=0.0)
    config.vis = "none"
    train(config)
    return config.get_base_dir()


def ball_of(path: Path) -> tuple[np.ndarray, Any]:
    import open3d

    cloud = open3d.t.io.read_point_cloud(str(path))
    return cloud.point.positions.numpy(), cloud


def to_input(run: Path, points: np.ndarray) -> np.ndarray:
    """By dataparser_transforms.json: y = scale (R x + t)."""
    saved = json.loads((run / "dataparser_transforms.json").read_text())
    transform = np.array(saved["transform"])
    return (points / saved["scale"] - transform[:, 3]) @ np.linalg.inv(transform[:, :3]).T


def check_ball(points: np.ndarray, moved: float = 0.3, smaller: float = 0.15) -> None:
    """Middle and radius of the sphere through points (n, 3), by least squares: |x|^2 = 2 c x + (r^2 - c^2). What was
    trained for seconds is a little small; its middle is not moved."""
    x = points - MIDDLE
    *c, rest = np.linalg.lstsq(np.column_stack([2 * x, np.ones(len(x))]), (x**2).sum(1), rcond=None)[0]
    assert np.linalg.norm(c) < moved
    assert np.sqrt(rest + np.dot(c, c)) == pytest.approx(RADIUS, rel=smaller)
    assert np.percentile(np.linalg.norm(x, axis=1), 95) < (1 + smaller) * RADIUS + moved


def refused(capsys: pytest.CaptureFixture, command: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert said.startswith("peak_nerf: error: "), said
    assert said.count("\n") == 1, said
    return said


def cloud(run: Path, out: Path, **options: Any) -> Any:
    defaults = {"num_points": 3000, "num_rays_per_batch": 2048}
    return exporter.ExportPointCloud(load_config=run / "config.yml", output_dir=out, **{**defaults, **options})


@pytest.mark.parametrize("world", [False, True])
def test_a_cloud_lies_where_the_input_has_it(run: Path, tmp_path: Path, world: bool) -> None:
    cloud(run, tmp_path, save_world_frame=world).main()
    points, read = ball_of(tmp_path / "point_cloud.ply")
    assert str(read.point.positions.dtype) == ("Float64" if world else "Float32")
    seen = points if world else to_input(run, points.astype(np.float64))
    check_ball(seen)
    distance = np.linalg.norm(seen - MIDDLE, axis=1)
    outward = (seen - MIDDLE) / distance[:, None]
    normals = read.point.normals.numpy()
    if not world:  # nerfstudio leaves the normals in the turned space
        transform = np.array(json.loads((run / "dataparser_transforms.json").read_text())["transform"])
        normals = normals @ transform[:, :3]
    else:
        return
    assert np.median((outward * normals).sum(1)) > 0.7


def test_cameras_lie_where_the_input_has_them(run: Path, tmp_path: Path) -> None:
    exporter.ExportCameraPoses(load_config=run / "config.yml", output_dir=tmp_path).main()
    scene = json.loads((run.parents[3] / "scene" / "transforms.json").read_text())
    given = {Path(frame["file_path"]).name: np.array(frame["transform_matrix"]) for frame in scene["frames"]}
    frames = [f for split in ("train", "eval") for f in json.loads((tmp_path / f"transforms_{split}.json").read_text())]
    assert len({frame["file_path"] for frame in frames}) == 12
    for frame in frames:
        pose = np.array(frame["transform"])
        wanted = given[Path(frame["file_path"]).name]
        assert np.abs(to_input(run, pose[None, :3, 3])[0] - wanted[:3, 3]).max() < 1e-4
        saved = np.array(json.loads((run / "dataparser_transforms.json").read_text())["transform"])
        assert np.abs(np.linalg.inv(saved[:, :3]) @ pose[:, :3] - wanted[:3, :3]).max() < 1e-5


def test_refined_cameras_are_written(tmp_path: Path) -> None:
    write_nerfstudio_scene(tmp_path / "scene", n=9, size=32)
    config = tiny_config(tmp_path, steps=3, kar_weight=0.0)
    config.vis = "none"
    config.pipeline.datamanager.dataparser.triangulate = "never"
    train(config)
    exporter.ExportCameraPoses(load_config=config.get_base_dir() / "config.yml", output_dir=tmp_path / "c").main()
    assert len(json.loads((tmp_path / "c" / "transforms_train.json").read_text())) == 7


@pytest.mark.parametrize("normal_method", ["open3d", "model_output"])
def test_poisson(run: Path, tmp_path: Path, normal_method: Any) -> None:
    import open3d

    exporter.ExportPoissonMesh(
        load_config=run / "config.yml", output_dir=tmp_path, num_points=3000, num_rays_per_batch=2048,
        normal_method=normal_method, target_num_faces=400, num_pixels_per_side=64,
    ).main()  # fmt: skip
    mesh = open3d.io.read_triangle_mesh(str(tmp_path / "poisson_mesh.ply"))
    check_ball(to_input(run, np.asarray(mesh.vertices)))
    check_texture(tmp_path)


def test_tsdf(run: Path, tmp_path: Path) -> None:
    import open3d

    exporter.ExportTSDFMesh(
        load_config=run / "config.yml", output_dir=tmp_path, resolution=48, downscale_factor=1, target_num_faces=400,
        num_pixels_per_side=64, bounding_box_min=(-0.3, -0.3, -0.3), bounding_box_max=(0.3, 0.3, 0.3),
    ).main()  # fmt: skip
    mesh = open3d.io.read_triangle_mesh(str(tmp_path / "tsdf_mesh.ply"))
    points = to_input(run, np.asarray(mesh.vertices))
    # What no camera sees, below the ball and in the box's corners, counts as solid with nerfstudio.
    near = np.linalg.norm(points - MIDDLE, axis=1) < 1.3 * RADIUS
    assert near.mean() > 0.3
    check_ball(points[near & (points[:, 2] > MIDDLE[2])], moved=1.0, smaller=0.3)
    check_texture(tmp_path)


def check_texture(folder: Path) -> None:
    """The ball is coloured by its normal, 0.5 + 0.5 n: where faces are, colours of a mean near 0.5 that vary."""
    texture = np.asarray(Image.open(folder / "material_0.png").convert("RGB")) / 255
    assert (folder / "mesh.obj").stat().st_size > 1000
    coloured = texture[texture.sum(-1) > 0.05]
    assert len(coloured) > 0.3 * texture[..., 0].size  # rays that begin behind the near plane show nothing
    assert np.abs(coloured.mean(0) - 0.5).max() < 0.4  # the upper half is bluer
    assert coloured.std(0).min() > 0.1


def test_what_cannot_be_had_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = {"load_config": run / "config.yml", "output_dir": tmp_path}
    poisson, tsdf, far = exporter.ExportPoissonMesh, exporter.ExportTSDFMesh, (50.0, 50.0, 50.0)
    assert "is for splatfacto" in refused(capsys, exporter.ExportGaussianSplat(**given))
    assert "signed distance" in refused(capsys, exporter.ExportMarchingCubesMesh(**given))
    box = {"obb_center": far, "obb_rotation": (0.0, 0.0, 0.0), "obb_scale": (1.0, 1.0, 1.0)}
    assert "have met 0 points" in refused(capsys, cloud(run, tmp_path, **box))
    assert "no surface within the box" in refused(
        capsys, tsdf(**given, resolution=16, bounding_box_min=far, bounding_box_max=(51.0, 51.0, 51.0))
    )
    assert "points make no surface" in refused(capsys, poisson(**given, num_points=20, num_rays_per_batch=64))
    assert "--obb-center without --obb-rotation" in refused(capsys, cloud(run, tmp_path, obb_center=far))
    assert "--num-points: must be" in refused(capsys, cloud(run, tmp_path, num_points=0))
    assert "--std-ratio: must be" in refused(capsys, cloud(run, tmp_path, std_ratio=float("nan")))
    assert "did you mean 'depth'" in refused(capsys, cloud(run, tmp_path, depth_output_name="dept"))
    assert "GiB of memory" in refused(capsys, tsdf(**given, resolution=8192))
    assert "must be below" in refused(capsys, tsdf(**given, bounding_box_min=far))
    file = tmp_path / "file"
    file.write_text("")
    assert "is no folder" in refused(capsys, cloud(run, file))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nerfacto_without_normals_names_the_other_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = nerfacto_config(tmp_path, tmp_path)
    command = exporter.ExportPointCloud(load_config=tmp_path, output_dir=tmp_path)
    monkeypatch.setattr("peak_nerf.nerf.train.exports.local_of", lambda *_: command)
    with pytest.raises(Exception, match="give --normal-method open3d"):
        check_export(config.pipeline.model)
    config.pipeline.model.predict_normals = True
    check_export(config.pipeline.model)


def test_other_commands_are_left_alone() -> None:
    check_export(torch.nn.Identity())


def test_points_of_photos_lie_within_the_reach_of_the_field(tmp_path) -> None:
    from nerfstudio.exporter.exporter_utils import generate_point_cloud

    write_nerfstudio_scene(tmp_path / "photos", n=9, size=32)
    config = tiny_config(tmp_path, steps=60)
    config.data = config.pipeline.datamanager.data = tmp_path / "photos"
    pipeline = train(config).pipeline
    model = pipeline.model.eval()
    assert model.renderer.unbounded
    cloud = generate_point_cloud(pipeline, 100, remove_outliers=False, normal_output_name="normals")
    points = torch.tensor(np.asarray(cloud.points), dtype=torch.float32)
    assert len(points) >= 100
    reach = model.half_extent * 2 ** (model.config.cascades - 1)
    assert float((points - model.centre).abs().max()) <= 1.001 * reach
