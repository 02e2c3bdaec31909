"""Benchmarks beside each other: how much they share, how much of each is redundant, and which examples were chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import Line, Panel, known, line_chart
from .run import Run, RunRow, explaining_damage

POINTS = 120
"""Points of a curve that are drawn."""


@dataclass(frozen=True)
class Cell:
    """A share in the matrix; None where it cannot be measured. `own`: on the diagonal."""

    share: float | None
    own: bool


@dataclass(frozen=True)
class Matrix:
    """Shares of the row's features that fire in the column's benchmark."""

    title: str
    says: str
    names: tuple[str, ...]
    features: tuple[float, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class BenchmarkRow:
    """What is new in one benchmark; `kept`: the share of all features that fire in it and in those before it."""

    name: str
    examples: int
    new: float
    kept: float
    rows: tuple[int, ...]


@dataclass(frozen=True)
class OverlapFigure:
    """The overlap of several benchmarks; the benchmarks are in the order in which to keep them."""

    matrices: tuple[Matrix, ...]
    benchmarks: tuple[BenchmarkRow, ...]
    correlations: Mapping[str, float | None]
    agreement: Mapping[str, float | None]


@dataclass(frozen=True)
class RedundancyFigure:
    """The curves of coverage of several benchmarks, and what is derived from them; `colours`: name → colour."""

    panel: Panel
    colours: Mapping[str, int]
    rows: tuple[RunRow, ...]


def overlap_figures(runs: Sequence[Run]) -> list[OverlapFigure]:
    """A figure for each file of `data overlap`."""
    found: list[OverlapFigure] = []
    for run in runs:
        for values in run.overlaps:
            with explaining_damage(f"A file of benchmark overlap in {run.folder}"):
                found.append(_overlap_figure(values))
    return found


def _overlap_figure(values: RunRow) -> OverlapFigure:
    names = tuple(str(name) for name in values["names"])
    size = values["at_size"]
    whole = _matrix(names, values, "Whole benchmarks", "A larger benchmark covers more of the others.")
    equal = _matrix(
        names,
        size,
        f"Random parts of {int(size['examples'])} examples of each",
        "Expected shares. The diagonal compares two parts of one benchmark without a common example: the most that can "
        "be expected.",
    )
    total = sum(int(step["adds"]) for step in values["order"])
    kept, rows = 0, []
    for step in values["order"]:
        kept += int(step["adds"])
        place = names.index(str(step["name"]))
        new_rows = tuple(int(one["example"]) for one in values["new_examples"][names[place]])
        rows.append(
            BenchmarkRow(
                names[place],
                int(values["examples"][place]),
                float(values["new"][place]),
                kept / max(1, total),
                new_rows,
            )
        )
    return OverlapFigure(
        (whole, equal),
        tuple(rows),
        {str(pair): known(value) for pair, value in values["correlations"].items()},
        {str(name): known(value) for name, value in values.get("agreement", {}).items()},
    )


def _matrix(names: tuple[str, ...], values: RunRow, title: str, says: str) -> Matrix:
    rows = tuple(
        tuple(Cell(_share(share), row == column) for column, share in enumerate(of_row))
        for row, of_row in enumerate(values["covered"])
    )
    if {len(rows), *map(len, rows)} != {len(names)}:
        raise ValueError(f"{len(names)} benchmarks, but a matrix of {[len(row) for row in rows]}")
    return Matrix(title, says, names, tuple(float(value) for value in values["features"]), rows)


def _share(value: float | str | None) -> float | None:
    return None if value is None else min(1.0, max(0.0, float(value)))


def redundancy_figures(runs: Sequence[Run]) -> list[RedundancyFigure]:
    """A figure for the benchmarks of each run that has files of `data redundancy`."""
    found: list[RedundancyFigure] = []
    for run in runs:
        if run.redundancies:
            with explaining_damage(f"A file of benchmark redundancy in {run.folder}"):
                found.append(_redundancy_figure(len(found), run.redundancies))
    return found


def _redundancy_figure(number: int, rows: Sequence[RunRow]) -> RedundancyFigure:
    colours = {str(row["name"]): colour for colour, row in enumerate(rows)}
    lines = [_curve(str(row["name"]), row["coverage"], colours[str(row["name"])]) for row in rows]
    chart = line_chart(
        lines,
        key=f"redundancy{number}",
        about="Expected share of a benchmark's features that n random examples fire.",
        x_label="examples",
        percent=True,
    )
    panel = Panel("How much a part covers", "expected share of the features that n random examples fire", chart)
    shown = ("examples", "features", "auc", "redundancy", "examples_for_90_percent")
    table = tuple(
        {
            "name": str(row["name"]),
            **{name: float(row[name]) for name in shown},
            "ranking": known(row.get("ranking_redundancy")),
        }
        for row in rows
    )
    return RedundancyFigure(panel, colours, table)


def selection_panels(runs: Sequence[Run]) -> list[Panel]:
    """A chart for each curve of `data select`."""
    found: list[Panel] = []
    for run in runs:
        for values in run.selections:
            with explaining_damage(f"A curve of selected rows in {run.folder}"):
                found.append(_selection_panel(len(found), values))
    return found


def _selection_panel(number: int, values: RunRow) -> Panel:
    matched = _curve("random rows of the same lengths", values["matched"], 1)
    band = {name: _curve("", values[f"matched_{name}"], 1).y for name in ("low", "high")}
    lines = [
        _curve("chosen rows", values["chosen"], 0),
        Line(matched.name, matched.x, matched.y, 1, band["low"], band["high"]),
        _curve("random rows", values["random"], 2),
    ]
    chart = line_chart(
        lines,
        key=f"selection{number}",
        about="Share of the features that the first n rows fire.",
        x_label="rows",
        percent=True,
    )
    says = (
        f"share of the {int(values['features'])} features that fire on any of {int(values['rows'])} rows; the band "
        "holds 95% of the draws"
    )
    return Panel(f"Rows chosen from {values['name']}", says, chart)


def _curve(name: str, values: Sequence[Any], colour: int) -> Line:
    """A curve over 1 … n, of which at most `POINTS` points are drawn."""
    step = max(1, math.ceil(len(values) / POINTS))
    places = sorted({*range(0, len(values), step), len(values) - 1})
    return Line(name, [place + 1 for place in places], [known(values[place]) for place in places], colour)
