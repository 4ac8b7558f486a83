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

from peak_nerf.core.field import FieldConfig, HashGridConfig, PeakField
from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically
from peak_nerf.tasks.image_field import ImageField, ImageFieldSettings, KarSettings, pixel_coordinates, render

FORMAT = "peak_nerf inpainting field 1"
RENAMED = {"activation": "similarity", "divergence": "kl_weight", "blind_divergence": "blind_kl_weight"}
"""Settings of KAR in files of before the renaming; the activation `softmax` is the similarity `dot`."""


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

    Raises: PeakError on a file that is not there, not whole, or not such a field.
    """
    if not path.is_file():
        raise PeakError(f"{path}: no such file; `peak inpaint ... --save-field` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise PeakError(f"{path}: is not a field of `peak inpaint`; give a file that --save-field wrote")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = _settings(json.loads(metadata["settings"]))
        height, width, n_channels = json.loads(metadata["shape"])
        with torch.random.fork_rng(devices=[]):  # its draws are overwritten
            field = ImageField(settings, (height, width, n_channels))
        field.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise PeakError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fit the picture again") from error
    return field, field.size


def _settings(stored: dict[str, Any]) -> ImageFieldSettings:
    grid, kar = stored["field"].pop("hash_grid"), stored["kar"]
    config = FieldConfig(hash_grid=None if grid is None else HashGridConfig(**grid), **stored["field"])
    if kar is not None:
        kar = {RENAMED.get(name, name): "dot" if value == "softmax" else value for name, value in kar.items()}
    return ImageFieldSettings(config, None if kar is None else KarSettings(**kar))


def render_field(field: PeakField, fitted: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The field on a grid of `size` (h, w) over the picture that was (h, w) = `fitted`; (h, w, c) in [0, 1]."""
    return render(field, *pixel_coordinates(fitted, size))
