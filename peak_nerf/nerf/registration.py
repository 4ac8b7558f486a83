"""What nerfstudio's entry points load. nerfstudio loads them unguarded, in every command of the user, so an error
in our package must end here as one warning, not in the loss of `ns-train nerfacto`."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from types import ModuleType
from typing import Any

from peak_nerf.nerf.config_file import read_configs_with_care
from peak_nerf.system.quiet import silence_other_packages

_SPECIFICATIONS = {
    "peak": ("peak_nerf.nerf.methods", "peak_method"),
    "peak_lite": ("peak_nerf.nerf.methods", "peak_lite_method"),
    "peak_nerfacto": ("peak_nerf.nerf.methods", "peak_nerfacto_method"),
    "peak_data": ("peak_nerf.nerf.data.dataparser", "peak_dataparser"),
}

_MOVED = {
    "model_config": "model", "datamanager": "data.datamanager", "dataparser": "data.dataparser",
    "optimizers": "train.optimizers", "pipeline": "train.pipeline", "trainer": "train.trainer",
}  # fmt: skip
"""Modules that a run's config.yml of before version 0.2 names, and where their classes are now."""


class BrokenPlugin:
    """Stands for a specification that could not be loaded; nerfstudio prints it in a warning and goes on."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __repr__(self) -> str:
        return (
            f"'peak_nerf could not be loaded ({type(self.error).__name__}: {self.error}); run `peak doctor`,"
            " or reinstall it with `pip install -e .`'"
        )


def _trust_older_checkpoints() -> None:
    """nerfstudio's own schedulers leave numpy scalars in checkpoints, which torch.load refuses by default since 2.6."""
    import numpy as np
    import torch

    scalar = np.float64(0.0)
    reconstruct: Any = scalar.__reduce__()[0]  # numpy's own function, whatever module it lives in
    torch.serialization.add_safe_globals([reconstruct, np.dtype, type(np.dtype(np.float64))])


def _know_moved_modules() -> None:
    """Put a stand-in in the place of each moved module, which imports the real one when a name of it is wanted."""
    for old, new in _MOVED.items():
        module = ModuleType(f"peak_nerf.nerf.{old}")
        vars(module)["__getattr__"] = partial(_moved_name, f"peak_nerf.nerf.{new}")
        sys.modules.setdefault(module.__name__, module)


def _moved_name(module: str, name: str) -> Any:
    if name.startswith("__"):  # whoever looks through all modules does not want this one
        raise AttributeError(name)
    return getattr(importlib.import_module(module), name)


def __getattr__(name: str) -> Any:
    """Load a specification when it is asked for: nerfstudio wants the data parser while it is half imported itself."""
    if name not in _SPECIFICATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SPECIFICATIONS[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever it is, the user's other commands must not fail for it
        return BrokenPlugin(error)


silence_other_packages()
_trust_older_checkpoints()
_know_moved_modules()
read_configs_with_care()
