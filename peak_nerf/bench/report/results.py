"""The numbers of a suite's report: tables over seeds, means over rows, comparisons of two methods."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peak_nerf.bench.run.records import Result, read_result
from peak_nerf.bench.suite.grid import LOWER_IS_BETTER, Cell, Method, Suite, parse_selection

Row = tuple[str, ...]
"""Values on a table's row axes."""
STATUS_WORDS = {"failed": "failed", "absent": "absent", "missing": "not run", "unreadable": "unreadable"}


def number(value: Any) -> float | None:
    """The value if it is a finite number."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


@dataclass
class Aggregate:
    """A method on a row of a table, over its seeds."""

    by_seed: dict[str, Result]
    """All that the suite asks for."""
    metric: str
    paper: float | None = None

    def values(self, metric: str | None = None) -> dict[str, float]:
        """A metric by seed, where there is one."""
        found = {seed: number((result.metrics or {}).get(metric or self.metric)) for seed, result in self.finished()}
        return {seed: value for seed, value in found.items() if value is not None}

    def finished(self) -> list[tuple[str, Result]]:
        """Seed and result of the runs that ended well."""
        return [(seed, result) for seed, result in self.by_seed.items() if result.status == "finished"]

    def mean(self, metric: str | None = None) -> float | None:
        """Over seeds; None without any."""
        values = self.values(metric)
        return statistics.fmean(values.values()) if values else None

    def std(self) -> float | None:
        """Standard deviation over seeds (n - 1 below the fraction); None with fewer than two."""
        values = self.values()
        return statistics.stdev(values.values()) if len(values) > 1 else None

    def status(self) -> str:
        """Empty when all seeds are there; else how many, or why none."""
        n, wanted = len(self.values()), len(self.by_seed)
        if n == wanted:
            return ""
        if n:
            return f"{n} of {wanted} seeds"
        words = [STATUS_WORDS.get(result.status, f"no {self.metric}") for result in self.by_seed.values()]
        return next((word for word in ("failed", "unreadable") if word in words), words[0])


@dataclass
class Table:
    """Rows of data (and of a swept setting) against methods."""

    axes: list[str]
    rows: list[Row]
    methods: list[str]
    aggregates: dict[tuple[Row, str], Aggregate]
    metric: str
    swept: str | None = None

    def best(self, row: Row) -> set[str]:
        """The methods with the best mean on a row, to two decimals as the report shows it; none where there is but one
        method."""
        means = {m: round(mean, 2) for m in self.methods if (mean := self.mean(row, m)) is not None}
        if len(means) < 2:
            return set()
        best = (min if self.metric in LOWER_IS_BETTER else max)(means.values())
        return {method for method, mean in means.items() if mean == best}

    def at(self, row: Row, method: str) -> Aggregate | None:
        """None where the suite has no such cell."""
        return self.aggregates.get((row, method))

    def mean(self, row: Row, method: str) -> float | None:
        """Over seeds; None where there is no figure."""
        aggregate = self.at(row, method)
        return None if aggregate is None else aggregate.mean()

    def complete_rows(self) -> list[Row]:
        """Rows on which every method that is for all rows and has any figure has one: means over them compare like with
        like."""
        methods = [
            m for m in self.methods if self.is_for_all(m) and any(self.mean(r, m) is not None for r in self.rows)
        ]
        return [row for row in self.rows if methods and all(self.mean(row, m) is not None for m in methods)]

    def is_for_all(self, method: str) -> bool:
        """Whether the suite has the method on every row."""
        return all(self.at(row, method) is not None for row in self.rows)

    def mean_over_rows(self, method: str) -> tuple[float | None, float | None]:
        """Ours and the paper's mean over the complete rows; the paper's only when it has a figure on each."""
        rows = self.complete_rows() if self.is_for_all(method) else []
        ours = [mean for row in rows if (mean := self.mean(row, method)) is not None]
        paper = [at.paper for row in rows if (at := self.at(row, method)) is not None and at.paper is not None]
        return (
            statistics.fmean(ours) if ours else None,
            statistics.fmean(paper) if paper and len(paper) == len(rows) else None,
        )


@dataclass(frozen=True)
class Beside:
    """Figures of other work, and our means over the rows that they are about."""

    where: str
    """The rows, as the suite selects them."""
    theirs: dict[str, float]
    ours: dict[str, float]
    """By method, over those of the rows that are complete; empty when none is."""
    n_complete: int
    n_rows: int


@dataclass
class Comparison:
    """One method less another (or less the paper), in pairs of the same row and seed."""

    name: str
    other: str
    gains: dict[Row, float] = field(default_factory=dict)
    """Mean over seeds, by row; above 0 is better."""

    @property
    def mean(self) -> float:
        """Over rows."""
        return statistics.fmean(self.gains.values())

    @property
    def std(self) -> float | None:
        """Standard deviation over rows."""
        return statistics.stdev(self.gains.values()) if len(self.gains) > 1 else None

    @property
    def n_won(self) -> int:
        """Rows on which the first is better."""
        return sum(gain > 0 for gain in self.gains.values())


class Results:
    """A suite and what its folder holds."""

    def __init__(self, name: str, suite: Suite, folder: Path) -> None:
        self.name, self.suite = name, suite
        self.cells = list(suite.cells())
        self.by_cell = {cell.id: read_result(folder / cell.id) for cell in self.cells}
        papers = suite.paper.values if suite.paper else {}
        self._paper = [(parse_selection(suite, where), figures) for where, figures in papers.items()]

    def count(self, status: str) -> int:
        """Cells in this state."""
        return sum(result.status == status for result in self.by_cell.values())

    def with_status(self, status: str) -> dict[str, str]:
        """The problem of each cell in this state, by its id."""
        return {cell: result.problem for cell, result in self.by_cell.items() if result.status == status}

    def paper_figure(self, cell: Cell) -> float | None:
        """The paper's figure for a cell, from the selection that names most of its axes."""
        fitting = [
            (len(selection), figures[cell.key["method"]])
            for selection, figures in self._paper
            if cell.key["method"] in figures and cell.matches(selection)
        ]
        return max(fitting)[1] if fitting else None

    def tables(self) -> list[Table]:
        """One without sweep, then one for each swept setting."""
        swept = list(dict.fromkeys(cell.swept for cell in self.cells))
        return [self._table([cell for cell in self.cells if cell.swept == name], name) for name in swept]

    def _table(self, cells: Sequence[Cell], swept: str | None) -> Table:
        axes = [*self.suite.data, *([swept] if swept else [])]
        aggregates: dict[tuple[Row, str], Aggregate] = {}
        for cell in cells:
            key = tuple(cell.key[axis] for axis in axes), cell.key["method"]
            aggregate = aggregates.setdefault(key, Aggregate({}, self.suite.metric, self.paper_figure(cell)))
            aggregate.by_seed[cell.key["seed"]] = self.by_cell[cell.id]
        rows = list(dict.fromkeys(row for row, _ in aggregates))
        used = {method for _, method in aggregates}
        methods = [method.name for method in self.suite.methods if method.name in used]
        return Table(axes, rows, methods, aggregates, self.suite.metric, swept)


