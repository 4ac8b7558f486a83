"""Measured data as people have them: from a file, or an array, and what is known of it, to `Measurements`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError

from peak_nerf.errors import PeakError
from peak_nerf.system.choices import flag
from peak_nerf.tasks.phase_retrieval.files import Contents, read_contents
from peak_nerf.tasks.phase_retrieval.magnitudes import MAX_SEED, MAX_SIDE, MIN_SIDE, Measurements
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator, GaussianOperator
from peak_nerf.tasks.phase_retrieval.pattern import Choice, Pattern, Quantity, read_pattern
from peak_nerf.tasks.phase_retrieval.support import autocorrelation_box

USUAL_RATIO = 1.9
"""Side of the pattern over the object's where nothing else is known."""
USUAL_ENERGY = 0.3
"""Mean of x^2 over the object to which magnitudes of unknown scale are brought, for the time being."""
LARGER = 1.1
"""(sum x)^2 / sum x^2, the pixels of a flat object, is at most the support's by the Cauchy-Schwarz inequality; noise
and a pixel or two of the size are forgiven."""
MAX_MAGNITUDE = 1e30
"""Squares of larger ones overflow."""
CHOICES = ("auto", "yes", "no")


@dataclass
class DataOptions:
    """What is known of measured data; none of it belongs to a simulation."""

    dataset: str | None = None
    """The array's name in a file that holds several."""
    frame: Annotated[int | None, Field(ge=0, le=10**7)] = None
    """Which one of a stack of patterns, from 0."""
    quantity: str | None = field(default=None, metadata={"choices": ("amplitude", "intensity")})
    """amplitude or intensity (counts); by default what the file says, else amplitude."""
    centred: str = field(default="auto", metadata={"choices": CHOICES})
    """Whether zero frequency is in the middle: auto (by its energy), yes or no."""
    half_plane: str = field(default="auto", metadata={"choices": CHOICES})
    """Whether only half of the plane is there, as of rfft2: auto (where that makes a square), yes or no."""
    object_size: str | None = None
    """The object's side in pixels, or 48x64 for 48 rows and 64 columns; by default the file's, else an estimate."""
    support: str | None = None
    """Where the object may differ from 0: a file (white or nonzero), or auto for finding it out (shrink-wrap)."""
    data_mask: Path | None = None
    """A file of the pattern's size; white, or nonzero, is measured, the rest unknown. NaN are unknown anyway."""
    saturation: Annotated[float | None, Field(gt=0, le=1e30)] = None
    """Values from this one on are saturated, thus unknown; by default a plateau at the largest value is."""
    noise: str | None = field(default=None, metadata={"choices": ("gaussian", "poisson")})
    """gaussian, or poisson for counts (intensities), or their square roots."""
    scale: str | None = field(default=None, metadata={"choices": ("auto", "known")})
    """auto: unknown, the picture's range is made [0, 1]; known: magnitudes are |fft2|, or |G x|, of a picture in
    [0, 1]. By default auto (fourier), known (gaussian)."""


class Fields(BaseModel):
    """What a file may say of its magnitudes beside them."""

    problem: Literal["fourier", "gaussian"] = "fourier"
    size: int | tuple[int, int] | None = None
    quantity: Quantity | None = None
    noise: Literal["gaussian", "poisson"] | None = None
    scale: Literal["auto", "known"] | None = None
    centred: Choice = "auto"
    half_plane: Choice = "auto"
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED)] = None
    complex_matrix: bool = False


