"""The OR-rule on planted firing sets, against sets and loops by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sae_posttrain.discovery.firing import FiringSets
from sae_posttrain.discovery.or_rule import (
    RankedFeature,
    any_fires,
    choose_rule,
    firing_contrast,
    random_features,
    rank_features,
    shared_features,
    stratified_part,
)

KINDS, LAYERS = 12, (3, 5)


def planted(seed: int, examples: int = 40) -> tuple[dict[int, FiringSets], dict[int, list[set[int]]], np.ndarray]:
    """Random sets of two layers, in which features of layer 5 fire more often on the first half of the examples."""
    rng = np.random.default_rng(seed)
    positive_E = np.arange(examples) < examples // 2
    rows: dict[int, list[set[int]]] = {}
    for layer in LAYERS:
        rate_K = rng.random(KINDS) * 0.5
        gain_K = rng.random(KINDS) * (0.5 if layer == 5 else 0.1)
        fires_EK = rng.random((examples, KINDS)) < rate_K + gain_K * positive_E[:, None]
        rows[layer] = [set(np.flatnonzero(row).tolist()) for row in fires_EK]
    return {layer: FiringSets.of(rows[layer], d_sae=KINDS, layer=layer) for layer in LAYERS}, rows, positive_E


def contrast_by_hand(rows: list[set[int]], positive: list[bool], feature: int) -> float:
    share = [
        np.mean([feature in row for row, label in zip(rows, positive, strict=True) if label == wanted])
        for wanted in (True, False)
    ]
    return float(share[0] - share[1])


@pytest.mark.parametrize("seed", range(3))
def test_contrast_is_the_difference_of_two_shares(seed: int) -> None:
    firing, rows, positive_E = planted(seed)
    counted = np.flatnonzero(np.random.default_rng(seed).random(40) < 0.6)
    counted_E = np.isin(np.arange(40), counted)
    for layer in LAYERS:
        some = [rows[layer][e] for e in counted]
        for feature in range(KINDS):
            whole = contrast_by_hand(rows[layer], positive_E.tolist(), feature)
            assert firing_contrast(firing[layer], positive_E)[feature] == pytest.approx(whole)
            part = contrast_by_hand(some, positive_E[counted].tolist(), feature)
            assert firing_contrast(firing[layer], positive_E, counted_E)[feature] == pytest.approx(part)


def fires_by_hand(rows: Mapping[int, list[set[int]]], chosen: list[tuple[int, int]], example: int) -> bool:
    return any(feature in rows[layer][example] for layer, feature in chosen)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("combine", ["layer", "layers"])
def test_the_rule_is_the_best_of_all_on_the_held_out_part(seed: int, combine: str) -> None:
    firing, rows, positive_E = planted(seed)
    held_out_E = np.arange(40) % 3 == 0
    rule = choose_rule(firing, positive_E, held_out_E, target="a", sizes=[1, 2, 5], combine=combine)
    seen = np.flatnonzero(~held_out_E)
    contrast = {
        (layer, s): contrast_by_hand([rows[layer][e] for e in seen], positive_E[seen].tolist(), s)
        for layer in LAYERS
        for s in range(KINDS)
    }
    best = {layer: max(contrast[layer, s] for s in range(KINDS)) for layer in LAYERS}
    assert rule.top_contrast == pytest.approx(best)
    order = sorted(LAYERS, key=lambda layer: -best[layer])
    by_layer = {
        layer: sorted((s for s in range(KINDS) if contrast[layer, s] > 0), key=lambda s: (-contrast[layer, s], s))
        for layer in LAYERS
    }
    pool = (
        [(order[0], s) for s in by_layer[order[0]]]
        if combine == "layer"
        else [(layer, by_layer[layer][0]) for layer in order]
    )
    f1 = {}
    for size in (1, 2, 5):
        chosen = pool[:size]
        judged = [(fires_by_hand(rows, chosen, e), bool(positive_E[e])) for e in np.flatnonzero(held_out_E)]
        both = sum(d and a for d, a in judged)
        f1[len(chosen)] = 2 * both / (sum(d for d, _ in judged) + sum(a for _, a in judged))
    assert {size: detection.f1 for size, detection in rule.held_out.items()} == pytest.approx(f1)
    best_size = min(size for size in f1 if f1[size] == pytest.approx(max(f1.values())))
    assert [(one.layer, one.feature) for one in rule.features] == pool[:best_size]
    assert rule.detects(firing).tolist() == [fires_by_hand(rows, pool[:best_size], e) for e in range(40)]


def test_balanced_accuracy_does_not_favour_saying_yes_to_everything() -> None:
    """Feature 0 tells the class, but not all of it; feature 1 fires on nearly everything."""
    positive_E = np.arange(80) % 2 == 0
    firing = {0: FiringSets.of([[1, 0] if e % 8 == 0 else [1] if e != 9 else [] for e in range(80)], d_sae=2)}
    held_out_E = np.arange(80) // 2 % 8 < 4
    by_f1 = choose_rule(firing, positive_E, held_out_E, sizes=[1, 2])
    assert [one.feature for one in by_f1.features] == [0, 1]
    by_both = choose_rule(firing, positive_E, held_out_E, sizes=[1, 2], choose_by="balanced_accuracy")
    assert [one.feature for one in by_both.features] == [0]


def test_no_feature_detects_nothing() -> None:
    firing, _, _ = planted(0)
    assert not any_fires(firing, []).any()


def test_a_feature_that_fires_on_the_others_is_not_ranked() -> None:
    firing = {0: FiringSets.of([[0], [0, 1], [1], [1]], d_sae=3)}
    ranked = rank_features(firing, np.array([True, True, False, False]))
    assert [one.feature for one in ranked[0]] == [0]
    with pytest.raises(ValueError, match="No feature of layers"):
        choose_rule(
            {0: FiringSets.of([[]] * 4, d_sae=3)}, np.array([True, True, False, False]), np.array([True, False] * 2)
        )


def test_the_control_draws_features_that_fire_and_are_not_the_rule() -> None:
    firing = FiringSets.of([[0, 1, 2], [5]], d_sae=9)
    drawn = random_features(firing, [RankedFeature(0, 1, 0.5)], 3, seed=0)
    assert sorted(drawn) == [0, 2, 5]
    assert random_features(firing, [], 2, seed=0) == random_features(firing, [], 2, seed=0)
    of_another_layer = [RankedFeature(7, 1, 0.5)]
    assert sorted(random_features(firing, of_another_layer, 4, seed=0)) == [0, 1, 2, 5]


def test_shared_features_is_the_jaccard_index() -> None:
    def ranked(*ids: int) -> tuple[RankedFeature, ...]:
        return tuple(RankedFeature(4, one, 0.1) for one in ids)

    assert shared_features({4: ranked(1, 2, 3)}, {4: ranked(2, 3, 4, 5)}) == {4: pytest.approx(2 / 5)}


def test_a_part_keeps_the_share_of_the_class() -> None:
    positive_E = np.arange(100) < 20
    part_E = stratified_part(positive_E, 0.1, np.random.default_rng(0))
    assert (part_E & positive_E).sum() == 2
    assert part_E.sum() == 10
    assert (stratified_part(positive_E, 0.001, np.random.default_rng(0), least=2) & positive_E).sum() == 2
    most_E = stratified_part(positive_E, 0.999, np.random.default_rng(0), left=1)
    assert ((most_E & positive_E).sum(), most_E.sum()) == (19, 98)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sizes": []}, "expected numbers of features"),
        ({"sizes": [0]}, "expected numbers of features"),
        ({"combine": "both"}, "expected 'layer' or 'layers'"),
        ({"choose_by": "luck"}, "expected 'f1' or 'balanced_accuracy'"),
        ({"held_out_E": np.zeros(40, dtype=bool)}, "held-out examples need"),
        ({"held_out_E": np.arange(40) < 20}, "held-out examples need"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    firing, _, positive_E = planted(0)
    settings = {"held_out_E": np.arange(40) % 3 == 0, **changes}
    with pytest.raises(ValueError, match=says):
        choose_rule(firing, positive_E, **settings)


def test_equal_contrasts_are_in_the_order_of_the_dictionary_whatever_their_shares() -> None:
    """5/11 − 3/11 and 7/11 − 5/11 are equal, but not as differences of floating-point numbers."""
    counts = [(2, 0), (5, 3), (7, 5), (11, 9), (3, 1)]
    positive_E = np.arange(22) < 11
    for order in (counts, counts[::-1]):
        rows = [[f for f, both in enumerate(order) if place < both[part]] for part in (0, 1) for place in range(11)]
        (ranked,) = rank_features({3: FiringSets.of(rows, d_sae=5)}, positive_E).values()
        assert [one.feature for one in ranked] == [0, 1, 2, 3, 4]
        assert len({one.contrast for one in ranked}) == 1
