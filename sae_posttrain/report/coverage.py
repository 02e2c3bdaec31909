"""How coverage of the wanted features grows with examples, as charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .charts import Line, Mark, Panel, known, line_chart
from .run import Run, RunRow, explaining_damage


@dataclass(frozen=True)
class CoverageFigure:
    """The curves of several data sets for the same wanted features; `sets` → colour.

    Args:
        covered: number of wanted features that the seed set fires.
        rows: for each data set its name, number of examples, and coverage at the budget and by all examples.
    """

    layer: int
    targets: int
    covered: int
    budget: int
    sets: Mapping[str, int]
    panel: Panel
    rows: tuple[tuple[str, int, float, float], ...]


def coverage_figures(runs: Sequence[Run]) -> list[CoverageFigure]:
    """A figure for each comparison that `data coverage` wrote."""
    found: list[CoverageFigure] = []
    for run in runs:
        for one in run.coverage:
            with explaining_damage(f"A file of coverage curves in {run.folder}"):
                found.append(_figure(len(found), one))
    return found


def _figure(number: int, found: RunRow) -> CoverageFigure:
    curves = {str(name): curve for name, curve in found["curves"].items()}
    colours = {name: colour for colour, name in enumerate(curves)}
    budget = int(found["budget"])
    chart = line_chart(
        [_line(name, curve, colours[name]) for name, curve in curves.items()],
        key=f"coverage{number}",
        about="Share of the wanted features that are fired, by number of examples.",
        x_label="examples",
        marks=[Mark("budget", x=budget)],
        percent=True,
    )
    rows = tuple(
        (name, int(curve["budgets"][-1]), float(found["at_budget"][name]), float(curve["expected"][-1]))
        for name, curve in curves.items()
    )
    says = "mean over random draws of n examples; the band holds 95% of single draws"
    panel = Panel("Share of the wanted features that are fired", says, chart)
    return CoverageFigure(
        int(found["layer"]), int(found["targets"]), int(found["covered"]), budget, colours, panel, rows
    )


def _line(name: str, curve: RunRow, colour: int) -> Line:
    expected, low, high = ([known(value) for value in curve[part]] for part in ("expected", "low", "high"))
    return Line(name, [int(n) for n in curve["budgets"]], expected, colour, low, high)
