"""Choose examples on which, together, as many features as possible fire, and compare them with random choices."""

# E examples, K dictionary size

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..discovery.firing import FiringSets


@dataclass(frozen=True, eq=False)
class Selection:
    """Chosen examples, best first.

    Args:
        examples: indices of the chosen examples, in the order in which they were chosen.
        gained: number of features that each of them added.
        features: |F(D)|, the number of features that fire on any example.
    """

    examples: tuple[int, ...]
    gained: tuple[int, ...]
    features: int

    @property
    def coverage(self) -> np.ndarray:
        """`(n,)` share of the features that fire on the first 1 … n chosen examples."""
        return np.cumsum(self.gained) / max(1, self.features)


def select_by_coverage(firing: FiringSets, n: int) -> Selection:
    """Greedily choose n examples: each adds the most features that are not yet covered.

    The best choice of n examples covers at most 1 / (1 − 1/e) = 1.58 times as many features (Nemhauser et al. 1978),
    and no polynomial algorithm has a better guarantee. Gains can only fall, so an example is evaluated again only if
    its last known gain is the highest (Minoux 1978). Among equal gains the first example is chosen.

    Args:
        firing: `collect_firing(…)[layer]`.
        n: number of examples to choose.

    Returns:
        The chosen examples, and how many features each of them added.

    Raises:
        ValueError: n is below 1, or above the number of examples.

    Example:
        >>> select_by_coverage(FiringSets.of([[0], [0, 1], [2]], d_sae=3), 2).examples
        (1, 2)
    """
    if not 1 <= n <= len(firing):
        raise ValueError(f"n={n}: expected 1 to {len(firing)}, the number of examples.")
    covered_K = np.zeros(firing.d_sae, dtype=bool)
    heap = [(-len(firing[example]), example) for example in range(len(firing))]
    heapq.heapify(heap)
    examples: list[int] = []
    gained: list[int] = []
    while len(examples) < n:
        known, example = heap[0]
        gain = int((~covered_K[firing[example]]).sum())
        if gain != -known:
            heapq.heapreplace(heap, (-gain, example))
            continue
        heapq.heappop(heap)
        covered_K[firing[example]] = True
        examples.append(example)
        gained.append(gain)
    return Selection(tuple(examples), tuple(gained), int((firing.counts() > 0).sum()))


def length_matched_coverage(
    firing: FiringSets,
    lengths: Sequence[int],
    chosen: Sequence[int],
    *,
    draws: int = 100,
    bins: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Compute the coverage of random examples that are about as long as the chosen ones.

    This is the control for length: more features fire on a long text.

    Args:
        firing: `collect_firing(…)[layer]`.
        lengths: `(E,)` length of each example, such as its number of tokens.
        chosen: indices of the chosen examples.
        draws: number of random choices.
        bins: number of groups of equally many examples by length. As many of each group are drawn as were chosen of it.
        seed: random seed of the draws.

    Returns:
        `(draws, n)` share of the features of all examples that the first 1 … n drawn ones fire. They are drawn in the
        order of the chosen ones, so that the first k match the first k chosen.

    Raises:
        ValueError: another number of lengths than examples.

    Example:
        >>> sets = FiringSets.of([[0], [1], [2, 3], [2, 3]], d_sae=4)
        >>> length_matched_coverage(sets, [1, 1, 9, 9], [2, 3], draws=1, bins=2).tolist()  # both long examples
        [[0.5, 0.5]]

    Source: our own control.
    """
    if len(lengths) != len(firing):
        raise ValueError(f"{len(lengths)} lengths were given for {len(firing)} examples; expected one for each.")
    order = np.argsort(np.asarray(lengths), kind="stable")
    bin_E = np.empty(len(firing), dtype=np.int64)
    bin_E[order] = np.arange(len(firing)) * min(bins, len(firing)) // len(firing)
    rng = np.random.default_rng(seed)
    whole = int((firing.counts() > 0).sum())
    found = np.empty((draws, len(chosen)))
    for draw in range(draws):
        shuffled = {
            one: iter(rng.permutation(np.flatnonzero(bin_E == one))) for one in set(bin_E[list(chosen)].tolist())
        }
        covered_K = np.zeros(firing.d_sae, dtype=bool)
        for place, example in enumerate(chosen):
            covered_K[firing[int(next(shuffled[int(bin_E[example])]))]] = True
            found[draw, place] = covered_K.sum() / max(1, whole)
    return found
