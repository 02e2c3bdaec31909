"""Feature cards: the target of each feature, its mean activations, and the passages with its highest values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..feature_set import FeatureSet, LayerFeatures
from .run import Run, RunRow, explaining_damage

SHOWN = 6
PASSAGES = 5


@dataclass(frozen=True)
class Bar:
    """The mean activation in one group of texts. `width` is its share of the largest on the card."""

    group: str
    activation: float
    width: float
    baseline: float | None
    own: bool


@dataclass(frozen=True)
class Token:
    """A piece of text. `heat` is its pre-activation as a share of the highest, from 0 to 1."""

    text: str
    heat: float
    value: float


@dataclass(frozen=True)
class Excerpt:
    group: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Card:
    """The data that the page shows of one feature."""

    layer: int
    feature: int
    target: str
    score: float
    typical: float
    bars: tuple[Bar, ...]
    passages: tuple[Excerpt, ...]


@dataclass(frozen=True)
class Deck:
    """The features of one set. The first ones are shown as cards, and all of them in a table."""

    name: str
    runs: tuple[str, ...]
    selection: str
    base_model: str
    sae: str
    alpha: float | None
    cards: tuple[Card, ...]
    rest: tuple[Card, ...]

    @property
    def has_baselines(self) -> bool:
        return any(bar.baseline is not None for card in self.cards for bar in card.bars)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(sorted({bar.group for card in (*self.cards, *self.rest) for bar in card.bars}))


def decks(runs: Sequence[Run]) -> list[Deck]:
    """One deck per feature set. The same set in several runs is one deck. Random features (controls) come last.

    A set of `discover class` has no deck unless there are passages of it: its features stand under its classes.
    """
    sets: dict[str, tuple[str, FeatureSet, list[str]]] = {}
    passages = _passages(runs)
    for run in runs:
        for name, features in run.features.items():
            own = _places(features)
            if not own <= _places_of_classes(run) or own & passages.keys():
                sets.setdefault(features.sha256, (name, features, []))[2].append(run.name)
    found = [_deck(name, features, owners, passages) for name, features, owners in sets.values()]
    return sorted(found, key=lambda deck: deck.selection == "random")


def _places(features: FeatureSet) -> set[tuple[int, int, str]]:
    """Layer, feature and target of each feature."""
    return {
        place
        for layer in features.layers
        for place in zip([layer.layer] * len(layer.ids), layer.ids, layer.targets, strict=True)
    }


def _places_of_classes(run: Run) -> set[tuple[int, int, str]]:
    """The same of the features that the section on classes shows."""
    with explaining_damage(f"A file of class features in {run.folder}"):
        return {
            (int(feature["layer"]), int(feature["feature"]), str(one["target"]))
            for one in run.classes
            for feature in one["features"]
        }


def _deck(
    name: str, features: FeatureSet, owners: Sequence[str], passages: dict[tuple[int, int, str], tuple[Excerpt, ...]]
) -> Deck:
    cards = [_card(layer, row, passages) for layer in features.layers for row in range(len(layer.ids))]
    cards.sort(key=lambda card: -card.score)
    source = features.provenance
    about = (source.selection, public(source.base_model), public(source.sae))
    return Deck(name, tuple(owners), *about, features.alpha, tuple(cards[:SHOWN]), tuple(cards[SHOWN:]))


def public(name: str) -> str:
    """A hub id unchanged. Of a local folder only its name is shown, because the page may be sent to others."""
    return name if re.fullmatch(r"[\w-]+/[\w.-]+", name) else Path(name).name


def _card(layer: LayerFeatures, row: int, passages: dict[tuple[int, int, str], tuple[Excerpt, ...]]) -> Card:
    target, feature = layer.targets[row], layer.ids[row]
    means = {group: float(values[row]) for group, values in layer.activations.items()}
    largest = max(means.values(), default=0.0) or 1.0
    own = {target, "last period"}
    bars = tuple(
        Bar(group, mean, max(0.0, mean / largest), _baseline(layer, group, row), group in own)
        for group, mean in sorted(means.items(), key=lambda pair: -pair[1])
    )
    found = passages.get((layer.layer, feature, target), ())
    return Card(layer.layer, feature, target, float(layer.score[row]), float(layer.typical[row]), bars, found)


def _baseline(layer: LayerFeatures, group: str, row: int) -> float | None:
    return float(layer.baselines[group][row]) if group in layer.baselines else None


def _passages(runs: Sequence[Run]) -> dict[tuple[int, int, str], tuple[Excerpt, ...]]:
    found: dict[tuple[int, int, str], tuple[Excerpt, ...]] = {}
    for run in runs:
        for one in run.contexts:
            with explaining_damage(f"A file of feature contexts in {run.folder}"):
                key = int(one["layer"]), int(one["feature"]), str(one["target"])
                found.setdefault(key, with_heat(one["contexts"][:PASSAGES]))
    return found


def with_heat(contexts: Sequence[RunRow]) -> tuple[Excerpt, ...]:
    """The passages, with the heat of each piece relative to the highest value in all of them."""
    read = [(str(one["group"]), [(str(text), float(value)) for text, value in one["pieces"]]) for one in contexts]
    highest = max((value for _, pieces in read for _, value in pieces), default=0.0)

    def heat(value: float) -> float:
        return max(0.0, value / highest) if highest > 0 else 0.0

    return tuple(Excerpt(group, tuple(Token(text, heat(v), v) for text, v in pieces)) for group, pieces in read)
