"""The contents of a suite's report, in order."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peak_nerf.bench.report.curves import curve_blocks, time_blocks
from peak_nerf.bench.report.document import Block, Document, Grid, Heading, Paragraph, Text
from peak_nerf.bench.report.results import (
    Aggregate,
    Comparison,
    Results,
    Row,
    Table,
    against_others,
    against_paper,
    beside_published,
    kar_comparisons,
    number,
)
from peak_nerf.bench.suite.grid import LOWER_IS_BETTER, Suite
from peak_nerf.images.read import MAX_PIXELS

THUMBNAIL = 128
"""Longest side in pixels; shown at 96, so that it is sharp on most screens."""
MORE_METRICS = ("psnr_missing", "ssim", "lpips", "seconds", "n_parameters")


def page(results: Results) -> Document:
    """The whole report."""
    suite = results.suite
    document = Document(suite.title)
    add = document.blocks.extend
    add(_opening(results))
    for table in results.tables():
        add([Heading(f"Over {table.swept}" if table.swept else _metric(suite)), results_grid(table, suite)])
        add(_published_blocks(table, suite))
        add(_comparison_blocks(table, suite))
    if suite.plot.kind == "curve":
        add(curve_blocks(results))
    if suite.plot.kind == "time":
        add(time_blocks(results))
    add(_settings_blocks(results))
    add(_failure_blocks(results))
    return document


def _metric(suite: Suite) -> str:
    return f"{suite.metric} in {suite.unit}" if suite.unit else suite.metric


def signed(value: float) -> str:
    """A gain, its sign always there."""
    return f"{value:+.2f}"


def figure(value: float) -> str:
    """A metric: two decimals, none for large whole numbers."""
    return f"{value:.0f}" if value == int(value) and abs(value) >= 1000 else f"{value:.2f}"


# ------------------------------------------------------------------------------------------------------- opening


def _opening(results: Results) -> Iterator[Block]:
    suite = results.suite
    if suite.notes:
        yield Paragraph(" ".join(suite.notes.split()))
    words = [f"{results.count('finished')} of {len(results.cells)} cells are finished"]
    kinds = (
        ("failed", "failed"),
        ("absent", "absent (no such image, mask or scene in the data root)"),
        ("missing", "not run"),
        ("unreadable", "unreadable (named at the end)"),
    )
    words += [f"{n} {word}" for status, word in kinds if (n := results.count(status))]
    n_seeds = len(suite.seeds)
    seeds = f"seed {suite.seeds[0]}" if n_seeds == 1 else f"mean ± standard deviation over seeds {suite.seeds}"
    better = "lower" if suite.metric in LOWER_IS_BETTER else "higher"
    yield Paragraph(f"{', '.join(words)}. {_metric(suite)}, {better} is better; {seeds}.")
    if suite.paper:
        yield Paragraph(f"In brackets: {suite.paper.source}.")
    masks = sorted(
        {
            (cell.key["mask"], str(result.options["mask"]))
            for cell in results.cells
            if "mask" in cell.key and (result := results.by_cell[cell.id]).options and "mask" in result.options
        }
    )
    made = [f"{name} {'drawn by peak_nerf' if name == source else f'from {source}'}" for name, source in masks]
    if made:
        yield Paragraph(f"Masks: {'; '.join(made)}.")


# -------------------------------------------------------------------------------------------------------- tables


def results_grid(table: Table, suite: Suite) -> Grid:
    """Ours, the paper's beside it, best in bold; below, the mean over rows."""
    rows = []
    column_best = _best_rows(table) if len(table.methods) == 1 and table.swept else {}
    for row in table.rows:
        best = table.best(row)
        texts = [Text(value) for value in row]
        for method in table.methods:
            bold = method in best or column_best.get(row[:-1]) == row
            texts.append(_text_of(table.at(row, method), bold))
        rows.append(texts)
    return Grid([*table.axes, *table.methods], rows, len(table.axes), [] if table.swept else _mean_row(table))


def _best_rows(table: Table) -> dict[Row, Row]:
    """With one method alone, the best row of its sweep, for each point of the other axes."""
    choose = min if table.metric in LOWER_IS_BETTER else max
    found: dict[Row, dict[Row, float]] = {}
    for row in table.rows:
        mean = table.mean(row, table.methods[0])
        if mean is not None:
            found.setdefault(row[:-1], {})[row] = mean
    return {point: choose(means, key=lambda row: means[row]) for point, means in found.items()}


