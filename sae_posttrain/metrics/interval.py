"""Confidence intervals for a share of responses, when several responses may belong to one prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import sqrt
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

ClusteredOutcome: TypeAlias = tuple[Hashable, bool]
"""The result of one response: its cluster (usually its prompt), and whether it failed."""

_MAX_CELLS = 1 << 22  # number of resampled counts in memory at once: 32 MiB


def share_interval(
    hits: ArrayLike, sizes: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of sum(hits) / sum(sizes), drawing whole clusters with replacement.

    The bootstrap interval is too narrow when there are few hits, so it is widened to contain Wilson's interval.
    Wilson's number of draws is the number of responses divided by the bootstrap's design effect. If no response or
    every response is a hit, the bootstrap interval has length 0. The exact (Clopper-Pearson) bound is then used, with
    each response as one draw, because the data show no dependence. A single cluster with hits and misses gives (0, 1),
    because it allows no conclusion about other clusters.

    Args:
        hits, sizes: `(clusters,)` counts. Independent responses are clusters of size 1.
        confidence, resamples, seed: confidence level, number of draws and random seed.
    """
    hits_C, sizes_C = np.asarray(hits, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}.")
    if hits_C.shape != sizes_C.shape or hits_C.ndim != 1 or not len(hits_C) or (sizes_C < 1).any():
        raise ValueError("expected one hit count and one size of at least 1 for each of at least one cluster.")
    tail = (1 - confidence) / 2
    share, total = hits_C.sum() / sizes_C.sum(), int(sizes_C.sum())
    if share == 0:
        return 0.0, float(1 - tail ** (1 / total))
    if share == 1:
        return float(tail ** (1 / total)), 1.0
    if len(hits_C) == 1:
        return 0.0, 1.0
    shares = _resampled_shares(hits_C, sizes_C, resamples, seed)
    design_effect = np.clip(shares.var() * total / (share * (1 - share)), 1, total / len(hits_C))
    low, high = np.quantile(shares, [tail, 1 - tail])
    wilson_low, wilson_high = _wilson(share, total / design_effect, tail)
    return min(float(low), wilson_low), max(float(high), wilson_high)


def clustered_interval(
    hits: Sequence[bool], clusters: Sequence[Hashable] | None = None, **options: Any
) -> tuple[float, float]:
    """`share_interval` of one hit or miss per response. By default each response is a cluster of its own."""
    clusters = range(len(hits)) if clusters is None else clusters
    if len(clusters) != len(hits):
        raise ValueError(f"{len(hits)} responses but {len(clusters)} clusters; give one for each response.")
    counts: dict[Hashable, list[int]] = {}
    for hit, cluster in zip(hits, clusters, strict=True):
        count = counts.setdefault(cluster, [0, 0])
        count[0] += hit
        count[1] += 1
    return share_interval(*zip(*counts.values(), strict=True), **options)


def mean_share_interval(
    cells: Sequence[tuple[float, Sequence[ClusteredOutcome]]],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a weighted mean of shares, drawing whole clusters within each cell.

    If all responses of all cells agree, the bootstrap interval has length 0. The bound is then that of
    `share_interval` on the pooled responses.

    Args:
        cells: weight and outcomes of each share.
        confidence, resamples, seed: confidence level, number of draws and random seed.
    """
    outcomes = [outcome for _, cell in cells for outcome in cell]
    clusters, hits = zip(*outcomes, strict=True)
    if len(set(hits)) == 1 or len(outcomes) == len(cells):
        low, high = clustered_interval(hits, clusters, confidence=confidence, resamples=resamples, seed=seed)
        return low * sum(weight for weight, _ in cells), high * sum(weight for weight, _ in cells)
    tail = (1 - confidence) / 2
    mean = np.zeros(resamples)
    for number, (weight, cell) in enumerate(cells):
        counts: dict[Hashable, list[int]] = {}
        for cluster, hit in cell:
            count = counts.setdefault(cluster, [0, 0])
            count[0] += hit
            count[1] += 1
        hits_C, sizes_C = np.asarray(list(counts.values()), dtype=np.int64).T
        mean += weight * _resampled_shares(hits_C, sizes_C, resamples, seed + number)
    low, high = np.quantile(mean, [tail, 1 - tail])
    return float(low), float(high)


def _wilson(share: float, draws: float, tail: float) -> tuple[float, float]:
    """Wilson's score interval (1927), which remains valid at small counts."""
    z = NormalDist().inv_cdf(1 - tail)
    centre = (share + z * z / (2 * draws)) / (1 + z * z / draws)
    half = z * sqrt(share * (1 - share) / draws + z * z / (4 * draws * draws)) / (1 + z * z / draws)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _resampled_shares(hits_C: np.ndarray, sizes_C: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Bootstrap shares. One count is drawn per distinct (hits, size), which is exact and needs little memory."""
    kinds, counts = np.unique(np.stack([hits_C, sizes_C], axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    chunk = max(1, _MAX_CELLS // len(kinds))
    shares = []
    for start in range(0, resamples, chunk):
        drawn = rng.multinomial(len(hits_C), counts / len(hits_C), size=min(chunk, resamples - start))
        totals = drawn @ kinds
        shares.append(totals[:, 0] / totals[:, 1])
    return np.concatenate(shares)
