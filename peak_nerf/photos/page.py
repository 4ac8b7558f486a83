"""SCENE/index.html: what became of the photos, on one page that needs nothing from outside."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from peak_nerf import __version__
from peak_nerf.errors import PeakError
from peak_nerf.photos import drawing
from peak_nerf.photos.model import Intrinsics, Photo, SparseModel
from peak_nerf.photos.projection import corner_shift, observed_errors
from peak_nerf.photos.review import FEW_POINTS, LOW_COVERAGE, Review, View, left_out_reason, review, warnings
from peak_nerf.photos.train import TrainingSummary
from peak_nerf.system.files import write_atomically

PAGE = "index.html"
THUMBNAIL = 320  # pixels, the longer side
EMBEDDED = 8 * 2**20  # bytes of a picture beyond which the page links to it
MATRIX = 80  # pictures up to which it is drawn
FULL_FRAME = float(np.hypot(36, 24))  # millimetres, the diagonal of a 35 mm film's picture
N_CAMERAS = 6  # that are listed

FILES = {
    "images": "upright copies of the photos",
    "masks": "what of them is used (white)",
    "transforms.json": "cameras, as nerfstudio reads them",
    "sparse_pc.ply": "the points, for any viewer of point clouds",
    "sparse/0": "the model as COLMAP keeps it, for other tools",
    "observations.npz": "which photo saw which point where (docs/photos.md)",
}


@dataclass(frozen=True)
class Card:
    """A photo on the page."""

    number: int
    name: str
    thumbnail: str
    """A data URI, or nothing where the photo could not be read."""
    width: int
    height: int
    dots: str = ""
    """SVG."""
    view: View | None = None
    reason: str = ""

    few: bool = False
    """Saw so few points that its pose is uncertain."""
    bare: bool = False
    """Points cover little of it."""


def write_page(
    folder: Path,
    photos: Sequence[Photo],
    model: SparseModel,
    *,
    name: str,
    source_name: str,
    how: Sequence[str] = (),
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    training: TrainingSummary | None = None,
) -> None:
    """Write `folder`/index.html, whole or not at all.

    Args:
        folder: the scene; thumbnails are made of the photos' copies in it.
        photos: all, in the order in which they are numbered; those of `model` among them.
        model: has at least one picture, and may be without points.
        name: the scene's.
        source_name: the folder or video that was given.
        how: what was done, a line each.
        notes: warnings beyond those that the page finds itself.
        commands: what to run next.
        training: shown first, where there is one; its viewer becomes the first command.

    Raises: PeakError when a copy cannot be read or the page cannot be written; ValueError when `model` has a picture
    that `photos` lacks.
    """
    import jinja2

    unknown = sorted(set(model.files) - {photo.file for photo in photos})
    if unknown:
        raise ValueError(f"{unknown[0]} is in the model and not among the photos")
    template = resources.files("peak_nerf.photos").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found = review(model)
    viewer = [] if training is None else [_viewer(folder, training)]
    text = environment.from_string(template).render(
        scene=name,
        source=source_name,
        version=__version__,
        n_photos=len(photos),
        stats=_stats(model, found),
        cameras=_camera_lines(model),
        warnings=[*notes, *warnings(photos, model, found)],
        how=how,
        commands=[*viewer, *(command for command in commands if command not in viewer)],
        training=None if training is None else _trained(folder, training),
        files={name: what for name, what in FILES.items() if (folder / name).exists()},
        **_photo_parts(folder, photos, model, found),
        **_histograms(model, found),
    )
    write_atomically(folder / PAGE, lambda file: file.write(text.encode()))


def _photo_parts(folder: Path, photos: Sequence[Photo], model: SparseModel, found: Review) -> dict[str, Any]:
    """Cards and drawings, which number the photos alike."""
    from markupsafe import Markup

    number = {photo.file: i for i, photo in enumerate(photos, 1) if photo.file is not None}
    place = {file: i for i, file in enumerate(model.files)}
    used, out = [], []
    for i, photo in enumerate(photos, 1):
        thumbnail, shown = _thumbnail(folder, photo)
        at = None if photo.file is None else place.get(photo.file)
        if at is None:
            out.append(Card(i, photo.name, thumbnail, *shown, reason=left_out_reason(photo)))
            continue
        lens = model.intrinsics[at]
        dots = drawing.dots_over_picture(model.pixels[model.image_index == at], (lens.width, lens.height), shown)
        view = found.views[at]
        few, bare = view.n_points < FEW_POINTS, view.coverage < LOW_COVERAGE
        used.append(Card(i, photo.name, thumbnail, *shown, Markup(dots), view, few=few, bare=bare))
    numbers = [number[file] for file in model.files]
    drawn = drawing.maps(model, [photos[i - 1].name for i in numbers], numbers)
    order = np.argsort(numbers)
    together = None
    if 1 < len(numbers) <= MATRIX:
        together = Markup(drawing.matrix(found.shared[np.ix_(order, order)], [numbers[i] for i in order]))
    weakest = min(used, key=lambda card: card.view.n_shared if card.view else 0)
    return {
        "used": used,
        "left_out": out,
        "above": Markup(drawn.above),
        "side": Markup(drawn.side),
        "matrix": together,
        "weakest": weakest if len(used) > 1 else None,
        "aspect": float(np.median([card.width / card.height for card in used])),
    }


def _thumbnail(folder: Path, photo: Photo) -> tuple[str, tuple[int, int]]:
    """A data URI and the size of what it shows."""
    if photo.file is None:
        return "", (4, 3)
    buffer, path = io.BytesIO(), folder / photo.file
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))  # a JPEG is decoded small
            picture = opened.convert("RGBA") if "A" in opened.getbands() else opened.convert("RGB")
    except OSError as error:
        raise PeakError(f"{path}: cannot be read ({error}); run `peak photos` again") from error
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, (128, 128, 128, 255))
        picture = Image.alpha_composite(ground, picture).convert("RGB")
    picture.save(buffer, format="JPEG", quality=75, optimize=True)
    return _data_uri(buffer.getvalue(), "jpeg"), picture.size


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _stats(model: SparseModel, found: Review) -> list[tuple[str, str]]:
    """Figures and what they are of."""
    covered = float(np.mean([view.coverage for view in found.views]))
    return [
        (f"{len(model.points):,}", "points"),
        (f"{found.mean_error:.2f} px", "mean reprojection error"),
        (f"{found.mean_track:.1f}", "photos see a point, on average"),
        (f"{covered:.0%}", "of a photo is covered by points, on average"),
    ]


def _camera_lines(model: SparseModel) -> list[tuple[str, str]]:
    """Each different camera: what it is, and how many photos it took."""
    groups: dict[tuple, list[Intrinsics]] = {}
    for lens in model.intrinsics:
        key = (lens.model, lens.width, lens.height, *sorted(lens.parameters.items()))
        groups.setdefault(key, []).append(lens)
    ordered = sorted(groups.values(), key=len, reverse=True)
    lines = [(camera_line(group[0]), _count(len(group), "photo")) for group in ordered[:N_CAMERAS]]
    rest = ordered[N_CAMERAS:]
    if rest:
        lines.append((f"and {_count(len(rest), 'other camera')}", _count(sum(map(len, rest)), "photo")))
    return lines


def camera_line(lens: Intrinsics) -> str:
    """In words: size, focal length in pixels and as of a 35 mm camera, and how much it distorts."""
    values = lens.parameters
    f_x, f_y = float(values["fl_x"]), float(values["fl_y"])
    focal = f"{f_x:.0f}" if round(f_x) == round(f_y) else f"{f_x:.0f} × {f_y:.0f}"
    text = f"{lens.width} × {lens.height} px, focal length {focal} px"
    names = ("k1", "k2", "k3", "k4") if lens.model == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2")
    terms = ", ".join(f"{name} {values[name]:+.3f}" for name in names if values.get(name))
    if lens.model == "OPENCV_FISHEYE":
        return f"Fisheye, {text}" + (f"; {terms}" if terms else "")
    text += f" (as {np.sqrt(f_x * f_y) * FULL_FRAME / np.hypot(lens.width, lens.height):.0f} mm on 35 mm film)"
    return (
        f"{text}; distortion {corner_shift(lens):+.1f} px in the corners ({terms})"
        if terms
        else f"{text}; no distortion"
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _histograms(model: SparseModel, found: Review) -> dict[str, Any]:
    from markupsafe import Markup

    if not len(model.points):
        return {"tracks": None, "errors": None}
    lengths = model.track_lengths.clip(max=len(model.files))  # a photo can see a point at two places
    longest = int(np.clip(lengths.max(), 8, 24))
    shortest = min(2, int(lengths.min()))
    counts = np.bincount(lengths.clip(shortest, longest), minlength=longest + 1)[shortest:]
    names = [f"{n}{'+' if n == longest < lengths.max() else ''}" for n in range(shortest, longest + 1)]
    every = 1 if len(names) <= 12 else 2
    ticks = [(i + 0.5, name) for i, name in enumerate(names) if i % every == 0]
    titles = [f"{count:,} points seen by {name} photos" for count, name in zip(counts, names, strict=True)]
    tracks = drawing.histogram(counts.tolist(), ticks, titles, min(found.mean_track, longest) - shortest + 0.5)

    errors = observed_errors(model)
    errors = errors[np.isfinite(errors)]
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1.0, np.inf) if np.percentile(errors, 98) <= 24 * s or s == 1.0)
    edges = np.arange(25) * step
    counts, _ = np.histogram(errors.clip(0, edges[-1]), edges)
    ticks = [(float(i), f"{i * step:g}") for i in range(0, 24, 4)] + [(24.0, f"{edges[-1]:g} px")]
    titles = [
        f"{count:,} observations: {a:.2f} to {b:.2f} px" for count, (a, b) in zip(counts, pairwise(edges), strict=True)
    ]
    histogram = drawing.histogram(counts.tolist(), ticks, titles, min(float(errors.mean()) / step, 24.0))
    return {"tracks": Markup(tracks), "errors": Markup(histogram)}


def _viewer(folder: Path, training: TrainingSummary) -> str:
    return f"ns-viewer --load-config {shlex.quote(str(folder / training.run / 'config.yml'))}"


def _trained(folder: Path, training: TrainingSummary) -> dict[str, Any]:
    metrics = [("PSNR", f"{training.psnr:.2f} dB"), ("SSIM", f"{training.ssim:.3f}")]
    metrics += [] if training.lpips is None else [("LPIPS", f"{training.lpips:.3f}")]
    minutes, seconds = divmod(round(training.seconds), 60)
    return {
        "method": training.method,
        "metrics": metrics,
        "n_test": _count(training.n_test, "photo"),
        "length": f"{training.steps:,} steps in {f'{minutes} min ' if minutes else ''}{seconds} s",
        "gif": _picture(folder, training.gif),
        "comparison": _picture(folder, training.comparison),
    }


def _picture(folder: Path, path: str | None) -> str | None:
    """As a data URI; a large one by its place beside the page."""
    if path is None:
        return None
    file = folder / path
    try:
        if file.stat().st_size > EMBEDDED:
            return quote(Path(path).as_posix())
        return _data_uri(file.read_bytes(), {".jpg": "jpeg"}.get(file.suffix.lower(), file.suffix[1:].lower()))
    except OSError as error:
        raise PeakError(f"{file}: cannot be read ({error}); run `peak photos --train` again") from error
