"""Keeps other packages' deprecation warnings, which no user can act on, off the terminal; ours stay visible."""

from __future__ import annotations

import sys
import sysconfig
import warnings
from pathlib import Path

PACKAGES = r"(torch|torchvision|torchmetrics|nerfstudio|viser|websockets|pkg_resources)(\.|$)"
"""Whose deprecations are nobody's here: the versions that fit together are pinned."""
FALSE_ALARMS = (
    # nerfstudio indexes tensors by lists, logs losses with their graph, starts more workers than there are cores, and
    # steps its schedules where GradScaler has skipped the optimizer.
    "Using a non-tuple sequence for multidimensional indexing",
    "Converting a tensor with requires_grad=True to a scalar",
    "This DataLoader will create",
    r"Detected call of `lr_scheduler\.step\(\)` before",
)
"""User warnings by how they begin."""
AT_STARTUP = "import warnings; warnings.filterwarnings('ignore', '`torch.jit.script` is deprecated', FutureWarning)\n"
"""nerfstudio's own import causes this one, before any plug-in is loaded: only Python's start can precede it."""


def silence_other_packages() -> None:
    """Ignore these warnings from now on in this process."""
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=PACKAGES)
    for beginning in FALSE_ALARMS:
        warnings.filterwarnings("ignore", beginning, UserWarning, PACKAGES)


def main() -> None:
    """Leave `AT_STARTUP` in this virtual environment, for every Python that it starts; `make` does so in its own.

    Raises: SystemExit outside a virtual environment, which is not ours to change.
    """
    if sys.prefix == sys.base_prefix:
        raise SystemExit("peak_nerf.system.quiet: this Python is not of a virtual environment; nothing was changed")
    path = Path(sysconfig.get_path("purelib")) / "peak_nerf_quiet.pth"
    path.write_text(AT_STARTUP)


if __name__ == "__main__":
    main()
