"""What a run of `peak inpaint` starts from: a picture, what of it is known, what is to be filled, what scores it."""

# known: (h, w) float32, how much of a pixel a mask's file leaves known   observed, fill: (h, w) bool

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from peak_nerf.errors import PeakError
from peak_nerf.images import masks
from peak_nerf.images.mask_files import interpret, percent, read_mask_original
from peak_nerf.images.original import Original, read_original
from peak_nerf.images.read import MAX_PIXELS, Picture, read_picture, to_picture
from peak_nerf.images.resize import parse_size, resize_picture
from peak_nerf.tasks.inpainting.options import PictureOptions

EXPERIMENT_SIZE = "256"
"""Of the pictures of papers."""


@dataclass(frozen=True, eq=False)
class Source:
    """A picture at the size of the result."""

    original: Original
    """As the file has it; at another size its numbers are those of `values`."""
    values: np.ndarray
    """(h, w, c) float32 in [0, 1], c 1 or 3."""
    observed: np.ndarray
    """(h, w) bool, what a method is given."""
    fill: np.ndarray
    """(h, w) bool, what is to be filled in; transparent pixels outside a mask are neither."""
    known: np.ndarray
    """(h, w) float32, by the mask's file: what lies between 0 and 1 blends."""
    truth: np.ndarray
    """(h, w, c) in [0, 1], what scores a result where `has_truth`."""
    has_truth: np.ndarray
    """(h, w) bool; in a repair without `--truth` nowhere that is filled."""
    is_repair: bool
    """Only holes are filled, by a mask's file or the picture's own; else, with a drawn mask or a picture that is its
    own truth, it is an experiment on a whole picture."""
    masked: bool
    """Whether there is a mask beside what the picture itself lacks."""
    notes: tuple[str, ...]
    """What the user is told about picture and mask."""
    size_option: str
    """What `--size` is, given or not."""

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def missing_fraction(self) -> float:
        """Of the picture."""
        return float(self.fill.mean()) if self.is_repair else float(1 - self.observed.mean())

    def finished(self, reconstruction: np.ndarray) -> tuple[Original, np.ndarray]:
        """The picture with its holes filled from a reconstruction: as it is written, and as values (h, w, c).

        Known pixels keep the very numbers of the file. A soft edge is known * (what was there) + (1 - known) * (what is
        filled in). Alpha stays, but becomes opaque where most of the hole was transparent.
        """
        pixels, values = self.original.pixels.copy(), self.values.copy()
        touched = self.fill | (self.known < 1)
        # Missing for another reason than the mask's file: nothing of it is known.
        share = np.where(self.fill & (self.known > 0.5), 0, self.known)[touched][:, None]
        mixed = share * values[touched] + (1 - share) * reconstruction[touched]
        values[touched] = mixed
        pixels[touched, : values.shape[2]] = self.original.encode(mixed)
        if self.original.alpha is not None:
            alpha = pixels[..., -1]
            if 2 * np.count_nonzero(self.fill & (alpha == 0)) >= np.count_nonzero(self.fill):
                alpha[self.fill] = self.original.most
            if not self.masked and (alpha == self.original.most).all():
                pixels = np.ascontiguousarray(pixels[..., :-1])
        return replace(self.original, pixels=pixels), values


