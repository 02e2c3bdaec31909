"""Dense classifiers of mean residuals, to stand beside the rule of a few features."""

# E examples, D model width

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..metrics.detection import Detection

Detector: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From `(E, D)` residuals to `(E,)` whether each example is of the class."""

FitDetector: TypeAlias = Callable[[np.ndarray, np.ndarray], Detector]
"""From `(E, D)` residuals and `(E,)` labels to a detector."""

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisations of the logistic regression that are tried on held-out examples."""


def mean_difference(residual_ED: np.ndarray, positive_E: np.ndarray) -> Detector:
    """Detect a class along the difference of its mean residual and the others'.

    The threshold is the one with the highest F1 on the given examples.

    Args:
        residual_ED: `mean_residuals(…)[layer]`.
        positive_E: whether each example is of the class.

    Example:
        >>> detects = mean_difference(np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([False, False, True, True]))
        >>> detects(np.array([[0.5], [4.5]])).tolist()
        [False, True]
    """
    direction_D = residual_ED[positive_E].mean(0) - residual_ED[~positive_E].mean(0)
    score_E = residual_ED @ direction_D
    threshold = best_threshold(score_E, positive_E)
    return lambda given_ED: given_ED @ direction_D > threshold


def best_threshold(score_E: np.ndarray, positive_E: np.ndarray) -> float:
    """The threshold above which "yes" has the highest F1, midway between two scores; of equal ones the highest."""
    order = np.argsort(-score_E, kind="stable")
    ranked_E, hits_E = score_E[order], np.cumsum(positive_E[order])
    f1_E = 2 * hits_E / (np.arange(1, len(order) + 1) + positive_E.sum())
    last_E = np.append(ranked_E[:-1] > ranked_E[1:], True)  # equal scores are on the same side
    best = int(np.argmax(np.where(last_E, f1_E, -1)))
    return float((ranked_E[best] + ranked_E[best + 1]) / 2) if best + 1 < len(order) else float(ranked_E[best] - 1)


def logistic_regression(strength: float = 0.01) -> FitDetector:
    """A logistic regression on standardised residuals, by scikit-learn.

    Args:
        strength: the inverse of the L2 regularisation (scikit-learn's C).

    Raises:
        ImportError: scikit-learn is missing. The message names the extra to install.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            'The logistic regression needs scikit-learn: pip install "sae-posttrain[classify]".'
        ) from error

    def fit(residual_ED: np.ndarray, positive_E: np.ndarray) -> Detector:
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        fitted.fit(residual_ED, positive_E)
        return lambda given_ED: np.asarray(fitted.predict(given_ED), dtype=bool)

    return fit


@dataclass(frozen=True)
class ProbeChoice:
    """A fitted detector, its layer, and its result on the held-out examples."""

    layer: int
    detector: Detector
    held_out: Detection

    def detects(self, residuals: Mapping[int, np.ndarray]) -> np.ndarray:
        """`(E,)` whether each example is of the class."""
        return self.detector(residuals[self.layer])


def choose_probe(
    fits: Mapping[str, FitDetector], residuals: Mapping[int, np.ndarray], positive_E: np.ndarray, held_out_E: np.ndarray
) -> ProbeChoice:
    """Fit a detector in each way and on each layer, and keep the one with the highest F1 on held-out examples.

    The held-out examples are not fitted on. Of equal ones the first is kept.

    Args:
        fits: name → way to fit, such as logistic regressions of several strengths.
        residuals: layer → `(E, D)` mean residuals.
        positive_E: whether each example is of the class.
        held_out_E: whether each example is held out.

    Returns:
        The detector, with its layer and its result on the held-out examples. That result is a little too good, since it
        is the best of several.
    """
    found = []
    for layer, residual_ED in residuals.items():
        for fit in fits.values():
            detector = fit(residual_ED[~held_out_E], positive_E[~held_out_E])
            held_out = Detection.of(detector(residual_ED[held_out_E]), positive_E[held_out_E])
            found.append(ProbeChoice(layer, detector, held_out))
    return max(found, key=lambda choice: choice.held_out.f1)


def dense_fits() -> dict[str, dict[str, FitDetector]]:
    """The dense classifiers to compare with, by name; the logistic regression only if scikit-learn is installed."""
    fits: dict[str, dict[str, FitDetector]] = {"difference of means": {"": mean_difference}}
    with suppress(ImportError):
        fits["logistic regression"] = {f"{one:g}": logistic_regression(one) for one in STRENGTHS}
    return fits
