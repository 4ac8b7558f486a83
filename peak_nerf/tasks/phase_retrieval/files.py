"""Arrays out of the files in which patterns and masks are kept: NumPy, MATLAB, HDF5 (NeXus, CXI), TIFF, pictures.

The kind of a file is told by its first bytes, not by its name. Shapes are looked at before anything is unpacked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.errors import PeakError, first_line
from peak_nerf.system.choices import did_you_mean
from peak_nerf.system.files import check_file

MAX_UNPACKED, MOST_PACKED = 2**28, 50
"""A file that unpacks to more bytes than that, and to so many times its own size, holds no measurements."""
MAX_BYTES = 2**33
"""Of one array."""
PREFERRED = ("magnitudes", "entry_1/data_1/data", "entry/data/data")
"""Datasets that are taken without asking: ours, CXI's and NeXus's."""
LEAST_SIDE = 8
"""Of an array that may be a pattern; smaller ones are scalars, axes and the like."""


FIELDS = (
    "problem", "size", "quantity", "noise", "scale", "centred", "half_plane", "support", "data_mask", "matrix", "seed",
    "complex_matrix",
)  # fmt: skip
"""Arrays that say something of a pattern."""


@dataclass(frozen=True)
class Contents:
    """What a file holds, its pattern chosen."""

    pattern: np.ndarray
    """As it is stored, of two dimensions; of one for Gaussian magnitudes."""
    dataset: str
    """Its name in the file; empty where it has none."""
    others: Mapping[str, np.ndarray]
    """What else there is of `FIELDS`."""


def read_contents(path: Path, dataset: str | None = None, frame: int | None = None) -> Contents:
    """Read a file of measurements.

    Args:
        path: .npy, .npz, .mat of any version, HDF5, TIFF, or a grey picture.
        dataset: the pattern's name in a file that holds several arrays; by default `PREFERRED`, or the only one that
            can be a pattern.
        frame: which one of a stack (frames, m_1, m_2), from 0.

    Raises: PeakError on a file that is none of these, would fill memory, or leaves open which array is meant.
    """
    check_file(path, "give a file of magnitudes: .npy, .npz, .mat, .h5, .cxi, .nxs, .tif or .png")
    try:
        with path.open("rb") as file:
            head = file.read(128)
        reader = _reader_of(head)
        if reader is None:
            raise PeakError(
                f"{path}: cannot be read (neither NumPy, MATLAB, HDF5, TIFF nor a picture); save it as .npy, .npz,"
                " .mat, .h5 or .tif"
            )
        shapes, load = reader(path)
        name = _chosen(path, shapes, dataset)
        frame = _frame_of(path, shapes[name][0], frame)
        others = {}
        for other, (shape, _) in shapes.items():
            if other != name and other in FIELDS:
                _check_size(path, other, shape)
                others[other] = load(other, None)
        _check_size(path, name, shapes[name][0] if frame is None else shapes[name][0][1:])
        return Contents(load(name, frame), name, others)
    except PeakError:
        raise
    except ImportError as error:  # HDF5 comes with nerfstudio, compressions of TIFF with nobody
        name = error.name or "imagecodecs"
        raise PeakError(f"{path}: its format needs a package; pip install {name}") from error
    except Exception as error:  # of zip files, HDF5, TIFF and MATLAB; MemoryError of a false header
        raise PeakError(f"{path}: cannot be read ({first_line(error)}); save it with numpy.savez") from error


Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Shape and kind (numpy's letter) of every array, by name."""
Load = Callable[[str, int | None], np.ndarray]
"""An array by its name, whole or one frame of it."""
Reader = Callable[[Path], tuple[Shapes, Load]]