def read_measurements(path: Path, options: DataOptions | None = None) -> Measurements:
    """The measurements in a file of any kind that `files.read_contents` reads. Beside an array it may hold

        magnitudes  Fourier: (m_1, m_2), |fft2| of the picture in the corner of zeros; any scale, see `DataOptions`;
                    Gaussian: (m,), |G vec(x)|
        problem     "fourier" (default) or "gaussian"
        size        the side of the picture, or its rows and columns
        quantity    "amplitude" or "intensity", and `noise`, `scale`, `centred`, `half_plane` as in `DataOptions`
        data_mask, support    nonzero where magnitudes were measured, and where the object may be
        matrix      Gaussian: G (m, n^2), real or complex; or, of measurements simulated here, its seed

    Args:
        path: the file.
        options: what is known besides; where the file says something of itself, it is right.

    Raises: PeakError with the file, what is wrong and what it takes.
    """
    options = options or DataOptions()
    contents = read_contents(path, options.dataset, options.frame)
    fields = _fields(path, contents)
    if fields.problem == "gaussian":
        _check_gaussian(path, options)
        return _gaussian(path, contents, fields, options)
    mask = contents.others.get("data_mask") if options.data_mask is None else _mask(options.data_mask)
    support: np.ndarray | Literal["auto"] | None = contents.others.get("support")
    if options.support is not None:
        support = "auto" if options.support == "auto" else _mask(Path(options.support))
    size = fields.size if options.object_size is None else _object_size(options.object_size)
    return measurements_of(
        contents.pattern,
        name=str(path),
        size=size,
        support=support,
        data_mask=mask,
        quantity=fields.quantity or cast(Quantity, options.quantity or "amplitude"),
        centred=cast(Choice, options.centred) if options.centred != "auto" else fields.centred,
        half_plane=cast(Choice, options.half_plane) if options.half_plane != "auto" else fields.half_plane,
        saturation=options.saturation,
        noise=cast(Any, options.noise or fields.noise or "gaussian"),
        scale=cast(Any, options.scale or fields.scale or "auto"),
    )


def measurements_of(
    magnitudes: np.ndarray,
    *,
    name: str = "magnitudes",
    size: int | tuple[int, int] | None = None,
    support: np.ndarray | Literal["auto"] | None = None,
    data_mask: np.ndarray | None = None,
    quantity: Quantity = "amplitude",
    centred: Choice = "auto",
    half_plane: Choice = "auto",
    saturation: float | None = None,
    noise: Literal["gaussian", "poisson"] = "gaussian",
    scale: Literal["auto", "known"] = "auto",
) -> Measurements:
    """Fourier magnitudes of a real object that is not negative, as a solver takes them.

    Args:
        magnitudes: (m_1, m_2), or the half plane of rfft2; of any scale.
        name: for messages.
        size: (h, w) of the object, or the side of a square one; None for that of the support, or an estimate.
        support: nonzero where the object may differ from 0, of the object's shape or the pattern's; or `auto`.
        data_mask: as in `pattern.read_pattern`, like quantity, centred, half_plane and saturation.
        quantity: amplitudes |F x|, or intensities.
        centred: whether zero frequency is in the middle.
        half_plane: whether `magnitudes` are a half plane.
        saturation: values from it on are unknown.
        noise: `poisson` where intensities are counts; amplitudes are then their square roots.
        scale: `known` where the magnitudes are |fft2| of a picture in [0, 1].

    Raises: PeakError on what cannot be magnitudes, or does not fit together.
    """
    pattern = read_pattern(
        magnitudes, name, quantity, centred, half_plane, data_mask, saturation, counts=noise == "poisson"
    )
    frame = cast("tuple[int, int]", pattern.amplitudes.shape)
    box, mask, find = _object(frame, pattern, name, size, support)
    operator = FourierOperator(box, frame, None if mask is None else torch.from_numpy(mask))
    m = math.sqrt(math.prod(frame))
    half, known = pattern.amplitudes[:, : operator.shape[1]] / m, pattern.known[:, : operator.shape[1]]
    top, weights, unit = float(half.max()), operator.weights.numpy() * known, 1.0
    pixels = math.prod(box) if mask is None else int(mask.sum())
    area = float((half[0, 0] / top) ** 2 * math.prod(frame) / (weights * (half / top) ** 2).sum())
    if area > LARGER * pixels and not find:
        pattern.notes.append(
            f"no amplitudes of {pixels} pixels have so much at zero frequency ({area:.0f} pixels would): are these"
            " intensities, or is the object larger?"
        )
    if scale == "auto":
        unit = top * math.sqrt(float((weights * (half / top) ** 2).sum()) / (USUAL_ENERGY * pixels))
    elif float(half.max()) * m > MAX_MAGNITUDE:
        raise PeakError(f"{name}: magnitudes are up to {half.max() * m:g}; scale them, {MAX_MAGNITUDE:g} is the most")
    return Measurements(
        operator,
        torch.from_numpy((half / unit).astype(np.float32)),
        None if known.all() else torch.from_numpy(np.ascontiguousarray(known)),
        scale_known=scale == "known",
        unit=unit,
        # The square root of a count has a standard deviation of 1/2 whatever the count: the solvers' squared errors of
        # amplitudes are the likelihood. y(k) and y(-k) are two of them.
        sigma=0.5 / math.sqrt(2) / m / unit if noise == "poisson" else 0.0,
        find_support=find,
        notes=tuple(pattern.notes),
    )


