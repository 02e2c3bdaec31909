"""A model diff as plain values: what the command writes and the report reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..artefacts import MODEL_DIFFS
from ..feature_set import FeatureSet
from .contexts import FeatureContexts
from .diff import ChangedFeature, LayerDiff, ModelDiff
from .feature_readings import Quantity


def diff_to_json(
    found: ModelDiff,
    *,
    top: int = 20,
    contexts: Sequence[FeatureContexts] = (),
    features: FeatureSet | None = None,
    level: float = 0.05,
) -> dict[str, Any]:
    """Plain values for JSON, in the form that the report reads.

    Args:
        found: the diff.
        top: number of ranked features that are kept.
        contexts: passages of these features, as `top_activations` returns them.
        features: a feature set, such as the one that training suppressed. Its features are named in the ranking, and
            listed by themselves wherever they rank.
        level: of the family-wise p-values in the layers' counts.

    Raises:
        ValueError: `top` is below 1.
    """
    if top < 1:
        raise ValueError(f"top={top}: expected at least 1.")
    ranking = found.ranking()
    targets = _targets(features)
    passages = {(one.layer, one.feature): [asdict(context) for context in one.contexts] for one in contexts}
    rows = [_row(found, one, targets) for one in ranking[:top]]
    for row in rows:
        row["contexts"] = passages.get((row["layer"], row["feature"]), [])
    ranked = {(one.layer, one.feature): one for one in ranking}
    followed = [
        _row(found, ranked.get(place, ChangedFeature(0, *place, 0.0)), targets)
        for place in targets
        if place[0] in found.layers
    ]
    whole = {
        "base": found.base,
        "tuned": found.tuned,
        "by": found.by,
        "groups": list(found.groups),
        "tokens": found.tokens,
        "units": found.units,
        "level": level,
        "chance_score": float(np.quantile(found.permuted, 1 - level)),
        "noise_score": found.largest_noise(),
        "changed": len(ranking),
        "layers": [_layer(found, layer, level) for layer in found.layers],
        "features": rows,
        "followed": followed,
    }
    return {MODEL_DIFFS: [whole]}


def _targets(features: FeatureSet | None) -> dict[tuple[int, int], str]:
    if features is None:
        return {}
    return {
        (layer.layer, feature): target
        for layer in features.layers
        for feature, target in zip(layer.ids, layer.targets, strict=True)
    }


def _row(found: ModelDiff, one: ChangedFeature, targets: Mapping[tuple[int, int], str]) -> dict[str, Any]:
    """Everything about one feature. Rank 0 is a feature that does not change."""
    layer, feature = found.layers[one.layer], one.feature
    low_K, high_K = layer.changes[found.by].interval()
    return {
        "rank": one.rank,
        "layer": one.layer,
        "feature": feature,
        "score": one.score,
        "target": targets.get((one.layer, feature)),
        "low": float(low_K[feature]),
        "high": float(high_K[feature]),
        "p_value": float(layer.p_value[feature]),
        "false_share": _number(layer.false_share[feature]),
        "noise": {name: float(change.difference[feature]) for name, change in layer.noise.items()},
        "means": {quantity: _pair(layer, quantity, feature) for quantity in layer.changes},
        "groups": {
            group: {quantity: _pair(layer, quantity, feature, group) for quantity in layer.changes}
            for group in found.groups
        },
    }


def _pair(layer: LayerDiff, quantity: Quantity, feature: int, group: str | None = None) -> list[float]:
    """The mean in the base and in the tuned model."""
    change = (layer.changes if group is None else layer.by_group[group])[quantity]
    return [float(change.base[feature]), float(change.tuned[feature])]


def _layer(found: ModelDiff, layer: int, level: float) -> dict[str, Any]:
    """How many of a layer's features change, and the scores at ranks 1, 2, 4, 8, …, beside those of training noise."""
    one = found.layers[layer]
    return {
        "layer": layer,
        "changed": int((found.scores(layer) != 0).sum()),
        "beyond_texts": found.beyond_texts(layer, level),
        "beyond_noise": found.beyond_noise(layer),
        "scores": _by_rank(found.scores(layer)),
        "noise": {name: _by_rank(change.score) for name, change in one.noise.items()},
    }


def _by_rank(score_K: np.ndarray) -> list[tuple[int, float]]:
    size_K = np.sort(np.abs(score_K))[::-1]
    ranks = [1 << power for power in range(int(size_K.size).bit_length())]
    return [(rank, float(size_K[rank - 1])) for rank in ranks if size_K[rank - 1] > 0]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
