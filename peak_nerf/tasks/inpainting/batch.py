"""`peak inpaint --batch`: a folder of pictures with their masks beside them, one after the other."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peak_nerf.errors import PeakError
from peak_nerf.images.mask_files import percent
from peak_nerf.images.photo import is_picture_name, natural_key
from peak_nerf.system.files import write_atomically
from peak_nerf.system.record import plain
from peak_nerf.tasks.inpainting.options import InpaintOptions
from peak_nerf.tasks.inpainting.results import METRICS

MASK_ENDINGS = (".mask", "_mask", "-mask")
MASK_FOLDER = "masks"
SUMMARY = "summary.csv"
COLUMNS = ("picture", "result", "missing", "psnr_validation", "psnr_missing", "seconds", "problem")


def find_pictures(folder: Path, mask: str) -> list[tuple[Path, str | None]]:
    """Pictures of a folder, in the order a person would count, each with what `--mask` is for it.

    The mask of photo.jpg is photo.mask.png, photo_mask.png, photo-mask.png or masks/photo.png, with any suffix of a
    picture; without one it is what was given for all, and None where that is the default of experiments.

    Raises: PeakError when there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise PeakError(f"--batch {folder}: no such folder; name one with pictures and their masks")
    try:
        files = sorted((path for path in folder.iterdir() if _is_picture(path)), key=natural_key)
        below = sorted(path for path in (folder / MASK_FOLDER).glob("*") if _is_picture(path))
    except OSError as error:
        raise PeakError(f"--batch {folder}: cannot be read ({error.strerror}); check its permissions") from error
    own = {path.stem.removesuffix(end): path for end in MASK_ENDINGS for path in files if path.stem.endswith(end)}
    masks = {**{path.stem: path for path in below}, **own}
    given = None if mask == "random" else mask
    pictures = [path for path in files if not path.stem.endswith(MASK_ENDINGS)]
    if not pictures:
        raise PeakError(f"--batch {folder}: no picture in it; put pictures there, each with its mask beside it")
    return [
        (path, next((str(masks[name]) for name in (path.stem, path.name) if name in masks), given)) for path in pictures
    ]


def run_batch(
    folder: Path,
    options: InpaintOptions,
    out: Path,
    run: Callable[[InpaintOptions, Path], dict[str, Any]],
    resume: bool,
    say: Callable[[str], None],
) -> int:
    """Repair each picture into a folder of its own; returns the exit code: 1 when one failed, 130 after Ctrl-C.

    Args:
        folder: the pictures.
        options: for all of them; `image` and `mask` are each picture's own.
        out: for these folders and `SUMMARY`.
        run: repairs one into a folder and returns its metrics.
        resume: skip what was finished with the same options.
        say: called with each line.

    Raises: PeakError as `find_pictures`, or on options of a single picture.
    """
    if options.image is not None or options.truth is not None:
        given = options.image if options.image is not None else f"--truth {options.truth}"
        raise PeakError(f"{given}: is for one picture, and --batch takes a folder; leave one of them out")
    found = find_pictures(folder, options.mask)
    stems = Counter(path.stem for path, _ in found)
    rows: list[dict[str, Any]] = []
    for i, (path, mask) in enumerate(found):
        place = out / (path.stem if stems[path.stem] == 1 else path.name)
        say(f"{path.name} ({i + 1} of {len(found)})")
        row: dict[str, Any] = {"picture": path.name, "result": "failed"}
        rows.append(row)
        own = replace(options, image=path, mask=mask or options.mask)
        try:
            if mask is None:
                raise PeakError(f"{path}: no mask beside it; save it as {path.stem}.mask.png, or give one with --mask")
            metrics = _finished(place, own) if resume else None
            row["result"] = "done" if metrics is None else "done before"
            metrics = run(own, place) if metrics is None else metrics
        except PeakError as error:
            row |= {"result": "failed", "problem": str(error)}
            say(f"  failed: {error}")
            continue
        row |= {name: metrics[name] for name in ("psnr_validation", "psnr_missing", "seconds") if name in metrics}
        row["missing"] = metrics["missing_fraction"]
        if metrics["partial"]:
            row["result"] = "partial"
            break
    _write_summary(out / SUMMARY, rows)
    for line in _table(rows):
        say(line)
    failed = [row for row in rows if row["result"] == "failed"]
    for row in failed:
        say(f"failed: {row['problem']}")
    if rows[-1]["result"] == "partial":
        say(f"Interrupted: go on with the same command and --resume (in {out}).")
        return 130
    say(f"{len(rows) - len(failed)} of {len(rows)} pictures repaired; {out / SUMMARY}")
    return 1 if failed else 0


def _is_picture(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and (is_picture_name(path) or path.suffix == ".npy")


def _finished(place: Path, options: InpaintOptions) -> dict[str, Any] | None:
    """The metrics of a run that was finished with these options."""
    try:
        metrics = json.loads((place / METRICS).read_text())
        kept = {name: value for name, value in metrics["settings"].items() if name != "fit"}
        wanted = plain(asdict(options))
        same = all(kept[name] == value for name, value in wanted.items() if name != "size" or value is not None)
        return metrics if same and not metrics["partial"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or of another version
        return None


def _write_summary(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Columns: picture, missing, dB on held-out pixels, seconds, result."""
    wide = max(len(row["picture"]) for row in rows)
    lines = [f"{'picture':<{wide}}  {'missing':>8}  {'held-out dB':>11}  {'seconds':>7}  result"]
    for row in rows:
        missing = percent(row["missing"]) if "missing" in row else ""
        score = f"{row['psnr_validation']:.2f}" if "psnr_validation" in row else ""
        seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
        lines.append(f"{row['picture']:<{wide}}  {missing:>8}  {score:>11}  {seconds:>7}  {row['result']}")
    return lines