def _object(
    frame: tuple[int, int],
    pattern: Pattern,
    name: str,
    size: int | tuple[int, int] | None,
    support: np.ndarray | Literal["auto"] | None,
) -> tuple[tuple[int, int], np.ndarray | None, bool]:
    """The object's box, its support within it, and whether that is to be found."""
    box = (size, size) if isinstance(size, int) else size
    mask = None
    if isinstance(support, np.ndarray):
        mask = support > float(support.max()) / 2
        if mask.ndim != 2 or not mask.any():
            raise PeakError(f"{name}: the support is no mask with white in it; make it white where the object is")
        if mask.shape == frame and box != frame:
            rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
            mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            pattern.notes.append(f"the support lies within {mask.shape[0]} x {mask.shape[1]} pixels")
        if box is not None and mask.shape != box:
            raise PeakError(
                f"{name}: the support is {mask.shape[0]} x {mask.shape[1]}, the object {box[0]} x {box[1]}; give one of"
                " them"
            )
        box = cast("tuple[int, int]", mask.shape)
    if box is None:
        found = autocorrelation_box(pattern.amplitudes, pattern.known)
        if isinstance(support, str):
            return found or _usual(frame), None, True
        if found is not None:
            pattern.notes.append("no size of the object is given: its support is found out (shrink-wrap)")
            return found, None, True
        box = _usual(frame)
        pattern.notes.append(
            f"no size of the object is given: {box[0]} x {box[1]} is taken, the pattern's over {USUAL_RATIO};"
            " --object-size says it"
        )
    if (min(box) < MIN_SIDE and mask is None) or max(box) > MAX_SIDE:
        bound = f"at least {MIN_SIDE}" if min(box) < MIN_SIDE else f"at most {MAX_SIDE}"
        raise PeakError(f"{name}: size is {_shown(size or box)}; pictures have a side of {bound}")
    if box[0] > frame[0] or box[1] > frame[1]:
        raise PeakError(
            f"{name}: Fourier magnitudes have shape {frame}; their sides must be at least the size"
            f" {_shown(size or box)}"
        )
    return box, mask, isinstance(support, str)


def _usual(frame: tuple[int, int]) -> tuple[int, int]:
    return (max(round(frame[0] / USUAL_RATIO), MIN_SIDE), max(round(frame[1] / USUAL_RATIO), MIN_SIDE))


def _shown(size: int | tuple[int, int]) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]}"


