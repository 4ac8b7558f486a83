"""Damage six photographs of scikit-image, repair them with `peak inpaint`, and write docs/pictures.md.

    .venv/bin/python data_scripts/make_pictures_page.py [--only NAME ...]

No network: the photographs come with scikit-image. About one minute each on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
PANEL, GAP, QUALITY = 400, 8, 85
SEED = 88


@dataclass(frozen=True)
class Damage:
    """A photograph and what happened to it."""

    name: str
    hole: Callable[[tuple[int, int]], np.ndarray]
    colour: int | tuple[int, int, int]
    what: str
    mask: str = "black"
    """How the mask is drawn: black on white, white on black, or red over the photo."""


def strokes(size: tuple[int, int], n: int, widths: tuple[int, int], length: float) -> np.ndarray:
    """(h, w) bool, straight lines in random places and directions."""
    random = np.random.default_rng(SEED)
    ink = np.zeros(size, np.uint8)
    for _ in range(n):
        centre, angle = random.random(2) * size[::-1], random.random() * np.pi
        step = np.array([np.cos(angle), np.sin(angle)]) * length * max(size) / 2
        ends = [tuple(int(v) for v in centre + sign * step) for sign in (-1, 1)]
        cv2.line(ink, ends[0], ends[1], 1, int(random.integers(*widths)))
    return ink > 0


def specks(size: tuple[int, int], n: int, radii: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, round specks of dust."""
    random = np.random.default_rng(SEED)
    ink = np.zeros(size, np.uint8)
    for _ in range(n):
        x, y = (random.random(2) * size[::-1]).astype(int)
        cv2.circle(ink, (int(x), int(y)), int(random.integers(*radii)), 1, -1)
    return ink > 0


