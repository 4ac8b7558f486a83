"""One process at a time in a folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from peak_nerf.errors import PeakError
from peak_nerf.system.locks import lock_folder

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
