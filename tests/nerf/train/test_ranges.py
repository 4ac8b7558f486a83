"""Every numeric option of our methods has a range, and what is out of it ends in one line."""

import copy
import math
from typing import Annotated, Any, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.errors import PeakError
from peak_nerf.nerf.methods import peak_lite_method, peak_method, peak_nerfacto_method
from peak_nerf.nerf.options import ModelOptions
from peak_nerf.nerf.train.ranges import RANGES, check_config, needed_bytes
from peak_nerf.system.choices import numeric_options
from tests.nerf.runs import start, tiny_config

METHODS = {"peak": peak_method, "peak-lite": peak_lite_method, "peak-nerfacto": peak_nerfacto_method}
ODD = (0, -1, 1, 1e-300, 1e300, math.nan, math.inf, -math.inf, 2**40)
PLACES = [(name, place) for name, method in METHODS.items() for place, *_ in numeric_options(method.config)]


def set_option(config: Any, place: str, value: float) -> Any:
    *owners, name = place.split(".")
    for owner in owners:
        config = config[owner] if isinstance(config, dict) else getattr(config, owner)
    kind = type(getattr(config, name))
    setattr(config, name, int(value) if kind is int and math.isfinite(value) and value == int(value) else value)


def test_presets_are_within_their_ranges() -> None:
    for method in METHODS.values():
        check_config(method.config)


@pytest.mark.parametrize("name", METHODS)
def test_every_numeric_option_has_a_range(name: str) -> None:
    """Also those that nerfstudio or we add from now on."""
    options = list(numeric_options(METHODS[name].config))
    assert len(options) > 80
    for place, hint, _, field in options:
        known = get_origin(hint) is Annotated or field in RANGES or field.split(".")[1] in RANGES
        assert known, f"{place}: give its type a range, or {field.split('.')[1]} one in RANGES"


@settings(max_examples=400, deadline=None)
@given(place=st.sampled_from(PLACES), value=st.sampled_from(ODD))
def test_what_is_out_of_range_is_refused_by_name(place: tuple[str, str], value: float) -> None:
    """A value is taken, or the option named in one line: nothing in between."""
    name, option = place
    config = copy.deepcopy(METHODS[name].config)
    set_option(config, option, value)
    if not math.isfinite(value) or abs(value) > 1e12:
        with pytest.raises(PeakError):
            check_config(config)
    try:
        check_config(config)
    except PeakError as error:
        said = str(error)
        assert "\n" not in said
        assert said.startswith(f"--{option.replace('_', '-')}: must be ") or "GiB" in said


FAULTS = {
    "max_num_iterations": 0,
    "pipeline.model.steps_per_side": 0,
    "optimizers.encoding.optimizer.lr": math.nan,
    "optimizers.networks.optimizer.lr": -1.0,
    "pipeline.model.kar_queries": -1,
    "pipeline.model.sh_levels": 5,
    "pipeline.model.n_levels": 0,
    "pipeline.model.log2_table_size": 31,
    "pipeline.model.finest_resolution": 1,
    "pipeline.model.occupancy_probes": -1,
    "pipeline.datamanager.train_num_rays_per_batch": -1,
    "machine.seed": 2**40,
    "logging.steps_per_log": 0,
    "optimizers.encoding.scheduler.final_factor": 0.0,
    "pipeline.model.kar_n_features": 100_000,
    "pipeline.model.hidden_dim": 1_000_000,
    "pipeline.model.n_hidden": 3000,
}


@pytest.mark.parametrize("option", FAULTS)
def test_a_training_ends_before_anything_is_made(tmp_path, option, capsys) -> None:
    config = tiny_config(tmp_path, steps=1)
    set_option(config, option, FAULTS[option])
    with pytest.raises(SystemExit) as ended:
        config.save_config()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"--{option.replace('_', '-')}: must be " in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sizes_that_no_machine_has_are_refused_with_an_estimate(tmp_path) -> None:
    config = tiny_config(tmp_path)
    config.pipeline.model.target_samples = 1 << 26
    config.pipeline.model.hidden_dim = 2048
    with pytest.raises(PeakError, match=r"need about \d+ GiB of memory.*samples of a step \(target-samples\); lower"):
        check_config(config)


def test_the_estimate_counts_what_is_made() -> None:
    """Of a grid with dense levels of 17^3 and 33^3 vertices, 2 features: with its gradient and two moments."""
    options = ModelOptions(n_levels=2, n_features=2, log2_table_size=19, base_resolution=16, finest_resolution=32)
    grid = needed_bytes(options)["hash grid (n-levels, n-features, log2-table-size)"]
    assert grid == 4 * 4 * 2 * (17**3 + 33**3)
    options.log2_table_size = 12
    assert needed_bytes(options)["hash grid (n-levels, n-features, log2-table-size)"] == 4 * 4 * 2 * 2 * 4096


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kar_n_features", 1), ("kar_anchors", 1), ("kar_radius", 1e-5), ("kar_warmup", 1.0), ("n_levels", 1),
        ("polynomial_degree", 0), ("log2_table_size", 4), ("hidden_dim", 1), ("n_geometry", 1), ("steps_per_side", 8),
        ("occupancy_probes", 1), ("target_samples", 1), ("coarse_steps", 0), ("near_plane", 0.0), ("sh_levels", 1),
        ("network_rate", 1e-300), ("density_bias", -20.0), ("density_bias", 10.0), ("kar_weight", 1e6),
        ("eval_num_rays_per_chunk", 1000), ("finest_resolution", 1 << 20), ("polynomial_degree", 8),
        ("occupancy_threshold", 0.0), ("kar_residual_stride", 4096), ("colour_n_hidden", 1),
    ],
)  # fmt: skip
def test_the_ends_of_ranges_train(tmp_path, option, value) -> None:
    config = tiny_config(tmp_path, steps=1, kar_form="point", kar_weight=0.01)
    setattr(config.pipeline.model, option, value)
    trainer = start(config)
    loss, _, _ = trainer.train_iteration(0)
    assert math.isfinite(float(loss))
    trainer.pipeline.eval()
    outputs = trainer.pipeline.model.get_outputs_for_camera(trainer.pipeline.datamanager.eval_dataset.cameras[:1])
    assert all(bool(value.isfinite().all()) for value in outputs.values())
