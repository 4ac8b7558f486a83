"""Pictures with an embedded ICC profile, as sRGB."""

from __future__ import annotations

import io
import itertools
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms

# Profiles whose colours all lie this near to sRGB's, of 255, are sRGB by another name: pixels stay as they are.
_SAME = 2


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """The picture's pixels as sRGB, and what was converted from ("" where nothing was).

    Args:
        image: of mode L, RGB, CMYK or LAB.
        profile: the ICC profile in the file. Without one, or where it is of another colour space or damaged, L and RGB
            are taken as sRGB, CMYK as ideal inks, and LAB as CIE L*a*b* under D50.
    """
    source, note = None, ""
    if image.mode == "LAB":
        source, note = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"
    elif profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            note = _name(source)
        except (OSError, ImageCms.PyCMSError):
            note = "colour profile unreadable"
    if source is not None:
        try:
            # Relative colorimetric with black point compensation: white stays white, black stays black.
            transform = ImageCms.buildTransform(
                source,
                ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
                image.mode,
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except ImageCms.PyCMSError:
            transform, note = None, "colour profile unusable"
        if transform is not None and not _is_srgb(transform, image.mode):
            return np.array(transform.apply(image)), note
        note = note if transform is None else ""
    return np.array(image.convert("RGB")), note


@lru_cache(maxsize=64)
def is_srgb(profile: bytes | None, mode: str) -> bool:
    """Whether `to_srgb` leaves pictures of mode L or RGB with this profile as they are, and has nothing to say."""
    return not profile or not to_srgb(Image.new(mode, (1, 1)), profile)[1]


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode not in ("L", "RGB"):
        return False
    levels = np.linspace(0, 255, 6).astype(np.uint8)
    colors = np.array(list(itertools.product(levels, repeat=len(mode))), np.uint8)
    lattice = Image.fromarray(colors[:, 0][None] if mode == "L" else colors[None])
    change = np.asarray(transform.apply(lattice)).astype(int) - np.asarray(lattice.convert("RGB"))
    return bool(np.abs(change).max() <= _SAME)


def _name(profile: ImageCms.ImageCmsProfile) -> str:
    """Such as "Display P3"; a profile without a description is named by what it is."""
    text = profile.profile.profile_description or ""
    return " ".join(text.replace("\0", "").split()) or "colour profile"
