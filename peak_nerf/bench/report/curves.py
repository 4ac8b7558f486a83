"""The report's curves: a metric over a sweep, PSNR over time, and what each method needs to reach another's best."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from peak_nerf.bench.report.document import Block, Drawing, Grid, Heading, Paragraph, Text
from peak_nerf.bench.report.plots import Line, X, draw
from peak_nerf.bench.report.results import Aggregate, Results, Row, Table, first_to_reach, history, sweep_points
from peak_nerf.bench.suite.grid import LOWER_IS_BETTER

Points = Sequence[tuple[X, float]]


def curve_blocks(results: Results) -> Iterator[Block]:
    """One plot per swept setting; with an x of its own, such as n_parameters, one over all of them."""
    suite, tables = results.suite, results.tables()
    x = suite.plot.x
    groups = [tables] if x else [[table] for table in tables if table.swept]
    for group in groups:
        label = x or str(group[0].swept)
        for panel in _panels(group):
            curves = _curves(results, group, panel, x)
            if not any(line.points for line in curves):
                continue
            where = ", ".join(panel)
            yield Heading(f"{suite.metric} over {label}: {where}")
            y_label = f"{suite.metric} ({suite.unit})" if suite.unit else suite.metric
            yield Drawing(draw(curves, label, y_label, suite.plot.log_x), f"{suite.metric} over {label}, {where}")
            if x and suite.metric not in LOWER_IS_BETTER:
                own = {line.name: line.points for line in curves if not line.paper}
                yield from _reach_blocks(own, label, lambda value: f"{value:,.0f}")


def _panels(tables: Sequence[Table]) -> list[Row]:
    """Rows without their swept value."""
    return list(dict.fromkeys(row[:-1] if table.swept else row for table in tables for row in table.rows))


def _curves(results: Results, tables: Sequence[Table], panel: Row, x: str | None) -> list[Line]:
    """Each method's line, and the paper's points."""
    lines = []
    for style, method in enumerate(method.name for method in results.suite.methods):
        points = [point for table in tables for point in sweep_points(table, method, x).get(panel, [])]
        bands = [band for table in tables for band in _bands(table, method, panel)]
        order = sorted(range(len(points)), key=lambda i: (isinstance(points[i][0], str), points[i][0] if x else i))
        band = (
            [bands[i] for i in order] if any(low < high for low, high in bands) and len(bands) == len(points) else None
        )
        lines.append(Line(method, [points[i] for i in order], style, band))
        paper = [] if x else [point for table in tables for point in _paper_points(table, method, panel)]
        if paper:
            lines.append(Line(f"{method}, paper", paper, style, paper=True))
    return [line for line in lines if line.points]


def _aggregates(table: Table, method: str, panel: Row) -> Iterator[tuple[Row, Aggregate]]:
    for row in table.rows:
        aggregate = table.at(row, method)
        if aggregate is not None and (row[:-1] if table.swept else row) == panel:
            yield row, aggregate


def _bands(table: Table, method: str, panel: Row) -> list[tuple[float, float]]:
    """Least and most over seeds."""
    found = [list(aggregate.values().values()) for _, aggregate in _aggregates(table, method, panel)]
    return [(min(values), max(values)) for values in found if values]


def _paper_points(table: Table, method: str, panel: Row) -> list[tuple[X, float]]:
    points: list[tuple[X, float]] = []
    for row, aggregate in _aggregates(table, method, panel):
        if aggregate.paper is not None and table.swept:
            try:
                points.append((float(row[-1]), aggregate.paper))
            except ValueError:
                points.append((row[-1], aggregate.paper))
    return points


# ---------------------------------------------------------------------------------------------------------- time


def time_blocks(results: Results) -> Iterator[Block]:
    """PSNR over training time, one plot for each row; one line per seed."""
    for table in results.tables():
        for row in table.rows:
            lines, by_method = [], {}
            for style, method in enumerate(method.name for method in results.suite.methods):
                aggregate = table.at(row, method)
                runs = [] if aggregate is None else [(seed, history(result)) for seed, result in aggregate.finished()]
                several = len(runs) > 1
                lines += [Line(f"{method}, {seed}" if several else method, run, style) for seed, run in runs if run]
                by_method[method] = [run for _, run in runs if run]
            if lines:
                where = ", ".join(row)
                yield Heading(f"PSNR over time: {where}")
                log_x = results.suite.plot.log_x
                svg = draw(lines, "training time (s)", "PSNR (dB)", log_x, markers=False)
                yield Drawing(svg, f"PSNR over training time, {where}; a method without steps is one point")
                yield from _reach_over_runs(by_method)


def _reach_over_runs(by_method: Mapping[str, Sequence[Points]]) -> Iterator[Block]:
    """As `_reach_blocks`, in the mean over runs of the time to the mean best."""
    targets = {
        name: statistics.fmean(max(y for _, y in run) for run in runs) for name, runs in by_method.items() if runs
    }

    def time_to(name: str, target: float) -> float | None:
        times = [first_to_reach(run, target) for run in by_method[name]]
        known = [time for time in times if time is not None]
        return statistics.fmean(known) if known and len(known) == len(times) else None

    yield from _reach_grid(targets, time_to, "seconds", lambda value: f"{value:.1f}")


def _reach_blocks(curves: Mapping[str, Points], label: str, show: Callable[[float], str]) -> Iterator[Block]:
    """What each method needs to be as good as each one's best."""
    targets = {name: max(y for _, y in points) for name, points in curves.items() if points}
    yield from _reach_grid(targets, lambda name, target: first_to_reach(curves[name], target), label, show)


def _reach_grid(
    targets: Mapping[str, float],
    needs: Callable[[str, float], float | None],
    label: str,
    show: Callable[[float], str],
) -> Iterator[Block]:
    if len(targets) < 2:
        return
    yield Paragraph(f"Least {label} at which a method (column) reaches the best of another (row); empty: never.")
    rows = []
    for goal, target in targets.items():
        found = [needs(name, target) for name in targets]
        rows.append([Text(f"{goal}: {target:.2f}"), *(Text("" if value is None else show(value)) for value in found)])
    yield Grid(["best of", *targets], rows)
