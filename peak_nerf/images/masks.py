"""Which pixels of a picture are measured: masks are (h, w) bool, True = observed, False = to be filled in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images.mask_files import read_mask
from peak_nerf.images.strokes import textural_strokes
from peak_nerf.system.choices import did_you_mean

MASKS = ("random", "patch", "textural")
# The two missing patches of the paper, rows and columns of a 256 x 256 picture.
PATCHES = ((slice(70, 100), slice(150, 190)), (slice(200, 230), slice(200, 230)))
MIN_OBSERVED = 16
MAX_SEED = 2**32 - 1


def random_mask(size: tuple[int, int], missing: float = 0.5, seed: int = 88) -> np.ndarray:
    """Each pixel is missing with probability `missing`: where `np.random.rand(h, w)` after seeding is <= missing.

    The legacy generator, so that the mask is the one of `np.random.seed(seed)`, whatever numpy's default becomes.

    Raises: PeakError when missing is not in (0, 1) or the seed is out of range.
    """
    if not 0 < missing < 1:
        raise PeakError(f"--missing {missing}: give a fraction above 0 and below 1, such as 0.5")
    return np.random.RandomState(_checked(seed)).rand(*size) > missing


def patch_mask(size: tuple[int, int]) -> np.ndarray:
    """`PATCHES` are missing, in proportion at other sizes than 256 x 256, rounded to whole pixels."""
    h, w = size
    observed = np.ones(size, dtype=bool)
    for rows, columns in PATCHES:
        observed[_scaled(rows, h), _scaled(columns, w)] = False
    return observed


def textural_mask(size: tuple[int, int], seed: int = 88) -> np.ndarray:
    """Lines of text and a curved stroke are missing: about 4.5 % of the pixels, 3.5 to 5.5 % from 64 x 64 up.

    Raises: PeakError when the seed is out of range.
    """
    return ~textural_strokes(size, np.random.RandomState(_checked(seed)))


def mask_from_file(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """The mask in a file for a picture of `size` (h, w), as `mask_files.read_mask` reads it without the picture.

    Raises: PeakError when the file cannot be read, has another aspect, or leaves unclear what is the hole.
    """
    return read_mask(path, np.zeros((*size, 1), dtype=np.float32)).observed


def is_mask_file(name: str) -> bool:
    """Whether one part of `--mask` names a file. Raises: PeakError when it is neither a file nor one of `MASKS`."""
    if name in MASKS:
        return False
    if not os.path.lexists(name):
        raise PeakError(f"--mask {name}: no such mask, and no such file; {did_you_mean(name, MASKS)}")
    return True


def mask_parts(name: str | Path) -> list[str]:
    """What `--mask` joins by +; a file may have a + in its name."""
    return [str(name)] if os.path.exists(name) else str(name).split("+")


def make_mask(name: str | Path, size: tuple[int, int], missing: float = 0.5, seed: int = 88) -> np.ndarray:
    """The mask that `--mask` names: one of `MASKS`, a picture file, or several of these joined by +.

    Args: missing: for "random". seed: for "random" and "textural".
    Raises: PeakError when it is neither, and what the mask itself raises.
    """
    if len(parts := mask_parts(name)) > 1:
        return np.logical_and.reduce([make_mask(part, size, missing, seed) for part in parts])
    if name == "random":
        return random_mask(size, missing, seed)
    if name == "patch":
        return patch_mask(size)
    if name == "textural":
        return textural_mask(size, seed)
    is_mask_file(str(name))
    return mask_from_file(name, size)


def check_mask(observed: np.ndarray, where: str) -> None:
    """Raise `PeakError` unless something is missing and at least `MIN_OBSERVED` pixels are observed.

    Args: where: the file or option that the mask comes from, for the message.
    """
    n_observed = int(np.count_nonzero(observed))
    if n_observed == observed.size:
        raise PeakError(
            f"{where}: no pixel is missing, so there is nothing to fill in; choose a mask with missing pixels"
        )
    if n_observed < MIN_OBSERVED:
        raise PeakError(
            f"{where}: {n_observed or 'no'} pixel{'' if n_observed == 1 else 's'} observed, and {MIN_OBSERVED} is the"
            " least; choose a mask that leaves more (white is observed)"
        )


def _scaled(part: slice, n: int) -> slice:
    """A slice of 256 in proportion of n, halves rounded upwards."""
    return slice(*((2 * end * n + 256) // 512 for end in (part.start, part.stop)))


def _checked(seed: int) -> int:
    if not 0 <= seed <= MAX_SEED:
        raise PeakError(f"--seed {seed}: out of range; give a number from 0 to {MAX_SEED}")
    return seed
