"""Confidence intervals for a share of responses, when several responses may belong to one prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_MAX_CELLS = 1 << 22  # of resampled counts held at once: 32 MiB


def share_interval(
    hits: ArrayLike, sizes: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of sum(hits) / sum(sizes), drawing whole clusters with replacement.

    hits, sizes: (clusters,) counts; responses that share nothing are clusters of size 1. When no response is hit, or
    every one is, all resamples agree and the bootstrap would claim certainty: the bound is then the exact
    (Clopper-Pearson) one for as many independent draws as there are clusters. One cluster alone gives (0, 1) when it
    is mixed: it says nothing about others.
    """
    hits_C, sizes_C = np.asarray(hits, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if hits_C.shape != sizes_C.shape or hits_C.ndim != 1 or not len(hits_C) or (sizes_C < 1).any():
        raise ValueError("expected one hit count and one size of at least 1 for each of at least one cluster")
    tail = (1 - confidence) / 2
    if not hits_C.any():
        return 0.0, float(1 - tail ** (1 / len(hits_C)))
    if (hits_C == sizes_C).all():
        return float(tail ** (1 / len(hits_C))), 1.0
    if len(hits_C) == 1:
        return 0.0, 1.0
    low, high = np.quantile(_resampled_shares(hits_C, sizes_C, resamples, seed), [tail, 1 - tail])
    return float(low), float(high)


def _resampled_shares(hits_C: np.ndarray, sizes_C: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Drawing clusters is drawing a count for each distinct (hits, size): exact, and small whatever the number is."""
    kinds, counts = np.unique(np.stack([hits_C, sizes_C], axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    chunk = max(1, _MAX_CELLS // len(kinds))
    shares = []
    for start in range(0, resamples, chunk):
        drawn = rng.multinomial(len(hits_C), counts / len(hits_C), size=min(chunk, resamples - start))
        totals = drawn @ kinds
        shares.append(totals[:, 0] / totals[:, 1])
    return np.concatenate(shares)
