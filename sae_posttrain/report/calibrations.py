"""Charts of the rates over alpha that `calibrate` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import Line, Mark, Panel, known, line_chart
from .run import Run, RunRow, explaining_damage


@dataclass(frozen=True)
class CalibrationFigure:
    """The curves over alpha of one feature set. `layers` maps the name of each curve to its colour."""

    name: str
    layers: Mapping[str, int]
    verdict: str
    panels: tuple[Panel, ...]


def calibration_figures(runs: Sequence[Run]) -> list[CalibrationFigure]:
    """One figure for each calibration."""
    found: list[CalibrationFigure] = []
    for run in runs:
        for name, curve in run.calibrations.items():
            with explaining_damage(f"The calibration {name!r} in {run.folder}"):
                found.append(_calibration_figure(len(found), name, curve))
    return found


def _calibration_figure(number: int, name: str, curve: RunRow) -> CalibrationFigure:
    by_layers: dict[str, list[RunRow]] = {}
    for point in curve["points"]:
        by_layers.setdefault(_layers(point), []).append(point)
    colours = {layers: colour for colour, layers in enumerate(by_layers)}
    rates, ratios = [], []
    for layers, points in by_layers.items():
        points = sorted(points, key=lambda point: float(point["alpha"]))
        alphas = [float(point["alpha"]) for point in points]
        low, high, rate = ([float(point[part]) for point in points] for part in ("low", "high", "rate"))
        rates.append(Line(layers, alphas, rate, colours[layers], low, high))
        ratios.append(Line(layers, alphas, [known(point["ratio"]) for point in points], colours[layers]))
    best, goal, bound = curve["best"], float(curve["target_rate"]), float(curve["max_ratio"])
    looks: dict[str, Any] = {"x_label": "alpha, in typical strengths", "dots": True, "powers": True}
    spots = [None, None] if best is None else [(float(best["alpha"]), float(best[part])) for part in ("rate", "ratio")]
    panels = [
        Panel(
            "Loop rate",
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
            "Perplexity ratio",
            "perplexity of the text before the loop, divided by that without steering",
            line_chart(
                ratios,
                key=f"alpha{number}-ratio",
                about="Perplexity before the loop, divided by that without steering, by alpha.",
                marks=[Mark("bound", y=bound)],
                ring=spots[1],
                **looks,
            ),
        ),
    ]
    return CalibrationFigure(name, colours, _verdict(best, goal, bound), tuple(panels))


def _verdict(best: RunRow | None, goal: float, bound: float) -> str:
    wanted = f"{goal:.0%} of the answers loop at no more than {bound:g} times the unsteered perplexity"
    missed = f"At none of the tried values of alpha do {wanted}."
    if best is None:
        return missed
    rate, ratio = float(best["rate"]), known(best["ratio"])
    where = f"alpha {float(best['alpha']):g}, at {_layers(best)}"
    there = f"{rate:.0%} loop there, at {'an unknown multiple' if ratio is None else f'{ratio:.2f} times'}."
    if rate < goal or ratio is None or ratio > bound:
        return f"{missed} The best value is {where}: {there}"
    return f"The smallest alpha at which {wanted} is {where}: {there}"


def _layers(point: RunRow) -> str:
    layers = [int(layer) for layer in point["layers"]]
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {' '.join(map(str, layers))}"
