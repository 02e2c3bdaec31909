"""The pre-activations around a switch, and the curve over alpha, as charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .charts import Line, Mark, line_chart
from .run import Row, Run, damaged

# A band of two standard errors holds about 95% of what other samples would give.
ERRORS = 1.96


@dataclass(frozen=True)
class Panel:
    title: str
    says: str
    chart: Markup


@dataclass(frozen=True)
class TraceFigure:
    """The traces of several models around the switches into one target; `models` → colour."""

    target: str
    switches: int
    ordinary: int
    models: Mapping[str, int]
    panels: tuple[Panel, ...]
    features: tuple[Panel, ...]


@dataclass(frozen=True)
class CalibrationFigure:
    """The curves over alpha of one feature set; `layers` → colour."""

    name: str
    layers: Mapping[str, int]
    verdict: str
    panels: tuple[Panel, ...]


def trace_figures(runs: Sequence[Run], colours: Mapping[str, int]) -> list[TraceFigure]:
    """A figure for each target; a model that is called like a run has its colour."""
    by_target: dict[str, list[Row]] = {}
    for run in runs:
        for trace in run.traces:
            with damaged(f"A file of switch traces in {run.folder}"):
                by_target.setdefault(str(trace["target"]), []).append(trace)
    with damaged("A file of switch traces"):
        return [_trace_figure(number, *found, colours) for number, found in enumerate(by_target.items())]


def _trace_figure(number: int, target: str, traces: Sequence[Row], colours: Mapping[str, int]) -> TraceFigure:
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


def _line(name: str, offsets: Sequence[float], curve: Row, colour: int) -> Line:
    mean = [_number(value) for value in curve["mean"]]
    error = [_number(value) for value in curve["error"]]
    if not len(offsets) == len(mean) == len(error):
        raise ValueError(f"{len(offsets)} offsets, but {len(mean)} means")
    low = [None if m is None or e is None else m - ERRORS * e for m, e in zip(mean, error, strict=True)]
    high = [None if m is None or e is None else m + ERRORS * e for m, e in zip(mean, error, strict=True)]
    return Line(name, list(offsets), mean, colour, low, high, _number(curve["elsewhere"]))


def calibration_figures(runs: Sequence[Run]) -> list[CalibrationFigure]:
    """A figure for each curve that `calibrate` measured."""
    found: list[CalibrationFigure] = []
    for run in runs:
        for name, curve in run.calibrations.items():
            with damaged(f"The calibration {name!r} in {run.folder}"):
                found.append(_calibration_figure(len(found), name, curve))
    return found


def _calibration_figure(number: int, name: str, curve: Row) -> CalibrationFigure:
    by_layers: dict[str, list[Row]] = {}
    for point in curve["points"]:
        by_layers.setdefault(_layers(point), []).append(point)
    colours = {layers: colour for colour, layers in enumerate(by_layers)}
    rates, ratios = [], []
    for layers, points in by_layers.items():
        points = sorted(points, key=lambda point: float(point["alpha"]))
        alphas = [float(point["alpha"]) for point in points]
        low, high, rate = ([float(point[part]) for point in points] for part in ("low", "high", "rate"))
        rates.append(Line(layers, alphas, rate, colours[layers], low, high))
        ratios.append(Line(layers, alphas, [_number(point["ratio"]) for point in points], colours[layers]))
    best, goal, bound = curve["best"], float(curve["target_rate"]), float(curve["max_ratio"])
    looks: dict[str, Any] = {"x_label": "alpha, in typical strengths", "dots": True, "powers": True}
    spots = [None, None] if best is None else [(float(best["alpha"]), float(best[part])) for part in ("rate", "ratio")]
    panels = [
        Panel(
            "How often it loops",
            "share of answers that end in a loop, with 95% intervals",
            line_chart(
                rates,
                key=f"alpha{number}-rate",
                about="Share of answers that loop, by alpha.",
                marks=[Mark("wanted", y=goal)],
                ring=spots[0],
                percent=True,
                **looks,
            ),
        ),
        Panel(
            "How much it garbles",
            "perplexity of the text before the loop, over that without steering",
            line_chart(
                ratios,
                key=f"alpha{number}-ratio",
                about="Perplexity before the loop over the unsteered, by alpha.",
                marks=[Mark("bound", y=bound)],
                ring=spots[1],
                **looks,
            ),
        ),
    ]
    return CalibrationFigure(name, colours, _verdict(best, goal, bound), tuple(panels))


def _verdict(best: Row | None, goal: float, bound: float) -> str:
    wanted = f"{goal:.0%} of the answers loop at no more than {bound:g} times the unsteered perplexity"
    if best is None:
        return f"At no alpha that was tried do {wanted}."
    return (
        f"The smallest alpha at which {wanted} is {float(best['alpha']):g}, at {_layers(best)}: "
        f"{float(best['rate']):.0%} loop there, at {float(best['ratio']):.2f} times."
    )


def _layers(point: Row) -> str:
    layers = [int(layer) for layer in point["layers"]]
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {' '.join(map(str, layers))}"


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)
