"""Measure how much of a benchmark the others cover, which features only it has, and which benchmarks to keep."""

# B benchmarks, K dictionary size, M models

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..discovery.firing import FiringSets
from .selection import Selection, select_by_coverage


@dataclass(frozen=True, eq=False)
class Overlap:
    """The share of each benchmark's features that fires on each other benchmark.

    Numbers of features are whole for whole benchmarks. For random parts of them they are expected numbers.

    Args:
        names: names of the benchmarks, in the order of rows and columns.
        sizes: `(B,)` |F(D)|, the number of features that fire on some example.
        shared: `(B, B)` number of features that two benchmarks share.
        only_here: `(B,)` number of features that fire in this benchmark and in no other.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    shared: np.ndarray
    only_here: np.ndarray

    @property
    def covered(self) -> np.ndarray:
        """`(B, B)` |F1 ∩ F2| / |F1|: the share of the row's features that the column covers (Eq. 10)."""
        return _share(self.shared, self.sizes[:, None])

    @property
    def similarity(self) -> np.ndarray:
        """`(B, B)` |F1 ∩ F2| / min(|F1|, |F2|) (Eq. 11)."""
        return _share(self.shared, np.minimum.outer(self.sizes, self.sizes))

    @property
    def new(self) -> np.ndarray:
        """`(B,)` the share of each benchmark's features that fire in no other benchmark.

        A benchmark with a low share may be dropped: the others together cover it.
        """
        return _share(self.only_here, self.sizes)

    def most_covered(self, name: str) -> tuple[str, float]:
        """The other benchmark that covers most of this one, and the share. A low share means new content."""
        row = self.names.index(name)
        others = [column for column in range(len(self.names)) if column != row]
        best = max(others, key=lambda column: float(self.covered[row, column]))
        return self.names[best], float(self.covered[row, best])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.divide(part, whole, out=np.zeros(part.shape), where=np.broadcast_to(whole > 0, part.shape))
    return found


def overlap(firing: Mapping[str, FiringSets]) -> Overlap:
    """Measure the overlap of benchmarks, from the features that fire on the last token of each example.

    In a larger benchmark more features fire, so it covers more of the others. For a fair comparison use
    `expected_overlap`.

    Args:
        firing: name → `collect_firing(…, at="last")[layer]` of each benchmark, with the same SAE.

    Returns:
        The number of features of each benchmark, and of each pair.

    Raises:
        ValueError: there are fewer than two benchmarks, or they have different layers or dictionaries.

    Example:
        >>> sets = {"a": FiringSets.of([[0], [1]], d_sae=4), "b": FiringSets.of([[1, 2, 3]], d_sae=4)}
        >>> overlap(sets).covered.round(2).tolist()
        [[1.0, 0.5], [0.33, 1.0]]

    Source: arXiv:2605.11887, section 4.3, Eq. 10 and 11.
    """
    _check(firing)
    fires_BK = np.stack([one.counts() > 0 for one in firing.values()]).astype(np.int64)
    alone_K = fires_BK.sum(axis=0) == 1
    return Overlap(tuple(firing), fires_BK.sum(axis=1), fires_BK @ fires_BK.T, fires_BK @ alone_K)


def expected_overlap(firing: Mapping[str, FiringSets], n: int) -> Overlap:
    """The overlap of random parts of n examples of each benchmark, in expected numbers of features.

    This compares benchmarks of different sizes. The diagonal is the overlap of a benchmark with itself, as two parts
    without a common example: it is the most that can be expected of parts of this size.

    Args:
        firing: `collect_firing(…, at="last")[layer]` of each benchmark, with the same SAE.
        n: examples of each part, at most the size of the smallest benchmark.

    Returns:
        An overlap. Its diagonal is NaN for a benchmark of fewer than 2 n examples, which has no two such parts.

    Raises:
        ValueError: as `overlap`; n below 1 or above the size of a benchmark.

    Example:
        >>> sets = {"a": FiringSets.of([[0], [1]], d_sae=4), "b": FiringSets.of([[0, 1], [0, 1]], d_sae=4)}
        >>> expected_overlap(sets, 1).covered.round(2).tolist()
        [[0.0, 1.0], [0.5, 1.0]]

    Source: our own; the probability that a part fires a feature is that of Eq. 7.
    """
    _check(firing)
    smallest = min(len(one) for one in firing.values())
    if not 1 <= n <= smallest:
        raise ValueError(f"n={n}: expected 1 to {smallest}, the size of the smallest benchmark.")
    missed_BK = np.stack([missed(one, n) for one in firing.values()])
    fires_BK = 1 - missed_BK
    shared_BB = fires_BK @ fires_BK.T
    for row, one in enumerate(firing.values()):
        both_K = 1 - 2 * missed_BK[row] + missed(one, 2 * n) if 2 * n <= len(one) else np.array([np.nan])
        shared_BB[row, row] = np.clip(both_K, 0, 1).sum()  # rounding may make a probability negative
    nowhere_else_BK = np.stack([np.delete(missed_BK, row, axis=0).prod(axis=0) for row in range(len(missed_BK))])
    return Overlap(tuple(firing), fires_BK.sum(axis=1), shared_BB, (fires_BK * nowhere_else_BK).sum(axis=1))


