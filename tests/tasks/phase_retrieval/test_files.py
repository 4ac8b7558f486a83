"""Files of magnitudes of every kind, and those that are none, or made to fill memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.tasks.phase_retrieval.files import read_contents

Y = np.random.default_rng(0).random((20, 24)).astype(np.float32)


def write_hdf5(path: Path, userblock: bytes = b"", **arrays: object) -> Path:
    with h5py.File(path, "w", userblock_size=512 if userblock else 0) as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
    if userblock:
        with path.open("r+b") as file:
            file.write(userblock)
    return path


def write_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, Y)


@pytest.mark.parametrize(
    "write",
    [
        write_npy,
        lambda path: scipy.io.savemat(path, {"magnitudes": Y}, appendmat=False),
        lambda path: scipy.io.savemat(path, {"I": Y}, appendmat=False, do_compression=True),
        lambda path: write_hdf5(path, magnitudes=Y),
        lambda path: write_hdf5(path, scan__detector=Y, energy=np.ones(3)),
        lambda path: write_hdf5(path, b"MATLAB 7.3 MAT-file", magnitudes=Y.T),
        lambda path: tifffile.imwrite(path, Y),
    ],
    ids=["npy", "mat", "mat-compressed", "hdf5", "hdf5-other-name", "mat-7.3", "tiff"],
)
def test_a_file_is_known_by_its_content(write: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "pattern.dat"
    write(path)
    np.testing.assert_array_equal(read_contents(path).pattern, Y)


def test_what_a_file_says_beside_the_pattern_is_read(tmp_path: Path) -> None:
    said = {"problem": "fourier", "size": 16.0, "quantity": "intensity"}
    scipy.io.savemat(tmp_path / "a.mat", {"magnitudes": Y, **said})
    np.savez(tmp_path / "a.npz", magnitudes=Y, **said)
    write_hdf5(tmp_path / "a.h5", magnitudes=Y, **said)
    for name in ("a.mat", "a.npz", "a.h5"):
        others = read_contents(tmp_path / name).others
        assert {key: value.item() for key, value in others.items()} == said


def test_matlab_73_keeps_text_as_codes(tmp_path: Path) -> None:
    codes = np.array([[ord(c)] for c in "intensity"], dtype=np.uint16)
    write_hdf5(tmp_path / "a.mat", b"MATLAB 7.3 MAT-file", magnitudes=Y.T, quantity=codes, size=np.array([[16.0]]))
    contents = read_contents(tmp_path / "a.mat")
    assert contents.others["quantity"].item() == "intensity"
    assert contents.others["size"].shape == ()


def test_cxi_is_found_by_its_link(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.cxi", entry_1__instrument_1__detector_1__data=Y[None], entry_1__mask_like=Y + 1)
    with h5py.File(path, "a") as file:
        file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
    contents = read_contents(path)
    assert contents.dataset == "entry_1/data_1/data"
    np.testing.assert_array_equal(contents.pattern, Y)


def test_of_several_arrays_one_is_chosen(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", a__one=Y, b__two=2 * Y, mask=np.ones((20, 24)))
    with pytest.raises(PeakError, match=r"choose with --dataset: a/one \(20, 24\), b/two \(20, 24\)$"):
        read_contents(path)
    np.testing.assert_array_equal(read_contents(path, dataset="/b/two").pattern, 2 * Y)
    with pytest.raises(PeakError, match=r"--dataset b/tow: .* did you mean 'b/two'"):
        read_contents(path, dataset="b/tow")


@pytest.mark.parametrize("kind", ["npy", "h5", "tif"])
def test_of_a_stack_one_frame_is_chosen(kind: str, tmp_path: Path) -> None:
    stack, path = np.stack([Y, 2 * Y, 3 * Y]), tmp_path / f"a.{kind}"
    {"npy": lambda: np.save(path, stack), "h5": lambda: write_hdf5(path, data=stack)}.get(
        kind, lambda: tifffile.imwrite(path, stack, photometric="minisblack")
    )()
    np.testing.assert_array_equal(read_contents(path, frame=1).pattern, 2 * Y)
    with pytest.raises(PeakError, match=r"is a stack of shape \(3, 20, 24\); choose one with --frame 0 to 2"):
        read_contents(path)
    with pytest.raises(PeakError, match=r"--frame 3: .* has 3 frames"):
        read_contents(path, frame=3)


def test_a_frame_of_no_stack_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", Y)
    with pytest.raises(PeakError, match="is no stack"):
        read_contents(tmp_path / "a.npy", frame=0)


def test_pictures_of_8_and_16_bits_are_read(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        array = (Y * np.iinfo(dtype).max).astype(dtype)
        Image.fromarray(array).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_contents(tmp_path / "a.png").pattern, array)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hdf5(tmp_path / "a.h5", data=Y)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(PeakError, match="its format needs a package; pip install h5py"):
        read_contents(tmp_path / "a.h5")


def test_complex_numbers_of_hdf5_are_read(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5", data=Y + 1j * Y)
    np.testing.assert_allclose(read_contents(tmp_path / "a.h5").pattern, Y + 1j * Y)


def bomb_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("magnitudes", (20_000, 20_000), "f4", chunks=(1000, 1000), compression="gzip")


def bomb_of_any_size(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("magnitudes", (2**31, 2**31), "f4", chunks=(1000, 1000), compression="gzip")


def cut_npy(path: Path) -> None:
    write_npy(path)
    path.write_bytes(path.read_bytes()[:-40])


def pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (bomb_hdf5, "would unpack to 1.5 GiB"),
        (bomb_of_any_size, "GiB; choose a --frame"),
        (cut_npy, "cannot be read"),
        (pickled, "cannot be read"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 50), "cannot be read"),
        (lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200), "cannot be read|has no array"),
        (lambda path: path.write_bytes(b"II*\0" + b"\xff" * 50), "cannot be read"),
        (lambda path: path.write_text("1, 2, 3"), "neither NumPy, MATLAB, HDF5, TIFF nor a picture"),
        (lambda path: path.write_bytes(b""), "neither NumPy"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "no such file"),
        (
            lambda path: scipy.io.savemat(path, {"c": np.array([[Y], [1]], dtype=object)}, appendmat=False),
            "MATLAB cell",
        ),
        (lambda path: scipy.io.savemat(path, {"s": {"y": Y}}, appendmat=False), "MATLAB struct"),
        (lambda path: write_hdf5(path, a=np.ones(3)), r"has no array 'magnitudes'.*it holds a \(3,\)"),
        (lambda path: write_hdf5(path, magnitudes=np.ones((2, 2, 20, 20))), "a pattern has two dimensions"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.dat"
    write(path)
    with pytest.raises(PeakError, match=message) as raised:
        read_contents(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
