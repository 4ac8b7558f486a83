"""One process at a time in a folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from peak_nerf.errors import PeakError
from peak_nerf.system.locks import lock_folder, locked_folder

HOLD = """
import sys, time
from pathlib import Path
from peak_nerf.system.locks import lock_folder
held = lock_folder(Path(sys.argv[1]), "--out", "test")
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_is_held_until_its_holder_dies(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(PeakError, match="another test is at work here; wait for it or give another --out"):
            lock_folder(folder, "--out", "test")
        other.kill()
    with lock_folder(folder, "--out", "test"), pytest.raises(PeakError, match="at work"):
        lock_folder(folder, "--out", "test")
    lock_folder(folder, "--out", "test").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PeakError, match=r"file: cannot be written .*; give another --out"):
        lock_folder(tmp_path / "file", "--out", "test")


def test_nothing_stays_of_a_folder_in_which_nothing_came_about(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for folder in (there / "new" / "folder", there):
        with locked_folder(folder, "--out", "test"):
            assert (folder / ".lock").is_file()
    assert list(tmp_path.rglob("*")) == [there]
    with pytest.raises(PeakError, match="nothing to do"), locked_folder(there / "new", "--out", "test"):
        raise PeakError("nothing to do")
    assert list(tmp_path.rglob("*")) == [there]
    with locked_folder(there / "new", "--out", "test"):
        (there / "new" / "file").write_text("")
    assert {path.name for path in (there / "new").iterdir()} == {".lock", "file"}
    with locked_folder(there / "new", "--out", "test", leaves_lock=False):
        assert (there / "new" / ".lock").is_file()
    assert {path.name for path in (there / "new").iterdir()} == {"file"}


def test_a_lock_that_its_holder_has_removed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has opened the file before it was removed must not hold what nobody else sees."""
    import fcntl

    lock, calls = fcntl.flock, []

    def after_removal(file: object, how: int) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(how)
        lock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr("fcntl.flock", after_removal)
    with lock_folder(tmp_path, "--out", "test"):
        assert len(calls) == 2
        with pytest.raises(PeakError, match="at work"):
            lock_folder(tmp_path, "--out", "test")
