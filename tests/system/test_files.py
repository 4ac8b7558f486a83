import stat
from pathlib import Path

import pytest

from peak_nerf.errors import PeakError
from peak_nerf.system.files import delete_written, write_atomically


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")

    def half(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with pytest.raises(PeakError, match=r"result\.bin: cannot be written .*No space left"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writes_into_a_folder_that_is_not_there_yet_with_the_users_permissions(tmp_path: Path) -> None:
    path, usual = tmp_path / "a" / "b.bin", tmp_path / "usual"
    usual.touch()
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PeakError, match="file/x: cannot be written"):
        write_atomically(tmp_path / "file" / "x", lambda file: file.write(b""))
    with pytest.raises(PeakError, match="cannot be written"):
        write_atomically(tmp_path, lambda file: file.write(b""))


def test_what_a_killed_writer_has_left_goes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "check[1].pt"
    others = {tmp_path / name for name in (".check1.pt.abc", "check[1].pt.bak", ".other.pt.abc")}
    for file in (path, tmp_path / ".check[1].pt.abc", tmp_path / ".check[1].pt.xyz", *others):
        file.touch()
    delete_written(path)
    assert set(tmp_path.iterdir()) == others
    delete_written(path)  # nothing there


def test_the_name_of_a_file_that_is_being_written_is_known(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 50)

    def watch(file: object) -> None:
        delete_written(path)
        assert list(tmp_path.iterdir()) == []

    with pytest.raises(PeakError, match="cannot be written"):
        write_atomically(path, watch)
