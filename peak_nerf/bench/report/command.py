"""`peak report`: the runs of `peak bench` as Markdown, CSV and one HTML page per suite."""

from __future__ import annotations

import os
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

MAX_NAMED = 20
"""Unreadable cells that are named on the terminal."""


def find_suites(runs: Path) -> list[Path]:
    """The suites' folders in `runs`, or `runs` itself when it is one. Raises: PeakError when there is none."""
    if not os.path.isdir(runs):
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
    problems = []
    for folder in find_suites(runs):
        name = folder.resolve().name
        try:
            suite = read_suite(folder / SUITE_FILE, check_options=False)
        except PeakError as error:
            problems.append(str(error))
            continue
        results = Results(name, suite, folder)
        document = page(results)
        for ending, text in (("md", document.markdown()), ("csv", csv_text(results)), ("html", document.html())):
            write_atomically(out / f"{name}.{ending}", partial(_write, text.encode()))
        words = ("failed", "absent", "missing", "unreadable")
        state = ", ".join(f"{n} {word}" for word in words if (n := results.count(word)))
        print(
            f"{out / name}.md, .csv, .html: {results.count('finished')} of {len(results.cells)} cells"
            f"{f' ({state})' if state else ''}"
        )
        unreadable = [f"{cell} ({problem})" for cell, problem in results.with_status("unreadable").items()]
        for line in unreadable[:MAX_NAMED]:
            print(f"unreadable: {line}")
        if len(unreadable) > MAX_NAMED:
            print(f"unreadable: {len(unreadable) - MAX_NAMED} more, named in {out / name}.md")
    if problems:
        more = f" (and {len(problems) - 1} more suites)" if len(problems) > 1 else ""
        raise PeakError(f"{problems[0]}; of a newer peak_nerf, or damaged{more}")
    return 0
