"""How many labelled texts a rule of features needs: rules found on parts of the data, judged on the same test."""

# E examples

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..discovery.firing import FiringSets
from ..discovery.or_rule import SIZES, ChooseBy, Combine, OrRule, choose_rule, rank_features, stratified_part
from ..metrics.detection import Detection

SHARES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class CurvePoint:
    """The rules found on random parts of the data of one size.

    Args:
        share: size of the part, from 0 to 1.
        examples: number of its texts.
        f1: F1 on the test, one value for each random part.
        layers: the layers of the rules, one tuple for each random part; empty where no feature tells the class.
        sizes: number of features of the rules.
    """

    share: float
    examples: int
    f1: tuple[float, ...]
    layers: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.f1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the mean, the lowest and the highest F1."""
        return {
            **{"share": self.share, "examples": self.examples, "f1": self.mean},
            **{"low": min(self.f1), "high": max(self.f1), "draws": len(self.f1)},
        }


def learning_curve(
    firing: Mapping[int, FiringSets],
    positive_E: np.ndarray,
    test_firing: Mapping[int, FiringSets],
    test_positive_E: np.ndarray,
    *,
    shares: Sequence[float] = SHARES,
    draws: int = 10,
    held_out: float = 0.2,
    sizes: Sequence[int] = SIZES,
    combine: Combine = "layer",
    choose_by: ChooseBy = "f1",
    seed: int = 0,
) -> list[CurvePoint]:
    """Find a rule on random parts of the data, and judge each on the whole test.

    Layer, features and their number are chosen anew on each part, of which a share is held out for the number.

    Args:
        firing: layer → firing sets of the labelled texts, from `collect_firing(…, at="any")`.
        positive_E: whether each text is of the class.
        test_firing, test_positive_E: the same for the test.
        shares: sizes of the parts, from 0 to 1.
        draws: random parts of each size. The whole is drawn as often, with different held-out texts.
        held_out: share of each part that is held out.
        sizes: numbers of features to try.
        combine, choose_by: as in `choose_rule`.
        seed: of the draws.

    Returns:
        A point for each share.

    Source: arXiv:2605.11887, section 5: a tenth of the data keeps 99% of F1.
    """
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise ValueError(f"shares={list(shares)}: {wrong[0]} is not more than 0 and at most 1.")
    rng = np.random.default_rng(seed)
    points: list[CurvePoint] = []
    for share in shares:
        if points and points[-1].examples == stratified_part(positive_E, share, rng, least=2).sum():
            points.pop()  # so few texts that both shares take as many of them
        rules = []
        for _ in range(draws):
            part_E = stratified_part(positive_E, share, rng, least=2)  # one of each is held out
            members = np.flatnonzero(part_E)
            own = {layer: sets.take(members) for layer, sets in firing.items()}
            held_out_E = stratified_part(positive_E[members], held_out, rng, left=1)
            rules.append(_rule(own, positive_E[members], held_out_E, sizes=sizes, combine=combine, choose_by=choose_by))
        f1 = tuple(Detection.of(rule.detects(test_firing), test_positive_E, resamples=1).f1 for rule in rules)
        layers = tuple(tuple(dict.fromkeys(one.layer for one in rule.features)) for rule in rules)
        points.append(CurvePoint(share, len(members), f1, layers, tuple(len(rule.features) for rule in rules)))
    return points


def _rule(firing: Mapping[int, FiringSets], positive_E: np.ndarray, held_out_E: np.ndarray, **settings: Any) -> OrRule:
    """The rule of a part; one without features, which detects nothing, if none fires more often on the class."""
    if not any(rank_features(firing, positive_E, ~held_out_E, top=1).values()):
        return OrRule("positive", (), {}, {})
    return choose_rule(firing, positive_E, held_out_E, **settings)
