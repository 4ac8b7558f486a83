"""`peak bench`: runs a suite's cells, keeps every finished one, and goes on where it stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field
from rich.console import Console

from peak_nerf.bench.run import runner
from peak_nerf.bench.run.display import RichDisplay, clock
from peak_nerf.bench.run.engine import Engine
from peak_nerf.bench.run.pool import Pool
from peak_nerf.bench.run.records import Result, read_result
from peak_nerf.bench.suite.data_root import DataRoot, Job
from peak_nerf.bench.suite.file import read_suite
from peak_nerf.bench.suite.grid import Cell, Suite, parse_selection
from peak_nerf.errors import PeakError
from peak_nerf.system.choices import check_options
from peak_nerf.system.programs import INTERRUPTED

Jobs = Annotated[int | None, Field(ge=1, le=10**5)]
Retries = Annotated[int | None, Field(ge=0, le=1000)]


@dataclass(frozen=True)
class _Where:
    """What of the command line is about where cells run."""

    engine: Literal["local", "ray"]
    jobs: Jobs
    address: str | None
    ship_data: bool
    retries: Retries

    def __post_init__(self) -> None:
        check_options(self)
        given = {"address": self.address is not None, "ship-data": self.ship_data, "retries": self.retries is not None}
        for option in [option for option, is_given in given.items() if is_given and self.engine == "local"]:
            raise PeakError(f"--{option}: is for a cluster; add --engine ray, or leave it out")

    def start(self, grid: Suite, to_run: list[Job]) -> Engine:
        """The engine, with what it needs to run these; without any, a cluster need not be there."""
        if self.engine == "local" or not to_run:
            return Pool(max(min(self.jobs or 1, len(to_run)), 1))
        from peak_nerf.bench.ray.engine import RETRIES, RayEngine

        return RayEngine(
            self.address or "auto",
            grid.resources,
            jobs=self.jobs,
            retries=RETRIES if self.retries is None else self.retries,
            ship_data=self.ship_data,
            paths=sorted({Path(job.options[name]) for job in to_run for name in job.files}),
        )


def _given(metavar: str, default: str) -> Any:
    """How the help shows an option that is None unless it is given."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def bench(
    suite: tyro.conf.Positional[Path],
    out: Path,
    data_root: Path,
    jobs: Annotated[Jobs, _given("INT", "1; on a cluster, as many as fit")] = None,
    only: Annotated[str | None, _given("SELECTION", "all")] = None,
    engine: Literal["local", "ray"] = "local",
    address: Annotated[str | None, _given("HOST:PORT", "auto")] = None,
    ship_data: bool = False,
    retries: Annotated[Retries, _given("INT", "2")] = None,
) -> int:
    """Run the cells of a suite file; those that are finished in --out are kept and skipped.

    Exit code 1 when a cell failed, 130 after Ctrl-C. `peak report` makes the tables. With --engine ray the cells run
    on a Ray cluster (docs/clusters.md): one Ray task each, on the CPUs and GPUs that the suite's `resources` demands;
    results come back to --out here.

    Args:
        suite: The suite, such as configs/paper/table1.yaml.
        out: Folder of all runs; the cells go to OUT/SUITE/CELL/.
        data_root: Folder with images/NAME.png (or NAME as TIFF, JPEG, ...), masks/NAME.png where the paper's own are at
            hand, and scenes in nerf_synthetic/NAME/, llff/NAME/, posed/NAME/.
        jobs: Cells at a time. Here they share this machine's cores, so measure time with 1.
        only: Cells to run, such as image=baboon,method=peak; the same axis twice means either value.
        engine: Where cells run: local, processes on this machine; ray, a cluster (pip install 'peak_nerf[ray]').
        address: The head of the cluster; auto is the cluster that this machine is part of.
        ship_data: Send the data through the cluster. Otherwise each node has them, under the same path as here.
        retries: How often a cell that failed or whose node died is run again on the cluster.
    """
    console = Console(highlight=False, markup=False)
    try:
        where = _Where(engine, jobs, address, ship_data, retries)
        return _bench(suite, out, data_root, where, only, console)
    except KeyboardInterrupt:
        console.print("interrupted before anything was run")
        return INTERRUPTED


