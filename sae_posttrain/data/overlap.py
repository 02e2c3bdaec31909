"""How much of one benchmark another one covers."""

# B benchmarks, K dictionary size, M models

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..discovery.firing import FiringSets


@dataclass(frozen=True, eq=False)
class Overlap:
    """The share of each benchmark's features that fires on each other benchmark.

    Args:
        names: of the benchmarks, in the order of rows and columns.
        sizes: `(B,)` |F(D)|, the number of features that fire on some example.
        shared: `(B, B)` number of features that two benchmarks share.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    shared: np.ndarray

    @property
    def covered(self) -> np.ndarray:
        """`(B, B)` |F1 ∩ F2| / |F1|: the share of the row's features that the column covers (Eq. 10)."""
        share: np.ndarray = self.shared / np.maximum(self.sizes, 1)[:, None]
        return share

    @property
    def similarity(self) -> np.ndarray:
        """`(B, B)` |F1 ∩ F2| / min(|F1|, |F2|) (Eq. 11)."""
        share: np.ndarray = self.shared / np.maximum(np.minimum.outer(self.sizes, self.sizes), 1)
        return share

    def most_covered(self, name: str) -> tuple[str, float]:
        """The other benchmark that covers most of this one, and the share. A low share means new content."""
        row = self.names.index(name)
        others = [column for column in range(len(self.names)) if column != row]
        best = max(others, key=lambda column: float(self.covered[row, column]))
        return self.names[best], float(self.covered[row, best])


def overlap(firing: Mapping[str, FiringSets]) -> Overlap:
    """The overlap of benchmarks, from the features that fire on the last token of each of their examples.

    A larger benchmark fires more features, and so covers more of the others. To compare like with like, give each
    the same number of examples.

    Args:
        firing: `collect_firing(…, at="last")[layer]` of each benchmark, with the same SAE.

    Raises:
        ValueError: fewer than two benchmarks, or sets of different layers or dictionaries.

    Example:
        >>> sets = {"a": FiringSets.of([[0], [1]], d_sae=4), "b": FiringSets.of([[1, 2, 3]], d_sae=4)}
        >>> overlap(sets).covered.round(2).tolist()
        [[1.0, 0.5], [0.33, 1.0]]

    Source: arXiv:2605.11887, section 4.3, Eq. 10 and 11.
    """
    kinds = {(one.layer, one.d_sae) for one in firing.values()}
    if len(firing) < 2 or len(kinds) != 1:
        raise ValueError(
            f"Got {len(firing)} benchmarks, read at (layer, dictionary size) {sorted(kinds)}; expected two or more, "
            "read with one SAE."
        )
    fires_BK = np.stack([one.counts() > 0 for one in firing.values()])
    shared = fires_BK.astype(np.int64) @ fires_BK.T.astype(np.int64)
    return Overlap(tuple(firing), fires_BK.sum(axis=1), shared)


def partial_correlation(first: Sequence[float], second: Sequence[float], control: Sequence[float]) -> float:
    """Correlation of two benchmarks' scores over models, controlling for general ability.

    Args:
        first, second: `(M,)` score of each model on the two benchmarks.
        control: `(M,)` score of each model on a benchmark of general ability, such as MMLU.

    Returns:
        Pearson's partial correlation, from −1 to 1; NaN where the control explains one of them wholly.

    Raises:
        ValueError: vectors of different lengths, or fewer than four models.

    Source: arXiv:2605.11887, section 4.3, Eq. 12.
    """
    lengths = {len(first), len(second), len(control)}
    if len(lengths) != 1 or lengths.pop() < 4:
        raise ValueError(
            f"The scores are of {len(first)}, {len(second)} and {len(control)} models; expected the same models in "
            "each, four or more."
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
