"""Keep synthesised examples that fire the feature they were made for, and measure how often they do by chance."""

# E examples, T targets, P permutations

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..discovery.firing import FiringSets
from ..metrics.interval import clustered_interval


@dataclass(frozen=True, eq=False)
class Verification:
    """Which examples fire the feature that they were made for.

    Args:
        fires: `(E,)` whether each example fires its own target.
        share: of the examples that fire their own target.
        low, high: 95% interval of the share, drawing targets with all their examples.
        chance: share that fires a target which another example was made for, the mean over all other targets.
        p_value: how often the share is as high when whole groups of examples exchange their targets at random.
    """

    fires: np.ndarray
    share: float
    low: float
    high: float
    chance: float
    p_value: float


def verify_targets(
    firing: FiringSets, targets: Sequence[int], *, permutations: int = 1000, seed: int = 0
) -> Verification:
    """Find the examples that fire the feature they were made for.

    The control is what the same examples do for each other's targets: a feature that fires on most texts verifies
    whatever was written.

    Args:
        firing: `collect_firing(…)[layer]` of the synthesised examples.
        targets: for each example, the feature that it was made for.
        permutations: random exchanges of targets for the p-value.
        seed: of the permutations.

    Returns:
        What fires, and how that compares with chance. With a single target, chance and the p-value are NaN.

    Raises:
        ValueError: not one target for each example, or no examples.

    Example:
        >>> found = verify_targets(FiringSets.of([[0], [0], [2]], d_sae=4), [0, 1, 2])
        >>> found.fires.tolist(), round(found.chance, 2)
        ([True, False, True], 0.17)

    Source: arXiv:2605.11887, section 6 (an example is kept only if its target fires). The control is ours.
    """
    own_E = np.asarray(list(targets), dtype=np.int64)
    if len(own_E) != len(firing) or not len(own_E):
        raise ValueError(f"{len(own_E)} targets for {len(firing)} examples; expected one for each, of at least one.")
    features, target_of_E = np.unique(own_E, return_inverse=True)
    counts_TT = _counts(firing, features, target_of_E)
    sizes_T = np.bincount(target_of_E)
    fires_E = np.array([feature in firing[example] for example, feature in enumerate(own_E)])
    low, high = clustered_interval(fires_E.tolist(), own_E.tolist())
    share = float(fires_E.mean())
    if len(features) < 2:
        return Verification(fires_E, share, low, high, float("nan"), float("nan"))
    others = (counts_TT.sum() - np.trace(counts_TT)) / ((len(features) - 1) * sizes_T.sum())
    rng = np.random.default_rng(seed)
    rows = np.arange(len(features))
    exchanged = np.array([counts_TT[rows, rng.permutation(len(features))].sum() for _ in range(permutations)])
    p_value = float((1 + (exchanged >= np.trace(counts_TT)).sum()) / (1 + permutations))
    return Verification(fires_E, share, low, high, float(others), p_value)


def _counts(firing: FiringSets, features: np.ndarray, target_of_E: np.ndarray) -> np.ndarray:
    """`(T, T)` number of the row target's examples that fire the column target."""
    counts_TT = np.zeros((len(features), len(features)), dtype=np.int64)
    for example, row in enumerate(target_of_E):
        fired = np.searchsorted(features, np.intersect1d(features, firing[example]))
        counts_TT[row, fired] += 1
    return counts_TT
