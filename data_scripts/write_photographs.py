"""Write photographs that come with scikit-image as PNGs, for configs/studies/colour.yaml; no network.

python data_scripts/write_photographs.py --out DATA
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from peak_nerf.errors import exit_on_peak_error
from peak_nerf.images.read import write_png

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")


@dataclass(frozen=True)
class Settings:
    """Write astronaut, coffee and chelsea at their own sizes."""

    out: Path
    """Data root of suites: NAME.png go into its images/."""


def write(out: Path) -> None:
    """images/NAME.png for each photograph, where suites look for it. Raises: PeakError when `out` cannot be written."""
    from skimage import data

    for name in PHOTOGRAPHS:
        pixels = getattr(data, name)()
        path = out / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, (pixels / np.float32(255)).astype(np.float32))
        print(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels", flush=True)


def main() -> None:
    """Run from the command line."""
    settings = tyro.cli(Settings, description=__doc__)
    with exit_on_peak_error():
        write(settings.out)


if __name__ == "__main__":
    main()
