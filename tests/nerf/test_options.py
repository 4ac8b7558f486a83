"""What is left open is chosen by the number of views; what no model can have is refused in one line; old names do."""

import dataclasses
import math
import subprocess
import sys
from typing import get_type_hints

import pytest
import tyro

from peak_nerf.errors import PeakError
from peak_nerf.nerf.options import DEPTH_WEIGHT, RENAMED, KarOptions, LossOptions, ModelOptions, resolve_defaults


@pytest.mark.parametrize(
    ("options", "views", "form", "weight"),
    [
        ({}, 16, "point", 0.02),
        ({}, 17, "point", 0.0),
        ({"kar_weight": 0.03}, 17, "point", 0.03),
        ({"kar_form": "point"}, 17, "point", 0.02),
        ({"kar_form": "unobserved"}, 6, "unobserved", 0.1),
        ({"kar_form": "observed"}, 6, "observed", 0.01),
        ({"kar_form": "free-space"}, 6, "unobserved", 0.1),  # its former name
        ({"kar_weight": 0.0}, 6, "point", 0.0),
    ],
)
def test_kar_by_the_number_of_views(options: dict, views: int, form: str, weight: float) -> None:
    resolved = resolve_defaults(ModelOptions(**options), views, unbounded=False)
    assert (resolved.kar_form, resolved.kar_weight) == (form, weight)


def test_kar_weighs_less_in_unbounded_space() -> None:
    """The point form alone, and only where no weight is given."""
    weights = [
        resolve_defaults(ModelOptions(**options), 6, unbounded=True).kar_weight
        for options in ({}, {"kar_weight": 0.02}, {"kar_form": "unobserved"}, {"kar_form": "observed"})
    ]
    assert weights == [0.004, 0.02, 0.1, 0.01]


@pytest.mark.parametrize(
    ("options", "unbounded", "queries"),
    [
        ({}, False, 512),
        ({}, True, 128),
        ({"kar_form": "unobserved"}, False, 128),
        ({"kar_form": "observed"}, False, 128),
        ({"kar_queries": 64}, False, 64),
        ({"kar_queries": 64}, True, 64),
    ],
)
def test_queries_of_kar_by_form_and_space(options: dict, unbounded: bool, queries: int) -> None:
    assert resolve_defaults(ModelOptions(**options), 6, unbounded).kar_queries == queries


@pytest.mark.parametrize(("asked", "by_points", "near"), [(None, 1.5, 1.5), (None, None, 0.05), (0.0, 1.5, 0.0)])
def test_rays_begin_where_the_points_say(asked: float | None, by_points: float | None, near: float) -> None:
    options = ModelOptions(near_plane=asked)
    assert resolve_defaults(options, 6, True, by_points is not None, by_points).near_plane == near


