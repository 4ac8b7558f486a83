"""observations.npz: round trip, and every way in which it can be broken."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.observations import FORMAT_VERSION, Observations, read_observations, write_observations


def arrays() -> dict[str, np.ndarray]:
    return {
        "image_names": np.array(["images/a.jpg", "images/bé.jpg"]),
        "points": np.array([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        "colors": np.arange(9, dtype=np.uint8).reshape(3, 3),
        "errors": np.array([0.1, 0.2, 0.3], np.float32),
        "image_index": np.array([0, 1, 0, 1], np.int32),
        "point_index": np.array([0, 0, 1, 2], np.int32),
        "pixels": np.arange(8, dtype=np.float32).reshape(4, 2),
        "pixel_errors": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "depths": np.array([1, 2, 3, 4], np.float32),
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "observations.npz"
    write_observations(path, Observations(**arrays()))
    again = read_observations(path)
    for name, value in arrays().items():
        read = getattr(again, name)
        np.testing.assert_array_equal(read, value)
        assert read.dtype == value.dtype
    assert [file.name for file in tmp_path.iterdir()] == ["observations.npz"]


BROKEN = {
    "shorter": ("errors", np.zeros(2, np.float32), "errors has 2 rows where others have 3"),
    "nan": ("depths", np.array([1, np.nan, 3, 4], np.float32), "depths has values that are not finite"),
    "infinite": ("points", np.full((3, 3), np.inf), "points has values that are not finite"),
    "high image": ("image_index", np.array([0, 2, 0, 1], np.int32), "image_index points outside of the 2 images"),
    "negative image": ("image_index", np.array([0, -1, 0, 1], np.int32), "image_index points outside"),
    "high point": ("point_index", np.array([0, 0, 1, 3], np.int32), "point_index points outside of the 3 points"),
    "unsorted": ("point_index", np.array([0, 1, 0, 2], np.int32), "point_index does not ascend"),
    "shape": ("pixels", np.zeros((4, 3), np.float32), "pixels is float32 of shape (4, 3)"),
    "kind": ("colors", np.zeros((3, 3), np.float32), "colors is float32 of shape (3, 3)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_contradictions_are_refused(tmp_path: Path, name: str) -> None:
    key, value, problem = BROKEN[name]
    path = tmp_path / "observations.npz"
    np.savez(path, format_version=FORMAT_VERSION, **(arrays() | {key: value}))
    with pytest.raises(PeakError) as caught:
        read_observations(path)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert str(caught.value).endswith("; run `peak photos` again")
    with pytest.raises(ValueError, match=problem.split()[0]):
        write_observations(tmp_path / "other.npz", Observations(**(arrays() | {key: value})))
    assert not (tmp_path / "other.npz").exists()


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "observations.npz"
    with pytest.raises(PeakError, match="no such file"):
        read_observations(path)
    write_observations(path, Observations(**arrays()))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no archive", whole[:200] + b"\xff" * 40 + whole[240:]):
        path.write_bytes(content)
        with pytest.raises(PeakError, match="run `peak photos` again"):
            read_observations(path)
    np.save(path.with_suffix(".npy"), np.zeros(3))
    with pytest.raises(PeakError, match="cannot be read"):
        read_observations(path.with_suffix(".npy"))


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "observations.npz"
    np.savez(path, format_version=FORMAT_VERSION, **(arrays() | {"image_names": np.array([{}, {}], dtype=object)}))
    with pytest.raises(PeakError, match="cannot be read"):
        read_observations(path)


def test_other_versions_and_missing_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "observations.npz"
    np.savez(path, format_version=FORMAT_VERSION + 1, **arrays())
    with pytest.raises(PeakError, match="format_version is not 1; update peak_nerf"):
        read_observations(path)
    np.savez(path, **arrays())
    with pytest.raises(PeakError, match="format_version"):
        read_observations(path)
    some = arrays()
    del some["depths"]
    np.savez(path, format_version=FORMAT_VERSION, **some)
    with pytest.raises(PeakError, match="has no array depths"):
        read_observations(path)


def test_files_that_would_fill_memory(tmp_path: Path) -> None:
    """A megabyte of zeros that are 720 MB, and a header that asks for 24 TB."""
    path = tmp_path / "observations.npz"
    many = {**arrays(), "points": np.zeros((3 * 10**7, 3))}
    np.savez_compressed(path, format_version=np.int32(FORMAT_VERSION), **many)
    assert path.stat().st_size < 10**6
    with pytest.raises(PeakError, match=r"cannot be read \(it would unpack to 0.7 GiB\); run `peak photos` again"):
        read_observations(path)
    header = repr({"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)}).ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("points.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(72))
    with pytest.raises(PeakError, match=r"cannot be read \(.*\); run `peak photos` again"):
        read_observations(path)