def _reader_of(head: bytes) -> Reader | None:
    starts: dict[bytes, Reader] = {
        b"\x93NUMPY": _npy,
        b"PK": _npz,
        b"\x89HDF": _hdf5,
        b"II*\0": _tiff,
        b"MM\0*": _tiff,
        b"II+\0": _tiff,
        b"MM\0+": _tiff,
        b"\x89PNG": _picture,
        b"\xff\xd8\xff": _picture,
        b"BM": _picture,
    }
    if head.startswith(b"MATLAB"):
        # Version 7.3 is HDF5 behind a block of text.
        return _matlab_hdf5 if head.startswith(b"MATLAB 7.3") else _matlab
    return next((reader for start, reader in starts.items() if head.startswith(start)), None)


def _chosen(path: Path, shapes: Shapes, dataset: str | None) -> str:
    held = ", ".join(f"{name} {shape}" for name, (shape, _) in list(shapes.items())[:12]) or "nothing"
    if dataset is not None:
        name = dataset.strip("/")
        if name not in shapes:
            raise PeakError(f"--dataset {dataset}: {path} has none of that name; {did_you_mean(name, shapes)}")
        return name
    for name in PREFERRED:
        if name in shapes:
            return name
    fitting = [
        name
        for name, (shape, kind) in shapes.items()
        if kind in "iufc" and len(shape) in (2, 3) and min(shape[-2:]) >= LEAST_SIDE and "mask" not in name.lower()
    ]
    fitting = [name for name in fitting if name.rsplit("/", 1)[-1] not in ("support", "matrix")]
    if not fitting:
        raise PeakError(f"{path}: has no array 'magnitudes' nor another that can be a pattern; it holds {held}")
    if len(fitting) > 1:
        shown = ", ".join(f"{name} {shapes[name][0]}" for name in fitting[:12])
        raise PeakError(f"{path}: holds several arrays that can be the pattern; choose with --dataset: {shown}")
    return fitting[0]


def _check_size(path: Path, name: str, shape: tuple[int, ...]) -> None:
    n_bytes = math.prod(shape) * 8
    if n_bytes > MAX_BYTES:
        raise PeakError(
            f"{path}: {name or 'the array'} has shape {shape}, {n_bytes / 2**30:.0f} GiB; choose a --frame, or bin the"
            " pattern"
        )


def _check_packing(path: Path, unpacked: int, packed: int) -> None:
    if unpacked > MAX_UNPACKED and unpacked > MOST_PACKED * packed:
        raise PeakError(f"{path}: would unpack to {unpacked / 2**30:.1f} GiB of zeros and the like; mend the file")


def _frame_of(path: Path, shape: tuple[int, ...], frame: int | None) -> int | None:
    if len(shape) == 3:
        if frame is None and shape[0] > 1:
            raise PeakError(f"{path}: is a stack of shape {shape}; choose one with --frame 0 to {shape[0] - 1}")
        if frame is not None and frame >= shape[0]:
            raise PeakError(f"--frame {frame}: {path} has {shape[0]} frames; choose 0 to {shape[0] - 1}")
        return frame or 0
    if frame is not None:
        raise PeakError(f"--frame {frame}: {path} is no stack, its shape is {shape}; leave the option out")
    if len(shape) not in (1, 2):
        raise PeakError(f"{path}: has shape {shape}; a pattern has two dimensions")
    return None


def _loaded(content: Mapping[str, np.ndarray]) -> tuple[Shapes, Load]:
    shapes = {name: (array.shape, array.dtype.kind) for name, array in content.items()}
    return shapes, lambda name, frame: np.array(content[name] if frame is None else content[name][frame])


def _npy(path: Path) -> tuple[Shapes, Load]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)  # a header that promises too much fails here
    return _loaded({"": array})


def _npz(path: Path) -> tuple[Shapes, Load]:
    with path.open("rb") as file:  # numpy leaves it open where the archive is broken
        arrays: Any = np.load(file, allow_pickle=False)
        _check_packing(path, sum(member.file_size for member in arrays.zip.infolist()), path.stat().st_size)
        return _loaded({name: arrays[name] for name in arrays.files})