def stamp(size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, the date that a camera prints into a corner."""
    ink = np.zeros(size, np.uint8)
    text, scale = "'89 7 14", size[1] / 640
    place = (int(size[1] * 0.62), int(size[0] * 0.93))
    cv2.putText(ink, text, place, cv2.FONT_HERSHEY_DUPLEX, 1.4 * scale, 1, max(round(3 * scale), 2))
    return ink > 0


def folds(size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, the creases of a print that was folded twice."""
    h, w = size
    ink = np.zeros(size, np.uint8)
    cv2.line(ink, (0, int(0.52 * h)), (w, int(0.49 * h)), 1, max(w // 100, 3))
    cv2.line(ink, (int(0.36 * w), 0), (int(0.38 * w), h), 1, max(w // 100, 3))
    return ink > 0


def scrawl(size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, a pen's curve across the picture."""
    h, w = size
    x = np.linspace(0.05, 0.95, 200)
    y = 0.5 + 0.3 * np.sin(9 * x)
    ink = np.zeros(size, np.uint8)
    cv2.polylines(ink, [np.stack([x * w, y * h], axis=1).astype(np.int32)], False, 1, max(w // 90, 3))
    return ink > 0


def stain(size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, a ring as a cup leaves it, and drops."""
    h, w = size
    ink = np.zeros(size, np.uint8)
    cv2.circle(ink, (int(0.3 * w), int(0.42 * h)), h // 5, 1, max(h // 50, 3))
    return (ink > 0) | specks(size, 12, (3, 9))


DAMAGES = (
    Damage("astronaut", lambda size: strokes(size, 12, (2, 5), 0.5), 255, "scratches, white"),
    Damage("chelsea", scrawl, (40, 60, 200), "a pen's line; the mask is painted over the photo", "red"),
    Damage("coffee", stain, (90, 60, 30), "a ring and drops; a mask that is white in the hole", "white"),
    Damage("rocket", stamp, (255, 120, 20), "the date that a camera printed"),
    Damage("camera", folds, 235, "a grey print, folded twice"),
    Damage("retina", lambda size: specks(size, 250, (2, 7)), 255, "dust, 2 megapixels"),
)


def run(damage: Damage, folder: Path) -> dict[str, str]:
    """Repair one; leaves the strip of pictures in docs and returns a row of the table."""
    from skimage import data

    photo = getattr(data, damage.name)()
    hole = damage.hole((photo.shape[0], photo.shape[1]))
    damaged = photo.copy()
    damaged[hole] = damage.colour
    drawn = np.where(hole, 0, 255).astype(np.uint8)
    if damage.mask == "white":
        drawn = 255 - drawn
    elif damage.mask == "red":
        drawn = damaged.copy()
        drawn[hole] = (255, 0, 0)
    for name, picture in (("photo", damaged), ("mask", drawn), ("truth", photo)):
        Image.fromarray(picture).save(folder / f"{name}.png")
    option = ["--mask-hole", "white"] if damage.mask == "white" else []
    command = ["peak", "inpaint", "photo.png", "--mask", "mask.png", *option]
    scored = [*command[1:], "--truth", "truth.png"]
    result: dict[str, dict[str, float]] = {}
    for method in ("peak", "biharmonic", "telea"):
        more = ["--method", method, "--out", method]
        subprocess.run([sys.executable, "-m", "peak_nerf.cli", *scored, *more], cwd=folder, check=True)
        result[method] = json.loads((folder / method / "metrics.json").read_text())
    panels = [damaged, drawn, np.asarray(Image.open(folder / "peak" / "reconstruction.png"))]
    (DOCS / "pictures").mkdir(exist_ok=True)
    strip(panels).save(DOCS / "pictures" / f"{damage.name}.jpg", quality=QUALITY)
    return {
        "name": damage.name,
        "what": damage.what,
        "size": f"{photo.shape[1]} x {photo.shape[0]}",
        "missing": f"{100 * result['peak']['missing_fraction']:.1f} %",
        "command": " ".join(command),
        "crops": str(len(result["peak"]["crops"])),  # type: ignore[arg-type]
        "seconds": f"{result['peak']['seconds']:.0f}",
        **{method: f"{result[method]['psnr_missing']:.2f}" for method in result},
        "held": f"{result['peak']['psnr_validation']:.2f}",
    }


def strip(panels: list[np.ndarray]) -> Image.Image:
    """Before, mask, after, side by side on white."""
    images = [Image.fromarray(panel).convert("RGB") for panel in panels]
    for image in images:
        image.thumbnail((PANEL, PANEL), Image.Resampling.LANCZOS)
    w, h = images[0].size
    sheet = Image.new("RGB", (3 * w + 2 * GAP, h), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i * (w + GAP), 0))
    return sheet


def page(rows: list[dict[str, str]]) -> str:
    """The text of docs/pictures.md."""
    table = [
        f"| {r['name']}, {r['size']} | {r['what']} | {r['missing']} | {r['crops']} | {r['seconds']} | {r['peak']} |"
        f" {r['biharmonic']} | {r['telea']} | {r['held']} |"
        for r in rows
    ]
    pictures = [
        f"**{r['name']}**: {r['what']}. `{r['command']}`\n\n![before, mask, after](pictures/{r['name']}.jpg)\n"
        for r in rows
    ]
    return TEXT.format(
        table="\n".join(table),
        pictures="\n".join(pictures),
        cores=len(os.sched_getaffinity(0)),
        python=platform.machine(),
    )


TEXT = """# Repaired pictures

Six photographs that come with scikit-image, damaged by `data_scripts/make_pictures_page.py` (seed 88) and repaired
with nothing but the command beside each. Before, mask, after; only the pixels of the mask differ between the first
and the last.

{pictures}
## Figures

PSNR in dB over the missing pixels, against the undamaged photograph, which no method saw (`--truth`); one run each on
{cores} {python} cores. Seconds are those of the fits. The last column is what a user has who knows no truth: the PSNR
on observed pixels around the holes that were held out (`psnr_validation`).

| photograph | damage | missing | crops | seconds | peak | biharmonic | telea | held-out pixels |
|---|---|---|---|---|---|---|---|---|
{table}

## What is done

- A mask is a picture with two values, whichever they are; black is the hole, or white with `--mask-hole white`. Of a
  file with transparency what is painted is the hole; of the photo itself, painted over, what differs. Soft edges
  count as missing from half on, and blend. How it was read is printed: `3.4 % missing, black is the hole`.
- Each hole is fitted with its surroundings alone, several side by side, so that a scratch takes seconds in a photo of
  any size. A long one is cut into overlapping crops, a thick one is first seen at a smaller scale.
- What a hole gets is the mean of three estimates, the field's, biharmonic's and that of similar patches, weighted by
  their errors on pixels around the holes that none was shown (`weights` of each crop in `metrics.json`); with
  `--no-combine` the field's alone. Other methods stand for themselves.
- `reconstruction.*` keeps every known pixel bit by bit, and the picture's size, depth (8, 16 bit, float), channels,
  alpha, colour profile and EXIF. TIFF gives TIFF, JPEG and all else PNG, since JPEG would change known pixels. CMYK
  becomes sRGB.
- JPEG, WebP and HEIC keep colour at half the resolution: two pixels around a hole hold some of the damage's colour.
  They stay as they are, but nothing is concluded from them.
- `field.png` is what was fitted, `comparison.png` before, mask and after, `metrics.json` the figures of each crop.
- `--uncertainty` fits three times: `uncertainty.png` shows how far the results differ, white for 0.1 of the range.
- `peak inpaint --batch FOLDER` takes a folder with `photo.jpg` and `photo.mask.png` (or `photo_mask.png`,
  `masks/photo.png`) and leaves a folder for each picture and `summary.csv`; `--resume` skips what is done.
"""


def main() -> None:
    """Make the pictures and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of photographs")
    only = parser.parse_args().only
    rows = []
    for damage in DAMAGES:
        if only and damage.name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(damage, Path(folder)))
            print(rows[-1], flush=True)
    if not only:
        (DOCS / "pictures.md").write_text(page(rows))


if __name__ == "__main__":
    main()