def _bench(suite: Path, out: Path, data_root: Path, where: _Where, only: str | None, console: Console) -> int:
    grid = read_suite(suite)
    if suite.stem in ("", ".", ".."):
        raise PeakError(f"{suite}: the folder of its runs would be called {suite.stem!r}; rename the file")
    selected = _selection(grid, only)
    folder = out / suite.stem
    with runner.locked(folder):
        todo = runner.plan(grid, folder, DataRoot(data_root), selected)
        _announce(grid, todo, folder, data_root, console)
        results: dict[str, Result] = {}
        try:
            engine = where.start(grid, todo.to_run)
            with RichDisplay(grid, todo, max(min(engine.n_workers, len(todo.to_run)), 1), console) as display:
                results = runner.run(grid, todo, folder, engine, display)
        except KeyboardInterrupt:
            done = sum(read_result(job.folder, job.recorded).status == "finished" for job in todo.to_run)
            console.print(
                f"interrupted: {len(todo.finished) + done} of {todo.n_cells} cells are finished and kept in {folder};"
                " the same command goes on from there",
                soft_wrap=True,
            )
            return INTERRUPTED
    return _conclude(todo, results, out, console)


def _selection(grid: Suite, only: str | None) -> Callable[[Cell], bool]:
    if only is None:
        return lambda _: True
    try:
        selection = parse_selection(grid, only)
    except ValueError as error:
        raise PeakError(f"--only {only}: {error}") from None
    if not any(cell.matches(selection) for cell in grid.cells()):
        raise PeakError(f"--only {only}: no cell is all of this; loosen it")
    return lambda cell: cell.matches(selection)


def _announce(grid: Suite, todo: runner.Plan, folder: Path, data_root: Path, console: Console) -> None:
    """Say what will happen. Raises: PeakError when there is nothing to work on."""
    if not todo.to_run and not todo.finished:
        missing = ", ".join(sorted({str(file) for job in todo.absent for file in job.absent}))
        raise PeakError(f"--data-root {data_root}: nothing to run, for there is no {missing}")
    console.print(
        f"{grid.title}: {todo.n_cells} cells, {len(todo.finished)} finished before, {len(todo.to_run)} to run"
        f" in {folder}",
        soft_wrap=True,
    )
    for cell_id, why in todo.changed.items():
        console.print(f"{cell_id}: {why}; runs again", soft_wrap=True)
    for absent, n_cells in sorted(Counter(file for job in todo.absent for file in job.absent).items()):
        console.print(f"absent: {absent}, {n_cells} cells are left out", soft_wrap=True, style="yellow")
    if others := _other_files(todo):
        console.print(f"data of other names: {', '.join(others)}", soft_wrap=True)
    for name in sorted({str(job.options.get("mask", "")) for job in todo.to_run} & {"textural"}):
        file = data_root / "masks" / f"{name}.png"
        console.print(f"mask {name}: no {file}, so it is drawn here; the paper's own is a file", soft_wrap=True)


def _other_files(todo: runner.Plan) -> list[str]:
    """Files that are not called NAME.png and scenes that are not called NAME, each as `house is images/House.jpg`."""
    found = {}
    for job in todo.to_run:
        for option in (option for option in job.files if option in job.cell.options):
            name, file = str(job.cell.options[option]), str(job.recorded[option]).rpartition(" sha256:")[0]
            if file.rpartition("/")[2] not in (name.rpartition("/")[2], f"{name}.png"):
                found[name] = f"{name} is {file}"
    return [found[name] for name in sorted(found)]


def _conclude(todo: runner.Plan, results: dict[str, Result], out: Path, console: Console) -> int:
    failed = [result for result in results.values() if result.status == "failed"]
    finished = len(todo.finished) + len(results) - len(failed)
    seconds = sum(result.seconds for result in results.values())
    console.print(
        f"{finished} of {todo.n_cells} cells finished, {len(todo.absent)} absent, {len(failed)} failed"
        f" ({clock(seconds)} of work); `peak report {out} --out DIR` makes the tables",
        soft_wrap=True,
    )
    for result in failed:
        console.print(f"failed: {result.folder / 'error.txt'}: {result.problem}", soft_wrap=True, style="red")
    return 1 if failed else 0
