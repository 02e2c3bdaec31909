"""How well a yes-or-no detector of a class does: precision, recall and F1 with an interval."""

# E examples, R resamples

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .interval import share_interval


@dataclass(frozen=True)
class Detection:
    """The four counts of a detector on labelled examples, and the bootstrap interval of its F1.

    Args:
        true_positives: examples of the class that were detected.
        false_positives: other examples that were detected.
        false_negatives: examples of the class that were missed.
        true_negatives: other examples that were not detected.
        low, high: the interval of F1, from 0 to 1.

    Example:
        >>> Detection.of([True, True, False, False], [True, False, True, False]).f1
        0.5
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    low: float
    high: float

    @property
    def total(self) -> int:
        """The number of examples."""
        return self.true_positives + self.false_positives + self.false_negatives + self.true_negatives

    @property
    def precision(self) -> float:
        """Share of the detected examples that are of the class; 0 if none was detected."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the class that was detected; 0 if the class has no example."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if nothing of the class was detected."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the shares of the class and of the others that were judged correctly; 0.5 for "always yes"."""
        own = max(1, self.true_positives + self.false_negatives)
        others = max(1, self.true_negatives + self.false_positives)
        # One division of whole numbers: detectors that do equally well get the same number.
        return (self.true_positives * others + self.true_negatives * own) / (2 * own * others)

    @classmethod
    def of(
        cls,
        detected: Sequence[bool] | ArrayLike,
        actual: Sequence[bool] | ArrayLike,
        *,
        confidence: float = 0.95,
        resamples: int = 10_000,
        seed: int = 0,
    ) -> Detection:
        """Count, and compute the percentile bootstrap interval of F1 over examples.

        If the detector makes no mistake, or detects nothing of the class, the bootstrap interval has length 0. The
        exact (Clopper-Pearson) bound of `share_interval` is then used, for the share of true positives among all
        examples that are detected or of the class. F1 depends on this share alone.

        Args:
            detected: `(E,)` whether the detector said yes to each example.
            actual: `(E,)` whether each example is of the class.
            confidence, resamples, seed: confidence level, number of draws and random seed of the interval.

        Raises:
            ValueError: no examples, or vectors of different lengths.
        """
        detected_E, actual_E = np.asarray(detected, dtype=bool), np.asarray(actual, dtype=bool)
        if detected_E.shape != actual_E.shape or detected_E.ndim != 1 or not len(detected_E):
            raise ValueError(
                f"The detector judged {detected_E.shape} examples, and the labels are {actual_E.shape}; expected one "
                "of each for at least one example."
            )
        counts = (
            int((detected_E & actual_E).sum()),
            int((detected_E & ~actual_E).sum()),
            int((~detected_E & actual_E).sum()),
            int((~detected_E & ~actual_E).sum()),
        )
        # Drawing examples with replacement draws the four counts from a multinomial distribution.
        total = len(detected_E)
        drawn_R4 = np.random.default_rng(seed).multinomial(total, np.array(counts) / total, size=resamples)
        hits_R, wrong_R = 2 * drawn_R4[:, 0], drawn_R4[:, 1] + drawn_R4[:, 2]
        f1_R = hits_R / np.maximum(hits_R + wrong_R, 1)
        tail = (1 - confidence) / 2
        low, high = np.quantile(f1_R, [tail, 1 - tail])
        hits, either = counts[0], sum(counts[:3])
        if hits in (0, either):
            low, high = _bounds_without_spread(hits, either, confidence)
        return cls(*counts, float(low), float(high))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        derived = {name: getattr(self, name) for name in ("precision", "recall", "f1", "balanced_accuracy")}
        return {**derived, "low": self.low, "high": self.high, "total": self.total}


def _bounds_without_spread(hits: int, either: int, confidence: float) -> tuple[float, float]:
    """Bounds of F1 = 2 s / (1 + s), s the share of hits among `either` examples, all or none of which are hits."""
    if not either:
        return 0.0, 1.0  # nothing is of the class and nothing was detected
    low, high = share_interval([hits], [either], confidence=confidence)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
