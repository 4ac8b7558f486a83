"""What nerfstudio's entry points load. nerfstudio loads them unguarded, in every command of the user, so an error
in our package must end here as one warning, not in the loss of `ns-train nerfacto`."""

from __future__ import annotations

import importlib
from typing import Any

_SPECIFICATIONS = {
    "peak": ("peak_nerf.nerf.methods", "peak_method"),
    "peak_lite": ("peak_nerf.nerf.methods", "peak_lite_method"),
    "peak_nerfacto": ("peak_nerf.nerf.methods", "peak_nerfacto_method"),
    "peak_data": ("peak_nerf.nerf.data.dataparser", "peak_dataparser"),
}


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


def __getattr__(name: str) -> Any:
    """Load a specification when it is asked for: nerfstudio wants the data parser while it is half imported itself."""
    if name not in _SPECIFICATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SPECIFICATIONS[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever it is, the user's other commands must not fail for it
        return BrokenPlugin(error)


_trust_older_checkpoints()