def missed(firing: FiringSets, n: int) -> np.ndarray:
    """`(K,)` probability that n random examples do not fire each feature: C(N − m, n) / C(N, n) for m of N examples."""
    total = len(firing)
    fired = np.arange(total)
    # By how many examples fire it: with one more of them, the probability falls by (N − n − m) / (N − m).
    by_count = np.cumprod(np.concatenate([[1.0], np.clip((total - n - fired) / (total - fired), 0, 1)]))
    found: np.ndarray = by_count[firing.counts()]
    return found


def order_of_benchmarks(firing: Mapping[str, FiringSets]) -> Selection:
    """Order benchmarks so that each adds the most features to those before it.

    Args:
        firing: name → `collect_firing(…, at="last")[layer]` of each benchmark, with the same SAE.

    Returns:
        The indices of the benchmarks, and how many features each adds. The last ones may be dropped first.

    Raises:
        ValueError: as `overlap`.

    Example:
        >>> sets = {"a": FiringSets.of([[0]], d_sae=4), "b": FiringSets.of([[0, 1], [2]], d_sae=4)}
        >>> order_of_benchmarks(sets).examples, order_of_benchmarks(sets).gained
        ((1, 0), (3, 0))

    Source: our own; the greedy choice of `select_by_coverage`, with benchmarks in place of examples.
    """
    _check(firing)
    d_sae = next(iter(firing.values())).d_sae
    whole = FiringSets.of((np.flatnonzero(one.counts()) for one in firing.values()), d_sae)
    return select_by_coverage(whole, len(firing))


def new_examples(firing: Mapping[str, FiringSets], name: str, top: int = 5) -> list[tuple[int, int]]:
    """Find the examples of a benchmark on which the most features fire that fire in no other benchmark.

    Args:
        firing: `collect_firing(…, at="last")[layer]` of each benchmark, with the same SAE.
        name: the benchmark.
        top: how many examples.

    Returns:
        `(index of the example, number of such features)`, the highest first, without examples that have none.
    """
    elsewhere_K = np.any([one.counts() > 0 for other, one in firing.items() if other != name], axis=0)
    own = firing[name]
    new_E = np.array([int((~elsewhere_K[own[example]]).sum()) for example in range(len(own))])
    order = np.argsort(-new_E, kind="stable")[:top]
    return [(int(example), int(new_E[example])) for example in order if new_E[example] > 0]


def _check(firing: Mapping[str, FiringSets]) -> None:
    kinds = {(one.layer, one.d_sae) for one in firing.values()}
    if len(firing) < 2 or len(kinds) != 1:
        raise ValueError(
            f"Got {len(firing)} benchmarks, read at (layer, dictionary size) {sorted(kinds)}; expected two or more, "
            "all read with the same SAE."
        )


def partial_correlation(first: Sequence[float], second: Sequence[float], control: Sequence[float]) -> float:
    """Compute the correlation of two benchmarks' scores over models, controlling for general ability.

    Args:
        first, second: `(M,)` score of each model on the two benchmarks.
        control: `(M,)` score of each model on a benchmark of general ability, such as MMLU.

    Returns:
        Pearson's partial correlation, from −1 to 1; NaN if the control explains one of them completely.

    Raises:
        ValueError: the lengths differ, or there are fewer than four models.

    Example:
        >>> round(partial_correlation([1, 2, 3, 5], [2, 1, 5, 9], control=[0, 1, 0, 1]), 3)
        0.974

    Source: arXiv:2605.11887, section 4.3, Eq. 12.
    """
    lengths = {len(first), len(second), len(control)}
    if len(lengths) != 1 or lengths.pop() < 4:
        raise ValueError(
            f"The scores are of {len(first)}, {len(second)} and {len(control)} models; expected the same models in "
            "each, and at least four."
        )
    control_M2 = np.column_stack([np.ones(len(control)), np.asarray(control, dtype=np.float64)])

    def residual(scores: Sequence[float]) -> np.ndarray:
        scores_M = np.asarray(scores, dtype=np.float64)
        rest_M: np.ndarray = scores_M - control_M2 @ np.linalg.lstsq(control_M2, scores_M, rcond=None)[0]
        return rest_M

    one, other = residual(first), residual(second)
    scale = np.linalg.norm(one) * np.linalg.norm(other)
    tiny = 1e-10 * np.linalg.norm(first) * np.linalg.norm(second)
    return float(one @ other / scale) if scale > tiny else float("nan")


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's correlation, with the mean rank for ties; NaN if one side does not vary.

    Example:
        >>> rank_correlation([1, 2, 3], [10, 30, 20])
        0.5
    """

    def ranks(values: Sequence[float]) -> np.ndarray:
        _, place, count = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
        mean_rank: np.ndarray = (np.cumsum(count) - (count - 1) / 2)[place]
        return mean_rank

    one, other = ranks(first), ranks(second)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
