"""`peak report`: the runs of `peak bench` as Markdown, CSV and one HTML page per suite."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import BinaryIO

import tyro

from peak_nerf.bench.report.page import csv_text, page
from peak_nerf.bench.report.results import Results
from peak_nerf.bench.run.runner import SUITE_FILE
from peak_nerf.bench.suite.file import read_suite
from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically


def find_suites(runs: Path) -> list[Path]:
    """The suites' folders in `runs`, or `runs` itself when it is one. Raises: PeakError when there is none."""
    if not runs.is_dir():
        raise PeakError(f"{runs}: no such folder; give the --out of `peak bench`")
    if (runs / SUITE_FILE).is_file():
        return [runs]
    found = sorted(path.parent for path in runs.glob(f"*/{SUITE_FILE}"))
    if not found:
        raise PeakError(f"{runs}: holds no suite; give the --out of `peak bench`")
    return found


def _write(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def report(runs: tyro.conf.Positional[Path], out: Path) -> int:
    """Write NAME.md, NAME.csv and NAME.html for every suite in the folder of `peak bench`.

    Args:
        runs: What was given to `peak bench` as --out, or one suite's folder in it.
        out: Where the reports go.
    """
    for folder in find_suites(runs):
        name = folder.resolve().name
        results = Results(name, read_suite(folder / SUITE_FILE, check_options=False), folder)
        document = page(results)
        for ending, text in (("md", document.markdown()), ("csv", csv_text(results)), ("html", document.html())):
            write_atomically(out / f"{name}.{ending}", partial(_write, text.encode()))
        state = ", ".join(f"{n} {word}" for word in ("failed", "absent", "missing") if (n := results.count(word)))
        print(
            f"{out / name}.md, .csv, .html: {results.count('finished')} of {len(results.cells)} cells"
            f"{f' ({state})' if state else ''}"
        )
    return 0
