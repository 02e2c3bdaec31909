"""The OR-rule: an example is of a class if at least one of a few chosen features fires on it."""

# E examples, K dictionary size

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ..metrics.detection import Detection
from .firing import FiringSets

SIZES = (1, 2, 5, 10)
"""Numbers of features that are tried, as published."""

Combine: TypeAlias = Literal["layer", "layers"]
"""`layer`: the best features of one layer (Eq. 15 and 16). `layers`: the best feature of each of several (Eq. 17)."""

ChooseBy: TypeAlias = Literal["f1", "balanced_accuracy"]
"""What decides on the number of features. F1 is the published measure. On balanced labels it is 0.667 for a rule that
says yes to every text, so it favours many features where none tells the class well. Balanced accuracy is then 0.5."""


@dataclass(frozen=True)
class RankedFeature:
    """A feature with its contrast, `P(fires | class) − P(fires | other)`."""

    layer: int
    feature: int
    contrast: float


@dataclass(frozen=True)
class OrRule:
    """The features of one class, and how they were chosen.

    Args:
        target: the class.
        features: the chosen features, best first. An example is of the class if any of them fires.
        top_contrast: layer → largest contrast of any feature (Eq. 16, "top1-diff").
        held_out: number of features → how well the rule of that many does on the held-out examples.
    """

    target: str
    features: tuple[RankedFeature, ...]
    top_contrast: Mapping[int, float]
    held_out: Mapping[int, Detection]

    def detects(self, firing: Mapping[int, FiringSets]) -> np.ndarray:
        """`(E,)` whether any of the features fires on each example (Eq. 15 and 17)."""
        return any_fires(firing, self.features)


def firing_contrast(firing: FiringSets, positive_E: np.ndarray, counted_E: np.ndarray | None = None) -> np.ndarray:
    """`(K,)` the share of the class's examples that fire each feature minus the share of the other examples.

    Args:
        firing: `collect_firing(…, at="any")[layer]`.
        positive_E: whether each example is of the class.
        counted_E: whether each example counts. Default: all.

    Raises:
        ValueError: no example of the class counts, or none of the others.

    Example:
        >>> sets = FiringSets.of([[0, 1], [1], [2]], d_sae=3)
        >>> firing_contrast(sets, np.array([True, True, False])).tolist()
        [0.5, 1.0, -1.0]

    Source: arXiv:2605.11887, section 5, Eq. 14.
    """
    counted_E = np.ones(len(firing), dtype=bool) if counted_E is None else counted_E
    numbers, counts = [], []
    for members_E in (positive_E & counted_E, ~positive_E & counted_E):
        numbers.append(int(members_E.sum()))
        of_members = np.repeat(members_E, np.diff(firing.offsets))
        counts.append(np.bincount(firing.features[of_members], minlength=firing.d_sae))
    if not all(numbers):
        raise ValueError("A contrast needs at least one example of the class and one of the others.")
    # One division of whole numbers: two features with the same contrast get the same number, without a rounding error.
    difference: np.ndarray = (counts[0] * numbers[1] - counts[1] * numbers[0]) / (numbers[0] * numbers[1])
    return difference


def any_fires(firing: Mapping[int, FiringSets], features: Sequence[RankedFeature]) -> np.ndarray:
    """`(E,)` whether at least one of the features fires on each example."""
    sizes = {len(sets) for sets in firing.values()}
    assert len(sizes) == 1, sizes
    fires_E = np.zeros(sizes.pop(), dtype=bool)
    for layer in {one.layer for one in features}:
        sets = firing[layer]
        chosen_K = np.zeros(sets.d_sae, dtype=bool)
        chosen_K[[one.feature for one in features if one.layer == layer]] = True
        example_of = np.repeat(np.arange(len(sets)), np.diff(sets.offsets))
        fires_E[example_of[chosen_K[sets.features]]] = True
    return fires_E


def rank_features(
    firing: Mapping[int, FiringSets], positive_E: np.ndarray, counted_E: np.ndarray | None = None, *, top: int = 10
) -> dict[int, tuple[RankedFeature, ...]]:
    """Layer → the features with the highest positive contrast, best first. Equal ones are in the dictionary's order."""
    ranked = {}
    for layer, sets in firing.items():
        contrast_K = firing_contrast(sets, positive_E, counted_E)
        order = np.argsort(-contrast_K, kind="stable")[:top]
        ranked[layer] = tuple(RankedFeature(layer, int(s), float(contrast_K[s])) for s in order if contrast_K[s] > 0)
    return ranked


