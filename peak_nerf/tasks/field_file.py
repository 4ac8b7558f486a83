"""A fitted image field in one safetensors file, which says how to build it again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from peak_nerf.core.field import PeakField
from peak_nerf.errors import PeakError, first_line
from peak_nerf.system.files import check_file, write_atomically
from peak_nerf.tasks.field_settings import Shapes, expected_shapes, read_settings, read_shape
from peak_nerf.tasks.image_field import ImageField, ImageFieldSettings, pixel_coordinates, render

FAMILY = "peak_nerf inpainting field "
FORMAT = f"{FAMILY}1"


def save_field(path: Path, field: Any) -> None:
    """Write a fitted `ImageField`, or that of what `inpaint` or `retrieve` returned.

    Raises: ValueError on what has no field, a classical result; PeakError when it cannot be written.
    """
    field = getattr(field, "field", field)
    if not isinstance(field, ImageField):
        raise ValueError("a classical method leaves no field")
    settings = field.settings
    metadata = {
        "format": FORMAT,
        "shape": json.dumps([*field.size, field.out_dim]),
        "settings": json.dumps(dataclasses.asdict(ImageFieldSettings(settings.field, settings.kar))),
    }
    tensors = {name: t.contiguous() for name, t in field.state_dict().items()}
    write_atomically(path, lambda file: file.write(save(tensors, metadata)))


def load_field(path: Path) -> tuple[ImageField, tuple[int, int]]:
    """The field and the (h, w) of the picture that it was fitted to.

    Nothing is built before the file is known to hold the tensors that its settings ask for.

    Raises: PeakError on a file that is not there, not whole, or not such a field.
    """
    check_file(path, "`peak inpaint ... --save-field` writes a field.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata.get("format", ""))
            settings, shape = read_settings(metadata.get("settings", "")), read_shape(metadata.get("shape", ""))
            _check_shapes({name: file.get_slice(name) for name in file.keys()}, expected_shapes(settings, shape[2]))  # noqa: SIM118
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_weights(state)
        with torch.random.fork_rng(devices=[]):  # its draws are overwritten
            field = ImageField(settings, shape)
        _check_layout(field.state_dict(), state)
        field.load_state_dict(state)
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise PeakError(f"{path}: cannot be read ({first_line(error)}); fit the picture again") from error
    return field, field.size


def _check_format(path: Path, given: str) -> None:
    if given != FORMAT and given.startswith(FAMILY):
        raise PeakError(f"{path}: is of a newer peak_nerf ({given!r}, this one reads {FORMAT!r}); update peak_nerf")
    if given != FORMAT:
        raise PeakError(f"{path}: is not a field of `peak inpaint`; give a file that --save-field wrote")


def _check_shapes(found: dict[str, Any], expected: Shapes) -> None:
    """Raises: ValueError when the file has other tensors than its settings ask for; looks at its header alone."""
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"it lacks the tensor {name}, which its settings ask for")
        there = tuple(found[name].get_shape())
        if there != shape:
            raise ValueError(f"its settings ask for {name} of shape {shape}, and it holds {there}")
    if surplus := sorted(found.keys() - expected.keys()):
        raise ValueError(f"it holds {surplus[0]}, which its settings do not ask for")


def _check_weights(state: dict[str, torch.Tensor]) -> None:
    for name, tensor in state.items():
        is_layout = name.endswith(".layout")
        if not is_layout and not bool(tensor.float().isfinite().all()):
            raise ValueError(f"its weights {name} are not finite")
        if is_layout == tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"its {name} holds {str(tensor.dtype).removeprefix('torch.')} numbers")


def _check_layout(built: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    for name in (name for name in state if name.endswith(".layout")):
        if not torch.equal(built[name], state[name]):
            raise ValueError(f"its {name} {state[name].tolist()} is not that of its settings, {built[name].tolist()}")


def render_field(field: PeakField, fitted: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The field on a grid of `size` (h, w) over the picture that was (h, w) = `fitted`; (h, w, c) in [0, 1]."""
    return render(field, *pixel_coordinates(fitted, size))