def against_paper(table: Table) -> list[Comparison]:
    """Each method less the paper's figure, for methods that have one."""

    def gains(aggregate: Aggregate | None) -> list[float]:
        if aggregate is None or aggregate.paper is None:
            return []
        return [value - aggregate.paper for value in aggregate.values().values()]

    compared = [_compare(table, m, "paper", [gains(table.at(row, m)) for row in table.rows]) for m in table.methods]
    return [comparison for comparison in compared if comparison.gains]


def beside_published(table: Table, suite: Suite) -> list[Beside]:
    """Each selection of the published figures that the table has rows of."""
    complete, found = table.complete_rows(), []
    for where, theirs in (suite.published.values if suite.published else {}).items():
        selection = parse_selection(suite, where)
        rows = [row for row in table.rows if _matches(table, row, selection)]
        used = [row for row in rows if row in complete]
        ours = {}
        for method in table.methods:
            means = [mean for row in used if (mean := table.mean(row, method)) is not None]
            if used and len(means) == len(used):
                ours[method] = statistics.fmean(means)
        if rows:
            found.append(Beside(where, theirs, ours, len(used), len(rows)))
    return found


def _matches(table: Table, row: Row, selection: dict[str, list[str]]) -> bool:
    at = dict(zip(table.axes, row, strict=True))
    return all(at.get(axis) in values for axis, values in selection.items())