def choose_rule(
    firing: Mapping[int, FiringSets],
    positive_E: np.ndarray,
    held_out_E: np.ndarray,
    *,
    target: str = "positive",
    sizes: Sequence[int] = SIZES,
    combine: Combine = "layer",
    choose_by: ChooseBy = "f1",
) -> OrRule:
    """Rank features on one part of the examples, and choose how many of them to use on the other part.

    The layer is the one whose best feature has the largest contrast. Of several numbers of features that do equally
    well on the held-out part, the smallest is taken.

    Args:
        firing: layer → `collect_firing(…, at="any")[layer]`.
        positive_E: whether each example is of the class.
        held_out_E: whether each example is held out to choose the number of features.
        target: name of the class.
        sizes: numbers of features to try.
        combine: `layer`: all features from one layer; `layers`: one from each of several layers.
        choose_by: the measure on the held-out examples that decides on the number, `f1` or `balanced_accuracy`.

    Raises:
        ValueError: one of the two parts has no example of the class or no other example, no feature fires more often on
            the class, or there is no number to try or one below 1.

    Source: arXiv:2605.11887, section 5, Eq. 14 to 17. Choosing the number on held-out examples is our own addition.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes={list(sizes)}: expected numbers of features of at least 1.")
    if combine not in ("layer", "layers"):
        raise ValueError(f"combine={combine!r}: expected 'layer' or 'layers'.")
    if choose_by not in ("f1", "balanced_accuracy"):
        raise ValueError(f"choose_by={choose_by!r}: expected 'f1' or 'balanced_accuracy'.")
    if positive_E[held_out_E].all() or not positive_E[held_out_E].any():
        raise ValueError("The held-out examples need at least one of the class and one of the others.")
    ranked = rank_features(firing, positive_E, ~held_out_E, top=max(sizes))
    top_contrast = {layer: found[0].contrast if found else 0.0 for layer, found in ranked.items()}
    by_contrast = sorted((layer for layer in ranked if ranked[layer]), key=lambda layer: -top_contrast[layer])
    if not by_contrast:
        raise ValueError(
            f"No feature of layers {list(firing)} fires more often on {target} than on other texts. Try other layers, "
            "or check that the SAE belongs to this model."
        )
    pool = ranked[by_contrast[0]] if combine == "layer" else tuple(ranked[layer][0] for layer in by_contrast)
    held_out = {}
    for size in sorted({min(size, len(pool)) for size in sizes}):
        fires_E = any_fires(firing, pool[:size])
        held_out[size] = Detection.of(fires_E[held_out_E], positive_E[held_out_E])
    best = max(held_out, key=lambda size: (getattr(held_out[size], choose_by), -size))
    return OrRule(target, pool[:best], top_contrast, held_out)


def random_features(firing: FiringSets, besides: Sequence[RankedFeature], count: int, seed: int) -> list[int]:
    """Features at random among those that fire on some example, without the given ones: the control of a claim."""
    alive_K = firing.counts() > 0
    alive_K[[one.feature for one in besides if one.layer == firing.layer]] = False
    candidates = np.flatnonzero(alive_K)
    chosen: list[int] = np.random.default_rng(seed).permutation(candidates)[:count].tolist()
    return chosen


def shared_features(
    one: Mapping[int, Sequence[RankedFeature]], other: Mapping[int, Sequence[RankedFeature]]
) -> dict[int, float]:
    """Layer → Jaccard index of two sets of features, such as the 10 best of a class in two languages."""
    found = {}
    for layer in one:
        first, second = ({ranked.feature for ranked in of[layer]} for of in (one, other))
        found[layer] = len(first & second) / len(first | second) if first | second else float("nan")
    return found


def stratified_part(
    positive_E: np.ndarray, share: float, rng: np.random.Generator, *, least: int = 1, left: int = 0
) -> np.ndarray:
    """`(E,)` a random part of the examples, with the same share of the class and of the others.

    Args:
        positive_E: whether each example is of the class.
        share: size of the part, from 0 to 1.
        rng: generator of the draw.
        least: smallest number of examples that the part gets of the class, and of the others.
        left: smallest number of examples that remain outside of the part, of each. It has precedence over `least`.

    Example:
        >>> labels = np.array([True] * 4 + [False] * 8)
        >>> part = stratified_part(labels, 0.5, np.random.default_rng(0))
        >>> int(part[labels].sum()), int(part[~labels].sum())
        (2, 4)
    """
    chosen_E = np.zeros(len(positive_E), dtype=bool)
    for members in (np.flatnonzero(positive_E), np.flatnonzero(~positive_E)):
        number = min(max(least, round(share * len(members))), len(members) - left)
        chosen_E[rng.permutation(members)[:number]] = True
    return chosen_E