def _matlab(path: Path) -> tuple[Shapes, Load]:
    import scipy.io  # type: ignore[import-untyped]

    found = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
    plain = ("double", "single", "logical", "char")
    numeric = {
        name: entry for name, entry in found.items() if entry[1] in plain or entry[1].startswith(("int", "uint"))
    }
    for name, (shape, _) in numeric.items():
        _check_size(path, name, shape)
        _check_packing(path, math.prod(shape) * 8, path.stat().st_size)
    if not numeric and found:
        name, (_, kind) = next(iter(found.items()))
        raise PeakError(
            f"{path}: {name} is a MATLAB {kind}; save the array itself, such as save('m.mat', 'magnitudes')"
        )
    loaded = scipy.io.loadmat(path, variable_names=list(numeric)) if numeric else {}
    return _loaded({name: _plain(loaded[name]) for name in numeric})


def _plain(array: np.ndarray) -> np.ndarray:
    """MATLAB's 1 x 1 arrays are scalars, and its rows of text words."""
    if array.dtype.kind == "U":
        return np.array("".join(array.reshape(-1).tolist()))
    if array.size == 1:
        return array.reshape(())
    return array.reshape(-1) if array.ndim == 2 and min(array.shape) == 1 else array


def _hdf5(path: Path) -> tuple[Shapes, Load]:
    import h5py  # type: ignore[import-untyped]

    shapes: Shapes = {}
    with h5py.File(path, "r") as file:

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                shapes[name] = (item.shape, _kind(item))

        file.visititems(note)
        for name in PREFERRED:  # CXI's is a link, which `visititems` does not follow
            link = file.get(name, getlink=True) if name not in shapes and name in file else None
            if isinstance(link, h5py.SoftLink | h5py.HardLink):
                note(name, file[name])
    return shapes, lambda name, frame: _dataset(path, name, frame)


def _kind(item: Any) -> str:
    """numpy's letter; complex numbers may be stored as pairs of `real` and `imag`, or `r` and `i`."""
    names = item.dtype.names
    return "c" if names in (("real", "imag"), ("r", "i")) else str(item.dtype.kind)


def _dataset(path: Path, name: str, frame: int | None) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        item = file[name]
        shape = item.shape if frame is None else item.shape[1:]
        stored = max(int(item.id.get_storage_size()), path.stat().st_size)
        _check_packing(path, math.prod(shape) * item.dtype.itemsize, stored)
        source = item.asstr() if h5py.check_string_dtype(item.dtype) else item
        array = np.asarray(source[()] if frame is None else source[frame])
    if array.dtype.names is not None and len(array.dtype.names) == 2:
        real, imaginary = array.dtype.names
        array = array[real] + 1j * array[imaginary]
    return np.array(str(array)) if array.dtype.kind == "O" and array.ndim == 0 else array


def _matlab_hdf5(path: Path) -> tuple[Shapes, Load]:
    shapes, load = _hdf5(path)
    own = {name: (shape[::-1], kind) for name, (shape, kind) in shapes.items() if not name.startswith("#")}

    def loaded(name: str, frame: int | None) -> np.ndarray:
        array = load(name, None).T  # MATLAB counts columns first
        if name in ("problem", "quantity", "noise", "scale") and array.dtype.kind == "u":
            return np.array("".join(map(chr, array.reshape(-1).tolist())))  # its text is a row of character codes
        return _plain(array if frame is None else array[frame])

    return {name: ((), kind) if math.prod(shape) == 1 else (shape, kind) for name, (shape, kind) in own.items()}, loaded


def _tiff(path: Path) -> tuple[Shapes, Load]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        shape = tuple(int(n) for n in series.shape)
        _check_size(path, "", shape)
        _check_packing(path, math.prod(shape) * series.dtype.itemsize, path.stat().st_size)
        return _loaded({"": series.asarray()})


def _picture(path: Path) -> tuple[Shapes, Load]:
    from PIL import Image

    with Image.open(path) as picture:
        grey = picture.mode in ("1", "L", "F", "I") or picture.mode.startswith("I;16")
        array = np.asarray(picture if grey else picture.convert("L"))
    array = array.astype(np.uint8) if array.dtype == bool else array
    return _loaded({"": array})