def _object_size(text: str) -> int | tuple[int, int]:
    numbers = text.strip().lower().split("x")
    if len(numbers) > 2 or not all(n.isascii() and n.isdigit() and len(n) < 7 for n in numbers):
        raise PeakError(f"--object-size {text}: not a size; give 64, or 48x64 for 48 rows and 64 columns")
    sides = [int(n) for n in numbers]
    if min(sides) < MIN_SIDE or max(sides) > MAX_SIDE:
        raise PeakError(f"--object-size {text}: sides must be from {MIN_SIDE} to {MAX_SIDE}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _mask(path: Path) -> np.ndarray:
    mask = read_contents(path).pattern
    if mask.ndim != 2 or mask.dtype.kind not in "iufb":
        raise PeakError(f"{path}: has shape {mask.shape}; a mask has two dimensions and numbers")
    return np.nan_to_num(mask.astype(np.float64))


def _fields(path: Path, contents: Contents) -> Fields:
    given: dict[str, Any] = {}
    for name in Fields.model_fields:
        if name in contents.others:
            value = contents.others[name]
            given[name] = value.tolist() if value.ndim == 0 else value.reshape(-1)[:3].tolist()
    if isinstance(given.get("size"), list) and given["size"][:1] == given["size"][1:]:
        given["size"] = given["size"][0]
    try:
        return Fields(**given)
    except ValidationError as error:
        place = str(error.errors()[0]["loc"][0])
        wanted = {
            "problem": "it must be 'fourier' or 'gaussian'",
            "size": "it must be a whole number, or rows and columns",
            "seed": f"it must be a whole number, {MAX_SEED} is the most",
        }
        reason = wanted.get(place, str(error.errors()[0]["msg"]).lower())
        raise PeakError(f"{path}: {place} is {given[place]!r}; {reason}") from None


def _check_gaussian(path: Path, options: DataOptions) -> None:
    of_both = ("dataset", "frame", "quantity", "scale")
    for option in dataclasses.fields(DataOptions):
        if option.name not in of_both and getattr(options, option.name) != option.default:
            raise PeakError(f"{flag(option.name)}: is for Fourier magnitudes, {path} holds Gaussian ones; leave it out")


def _gaussian(path: Path, contents: Contents, fields: Fields, options: DataOptions) -> Measurements:
    y, size = contents.pattern, fields.size
    if not isinstance(size, int):
        raise PeakError(f"{path}: has no whole number 'size'; add the side of the picture")
    if not MIN_SIDE <= size <= MAX_SIDE:
        bound = f"at least {MIN_SIDE}" if size < MIN_SIDE else f"at most {MAX_SIDE}"
        raise PeakError(f"{path}: size is {size}; pictures have a side of {bound}")
    if y.dtype.kind not in "iuf":
        raise PeakError(f"{path}: magnitudes are {y.dtype}; they must be real numbers (take the absolute value)")
    if y.ndim != 1:
        raise PeakError(
            f"{path}: Gaussian magnitudes have shape {y.shape}; they must be (m,), one per row of the matrix"
        )
    y = y.astype(np.float64)
    if not np.isfinite(y).all():
        raise PeakError(f"{path}: {int((~np.isfinite(y)).sum())} magnitudes are NaN or infinite; leave their rows out")
    notes = []
    if (y < 0).any():
        notes.append(f"{int((y < 0).sum())} values below 0 are noise and taken as 0")
        y = y.clip(0)
    if not (y > 0).any():
        raise PeakError(f"{path}: all magnitudes are 0, there is nothing to reconstruct")
    if y.max() > MAX_MAGNITUDE:
        raise PeakError(f"{path}: magnitudes are up to {y.max():g}; scale them, {MAX_MAGNITUDE:g} is the most")
    if (fields.quantity or options.quantity) == "intensity":
        y = np.sqrt(y)
        notes.append("intensities: their square roots are the amplitudes")
    operator = _gaussian_operator(path, contents.others.get("matrix"), fields, size, len(y))
    known, unit = (options.scale or fields.scale or "known") == "known", 1.0
    if not known:  # the mean of |G x|^2 over matrices is ||G||^2 ||x||^2 / n^2
        power = sum(float(rows.abs().square().sum()) for _, rows in operator.blocks())
        unit = math.sqrt(float((y**2).sum()) / (USUAL_ENERGY * power))
    magnitudes = torch.from_numpy((y / unit).astype(np.float32))
    return Measurements(operator, magnitudes, scale_known=known, unit=unit, notes=tuple(notes))


def _gaussian_operator(
    path: Path, matrix: np.ndarray | None, fields: Fields, size: int, n_rows: int
) -> GaussianOperator:
    if matrix is None:
        if fields.seed is None:
            raise PeakError(f"{path}: has neither the array 'matrix' nor the 'seed' of a simulated one; add the matrix")
        return GaussianOperator(size, n_rows, fields.seed, fields.complex_matrix)
    if matrix.shape != (n_rows, size * size):
        raise PeakError(
            f"{path}: matrix has shape {matrix.shape}; {n_rows} magnitudes of a picture of side {size} need"
            f" {(n_rows, size * size)}"
        )
    if matrix.dtype.kind not in "iufc" or not np.isfinite(matrix).all():
        raise PeakError(f"{path}: matrix must hold finite numbers; mend the file")
    return GaussianOperator.from_matrix(torch.from_numpy(matrix), size)


def with_support(measurements: Measurements, mask: np.ndarray) -> Measurements:
    """The same Fourier measurements of an object whose support was found, (h, w) and cropped."""
    operator = measurements.operator
    assert isinstance(operator, FourierOperator)
    found = FourierOperator(cast("tuple[int, int]", mask.shape), operator.frame, torch.from_numpy(mask))
    return replace(measurements, operator=found, find_support=False)
