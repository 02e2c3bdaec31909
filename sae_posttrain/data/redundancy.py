"""Measure how much of a benchmark a subset of it already covers, by features and by the ranking of models."""

# D draws, E examples, K dictionary size, M models, P pairs of models

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..discovery.firing import FiringSets

_CELLS = 1 << 22  # numbers of one table that are held in memory at once: 32 MiB


@dataclass(frozen=True, eq=False)
class Redundancy:
    """The redundancy of a benchmark, computed from the features that its examples activate.

    Args:
        firing: `(K,)` number of the benchmark's examples on which each feature fires.
        examples: N, the number of examples.
    """

    firing: np.ndarray
    examples: int

    @property
    def features(self) -> int:
        """|F(D)|, the number of features that fire on some example."""
        return int((self.firing > 0).sum())

    @cached_property
    def coverage(self) -> np.ndarray:
        """`(N,)` c_1 to c_N: the expected share of F(D) that fires on n examples drawn without replacement (Eq. 7).

        It is computed in closed form: a feature that fires on m of N examples fires on none of the n with probability
        C(N − m, n) / C(N, n). It is NaN if no feature fires.
        """
        times, features = np.unique(self.firing[self.firing > 0], return_counts=True)
        missing = np.zeros(self.examples)
        drawn = np.arange(self.examples)  # before each draw
        rows = max(1, _CELLS // max(1, self.examples))
        for start in range(0, len(times), rows):
            m = times[start : start + rows, None]
            left = np.clip((self.examples - m - drawn) / (self.examples - drawn), 0, 1)
            missing += features[start : start + rows] @ np.cumprod(left, axis=1)
        return 1 - missing / self.features if self.features else np.full(self.examples, np.nan)

    @property
    def auc(self) -> float:
        """The mean of c_1 to c_N (Eq. 8)."""
        return self._sum_of_coverage / self.examples if self.features else float("nan")

    @property
    def redundancy(self) -> float:
        """AUC · N / |F(D)|, which is the sum of c_n over |F(D)| (Eq. 9)."""
        return self._sum_of_coverage / self.features if self.features else float("nan")

    @property
    def _sum_of_coverage(self) -> float:
        # The sum over n of C(N − m, n) / C(N, n) is (N − m) / (m + 1).
        m = self.firing[self.firing > 0].astype(np.float64)
        return float((self.examples - (self.examples - m) / (m + 1)).mean())

    def examples_for(self, share: float) -> int:
        """The smallest n whose expected coverage c_n reaches a share of the features, such as 0.9.

        Raises:
            ValueError: the share is not above 0 and at most 1.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: expected more than 0 and at most 1.")
        reached = np.flatnonzero(self.coverage >= share - 1e-12)
        return int(reached[0]) + 1 if len(reached) else self.examples


def redundancy(firing: FiringSets) -> Redundancy:
    """Measure the redundancy of a benchmark, from the features that fire on the last token of each example.

    Args:
        firing: `collect_firing(…, at="last")[layer]`.

    Returns:
        The curve of coverage, and the measures that are derived from it.

    Raises:
        ValueError: the benchmark has no examples.

    Example:
        >>> redundancy(FiringSets.of([[0, 1], [0, 1], [0, 2]], d_sae=4)).coverage.round(3)
        array([0.667, 0.889, 1.   ])

    Source: arXiv:2605.11887, section 4.2, Eq. 7 to 9.
    """
    if not len(firing):
        raise ValueError("The benchmark has no examples; give at least one.")
    return Redundancy(firing.counts(), len(firing))


EXACT = 100
"""Benchmarks of at most so many examples have tau_n measured for every n."""
GRID = 30
"""Sizes at which tau_n is measured for larger benchmarks; between them it is interpolated."""


def ranking_redundancy(scores_ME: np.ndarray, *, draws: int = 100, seed: int = 0) -> float:
    """R(D): how well random parts of a benchmark rank models as the whole does, averaged over all sizes of the part.

    Args:
        scores_ME: `(M, E)` score of each model on each example, such as 0 or 1; at least two models.
        draws: number of random parts of each size.
        seed: random seed of the draws.

    Returns:
        The mean of tau_n over n = 1 … E. For more than 100 examples, tau_n is measured at 30 sizes and interpolated.

    Raises:
        ValueError: as `ranking_agreement`.

    Example:
        >>> scores_ME = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1]])
        >>> round(ranking_redundancy(scores_ME), 1)
        0.8

    Source: arXiv:2605.11887, section 4.2, Eq. 6.
    """
    examples = np.shape(scores_ME)[-1]
    sizes = list(range(1, examples + 1))
    if examples > EXACT:
        sizes = sorted({round(size) for size in np.geomspace(1, examples, GRID)})
    tau = ranking_agreement(scores_ME, sizes, draws=draws, seed=seed)
    return float(np.interp(np.arange(1, examples + 1), sizes, tau).mean())


def ranking_agreement(scores_ME: np.ndarray, sizes: list[int], *, draws: int = 100, seed: int = 0) -> np.ndarray:
    """Measure how well the ranking of models on a random subset of a benchmark agrees with the full ranking.

    Args:
        scores_ME: `(M, E)` score of each model on each example, such as 0 or 1; at least two models.
        sizes: numbers of examples to draw.
        draws: number of random subsets of each size.
        seed: random seed of the draws.

    Returns:
        `(len(sizes),)` tau_n, the mean Kendall tau-b between the two rankings. A subset on which all models have the
        same score gives no ranking, and counts as 0.

    Raises:
        ValueError: there are fewer than two models, all models have the same mean score, or a size is out of range.

    Example:
        >>> ranking_agreement(np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1]]), [3]).tolist()
        [1.0]

    Source: arXiv:2605.11887, section 4.2, Eq. 4 and 5. `ranking_redundancy` is Eq. 6.
    """
    scores_ME = np.asarray(scores_ME, dtype=np.float64)
    if scores_ME.ndim != 2 or len(scores_ME) < 2:
        raise ValueError(
            f"The scores have the shape {scores_ME.shape}; expected (models, examples), with at least two models."
        )
    whole_M = scores_ME.mean(axis=1)
    if not _signs(whole_M.max(), whole_M.min()):
        raise ValueError("All models have the same mean score, so there is no ranking. Give models that differ.")
    wrong = [size for size in sizes if not 1 <= size <= scores_ME.shape[1]]
    if wrong:
        raise ValueError(f"sizes has {wrong[0]}; expected sizes from 1 to {scores_ME.shape[1]}, the examples.")
    rng = np.random.default_rng(seed)

    def tau(size: int) -> float:
        parts = (rng.choice(scores_ME.shape[1], size, replace=False) for _ in range(draws))
        means_DM = np.stack([scores_ME[:, part].mean(axis=1) for part in parts])
        return float(kendall_tau(means_DM, whole_M).mean())

    return np.array([tau(size) for size in sizes])


def kendall_tau(first_DM: np.ndarray, second_M: np.ndarray) -> np.ndarray:
    """`(D,)` Kendall's tau-b between each of D rankings and one other; 0 where a ranking has ties only.

    Args:
        first_DM: `(D, M)` scores of M models.
        second_M: `(M,)` scores of the same models.

    Example:
        >>> kendall_tau(np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]]), np.array([1.0, 2.0, 3.0])).round(3).tolist()
        [1.0, 0.333]
    """
    one, other = np.triu_indices(len(second_M), k=1)
    first_DP = _signs(first_DM[:, one], first_DM[:, other])
    second_P = _signs(second_M[one], second_M[other])
    scale_D = np.sqrt(np.abs(first_DP).sum(axis=1) * np.abs(second_P).sum())
    found: np.ndarray = first_DP @ second_P / np.maximum(scale_D, 1)
    return found


def _signs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The sign of each difference; 0 where it is a rounding error, as between two means of the same numbers."""
    difference = first - second
    tiny = 1e-12 * np.maximum(np.abs(first), np.abs(second))
    found: np.ndarray = np.sign(np.where(np.abs(difference) > tiny, difference, 0.0))
    return found
