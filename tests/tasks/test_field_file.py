"""Fields in files: what comes back is what was saved, and what is no field is said so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from peak_nerf.core.field import FieldConfig, HashGridConfig
from peak_nerf.errors import PeakError
from peak_nerf.tasks.field_file import FORMAT, load_field, render_field, save_field
from peak_nerf.tasks.image_field import ImageField, ImageFieldSettings, KarSettings
from peak_nerf.tasks.inpainting import Inpainting, inpaint
from peak_nerf.tasks.inpainting.settings import settings_for, with_overrides
from tests.images.pictures import smooth_picture, some_missing

H, W = 12, 18


def fitted(method: str = "peak", n_channels: int = 1) -> Inpainting:
    return inpaint(smooth_picture(H, W, n_channels), some_missing(H, W), method, steps=3)


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("method", ["peak", "peak-siren", "mlp", "fourier", "siren", "hash"])
def test_a_field_comes_back_as_it_was(method: str, n_channels: int, tmp_path: Path) -> None:
    result = fitted(method, n_channels)
    assert result.field is not None
    save_field(tmp_path / "field.safetensors", result.field)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    module, size = load_field(tmp_path / "field.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert size == (H, W)
    assert np.array_equal(render_field(module, size, size), result.field_picture)


def test_overridden_settings_and_two_dimensional_grey_come_back(tmp_path: Path) -> None:
    settings = with_overrides(
        settings_for("peak", (H, W)), kar_n_features=9, kar_similarity="dot", polynomial_degree=3, hidden_dim=20
    )
    result = inpaint(smooth_picture(H, W)[..., 0], some_missing(H, W), settings=settings, steps=2)
    assert result.field is not None
    save_field(tmp_path / "f.safetensors", result)
    module, size = load_field(tmp_path / "f.safetensors")
    assert np.array_equal(render_field(module, size, size)[..., 0], result.field_picture)
    with pytest.raises(ValueError, match="leaves no field"):
        save_field(tmp_path / "none.safetensors", inpaint(smooth_picture(H, W), some_missing(H, W), "linear"))
    assert module.kar is not None
    assert (module.kar.n_features, module.kar.similarity) == (9, "dot")


def test_any_resolution_covers_the_same_picture(tmp_path: Path) -> None:
    result = fitted("siren")
    assert result.field is not None
    finer = render_field(result.field, (H, W), (2 * H - 1, 3 * W - 2))
    assert finer.shape == (2 * H - 1, 3 * W - 2, 1)
    assert np.allclose(finer[::2, ::3], result.field_picture, atol=1e-4)
    assert render_field(result.field, (H, W), (1, 1)).shape == (1, 1, 1)


OLD = """{"field": {"hash_grid": null, "polynomial_degree": 1, "polynomial_cross_terms": true,
 "coordinate_map": "unit_sphere", "polynomial_init": 0.01, "n_frequencies": null, "frequency_scale": 10.0,
 "backbone": "relu", "hidden_dim": 8, "n_hidden": 1, "bias": true, "relu_init": "torch", "implementation": "auto"},
 "kar": {"weight": 2.0, "n_features": 5, "n_hidden": 1, "activation": "softmax", "temperature": 20.0, "norm": "squared",
 "huber_delta": 0.05, "locality": 0.25, "divergence": 0.001, "blind_divergence": 4.0, "learning_rate": 0.002,
 "reach": 2.0, "window": 40, "warmup": 0.5},
 "learning_rate": 0.01, "pixels_per_step": 64, "steps": 3}"""
"""The settings in a file of before the names `similarity`, `kl_weight` and `blind_kl_weight`."""


def test_a_file_of_before_the_renaming_loads(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    kar = KarSettings(2.0, 5, 1, "dot", 20.0, "squared", 0.05, 0.25, 0.001, 4.0, 0.002, 2.0, 40, 0.5)
    settings = ImageFieldSettings(FieldConfig(hash_grid=None, hidden_dim=8, n_hidden=1), kar)
    written = ImageField(settings, (H, W, 1))
    metadata = {"format": FORMAT, "shape": json.dumps([H, W, 1]), "settings": OLD}
    save_file({name: t.contiguous() for name, t in written.state_dict().items()}, path, metadata)
    field, size = load_field(path)
    assert size == (H, W)
    assert field.settings == settings
    assert np.array_equal(render_field(field, size, size), render_field(written, size, size))
    assert field.kar is not None
    assert (field.kar.similarity, field.kar.norm, field.kar.weight) == ("dot", "squared", 2.0)


def test_a_field_that_a_gpu_fitted_opens_on_a_cpu(tmp_path: Path) -> None:
    """Its file says `triton`; tables have one layout whoever computes them."""
    path = tmp_path / "field.safetensors"
    grid = HashGridConfig(2, 2, 6, 2, 4)
    written = ImageField(ImageFieldSettings(FieldConfig(grid, hidden_dim=4, n_hidden=1), None), (H, W, 1))
    save_field(path, written)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["settings"].count('"implementation": "auto"') == 1
    metadata["settings"] = metadata["settings"].replace('"implementation": "auto"', '"implementation": "triton"')
    save_file(dict(written.state_dict()), path, metadata)
    field, size = load_field(path)
    assert field.settings.field.implementation == "auto"
    assert np.array_equal(render_field(field, size, size), render_field(written, size, size))


def test_a_field_that_version_0_1_wrote_is_the_same_field() -> None:
    """old_field/ is of `peak inpaint --save-field` on e0bb2e9, the values are what that version rendered of it."""
    field, size = load_field(Path(__file__).parent / "old_field" / "field.safetensors")
    assert size == (20, 24)
    rendered = render_field(field, size, (5, 6))[..., 0]
    np.testing.assert_allclose(
        rendered[0], [0.4988617, 0.8082163, 0.8690305, 0.6334614, 0.2886257, 0.1460723], atol=1e-5
    )
    np.testing.assert_allclose(rendered[:, 5], [0.1460723, 0.3374144, 0.7741398, 0.8366727, 0.4859256], atol=1e-5)
    assert field.kar is not None
    attention = field.kar.attention(torch.zeros(1, 2), torch.tensor([[0.1, 0.2], [-0.3, 0.4], [0.5, -0.5]]))
    torch.testing.assert_close(attention, torch.tensor([[0.4303, 0.0152, 0.5545]]), atol=1e-4, rtol=0)


def test_what_is_no_field_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"

    def refused(message: str) -> None:
        with pytest.raises(PeakError, match=message) as error:
            load_field(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)

    refused("no such file")
    path.mkdir()
    refused("is a folder")
    path.rmdir()
    path.symlink_to(tmp_path / "gone")
    refused("is a link to .*gone, which is not there")
    path.unlink()
    path.write_bytes(b"not tensors")
    refused("cannot be read")
    path.write_bytes(b"")
    refused("cannot be read")
    save_file({"a": torch.zeros(2)}, path)
    refused("is not a field of `peak inpaint`")

    field = fitted().field
    assert field is not None
    save_field(path, field)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("cannot be read")
    path.write_bytes(whole)
    with safe_open(path, framework="pt") as file:
        metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata["format"] == FORMAT
    settings = json.loads(metadata["settings"])
    settings["field"]["hidden_dim"] += 1
    for change, tensors in (
        ({"settings": json.dumps(settings)}, state),
        ({"settings": "{"}, state),
        ({"settings": "{}"}, state),
        ({"shape": "[12]"}, state),
        ({}, dict(list(state.items())[1:])),
    ):
        save_file(tensors, path, {**metadata, **change})
        refused("cannot be read")
