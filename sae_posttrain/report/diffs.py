"""What changed between two checkpoints: counts and scores by layer, and the features that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cards import Excerpt, with_heat
from .charts import Line, Mark, Panel, known, line_chart
from .run import Run, RunRow, explaining_damage

SHOWN = 8
BY = {
    "activation": "mean activation",
    "firing": "share of tokens on which the feature fires",
    "pre_activation": "mean pre-activation",
}


@dataclass(frozen=True)
class DiffBar:
    """A mean before and after in one group of texts; the widths are shares of the card's largest."""

    group: str
    before: float
    after: float
    before_width: float
    after_width: float


@dataclass(frozen=True)
class DiffCard:
    """One feature: its place in the ranking, its change with an interval, and where it is active.

    Args:
        noise: name of each noise model → its change.
        firing: share of tokens on which the feature fires, before and after.
    """

    rank: int
    layer: int
    feature: int
    target: str | None
    score: float
    before: float
    after: float
    low: float
    high: float
    p_value: float
    false_share: float | None
    noise: Mapping[str, float]
    firing: tuple[float, float] | None
    bars: tuple[DiffBar, ...]
    passages: tuple[Excerpt, ...]


@dataclass(frozen=True)
class DiffLayer:
    """How many features of a layer change: at all, beyond other texts, and beyond the noise models."""

    layer: int
    changed: int
    beyond_texts: int
    beyond_noise: int | None


@dataclass(frozen=True)
class DiffFigure:
    """A comparison of two checkpoints; `lines` → colour."""

    base: str
    tuned: str
    by: str
    tokens: int
    units: int
    level: float
    lines: Mapping[str, int]
    layers: tuple[DiffLayer, ...]
    panels: tuple[Panel, ...]
    cards: tuple[DiffCard, ...]
    rest: tuple[DiffCard, ...]
    followed: tuple[DiffCard, ...]

    @property
    def has_noise(self) -> bool:
        return any(layer.beyond_noise is not None for layer in self.layers)


def diff_figures(runs: Sequence[Run]) -> list[DiffFigure]:
    """A figure for each comparison that `inspect diff` wrote."""
    found: list[DiffFigure] = []
    for run in runs:
        for diff in run.diffs:
            with explaining_damage(f"A model diff in {run.folder}"):
                found.append(_figure(len(found), diff))
    return found


def _figure(number: int, diff: RunRow) -> DiffFigure:
    tuned, by = str(diff["tuned"]), str(diff["by"])
    noise = dict.fromkeys(str(name) for layer in diff["layers"] for name in layer["noise"])
    lines = {name: colour for colour, name in enumerate(dict.fromkeys([tuned, *noise]))}
    marks = [Mark("other texts", y=float(diff["chance_score"]))]
    panels = [
        Panel(
            f"Layer {int(layer['layer'])}",
            "score at each rank; above the dotted line, other texts would show the change too",
            line_chart(
                [_line(tuned, layer["scores"], 0), *(_line(n, layer["noise"][n], lines[n]) for n in layer["noise"])],
                key=f"diff{number}-layer{place}",
                about=f"Layer {int(layer['layer'])}: score of the change by rank.",
                x_label="rank",
                marks=marks,
                dots=True,
                powers=True,
            ),
        )
        for place, layer in enumerate(diff["layers"])
    ]
    layers = tuple(
        DiffLayer(*(None if layer[name] is None else int(layer[name]) for name in DiffLayer.__dataclass_fields__))  # type: ignore[arg-type]
        for layer in diff["layers"]
    )
    cards = [_card(row, by) for row in diff["features"]]
    followed = sorted((_card(row, by) for row in diff["followed"]), key=lambda card: card.rank or 1 << 40)
    return DiffFigure(
        str(diff["base"]),
        tuned,
        BY[by],
        int(diff["tokens"]),
        int(diff["units"]),
        float(diff["level"]),
        lines,
        layers,
        tuple(panels),
        tuple(cards[:SHOWN]),
        tuple(cards[SHOWN:]),
        tuple(followed),
    )


def _line(name: str, scores: Sequence[Sequence[float]], colour: int) -> Line:
    return Line(name, [int(rank) for rank, _ in scores], [known(score) for _, score in scores], colour)


def _card(row: RunRow, by: str) -> DiffCard:
    before, after = (float(value) for value in row["means"][by])
    firing = row["means"].get("firing")
    pairs = {str(group): [float(value) for value in means[by]] for group, means in row["groups"].items()}
    largest = max((abs(value) for pair in pairs.values() for value in pair), default=0.0) or 1.0
    return DiffCard(
        rank=int(row["rank"]),
        layer=int(row["layer"]),
        feature=int(row["feature"]),
        target=None if row["target"] is None else str(row["target"]),
        score=float(row["score"]),
        before=before,
        after=after,
        low=float(row["low"]),
        high=float(row["high"]),
        p_value=float(row["p_value"]),
        false_share=None if row["false_share"] is None else float(row["false_share"]),
        noise={str(name): float(value) for name, value in row["noise"].items()},
        firing=None if firing is None else (float(firing[0]), float(firing[1])),
        bars=tuple(DiffBar(group, *pair, *(abs(value) / largest for value in pair)) for group, pair in pairs.items()),
        passages=with_heat(row.get("contexts", [])),
    )