@pytest.mark.parametrize(
    ("views", "unbounded", "levels", "distortion"),
    [(16, False, 2, 0.03), (17, False, 4, 0.0), (17, True, 4, 0.03)],
)
def test_harmonics_distortion_and_threshold_by_views_and_space(
    views: int, unbounded: bool, levels: int, distortion: float
) -> None:
    resolved = resolve_defaults(ModelOptions(), views, unbounded)
    assert (resolved.sh_levels, resolved.distortion_weight) == (levels, distortion)
    assert resolved.occupancy_threshold == (0.0005 if unbounded else 0.002)
    assert resolved.network_rate == (0.25 if unbounded and views <= 16 else 1.0)
    assert resolved.distortion_warmup == (0.5 if unbounded else 0.0)
    options = ModelOptions(sh_levels=3, distortion_weight=0.5, occupancy_threshold=0.1)
    asked = resolve_defaults(options, views, unbounded)
    assert (asked.sh_levels, asked.distortion_weight, asked.occupancy_threshold) == (3, 0.5, 0.1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kar_weight", -1.0, "--pipeline.model.kar-weight: must be from 0 to 1000000, got "),
        ("tv_weight", math.nan, "--pipeline.model.tv-weight: must be from 0 to 1000000, got "),
        ("depth_weight", -0.1, "--pipeline.model.depth-weight: must be from 0 to 1000000, got "),
        ("depth_weight", math.nan, "--pipeline.model.depth-weight: must be from 0 to 1000000, got "),
        ("level_annealing", math.inf, "--pipeline.model.level-annealing: must be from 0 to 10, got "),
        ("kar_interval", 0, "--pipeline.model.kar-interval: must be from 1 to 1000000, got "),
        ("render_substeps", 0, "--pipeline.model.render-substeps: must be from 1 to 64, got "),
        ("samples_per_ray", 0, "--pipeline.model.samples-per-ray: must be from 1 to 4096, got "),
        ("render_samples", 0, "--pipeline.model.render-samples: must be from 1 to 4096, got "),
        ("min_cameras", 0, "--pipeline.model.min-cameras: must be from 1 to 1000000, got "),
        ("cascades", 1, "--pipeline.model.cascades: must be from 2 to 16, got "),
        ("network_rate", -0.1, "--pipeline.model.network-rate: must be above 0 and at most 1000, got "),
        ("near_annealing", -0.1, "--pipeline.model.near-annealing: must be from 0 to 1, got "),
        ("cone", -0.1, "--pipeline.model.cone: must be from 0 to 1, got "),
        ("gradient_reach", math.nan, "--pipeline.model.gradient-reach: must be from 0 to 1000, got "),
        ("occupancy_resolution", 0, "--pipeline.model.occupancy-resolution: must be from 8 to 1024, got 0"),
        ("occupancy_resolution", 100, "--pipeline.model.occupancy-resolution 100: give a multiple of 8"),
        ("kar_form", "rays", "--pipeline.model.kar-form rays: was removed in 0.2, it gained nothing"),
        ("kar_form", "planes", "--pipeline.model.kar-form planes: was removed in 0.2, it gained nothing"),
    ],
)
def test_what_no_model_can_have_is_refused(name: str, value: object, said: str) -> None:
    with pytest.raises(PeakError) as refused:
        resolve_defaults(ModelOptions(**{name: value}), 8, unbounded=False)
    assert str(refused.value).startswith(said)


def test_grids_of_cascades_are_of_whole_blocks() -> None:
    """A quarter of the cells per side are in the middle of a cascade, in blocks of 8."""
    with pytest.raises(PeakError, match="occupancy-resolution 48: give a multiple of 32"):
        resolve_defaults(ModelOptions(occupancy_resolution=48), 8, unbounded=True)
    assert resolve_defaults(ModelOptions(occupancy_resolution=48), 8, unbounded=False).occupancy_resolution == 48


def test_depth_loss_where_points_were_seen() -> None:
    """On by default there, off by option; asked for where there are none, it is refused."""
    assert resolve_defaults(ModelOptions(), 20, unbounded=True, sightings=True).depth_weight == DEPTH_WEIGHT
    assert resolve_defaults(ModelOptions(), 20, unbounded=True).depth_weight == 0
    assert resolve_defaults(ModelOptions(depth_weight=0.0), 20, unbounded=True, sightings=True).depth_weight == 0
    assert resolve_defaults(ModelOptions(depth_weight=0.3), 20, unbounded=True, sightings=True).depth_weight == 0.3
    with pytest.raises(PeakError, match=r"^--pipeline.model.depth-weight 0.3: it is not known which picture saw"):
        resolve_defaults(ModelOptions(depth_weight=0.3), 20, unbounded=True)


def test_options_need_no_nerfstudio() -> None:
    program = "import sys, peak_nerf.nerf.options; sys.exit('nerfstudio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@dataclasses.dataclass
class Pipeline:
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)


@dataclasses.dataclass
class Trainer:
    pipeline: Pipeline = dataclasses.field(default_factory=Pipeline)


def test_flags_by_their_former_names() -> None:
    """As ns-train's parser nests them; the forms that went reach the line that says so."""
    arguments = ["--pipeline.model.kar-rank", "7"]
    model = tyro.cli(Trainer, args=[*arguments, "--pipeline.model.kar-form", "rays"]).pipeline.model
    assert (model.kar_n_features, model.kar_form) == (7, "rays")


def test_every_option_has_a_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(Trainer, args=["--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for phrase in ("Number r of features", "Weight of total variation", "Levels of the hash grid", "Ray steps along"):
        assert phrase in said
    assert "{auto,point,unobserved,observed}" in said
    assert "planes" not in said


def test_each_part_knows_its_options_alone() -> None:
    names = [f.name for part in (KarOptions, LossOptions) for f in dataclasses.fields(part)]
    assert len(set(names)) == len(names)
    assert set(RENAMED.values()) - set(get_type_hints(ModelOptions)) == {"virtual_rays"}  # the data manager's
