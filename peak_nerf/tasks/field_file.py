"""A fitted field in one safetensors file, which says how to build it again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from peak_nerf.core.field import FieldConfig, HashGridConfig, PeakField
from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically
from peak_nerf.tasks.inpainting.inpaint import Inpainting, build_field, render
from peak_nerf.tasks.inpainting.settings import InpaintSettings, KarSettings

FORMAT = "peak_nerf inpainting field 1"


def save_field(path: Path, result: Inpainting) -> None:
    """Write the field of `inpaint`. Raises: ValueError on a classical result; PeakError when it cannot be written."""
    if result.field is None:
        raise ValueError("a classical method leaves no field")
    shape = [*result.reconstruction.shape[:2], result.field.out_dim]
    metadata = {
        "format": FORMAT,
        "shape": json.dumps(shape),
        "settings": json.dumps(dataclasses.asdict(result.settings)),  # type: ignore[arg-type]
    }
    tensors = {name: t.contiguous() for name, t in result.field.state_dict().items()}
    write_atomically(path, lambda file: file.write(save(tensors, metadata)))


def load_field(path: Path) -> tuple[PeakField, tuple[int, int]]:
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
        stored, shape = json.loads(metadata["settings"]), json.loads(metadata["shape"])
        config = stored["field"]
        grid = config.pop("hash_grid")
        settings = InpaintSettings(
            FieldConfig(hash_grid=None if grid is None else HashGridConfig(**grid), **config),
            None if stored["kar"] is None else KarSettings(**stored["kar"]),
        )
        height, width, n_channels = shape
        with torch.random.fork_rng(devices=[]):  # its draws are overwritten
            module = build_field(settings, (height, width, n_channels))
        module.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise PeakError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fit the picture again") from error
    return module, (height, width)


def render_field(module: PeakField, fitted: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The field on a grid of `size` (h, w) over the picture that was (h, w) = `fitted`; (h, w, c) in [0, 1]."""
    longest = max(fitted)
    axes = [torch.linspace(-1, 1, n_new) * ((n - 1) / (longest - 1)) for n, n_new in zip(fitted, size, strict=True)]
    return render(module, *axes)
