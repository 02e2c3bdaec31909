"""Features of classes of texts: how they were chosen, how well they tell the class, and where they fire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .charts import Line, Panel, line_chart
from .run import Run, RunRow, explaining_damage


@dataclass(frozen=True)
class ClassFeature:
    """A feature of the rule; precision and recall are its own on held-out texts. `tokens`: token, number of texts."""

    layer: int
    feature: int
    contrast: float
    precision: float
    recall: float
    tokens: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class MethodResult:
    """F1 of one way to tell the class on one test; `rate` is F1, under the name that the page's intervals use."""

    method: str
    layers: str
    rate: float
    low: float
    high: float
    precision: float
    recall: float


@dataclass(frozen=True)
class TestTable:
    """The ways to tell the class, on one set of labelled texts."""

    name: str
    texts: int
    methods: tuple[MethodResult, ...]


@dataclass(frozen=True)
class ClassFigure:
    """One class: its features, the charts of how they were chosen, and the tests; `tests` → colour of its curve."""

    target: str
    control: bool
    texts: int
    held_out: int
    features: tuple[ClassFeature, ...]
    panels: tuple[Panel, ...]
    curves: Mapping[str, int]
    tests: tuple[TestTable, ...]


def class_figures(runs: Sequence[Run]) -> list[ClassFigure]:
    """A figure for each class of each file that `discover class` wrote."""
    found: list[ClassFigure] = []
    for run in runs:
        for values in run.classes:
            with explaining_damage(f"A file of class features in {run.folder}"):
                found.append(_class_figure(len(found), values))
    return found


def _class_figure(number: int, values: RunRow) -> ClassFigure:
    target = str(values["target"])
    tests = tuple(_test(one) for one in values["tests"])
    curves = {str(one["name"]): colour for colour, one in enumerate(values["tests"]) if one["curve"]}
    return ClassFigure(
        target,
        values["selection"] == "random",
        int(values["texts"]),
        int(values["held_out_texts"]),
        tuple(_feature(one) for one in values["features"]),
        (*_choice_panels(number, target, values), *_curve_panels(number, target, values["tests"], curves)),
        curves,
        tests,
    )


def _feature(one: RunRow) -> ClassFeature:
    tokens = tuple((str(token), int(count)) for token, count in one["tokens"])
    contrast, precision, recall = (float(one[name]) for name in ("contrast", "precision", "recall"))
    return ClassFeature(int(one["layer"]), int(one["feature"]), contrast, precision, recall, tokens)


def _test(one: RunRow) -> TestTable:
    methods = tuple(
        MethodResult(
            str(row["method"]),
            " ".join(str(int(layer)) for layer in row["layers"]),
            *(float(row[name]) for name in ("f1", "low", "high", "precision", "recall")),
        )
        for row in one["methods"]
    )
    return TestTable(str(one["name"]), int(one["methods"][0]["total"]), methods)


def _choice_panels(number: int, target: str, values: RunRow) -> list[Panel]:
    """The best contrast of each layer, and F1 on the held-out texts by the number of features."""
    layers = [(int(layer), float(value)) for layer, value in values["top_contrast"]]
    held_out = sorted(values["held_out"], key=lambda row: int(row["size"]))
    sizes = [int(row["size"]) for row in held_out]
    f1, low, high = ([float(row[name]) for row in held_out] for name in ("f1", "low", "high"))
    panels = []
    if len(layers) > 1:
        line = Line(target, [layer for layer, _ in layers], [value for _, value in layers])
        chart = line_chart(
            [line],
            key=f"class{number}-layer",
            about=f"Largest contrast for {target} by layer.",
            x_label="layer",
            dots=True,
        )
        says = "of the share of texts that fire a feature, the class minus the others"
        panels.append(Panel("The largest difference by layer", says, chart))
    if len(sizes) > 1:
        chart = line_chart(
            [Line(target, sizes, f1, 0, low, high)],
            key=f"class{number}-size",
            about=f"F1 for {target} by number of features, on held-out texts.",
            x_label="features",
            dots=True,
        )
        panels.append(Panel("F1 by number of features", "on the held-out texts, with 95% intervals", chart))
    return panels


def _curve_panels(number: int, target: str, tests: Sequence[RunRow], colours: Mapping[str, int]) -> list[Panel]:
    lines = []
    for test in tests:
        points = test["curve"]
        if points:
            x = [int(point["examples"]) for point in points]
            y, low, high = ([float(point[name]) for point in points] for name in ("f1", "low", "high"))
            lines.append(Line(str(test["name"]), x, y, colours[str(test["name"])], low, high))
    if not lines:
        return []
    chart = line_chart(
        lines,
        key=f"class{number}-curve",
        about=f"F1 for {target} by the number of labelled texts.",
        x_label="labelled texts",
        dots=True,
        powers=True,
    )
    says = "mean over random parts of the texts; the band goes from the worst to the best part"
    return [Panel("Learning curve", says, chart)]
