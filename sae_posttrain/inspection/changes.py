"""Statistics of the comparison of two models: paired changes, their standard errors, and tests."""

# U units of texts, K dictionary size, P permutations, M noise models

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_CELLS = 1 << 22  # of one table of permuted scores held at once: 32 MiB


@dataclass(frozen=True, eq=False)
class Change:
    """The change of one quantity in all features of a layer, between two models on the same tokens.

    Args:
        base, tuned: `(K,)` mean over the tokens.
        error: `(K,)` standard error of the difference, with units of texts as the independent draws.
        offset: what is added to the error in the score, the median error of the features that change at all.
    """

    base: np.ndarray
    tuned: np.ndarray
    error: np.ndarray
    offset: float

    @property
    def difference(self) -> np.ndarray:
        """`(K,)` tuned minus base."""
        found: np.ndarray = self.tuned - self.base
        return found

    @property
    def score(self) -> np.ndarray:
        """`(K,)` difference / (error + offset): large where the change is both large and alike in all units."""
        return _score(self.difference, self.error, self.offset)

    def interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """`(K,)` low and high bound of the difference, by the normal approximation over units."""
        half = NormalDist().inv_cdf((1 + confidence) / 2) * self.error
        return self.difference - half, self.difference + half


def paired_change(
    base_UK: np.ndarray, tuned_UK: np.ndarray, tokens_U: np.ndarray, offset: float | None = None
) -> Change:
    """Compute the change of each feature's mean over tokens, from sums over the same units of texts.

    Args:
        base_UK, tuned_UK: `(U, K)` sums over each unit's tokens.
        tokens_U: `(U,)` numbers of tokens.
        offset: what is added to the error in the score; default: the median error of the features that change.

    Returns:
        The change. The error is that of a ratio of sums over units; it is NaN for a single unit.

    Example:
        >>> paired_change(np.zeros((2, 1)), np.array([[1.0], [3.0]]), np.array([1.0, 1.0])).difference
        array([2.])

    Source: Cochran 1977, Sampling Techniques, section 6.3 (ratio estimator); Tusher et al. 2001 for the score.
    """
    total, units = tokens_U.sum(), len(tokens_U)
    difference_UK = tuned_UK - base_UK
    difference_K = difference_UK.sum(0) / total
    squares_K = ((difference_UK - difference_K * tokens_U[:, None]) ** 2).sum(0)
    error_K = np.sqrt(squares_K * units / (units - 1)) / total if units > 1 else np.full(len(squares_K), np.nan)
    if offset is None:
        offset = _median_error(error_K)
    return Change(base_UK.sum(0) / total, tuned_UK.sum(0) / total, error_K, offset)


def largest_scores(difference_UK: np.ndarray, tokens_U: np.ndarray, flips_PU: np.ndarray, offset: float) -> np.ndarray:
    """`(P,)` the largest absolute score of any feature when base and tuned are exchanged in some units.

    Args:
        difference_UK: `(U, K)` tuned minus base, as sums over each unit's tokens.
        tokens_U: `(U,)` numbers of tokens.
        flips_PU: `(P, U)` of 1 and −1; −1 exchanges the two models in that unit.
        offset: of the score, the same as for the scores that are tested.

    Source: Westfall and Young 1993, single-step maxT, with the sign flips of a paired design.
    """
    total, units = tokens_U.sum(), len(tokens_U)
    largest_P = np.zeros(len(flips_PU))
    size = max(1, _CELLS // len(flips_PU))
    for start in range(0, difference_UK.shape[1], size):
        part_UK = difference_UK[:, start : start + size]
        mean_PK = flips_PU @ part_UK / total
        # The sum of squares of (flip · difference − mean · tokens), multiplied out: a flip squared is 1.
        crossed_PK = flips_PU @ (part_UK * tokens_U[:, None])
        squares_PK = (part_UK**2).sum(0) - 2 * mean_PK * crossed_PK + mean_PK**2 * (tokens_U**2).sum()
        error_PK = np.sqrt(np.clip(squares_PK, 0, None) * units / (units - 1)) / total
        largest_P = np.maximum(largest_P, np.abs(_score(mean_PK, error_PK, offset)).max(1))
    return largest_P


def exceeded(score_K: np.ndarray, largest_P: np.ndarray) -> np.ndarray:
    """`(K,)` p-values: (1 + number of permutations whose largest score is at least this feature's) / (P + 1)."""
    # The tolerance keeps the permutation that changes nothing equal to what was observed.
    below_K = np.searchsorted(np.sort(largest_P), np.abs(score_K) * (1 - 1e-9), side="left")
    share_K: np.ndarray = (1 + len(largest_P) - below_K) / (1 + len(largest_P))
    return share_K


def false_shares(score_K: np.ndarray, noise_MK: np.ndarray) -> np.ndarray:
    """`(K,)` q-values: the estimated share of features with at least this score that training noise explains.

    The features of the noise models are decoys: at a bound, the estimate is (1 + decoys above it) / (M · features above
    it), at most 1. A feature gets the smallest estimate of all bounds that it passes. NaN without a noise model.

    Args:
        score_K: `(K,)` scores of the compared models, of all layers together.
        noise_MK: `(M, K)` scores of the noise models against the same base.

    Example:
        >>> false_shares(np.array([9.0, 8.0, 0.5]), np.array([[1.0, 0.5, 0.0]])).round(2).tolist()
        [0.5, 0.5, 1.0]

    Source: Barber and Candès 2015, doi:10.1214/15-AOS1337 (the estimate of knockoff+).
    """
    if not len(noise_MK):
        return np.full(len(score_K), np.nan)
    size_K = np.abs(score_K)
    own, decoys = np.sort(size_K), np.sort(np.abs(noise_MK), axis=None)
    above = len(decoys) - np.searchsorted(decoys, own, side="left")
    kept = len(own) - np.searchsorted(own, own, side="left")
    estimate = np.minimum(1.0, (1 + above) / (len(noise_MK) * kept))
    # From the lowest bound to the highest: what a feature passes are the bounds up to its own score.
    lowest = np.minimum.accumulate(estimate)
    share_K: np.ndarray = lowest[np.searchsorted(own, size_K, side="left")]
    return share_K


def _median_error(error_K: np.ndarray) -> float:
    changing = error_K[error_K > 0]
    return float(np.median(changing)) if len(changing) else 0.0


def _score(difference: np.ndarray, error: np.ndarray, offset: float) -> np.ndarray:
    spread = error + offset
    found: np.ndarray = np.divide(difference, spread, out=np.zeros_like(spread), where=spread > 0)
    return found
