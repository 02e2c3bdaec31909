"""Charts of the pre-activations around a switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .charts import Line, Mark, Panel, known, line_chart
from .run import Run, RunRow, explaining_damage

# A band of two standard errors is about a 95% interval of the mean.
ERRORS = 1.96


@dataclass(frozen=True)
class TraceFigure:
    """The traces of several models around the switches into one target. `models` maps each model to its colour."""

    target: str
    switches: int
    ordinary: int
    models: Mapping[str, int]
    panels: tuple[Panel, ...]
    features: tuple[Panel, ...]


def trace_figures(runs: Sequence[Run], colours: Mapping[str, int]) -> list[TraceFigure]:
    """One figure for each target. A model with the name of a run has the run's colour."""
    by_target: dict[str, list[RunRow]] = {}
    for run in runs:
        for trace in run.traces:
            with explaining_damage(f"A file of switch traces in {run.folder}"):
                by_target.setdefault(str(trace["target"]), []).append(trace)
    with explaining_damage("A file of switch traces"):
        return [_trace_figure(number, *found, colours) for number, found in enumerate(by_target.items())]


def _trace_figure(number: int, target: str, traces: Sequence[RunRow], colours: Mapping[str, int]) -> TraceFigure:
    own = dict(colours)
    models = {str(trace["model"]): own.setdefault(str(trace["model"]), len(own)) for trace in traces}
    averages: dict[str, list[Line]] = {}
    single: dict[str, list[Line]] = {}
    for trace in traces:
        model, offsets = str(trace["model"]), [int(offset) for offset in trace["offsets"]]
        for layer in trace["layers"]:
            title = f"Layer {int(layer['layer'])}"
            averages.setdefault(title, []).append(_line(model, offsets, layer["average"], models[model]))
            for feature, curve in layer["features"].items():
                single.setdefault(f"{title}, feature {feature}", []).append(_line(model, offsets, curve, models[model]))
    marks = [Mark("switch", x=-0.5)]

    def panels(drawn: dict[str, list[Line]], says: str, kind: str) -> tuple[Panel, ...]:
        return tuple(
            Panel(
                title,
                says,
                line_chart(
                    lines,
                    key=f"trace{number}-{kind}{place}",
                    about=f"{title}: pre-activation by token around a switch into {target}.",
                    x_label="tokens from the first foreign word",
                    marks=marks,
                ),
            )
            for place, (title, lines) in enumerate(drawn.items())
        )

    return TraceFigure(
        target,
        max(int(trace["switches"]) for trace in traces),
        max(int(trace["ordinary"]) for trace in traces),
        models,
        panels(averages, "mean of its features, in units of typical activation", "layer"),
        panels(single, "raw pre-activation", "feature"),
    )


def _line(name: str, offsets: Sequence[float], curve: RunRow, colour: int) -> Line:
    mean = [known(value) for value in curve["mean"]]
    error = [known(value) for value in curve["error"]]
    if not len(offsets) == len(mean) == len(error):
        raise ValueError(f"there are {len(offsets)} offsets, but {len(mean)} means")
    low = [None if m is None or e is None else m - ERRORS * e for m, e in zip(mean, error, strict=True)]
    high = [None if m is None or e is None else m + ERRORS * e for m, e in zip(mean, error, strict=True)]
    return Line(name, list(offsets), mean, colour, low, high, known(curve["elsewhere"]))
