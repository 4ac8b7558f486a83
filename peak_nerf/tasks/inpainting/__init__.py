"""Inpainting: a picture from part of its pixels."""

from peak_nerf.tasks.inpainting.inpaint import Inpainting, inpaint

__all__ = ["Inpainting", "inpaint"]