def _text_of(aggregate: Aggregate | None, bold: bool) -> Text:
    if aggregate is None:
        return Text("")
    paper = None if aggregate.paper is None else f"paper {figure(aggregate.paper)}"
    mean = aggregate.mean()
    if mean is None:
        return Text(aggregate.status(), paper or "", bad=True)
    std = aggregate.std()
    text = figure(mean) + ("" if std is None else f" ± {std:.2f}")
    faint = ", ".join(part for part in (paper, aggregate.status()) if part)
    return Text(text, faint, bold=bold, thumbnail=_thumbnail(aggregate))


def _thumbnail(aggregate: Aggregate) -> bytes | None:
    """The first finished run's reconstruction, small, the field's own where there is one; None without one."""
    folder = next((result.folder for _, result in aggregate.finished()), Path("none"))
    path = folder / "field.png" if (folder / "field.png").is_file() else folder / "reconstruction.png"
    if not path.is_file():
        return None
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            deep = opened.mode.startswith("I") or opened.mode == "F"
            picture = opened.point(lambda v: v / 256).convert("L") if deep else opened.convert("RGB")
    except Exception:  # decoders raise anything on a damaged file, and the figures are none the worse
        return None
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return data.getvalue()


def _mean_row(table: Table) -> list[list[Text]]:
    n = len(table.complete_rows())
    if len(table.rows) < 2 or n == 0:
        return []
    means = {method: table.mean_over_rows(method) for method in table.methods}
    ours = {method: mean for method, (mean, _) in means.items() if mean is not None}
    who = "all methods have" if len(ours) == len(table.methods) else "these methods have"
    if len(ours) == 1 < len(table.methods):
        who = f"{next(iter(ours))} has"
    label = f"mean of {n} rows" if n == len(table.rows) else f"mean of the rows that {who} ({n})"
    best = (min if table.metric in LOWER_IS_BETTER else max)(ours, key=lambda method: ours[method])
    texts = [Text(label), *(Text("") for _ in table.axes[1:])]
    for method in table.methods:
        mean, paper = means[method]
        faint = "" if paper is None else f"paper {figure(paper)}"
        texts.append(Text("" if mean is None else figure(mean), faint, bold=method == best and len(ours) > 1))
    return [texts]


def _published_blocks(table: Table, suite: Suite) -> Iterator[Block]:
    beside = beside_published(table, suite)
    if not beside or suite.published is None:
        return
    yield Heading("Beside published figures")
    source = " ".join(suite.published.source.split())
    yield Paragraph(f"Published: {source}. Ours are means over those rows of the table above that all methods have.")
    works = list(dict.fromkeys(work for one in beside for work in one.theirs))
    rows = [
        [
            Text(one.where.replace(",", ", ")),
            *(Text(figure(one.ours[m]) if m in one.ours else "") for m in table.methods),
            Text(f"{one.n_complete} of {one.n_rows}"),
            *(Text(figure(one.theirs[work]) if work in one.theirs else "") for work in works),
        ]
        for one in beside
    ]
    yield Grid(["cells", *table.methods, "rows", *works], rows)


# --------------------------------------------------------------------------------------------------- comparisons


def _comparison_blocks(table: Table, suite: Suite) -> Iterator[Block]:
    kar = kar_comparisons(table, suite)
    if kar:
        yield Heading("The Kernel Alignment Regularizer on and off")
        yield Paragraph("All else equal, in pairs of the same row and seed; a gain is on less off.")
        yield _summary_grid(kar, suite)
        yield _gains_grid(table, kar)
    others = against_others(table)
    if others:
        yield Heading(f"{table.methods[0]} against the others")
        yield _summary_grid(others, suite)
    paper = against_paper(table)
    if paper:
        yield Heading("Against the paper's figures")
        yield _summary_grid(paper, suite)


def _summary_grid(comparisons: list[Comparison], suite: Suite) -> Grid:
    unit = f" ({suite.unit})" if suite.unit else ""
    head = ["method", "less", f"mean gain{unit}", "standard deviation over cells", "least", "most", "cells won"]
    rows = []
    for comparison in comparisons:
        gains = comparison.gains.values()
        std = "" if comparison.std is None else f"± {comparison.std:.2f}"
        figures = [signed(comparison.mean), std, signed(min(gains)), signed(max(gains))]
        names = [Text(comparison.name), Text(comparison.other)]
        rows.append([*names, *map(Text, figures), Text(f"{comparison.n_won} of {len(gains)}")])
    return Grid(head, rows, 2)


