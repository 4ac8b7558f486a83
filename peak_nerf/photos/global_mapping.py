"""COLMAP's global mapper, which can neither be cancelled nor be heard of, in a process of its own.

`python -m peak_nerf.photos.global_mapping DATABASE IMAGES OUT` writes its models to OUT/0, OUT/1, ..., and ends when
its standard input does: with whoever started it, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from peak_nerf.errors import first_line
from peak_nerf.nerf.data.colmap import SEED
from peak_nerf.photos.calls import load, stopped
from peak_nerf.system.interrupts import interrupts_blocked
from peak_nerf.system.programs import last_line


def map_globally(database: Path, images: Path, out: Path) -> list[Any]:
    """The models that the global mapper gives. Ctrl-C ends it at once.

    Raises: MachineError when it fails, as it does on a full disk.
    """
    command = [sys.executable, "-m", "peak_nerf.photos.global_mapping", str(database), str(images), str(out)]
    with interrupts_blocked():  # of the terminal, which tells the whole group
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        said = process.stderr.read()
        process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stderr.close()
    if process.returncode:
        raise stopped(RuntimeError(last_line(said) or f"the global mapper ended with code {process.returncode}"))
    return [load().Reconstruction(path) for path in sorted(out.iterdir(), key=lambda path: int(path.name))]


def _end_with_the_caller() -> None:
    os.read(0, 1)  # whoever waits in sys.stdin keeps the interpreter from ending
    os._exit(1)


def main(database: str, images: str, out: str) -> None:
    """What the process does."""
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    colmap = load()
    options = colmap.GlobalPipelineOptions()
    options.num_threads, options.random_seed = 1, SEED  # the sums of several threads differ from run to run
    options.image_path = images
    try:
        colmap.global_mapping(database, images, out, options=options)  # which writes its models
    except Exception as error:  # of C++
        raise SystemExit(first_line(error)) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
