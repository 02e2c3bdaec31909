"""Where the OR-rule loses: rules with other layers, thresholds and choices, and what all features know together."""

# E examples, K dictionary size

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reading import ReadSet  # type: ignore[import-not-found]
from scipy.sparse import csr_array

from sae_posttrain.discovery.or_rule import SIZES, OrRule, any_fires, choose_rule, rank_features
from sae_posttrain.metrics.detection import Detection

Detects = Callable[[ReadSet], NDArray[np.bool_]]


@dataclass(frozen=True)
class Found:
    """A detector, and what it uses."""

    method: str
    detects: Detects
    layers: str = ""
    features: int | str = ""


def best_layer(own: ReadSet, held_out_E: NDArray[np.bool_]) -> Found:
    """The OR-rule with the layer chosen as the number is: by the balanced accuracy on the held-out texts."""
    rules: list[tuple[float, int, OrRule]] = []
    for layer, sets in own.firing.items():
        rule = choose_rule({layer: sets}, own.positive_E, held_out_E, choose_by="balanced_accuracy")
        value = rule.held_out[len(rule.features)].balanced_accuracy
        rules.append((value, -layer, rule))
    _, layer, rule = max(rules, key=lambda one: one[:2])
    return Found(
        "OR-rule, layer and K by balanced accuracy",
        lambda test: rule.detects(test.firing),
        str(-layer),
        len(rule.features),
    )


def hindsight(own: ReadSet, held_out_E: NDArray[np.bool_], test: ReadSet) -> tuple[Detection, str, int]:
    """The layer and number of features with the highest balanced accuracy *on the test itself*.

    No way of choosing one layer and a number among `SIZES` has a higher balanced accuracy. Its F1 may be exceeded.
    """
    tried = []
    for layer, ranked in rank_features(own.firing, own.positive_E, ~held_out_E, top=max(SIZES)).items():
        for size in SIZES:
            found = Detection.of(any_fires(test.firing, ranked[:size]), test.positive_E)
            tried.append((found.balanced_accuracy, -size, -layer, found))
    _, size, layer, found = max(tried, key=lambda one: one[:3])
    return found, str(-layer), -size


def with_threshold(own: ReadSet, held_out_E: NDArray[np.bool_]) -> Found:
    """One feature and its threshold, chosen together by the largest contrast, instead of a threshold of 0."""
    best = (-1.0, 0, 0, 0.0)
    for layer in own.firing:
        matrix_KE = peaks_of(own, layer)[~held_out_E].T.tocsr()
        positive_E = own.positive_E[~held_out_E]
        for feature in range(matrix_KE.shape[0]):
            where = slice(*matrix_KE.indptr[feature : feature + 2])
            if where.stop > where.start:
                contrast, threshold = best_contrast(
                    matrix_KE.data[where], positive_E[matrix_KE.indices[where]], positive_E
                )
                best = max(best, (contrast, -layer, -feature, threshold))
    _, layer, feature, threshold = best
    return Found(
        "one feature above a threshold",
        lambda test: peaks_of(test, -layer)[:, [-feature]].toarray()[:, 0] > threshold,
        str(-layer),
        1,
    )


def best_contrast(
    peak_N: NDArray[np.float32], hit_N: NDArray[np.bool_], positive_E: NDArray[np.bool_]
) -> tuple[float, float]:
    """The largest share of positives minus share of others with a peak above a threshold, and the threshold.

    Args:
        peak_N: the feature's peaks in the texts on which it fires.
        hit_N: whether these texts are positive.
        positive_E: whether each text is.
    """
    order = np.argsort(-peak_N, kind="stable")
    hits_N = np.cumsum(hit_N[order])
    contrast_N = hits_N / positive_E.sum() - (np.arange(1, len(order) + 1) - hits_N) / (~positive_E).sum()
    ranked_N = peak_N[order]
    last_N = np.append(ranked_N[:-1] > ranked_N[1:], True)  # equal peaks are on the same side
    place = int(np.argmax(np.where(last_N, contrast_N, -1)))
    below = ranked_N[place + 1] if place + 1 < len(order) else 0.0
    return float(contrast_N[place]), float(ranked_N[place] + below) / 2


def peaks_of(read: ReadSet, layer: int) -> csr_array:
    """`(E, K)` largest activation of each feature on each text."""
    sets = read.firing[layer]
    features, offsets = sets.features.astype(np.int32), sets.offsets.astype(np.int32)  # liblinear reads no others
    return csr_array((read.peaks[layer], features, offsets), shape=(len(sets), sets.d_sae))


def all_features(own: ReadSet, held_out_E: NDArray[np.bool_]) -> list[Found]:
    """Logistic regressions on what all features of a layer do: whether they fire, and how strongly at most."""

    def firing(read: ReadSet, layer: int) -> csr_array:
        return (peaks_of(read, layer) > 0).astype(np.float32)

    return [_regression("fires", firing, own, held_out_E), _regression("peaks", peaks_of, own, held_out_E)]


def _regression(
    name: str, matrix: Callable[[ReadSet, int], csr_array], own: ReadSet, held_out_E: NDArray[np.bool_]
) -> Found:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    tried: list[tuple[float, int, Any]] = []
    for layer in own.firing:
        given = matrix(own, layer)
        for strength in (0.003, 0.03, 0.3):
            fitted = make_pipeline(MaxAbsScaler(), LogisticRegression(C=strength, solver="liblinear"))
            fitted.fit(given[~held_out_E], own.positive_E[~held_out_E])
            said_E = np.asarray(fitted.predict(given[held_out_E]), dtype=bool)
            tried.append((Detection.of(said_E, own.positive_E[held_out_E]).balanced_accuracy, layer, fitted))
    _, layer, best = max(tried, key=lambda one: one[:2])

    def detects(test: ReadSet) -> NDArray[np.bool_]:
        return np.asarray(best.predict(matrix(test, layer)), dtype=bool)

    return Found(f"logistic regression on all features ({name})", detects, str(layer), own.firing[layer].d_sae)
