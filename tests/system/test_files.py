import stat
from pathlib import Path

import pytest

from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically


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