def _gains_grid(table: Table, comparisons: list[Comparison]) -> Grid:
    head = [*table.axes, *(f"{comparison.name} less {comparison.other}" for comparison in comparisons)]
    rows = [
        [*map(Text, row), *(Text(signed(c.gains[row]) if row in c.gains else "") for c in comparisons)]
        for row in table.rows
        if any(row in comparison.gains for comparison in comparisons)
    ]
    return Grid(head, rows, len(table.axes))


# ------------------------------------------------------------------------------------------ settings and failures


def _settings_blocks(results: Results) -> Iterator[Block]:
    axes = {*results.suite.axes(), "out"}
    found, versions = [], set()
    for method in results.suite.methods:
        runs = [
            result.metrics
            for cell in results.cells
            if cell.key["method"] == method.name and (result := results.by_cell[cell.id]).metrics
        ]
        versions |= {_settings_text(run.get("versions") or {}) for run in runs}
        flat = [_flat(run.get("settings") or {}) for run in runs]
        names = [name for name in dict.fromkeys(n for one in flat for n in one) if name.split(".")[0] not in axes]
        common = {name: flat[0].get(name) for name in names if all(one.get(name) == flat[0].get(name) for one in flat)}
        found.append((method.name, runs, common, [name for name in names if name not in common]))
    shared = _shared([common for _, runs, common, _ in found if runs])
    rows = []
    for name, runs, common, varied in found:
        text = _settings_text({name: value for name, value in common.items() if name not in shared})
        if varied:
            text += f"{'; ' if text else ''}not the same in all cells: {', '.join(varied)}"
        figures = [Text(_range(runs, "seconds")), Text(_range(runs, "n_parameters"))]
        rows.append([Text(name), Text(str(len(runs))), *figures, Text(text, left=True)])
    yield Heading("Settings")
    yield Grid(["method", "runs", "seconds", "parameters", "settings of its own"], rows)
    if any(value is not None for value in shared.values()):
        yield Paragraph(f"In all methods: {_settings_text(shared)}.")
    seeds = ", ".join(map(str, results.suite.seeds))
    mixed = "MIXED between runs: " if len(versions) > 1 else ""
    yield Paragraph(f"Seeds: {seeds}. Versions: {mixed}{' | '.join(sorted(versions)) or 'not recorded'}.")


def _shared(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """What several methods have alike; nothing where there is one."""
    if len(settings) < 2:
        return {}
    return {name: v for name, v in settings[0].items() if all(one.get(name) == v for one in settings)}


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _settings_text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)


def _range(runs: list[dict[str, Any]], metric: str) -> str:
    """A metric's least and most over runs."""
    values = [value for run in runs if (value := number(run.get(metric))) is not None]
    if not values:
        return ""
    low, high = (
        f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
        for value in (min(values), max(values))
    )
    return low if low == high else f"{low} to {high}"


def _failure_blocks(results: Results) -> Iterator[Block]:
    for status, heading, column in (
        ("failed", "Cells that failed", "problem (all of it in the cell's error.txt)"),
        ("unreadable", "Cells whose record cannot be read", "problem"),
    ):
        if of_these := results.with_status(status):
            yield Heading(heading)
            yield Grid(["cell", column], [[Text(id_, left=True), Text(p, left=True)] for id_, p in of_these.items()])


# ----------------------------------------------------------------------------------------------------------- CSV


def csv_text(results: Results) -> str:
    """A line per row and method."""
    suite, tables = results.suite, results.tables()
    axes = list(dict.fromkeys(axis for table in tables for axis in table.axes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    more = [metric for metric in MORE_METRICS if metric != suite.metric]
    writer.writerow([*axes, "method", suite.metric, "std", "n_seeds", "paper", "status", *more])
    for table in tables:
        for row in table.rows:
            at = dict(zip(table.axes, row, strict=True))
            for method in table.methods:
                aggregate = table.at(row, method)
                if aggregate is not None:
                    figures = [aggregate.mean(), aggregate.std(), len(aggregate.values()), aggregate.paper]
                    rest = [aggregate.mean(metric) for metric in more]
                    status = aggregate.status() or "finished"
                    line = [*(at.get(axis) for axis in axes), method, *figures, status, *rest]
                    writer.writerow(["" if value is None else value for value in line])
    return text.getvalue()
