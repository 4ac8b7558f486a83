"""Which pictures of a capture are of use: of one resolution, sharp, and each only once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images.sharpness import find_copy
from peak_nerf.photos.model import Photo

MIN_PICTURES = 3
# Of the median sharpness. Out of focus by a Gaussian of 0.2 % of the longer side (standard deviation) pictures have
# 0.16 to 0.27, shaken by 1 to 2 % of it 0.09 to 0.3; in four captures in focus none has less than 0.7.
_BLURRED = 0.25
_PLURALS = {"duplicate": "duplicates", "mirror image": "mirror images"}


@dataclass
class Prepared:
    """What is known of one picture once its copy is written."""

    photo: Photo
    copy: str
    """The name of its copy, without suffix."""
    whole: tuple[int, int] = (0, 0)
    """(width, height) of the upright source."""
    signature: np.ndarray | None = None
    """See `images.sharpness.thumbnail_signature`; None where it could not be read."""
    thumbnail: bytes = b""
    """A small JPEG, for where it is left out."""
    has_alpha: bool = False


def judge(prepared: Sequence[Prepared], single_camera: bool) -> None:
    """Leave out, of those still used: other resolutions where there is but one camera, then blurred ones, then copies.

    Sets `state` and `reason`. Of several copies the largest is kept, of equal ones the first.
    """
    if single_camera:
        _leave_other_sizes(_used(prepared))
    _leave_blurred(_used(prepared))
    _leave_copies(_used(prepared))


def too_few(source: Path, photos: Sequence[Photo]) -> PeakError:
    """Says why fewer than `MIN_PICTURES` of `photos` are used."""
    n_used = sum(photo.state == "used" for photo in photos)
    kinds = Counter(_kind(photo.reason) for photo in photos if photo.state == "left out")
    why = ", ".join(f"{n} {_PLURALS.get(kind, kind) if n > 1 else kind}" for kind, n in kinds.most_common())
    if len(kinds) == 1 and n_used and sum(kinds.values()) > 1:
        (kind,) = kinds
        why = f"all others are {_PLURALS.get(kind, kind)}"
    counted = f"{n_used or 'none'} of {len(photos)} pictures can be used"
    remedy = f"take at least {MIN_PICTURES} sharp ones, from different places"
    return PeakError(f"{source}: {counted}{f' ({why})' if why else ''}; {remedy}")


def _used(prepared: Sequence[Prepared]) -> list[Prepared]:
    return [one for one in prepared if one.photo.state == "used"]


def _leave_out(one: Prepared, reason: str) -> None:
    one.photo.state, one.photo.reason = "left out", reason


def _leave_other_sizes(used: Sequence[Prepared]) -> None:
    counts = Counter(one.photo.size for one in used)
    if not counts:
        return
    commonest = max(counts, key=lambda size: (counts[size], size[0] * size[1], size))
    w, h = Counter(one.whole for one in used if one.photo.size == commonest).most_common(1)[0][0]
    for one in used:
        if one.photo.size != commonest:
            _leave_out(one, f"other resolution ({one.whole[0]} x {one.whole[1]}, most are {w} x {h})")


def _leave_blurred(used: Sequence[Prepared]) -> None:
    values = np.array([one.photo.sharpness for one in used])
    for i, (one, value) in enumerate(zip(used, values, strict=True)):
        median = float(np.median(np.delete(values, i))) if len(values) > 1 else 0.0
        if value < _BLURRED * median:  # never true of more than half
            _leave_out(one, f"too blurred (sharpness {value:.1f}, median {median:.1f})")


def _leave_copies(used: Sequence[Prepared]) -> None:
    kept: list[Prepared] = []
    signatures: list[np.ndarray] = []
    for one in sorted(used, key=lambda one: -one.whole[0] * one.whole[1]):  # stable: the first of equals
        assert one.signature is not None  # it has been read
        found = find_copy(one.signature, signatures)
        if found is None:
            kept.append(one)
            signatures.append(one.signature)
        else:
            index, kind = found
            what = "duplicate of" if kind == "duplicate" else "mirror image of"
            _leave_out(one, f"{what} {kept[index].photo.name}")


def _kind(reason: str) -> str:
    """A reason without its particulars, as several have it."""
    if reason.startswith("broken"):
        return "broken"
    for kind in _PLURALS:
        if reason.startswith(f"{kind} of"):
            return kind
    return "of another resolution" if reason.startswith("other resolution") else reason.split(" (")[0]
