"""Fields from elsewhere: damaged ones end in one line, before anything is built of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.errors import PeakError
from peak_nerf.tasks.field_file import load_field, render_field, save_field
from peak_nerf.tasks.field_settings import expected_shapes
from peak_nerf.tasks.image_field import ImageField, ImageFieldSettings, KarSettings
from peak_nerf.tasks.inpainting.command import render_image
from peak_nerf.tasks.inpainting.settings import settings_for
from peak_nerf.tasks.phase_retrieval.settings import settings_for as phase_settings

SHAPE = (12, 18, 1)
SMALL = ImageFieldSettings(
    FieldConfig(hash_grid=HashGridConfig(2, 2, 6, 2, 4), hidden_dim=4, n_hidden=1, implementation="torch"),
    KarSettings(n_features=3),
)
Tensors = dict[str, torch.Tensor]


def parts(path: Path) -> tuple[dict[str, str], Tensors]:
    """Metadata and tensors of a small field of ours."""
    save_field(path, ImageField(SMALL, SHAPE))
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def refusal(path: Path) -> str:
    with pytest.raises(PeakError) as error:
        load_field(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_the_shapes_are_those_that_are_built(n_channels: int) -> None:
    """For every method's settings, and what else they can be."""
    fields = [FieldConfig(hash_grid=None, polynomial_degree=None), FieldConfig(None, n_frequencies=3, n_hidden=0)]
    fields += [FieldConfig(None, 3, coordinate_map="raw"), FieldConfig(None, 3, False, bias=False)]
    fields += [FieldConfig(HashGridConfig(1, 1, 3, 5, 9), backbone="siren", bias=False)]
    all_settings = [ImageFieldSettings(field, KarSettings(similarity="dot", n_hidden=1)) for field in fields]
    all_settings += [
        settings_for(method, (90, 70)) for method in ("peak", "peak-siren", "mlp", "fourier", "siren", "hash")
    ]
    all_settings += [phase_settings("peak", "fourier", 64), SMALL]
    for chosen in all_settings:
        built = {name: tuple(t.shape) for name, t in ImageField(chosen, (90, 70, n_channels)).state_dict().items()}
        assert expected_shapes(chosen, n_channels) == built


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("field.hidden_dim", 30000, "backbone.hidden.0.weight of shape (30000, 9), and it holds (4, 9)"),
        ("field.hidden_dim", 10**12, "settings: field.hidden_dim: input should be less than or equal to 65536"),
        ("field.hidden_dim", True, "settings: field.hidden_dim: input should be a valid integer"),
        ("field.hidden_dim", 4.5, "settings: field.hidden_dim: input should be a valid integer"),
        ("field.hidden_dim", 10**400, "settings: field.hidden_dim"),
        ("field.n_hidden", 10**7, "settings: field.n_hidden: input should be less than or equal to 100"),
        ("field.n_hidden", 99, "lacks the tensor backbone.hidden.1.weight"),
        ("field.n_hidden", 0, "backbone.output.weight of shape (1, 9), and it holds (1, 4)"),
        ("field.hash_grid.n_levels", 10**6, "settings: field.hash_grid.n_levels: input should be less than"),
        ("field.hash_grid.n_levels", 64, "table of shape"),
        ("field.hash_grid.finest_resolution", 2**24, "table of shape"),
        ("field.hash_grid.log2_table_size", 30, "is not that of its settings"),
        ("field.hash_grid.base_resolution", 0, "base_resolution: input should be greater than or equal to 1"),
        ("field.polynomial_degree", 10**9, "settings: field.polynomial_degree: input should be less than"),
        ("field.polynomial_degree", 99999, "features, more than 100,000"),
        ("field.polynomial_degree", 2, "raw_coefficients of shape (3,), and it holds (2,)"),
        ("field.n_frequencies", 10**9, "settings: field.n_frequencies: input should be less than"),
        ("field.n_frequencies", 2**20, "lacks the tensor encoding.encodings.2.frequencies"),
        ("field.implementation", "tcnn", "settings: field.implementation"),
        ("field", "a text", "settings: field"),
        ("field", None, "settings: field"),
        ("kar", [], "settings: kar"),
        ("kar", None, "which its settings do not ask for"),
        ("kar.reach", 1e5, "settings: kar.reach: input should be less than or equal to 256"),
        ("kar.weight", -1.0, "settings: kar.weight: input should be greater than or equal to 0"),
        ("kar.n_features", 65536, "kar.siren.hidden.0.weight of shape (65536, 2), and it holds (3, 2)"),
        ("kar.surprise", 1, "settings: kar.surprise: unexpected keyword argument"),
    ],
)
def test_settings_out_of_range_or_not_of_the_files_tensors(
    where: str, value: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "field.safetensors"
    metadata, tensors = parts(path)
    tree = json.loads(metadata["settings"])
    *above, last = where.split(".")
    place = tree
    for name in above:
        place = place[name]
    place[last] = value
    save_file(tensors, path, {**metadata, "settings": json.dumps(tree)})
    assert message in refusal(path)


@pytest.mark.parametrize(
    "shape",
    [
        *("[1, 1, 1]", "[12.0, 18, 1]", "[true, 18, 1]", "[12, 18]", "[0, 18, 1]", "[100000, 100000, 1]", "null", "[["),
        *("", "[12, 18, 2]", "[12, 18, 1e9]", "[12, 18, 1, 1]", '["12", 18, 1]', "[" * 5000, "[NaN, 18, 1]"),
    ],
)
def test_shapes_of_no_picture(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    metadata, tensors = parts(path)
    save_file(tensors, path, {**metadata, "shape": shape})
    assert "cannot be read (" in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, t: torch.full_like(t, float("nan")) if t.is_floating_point() else t - 2**62, "are not finite"),
        (lambda name, t: t.double() * 1e300 if t.is_floating_point() else t, "are not finite"),
        (lambda name, t: t.int() if name == "low" else t, "its low holds int32 numbers"),
        (lambda name, t: t.float() if name.endswith("layout") else t, "layout holds float32 numbers"),
        (lambda name, t: t - 1 if name.endswith("layout") else t, "is not that of its settings"),
    ],
)
def test_weights_that_are_none(
    change: Callable[[str, torch.Tensor], torch.Tensor], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "field.safetensors"
    metadata, tensors = parts(path)
    save_file({name: change(name, t) for name, t in tensors.items()}, path, metadata)
    assert message in refusal(path)


def test_weights_in_other_precision_are_read(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    metadata, tensors = parts(path)
    expected = render_field(load_field(path)[0], SHAPE[:2], SHAPE[:2])
    save_file({name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}, path, metadata)
    assert np.array_equal(render_field(load_field(path)[0], SHAPE[:2], SHAPE[:2]), expected)


def test_a_field_that_renders_to_nothing_is_said_so(tmp_path: Path) -> None:
    path, out = tmp_path / "field.safetensors", tmp_path / "out.png"
    metadata, tensors = parts(path)
    tensors["backbone.hidden.0.bias"] = torch.full((4,), 3e38)
    tensors["backbone.output.weight"] = torch.tensor([[3e38, -3e38, 3e38, -3e38]])  # inf - inf
    save_file(tensors, path, metadata)
    with pytest.raises(PeakError, match="renders to NaN"):
        render_image(path, out=out)
    save_field(path, ImageField(SMALL, (12, 18, 2)))
    with pytest.raises(PeakError, match="has 2 channels"):
        render_image(path, out=out)
    assert not out.exists()


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    metadata, tensors = parts(path)
    save_file(tensors, path, {**metadata, "format": "peak_nerf inpainting field 7"})
    assert "is of a newer peak_nerf" in refusal(path)


@settings(max_examples=60)
@given(cut=st.integers(0, 4000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=4))
def test_damaged_bytes_end_in_one_line_or_the_right_field(
    cut: int, flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save_field(path, ImageField(SMALL, SHAPE))
    data = bytearray(path.read_bytes())
    del data[len(data) - cut if cut < 40 else len(data) :]
    for at, by in flips:
        data[at % len(data)] ^= by
    path.write_bytes(data)
    said = ""
    try:
        field, size = load_field(path)
        assert render_field(field, size, size).shape == (*size, field.out_dim)
    except PeakError as error:
        said = str(error)
    assert "\n" not in said


SCRIPT = """
import resource, sys, time
from pathlib import Path
from peak_nerf.errors import PeakError
from peak_nerf.tasks.field_file import load_field
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, held + 2**30))
for path in map(Path, sys.argv[1:]):
    start = time.perf_counter()
    try:
        load_field(path)
        sys.exit(f"{path} was read")
    except PeakError as error:
        print(path.name, round(time.perf_counter() - start, 2), error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's setrlimit")
def test_no_small_file_takes_time_or_memory(tmp_path: Path) -> None:
    """Each within 5 s and 1 GiB of address space beyond what the imports take."""
    files = []
    changes: list[dict[str, Any]] = [{"hidden_dim": 65536}, {"n_hidden": 100}, {"n_frequencies": 2**20}]
    changes += [{"polynomial_degree": 99999, "polynomial_cross_terms": False}, {"polynomial_degree": 30}]
    changes += [{"hash_grid": {"n_levels": 64, "log2_table_size": 30, "finest_resolution": 2**24}}]
    for i, change in enumerate(changes):
        files.append(tmp_path / f"{i}.safetensors")
        metadata, tensors = parts(files[-1])
        tree = json.loads(metadata["settings"])
        tree["field"] |= change
        save_file(tensors, files[-1], {**metadata, "settings": json.dumps(tree)})
    done = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, files)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    times = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(times) == len(files)
    assert max(times) < 5, done.stdout
