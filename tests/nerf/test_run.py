"""The bench task `nerf`: a real training of a few seconds, its record, its errors, and the options of suites."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from peak_nerf.bench.suite.data_root import DataRoot
from peak_nerf.bench.suite.file import read_suite
from peak_nerf.bench.suite.grid import Cell
from peak_nerf.bench.suite.registry import TASKS, option_types
from peak_nerf.core.fit import Progress
from peak_nerf.errors import PeakError
from peak_nerf.nerf.run import check_stride, render_view, run_nerf, trainer_config
from peak_nerf.nerf.run_options import NerfOptions, model_changes
from tests.nerf.runs import TINY, start, tiny_config
from tests.nerf.scene_factory import write_blender_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_blender_scene(tmp_path / "ball", n_train=12, n_val=1, n_test=3, size=32)


def test_a_run_leaves_its_record_and_pictures_and_no_checkpoint(scene: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    out = tmp_path / "out"
    options = NerfOptions(scene, views=5, steps=30, seed=3, **TINY)
    returned = run_nerf(options, out, seen.append)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(returned))
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.png", "metrics.json", "reconstruction.png", "train.log",
    ]  # fmt: skip
    wanted = {"task", "method", "data", "seed", "settings", "psnr", "ssim", "seconds", "n_parameters", "versions"}
    assert wanted <= set(metrics)
    assert metrics["chosen_views"] == [0, 3, 6, 8, 11]
    assert (metrics["views"], metrics["test_views"], metrics["steps"], metrics["seed"]) == (5, 3, 30, 3)
    model = metrics["settings"]["model"]
    assert (model["n_levels"], model["kar_form"], model["distortion_weight"]) == (4, "point", 0.03)
    assert [point["step"] for point in metrics["history"]] == list(range(3, 31, 3))
    assert all(math.isfinite(point["psnr"]) for point in metrics["history"])
    assert "psnr_validation" not in metrics["history"][0]  # no view is held out: the PSNR is a test view's
    assert math.isnan(seen[-1].psnr_validation)
    assert seen[-1].psnr == metrics["history"][-1]["psnr"]
    assert seen[-1].step == 30
    assert seen[-1].fraction == 1.0
    with Image.open(out / "comparison.png") as picture:
        assert picture.size == (4 * 32 + 3 * 4, 3 * 32 + 2 * 4)
    again = run_nerf(options, tmp_path / "again")
    assert again["psnr"] == metrics["psnr"]  # who watches changes nothing


def test_a_view_that_is_only_scored_is_a_part_of_the_whole(tmp_path: Path) -> None:
    # Which pixels are interpolated depends on their neighbours.
    pipeline = start(tiny_config(tmp_path, pixel_tolerance=0.0)).pipeline
    whole, part = render_view(pipeline, 0), render_view(pipeline, 0, stride=2)
    for image, fewer in zip(whole[:2], part[:2], strict=True):  # colours of depth hang on the nearest and farthest
        assert fewer.shape == (16, 16, 3)
        assert torch.allclose(image[::2, ::2], fewer, atol=1e-5)


def test_large_views_are_looked_at_through_fewer_pixels() -> None:
    assert [check_stride(*size) for size in ((32, 32), (400, 400), (378, 504), (960, 540))] == [2, 2, 3, 4]


def test_a_budget_in_seconds_and_a_run_that_is_kept(scene: Path, tmp_path: Path) -> None:
    options = NerfOptions(scene, method="plain", budget_seconds=1.5, run_folder=tmp_path / "runs", **TINY)
    metrics = run_nerf(options, tmp_path / ".views=8,method=plain.partial")
    assert 1.5 <= metrics["seconds"] < 2.5
    assert metrics["steps"] > 3
    assert metrics["settings"]["model"]["kar_weight"] == 0
    run = tmp_path / "runs" / "ball" / "peak-lite" / "views=8,method=plain"
    assert (run / "config.yml").is_file()
    assert len(list((run / "nerfstudio_models").glob("step-*.ckpt"))) == 1


def test_a_lacking_image_is_one_line(scene: Path, tmp_path: Path) -> None:
    (scene / "train" / "r_11.png").unlink()
    with pytest.raises(PeakError, match=r"r_11\.png: image is missing \(1 of 4 that transforms_train.json names\)"):
        run_nerf(NerfOptions(scene, views=4, steps=2, **TINY), tmp_path / "out")
    assert run_nerf(NerfOptions(scene, views=1, steps=2, **TINY), tmp_path / "out")["views"] == 1


def test_ctrl_c_is_a_ctrl_c(scene: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_nerf(NerfOptions(scene, steps=40, **TINY), tmp_path / "out", stop)
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert not list((tmp_path / "out").glob(".nerfstudio-*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 3, "budget_seconds": 3.0}, "both given"),
        ({"steps": 0}, "give a number above 0"),
        ({"budget_seconds": math.inf}, "give a number above 0"),
        ({"kar_rate": 0.0, "steps": 1}, "give a number above 0"),
        ({"views": 99}, "--num-views is 99, but the train split has 12 views"),
        ({"views": "all", "view_indices": "1 2"}, "views and view_indices are both given"),
        ({"view_indices": "1,2"}, "view_indices is '1,2'; give whole numbers, such as '26 86 2 55'"),
        ({"kar_weight": -1.0}, "kar-weight: must be from 0 to 1000000, got -1.0"),
    ],
)
def test_errors(options: dict[str, object], said: str, scene: Path, tmp_path: Path) -> None:
    with pytest.raises(PeakError, match=said):
        run_nerf(NerfOptions(scene, **options), tmp_path / "out")


def test_whether_points_and_depth_are_looked_for() -> None:
    def config(**options: object):
        return trainer_config(NerfOptions(Path("ball"), **options), Path("out"), Path("scratch")).pipeline.datamanager

    assert (config().stereo, config().dataparser.triangulate) == ("auto", "auto")
    assert config(stereo="never").stereo == "never"
    assert config(triangulate="always").dataparser.triangulate == "always"
    assert config(preset="peak-nerfacto")
    with pytest.raises(PeakError, match="preset peak-nerfacto has no option stereo"):
        config(preset="peak-nerfacto", stereo="never")


def test_which_images_are_trained_on() -> None:
    def dataparser(**options: object):
        config = trainer_config(NerfOptions(Path("ball"), **options), Path("out"), Path("scratch"))
        return config.pipeline.datamanager.dataparser

    default = dataparser()
    assert (default.num_views, default.view_indices, default.downscale_factor) == (None, None, None)
    assert default.use_alpha
    assert dataparser(views="all").num_views is None
    assert dataparser(views=3).num_views == 3
    given = dataparser(view_indices="26 86 2", downscale_factor=8, use_alpha=False)
    assert (given.num_views, given.view_indices, given.downscale_factor) == (None, (26, 86, 2), 8)
    assert not given.use_alpha
    assert default.view_indices is None  # the preset is shared


def test_a_suite_names_views_by_number_word_or_place() -> None:
    types = option_types(TASKS["nerf"])
    assert [types.convert("views", value) for value in (3, "all")] == [3, "all"]
    assert types.convert("view_indices", "26 86 2") == "26 86 2"
    assert types.convert("view_indices", 26) == "26"
    with pytest.raises(ValueError, match="'every' is not known; there are all"):
        types.convert("views", "every")
    with pytest.raises(ValueError, match="should match pattern"):
        types.convert("view_indices", "26,86")


def test_a_run_without_alpha_on_views_by_their_place(scene: Path, tmp_path: Path) -> None:
    options = NerfOptions(scene, view_indices="5 0 11", use_alpha=False, steps=3, **TINY)
    metrics = run_nerf(options, tmp_path / "out")
    assert (metrics["chosen_views"], metrics["views"]) == ([5, 0, 11], 3)
    assert (metrics["settings"]["view_indices"], metrics["settings"]["use_alpha"]) == ("5 0 11", False)


def test_old_names_and_forms_of_kar_are_those_of_today() -> None:
    types = option_types(TASKS["nerf"])
    given = types.convert_all({"kar_rank": 20, "kar_form": "free-space"})
    assert given == {"kar_n_features": 20, "kar_form": "unobserved"}
    assert types.convert_all(given) == given
    assert model_changes(NerfOptions(Path(), **given)) == given
    with pytest.raises(ValueError, match="'rays' is not known; there are auto, point, unobserved, observed"):
        types.convert("kar_form", "rays")


def test_every_plain_option_of_the_model_can_be_set() -> None:
    types = option_types(TASKS["nerf"])
    for name in ("kar_weight", "polynomial_degree", "density_bias", "cull_cells", "loss"):
        assert name in types
    assert "collider_params" not in types
    assert types.convert("kar_weight", 0) == 0.0
    assert types.convert("polynomial_degree", "none") == "none"
    with pytest.raises(ValueError, match="did you mean 'kar_weight'"):
        types.convert("kar_wieght", 0)
    with pytest.raises(ValueError, match="'hubber' is not known; did you mean 'huber'"):
        types.convert("loss", "hubber")


def test_methods_and_options_change_the_preset() -> None:
    scene = Path("ball")
    assert model_changes(NerfOptions(scene)) == {}
    plain = {"kar_weight": 0.0, "polynomial_degree": None, "distortion_weight": 0.0, "depth_weight": 0.0}
    assert model_changes(NerfOptions(scene, method="plain")) == plain
    changed = model_changes(NerfOptions(scene, method="plain", kar_weight=0.1))
    assert changed == {**plain, "kar_weight": 0.1}
    assert model_changes(NerfOptions(scene, polynomial_degree="none")) == {"polynomial_degree": None}
    config = trainer_config(NerfOptions(scene, method="plain", density_bias=-1.0), Path("out"), Path("scratch"))
    assert (config.pipeline.model.kar_weight, config.pipeline.model.density_bias) == (0.0, -1.0)
    config = trainer_config(NerfOptions(scene, kar_rate=0.25), Path("out"), Path("scratch"))
    rates = {group: made["optimizer"].lr for group, made in config.optimizers.items()}
    assert rates["kar"] == 0.25 != rates["networks"]


def test_plain_takes_any_preset() -> None:
    """nerfacto's model has no `distortion_weight` to switch off; one that is asked for there is an error."""
    options = NerfOptions(Path("ball"), method="plain", preset="peak-nerfacto")
    model = trainer_config(options, Path("out"), Path("scratch")).pipeline.model
    assert (model.kar_weight, model.polynomial_degree) == (0.0, None)
    with pytest.raises(PeakError, match="preset peak-nerfacto has no option distortion_weight"):
        trainer_config(dataclasses.replace(options, distortion_weight=0.1), Path("out"), Path("scratch"))