def against_others(table: Table) -> list[Comparison]:
    """The suite's first method less each other."""
    return _paired(table, [(table.methods[0], other) for other in table.methods[1:]])


def kar_comparisons(table: Table, suite: Suite) -> list[Comparison]:
    """Methods with the regulariser less the same without: all else equal, kar_weight 0."""
    methods = [method for method in suite.methods if method.name in table.methods]
    return _paired(table, [(on.name, off.name) for on in methods for off in methods if _is_kar_pair(on, off)])


def _paired(table: Table, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    compared = [
        _compare(
            table,
            a,
            b,
            [_paired_gains(table.at(row, a), table.at(row, b)) for row in table.rows],
        )
        for a, b in pairs
    ]
    return [comparison for comparison in compared if comparison.gains]


def _compare(table: Table, name: str, other: str, gains: Sequence[Sequence[float]]) -> Comparison:
    """Of gains by row and seed, signed so that above 0 is better."""
    sign = -1.0 if table.metric in LOWER_IS_BETTER else 1.0
    by_row = {row: sign * statistics.fmean(found) for row, found in zip(table.rows, gains, strict=True) if found}
    return Comparison(name, other, by_row)


def _is_kar_pair(on: Method, off: Method) -> bool:
    def rest(method: Method) -> dict[str, Any]:
        return {name: value for name, value in method.settings.items() if name != "kar_weight"}

    same = on.method == off.method and rest(on) == rest(off) and on.sweep == off.sweep
    return same and off.settings.get("kar_weight") == 0 and on.settings.get("kar_weight") != 0


def _paired_gains(a: Aggregate | None, b: Aggregate | None) -> list[float]:
    if a is None or b is None:
        return []
    ours, theirs = a.values(), b.values()
    return [value - theirs[seed] for seed, value in ours.items() if seed in theirs]


# -------------------------------------------------------------------------------------------------------- curves


def history(result: Result) -> list[tuple[float, float]]:
    """(seconds, PSNR) over a fit; for a method without a history, its end alone."""
    metrics = result.metrics or {}
    points = [(number(at.get("seconds")), number(at.get("psnr"))) for at in metrics.get("history") or []]
    whole = [(x, y) for x, y in points if x is not None and y is not None]
    end = number(metrics.get("seconds")), number(metrics.get("psnr"))
    if not whole and end[0] is not None and end[1] is not None:
        return [(end[0], end[1])]
    return whole


def sweep_points(table: Table, method: str, x: str | None) -> dict[Row, list[tuple[float | str, float]]]:
    """Points of a method's curve, by the row without the swept value: (x, mean over seeds); x is the swept value as a
    number or text, or the mean of a key of metrics.json."""
    curves: dict[Row, list[tuple[float | str, float]]] = {}
    for row in table.rows:
        aggregate = table.at(row, method)
        mean = None if aggregate is None else aggregate.mean()
        if aggregate is None or mean is None:
            continue
        at: float | str | None = aggregate.mean(x) if x else _number_or_text(row[-1]) if table.swept else None
        if at is not None:
            curves.setdefault(row[:-1] if table.swept else row, []).append((at, mean))
    return curves


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def first_to_reach(points: Iterable[tuple[float | str, float]], target: float) -> float | None:
    """The smallest x with y at or above the target; None when it is never reached."""
    reached = [x for x, y in points if y >= target and not isinstance(x, str)]
    return min(reached) if reached else None