def read_source(options: PictureOptions, seed: int) -> Source:
    """What the options say. Raises: PeakError on bad input."""
    image = options.image
    if image is None:
        raise PeakError("peak inpaint: no picture; name one, or a folder of pictures with --batch FOLDER")
    original = read_original(image, convert=True)
    picture = to_picture(image, original)
    parts = [] if options.mask == "none" else masks.mask_parts(options.mask)
    files = [part for part in parts if masks.is_mask_file(part)]
    by_files = len(files) == len(parts)
    is_repair = by_files and not _is_same_file(options.truth, image)
    if options.mask_hole is not None and not files:
        raise PeakError(f"--mask-hole {options.mask_hole}: is for a mask's file; name one with --mask")
    text = options.size or ("original" if by_files else EXPERIMENT_SIZE)
    size = parse_size(text, picture.size, None if is_repair else MAX_PIXELS)

    given = {file: read_mask_original(file) for file in files}
    early = [file for file in files if size == picture.size or given[file].size != size]
    known, readings = _known(early, given, picture, options.mask_hole)
    nan = ~np.isfinite(original.colours).all(axis=2)
    if size != picture.size:
        original, picture, known = _at_size(original, picture, known, size)
        nan = ~picture.observed if original.alpha is None else np.zeros(size, dtype=bool)
        late, more = _known([file for file in files if file not in early], given, picture, options.mask_hole)
        known, readings = np.minimum(known, late), readings + more
    synthetic = np.ones(size, dtype=bool)
    for part in parts:
        if part not in files:
            synthetic &= masks.make_mask(part, size, options.missing, seed)

    by_file = picture.observed & (known > 0.5)
    observed = by_file & synthetic
    fill = ~observed
    if parts and original.alpha is not None and is_repair:
        fill = ~(known > 0.5) | nan
    if is_repair and files and original.bleed:
        observed = observed & ~_widened(fill, original.bleed)
    where = f"{image}" if options.mask == "none" else f"{image} with --mask {options.mask}"
    masks.check_mask(~fill, where)
    masks.check_mask(observed, where)
    if float(np.ptp(picture.values[observed], axis=0).max()) == 0:
        raise PeakError(
            f"{image}: all observed pixels have the same value, so there is nothing to fit; choose another picture or"
            " mask"
        )
    truth, has_truth = picture.values, by_file
    if options.truth is not None:
        truth, has_truth = _read_truth(options.truth, picture, text)
    if not readings:
        readings = ["what the picture lacks" if options.mask == "none" else f"--mask {options.mask}"]
    source = Source(original, picture.values, observed, fill, known, truth, has_truth, is_repair, bool(parts), (), text)
    notes = [f"{image}: {note}" for note in original.notes]
    if is_repair and original.kind == "png" and image.suffix.lower() != ".png":
        notes.append(f"{image}: the result is a PNG, which keeps known pixels exactly")
    return replace(source, notes=(*notes, f"{percent(source.missing_fraction)} missing, {'; '.join(readings)}"))


def _widened(fill: np.ndarray, pixels: int) -> np.ndarray:
    """With so many pixels around it: they stay as they are, but the colour of the damage has run into them."""
    import cv2

    return cv2.dilate(fill.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)).astype(bool)


def _is_same_file(one: Path | None, other: Path) -> bool:
    return one is not None and os.path.exists(one) and os.path.samefile(one, other)


def _known(
    files: list[str], given: dict[str, Original], picture: Picture, hole: str | None
) -> tuple[np.ndarray, list[str]]:
    """What masks leave known of a picture, (h, w) float32, and how they were read."""
    known = np.ones(picture.size, dtype=np.float32)
    readings: list[str] = []
    for file in files:
        mask = interpret(file, given[file], picture.values, hole)
        np.minimum(known, mask.known, out=known)
        readings += mask.notes
    return known, readings


def _at_size(
    original: Original, picture: Picture, known: np.ndarray, size: tuple[int, int]
) -> tuple[Original, Picture, np.ndarray]:
    """All three at another size; what a mask hides has no part in the means of its surroundings. No edge is soft."""
    import cv2

    resized = resize_picture(picture, size)
    values, new_known = resized.values, np.ones(size, dtype=np.float32)
    if (known < 1).any():
        clean = resize_picture(Picture(picture.values, picture.observed & (known > 0.5)), size)
        values = np.where(clean.observed[..., None], clean.values, values)
        new_known[resized.observed & ~clean.observed] = 0
    pixels = original.encode(values)
    if original.alpha is not None:
        alpha = np.asarray(cv2.resize(original.alpha, size[::-1], interpolation=cv2.INTER_AREA))
        pixels = np.dstack([pixels, alpha])
    return replace(original, pixels=pixels, flat=False), Picture(values, resized.observed), new_known


def _read_truth(path: Path, picture: Picture, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and where they are known, at the picture's size."""
    truth = read_picture(path)
    if truth.size != picture.size:
        truth = resize_picture(truth, parse_size(text, truth.size, None)) if text != "original" else truth
    if truth.size != picture.size:
        raise PeakError(
            f"--truth {path}: is {truth.size[1]} x {truth.size[0]} pixels and the picture {picture.size[1]} x"
            f" {picture.size[0]}; give the same picture, undamaged"
        )
    if truth.n_channels != picture.n_channels:
        grey = picture.n_channels == 1
        values = truth.values.mean(axis=2, keepdims=True) if grey else np.repeat(truth.values, 3, axis=2)
        return values, truth.observed
    return truth.values, truth.observed