def test_scenes_under_a_data_root(scene: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(scene, root / "nerf_synthetic" / "ball")

    def job(name: str):
        return DataRoot(root).job(Cell({}, {"scene": name, "views": 8}), TASKS["nerf"], tmp_path / "cell")

    found = job("ball")
    assert found.options == {"scene": str(root / "nerf_synthetic" / "ball"), "views": 8}
    assert found.absent == []
    before = found.recorded["scene"]
    assert before.startswith("nerf_synthetic/ball sha256:")
    (root / "nerf_synthetic" / "ball" / "train" / "r_0.png").write_bytes(b"other")
    assert job("ball").recorded["scene"] != before
    assert job("ship").absent == [root / "{nerf_synthetic,llff,posed}" / "ship"]


def test_table_3_is_scene_by_views_by_method() -> None:
    suite = read_suite(Path(__file__).parents[2] / "configs" / "paper" / "table3.yaml")
    cells = list(suite.cells())
    assert len(cells) == len({cell.id for cell in cells}) == 6 * 4 * len(suite.methods)
    assert suite.paper is not None
    assert suite.paper.values["scene=lego,views=25"] == {"plain": 21.74, "peak": 23.27}


@pytest.mark.parametrize(
    ("name", "n_cells"),
    [("paper/llff", 8 * 4 * 3), ("paper/blender8", 2 * 2 * 2 * 2), ("studies/photos", 3 * 4 * 6 * 3)],
)
def test_suites_of_photos_and_few_views_read(name: str, n_cells: int) -> None:
    suite = read_suite(Path(__file__).parents[2] / "configs" / f"{name}.yaml")
    cells = list(suite.cells())
    assert len(cells) == len({cell.id for cell in cells}) == n_cells
    types = option_types(TASKS["nerf"])
    for cell in cells:  # what a worker makes of it
        options = NerfOptions(**types.convert_all({**cell.options, "scene": "x"}))
        trainer_config(options, Path("out"), Path("scratch"))


def test_the_few_view_lists_are_those_of_the_papers() -> None:
    suite = read_suite(Path(__file__).parents[2] / "configs" / "paper" / "blender8.yaml")
    first, second = (str(value).split() for value in suite.data["view_indices"])
    assert first == ["26", "86", "2", "55", "75", "93", "16", "73"]
    assert sorted(set(second) ^ set(first)) == ["75", "76"]
    assert suite.published is not None
    means = {work: value for figures in suite.published.values.values() for work, value in figures.items()}
    assert means | {"highest known": 25.65} == {
        "FreeNeRF": 24.26, "CoR-GS": 24.43, "DropGaussian": 25.42, "ICO-GS": 25.56, "highest known": 25.65
    }  # fmt: skip
