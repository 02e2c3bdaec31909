"""Compare two runs on the same prompts: the difference of their rates, its confidence interval and its p-value."""

# P prompts

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, TypeVar

import numpy as np

from .interval import ClusteredOutcome, clustered_interval
from .report import Countable

RESAMPLES = 10_000
C = TypeVar("C", bound=Countable)


@dataclass(frozen=True)
class Difference:
    """The difference between a run's rate and the rate of the run it is compared with. Negative is better."""

    rate: float
    against: float
    low: float  # low and high are the confidence interval of the difference
    high: float
    p_value: float  # two-sided: probability of a difference at least this large if the runs were equal
    prompts: int
    confidence: float

    @property
    def difference(self) -> float:
        return self.rate - self.against

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"difference": self.difference, **asdict(self)}

    def table(self) -> str:
        """The rates and their difference, in percent and in points."""
        return (
            f"against {100 * self.against:.3f}%: {100 * self.difference:+.3f} points, {self.confidence:.0%} interval "
            f"{100 * self.low:+.3f} to {100 * self.high:+.3f}, p = {self.p_value:.2g} ({self.prompts} prompts)"
        )


def compare_rates(report: C, against: C, *, seed: int = 0) -> Difference:
    """The difference between two reports on responses to the same prompts. `clusters` identifies the prompts.

    The interval combines the intervals of the two runs (`share_interval`) and the correlation of their rates over
    prompts. It remains valid when few or no responses fail. The p-value is that of a permutation test, which swaps
    the two runs' answers to each prompt at random. Where the runs have different numbers of answers to a prompt, it
    deals all of them to the two runs at random, so that the numbers stay as they are.

    Args:
        report: report of the run to judge, measured with `clusters`.
        against: report of the run that it is compared with, such as the base model.
        seed: random seed of the permutation test.

    Returns: the two rates and their difference, with its interval and p-value.

    Raises: ValueError: the prompts of the two reports differ.

    Example:
        >>> before = code_switching_rate(["All 一切 good.", "All 一切 fine."], "en", clusters=["p", "q"])
        >>> after = code_switching_rate(["All good.", "All 一切 fine."], "en", clusters=["p", "q"])
        >>> compare_rates(after, before).difference
        -0.5

    Source: Newcombe 1998, Statistics in Medicine 17, the square-and-add interval for paired proportions.
    """
    counts, against_counts = _by_prompt(report.outcomes), _by_prompt(against.outcomes)
    if counts.keys() != against_counts.keys() or not counts:
        only, missing = counts.keys() - against_counts.keys(), against_counts.keys() - counts.keys()
        raise ValueError(
            f"The runs must have answered the same prompts: {len(only)} are in the first only (such as "
            f"{_example(only)}), {len(missing)} in the second only (such as {_example(missing)})."
        )
    hits_2P, sizes_2P = np.array(
        [[counts[prompt] for prompt in counts], [against_counts[prompt] for prompt in counts]], dtype=np.int64
    ).transpose(2, 0, 1)
    rates = hits_2P.sum(axis=1) / sizes_2P.sum(axis=1)
    low, high = _square_and_add(rates, [_interval(report), _interval(against)], _correlation(hits_2P, sizes_2P, rates))
    return Difference(
        rate=float(rates[0]),
        against=float(rates[1]),
        low=low,
        high=high,
        p_value=_swapping(hits_2P, sizes_2P, np.random.default_rng(seed)),
        prompts=len(counts),
        confidence=report.confidence,
    )


def _by_prompt(outcomes: Iterable[ClusteredOutcome]) -> dict[Any, tuple[int, int]]:
    counts: dict[Any, tuple[int, int]] = {}
    for prompt, hit in outcomes:
        hits, size = counts.get(prompt, (0, 0))
        counts[prompt] = hits + hit, size + 1
    return counts


def _example(prompts: Iterable[Any]) -> str:
    return repr(next(iter(prompts), None))[:80]


def _interval(report: Countable) -> tuple[float, float]:
    prompts, hits = zip(*report.outcomes, strict=True)
    return clustered_interval(hits, prompts, confidence=report.confidence)


def _square_and_add(
    rates: np.ndarray, intervals: Sequence[tuple[float, float]], correlation: float
) -> tuple[float, float]:
    (low, high), (against_low, against_high) = intervals
    rate, against = (float(one) for one in rates)

    def distance(one: float, other: float) -> float:
        return sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))

    difference = rate - against
    return (
        max(-1.0, difference - distance(rate - low, against_high - against)),
        min(1.0, difference + distance(high - rate, against - against_low)),
    )


def _correlation(hits_2P: np.ndarray, sizes_2P: np.ndarray, rates: np.ndarray) -> float:
    """The correlation of the two rates over prompts."""
    excess_2P = hits_2P - rates[:, None] * sizes_2P
    norms = np.sqrt((excess_2P**2).sum(axis=1))
    return float(excess_2P[0] @ excess_2P[1] / norms.prod()) if norms.all() else 0.0


def _swapping(hits_2P: np.ndarray, sizes_2P: np.ndarray, rng: np.random.Generator) -> float:
    """The p-value of the permutation test. Prompts with equal counts are sampled together, which is exact and fast."""
    kinds, numbers = np.unique(np.concatenate([hits_2P, sizes_2P]).T, axis=0, return_counts=True)
    alike_K = kinds[:, 2] == kinds[:, 3]
    hits_K2 = kinds[alike_K, :2]
    swapped_RK = rng.binomial(numbers[alike_K], 0.5, size=(RESAMPLES, len(hits_K2)))
    kept_RK = numbers[alike_K] - swapped_RK
    first_R = kept_RK @ hits_K2[:, 0] + swapped_RK @ hits_K2[:, 1]
    for (hits, others, size, other_size), number in zip(kinds[~alike_K], numbers[~alike_K], strict=True):
        hit = hits + others
        first_R += rng.hypergeometric(hit, size + other_size - hit, size, size=(RESAMPLES, number)).sum(axis=1)
    total, sizes = hits_2P.sum(), sizes_2P.sum(axis=1)
    rates = hits_2P.sum(axis=1) / sizes
    as_large = np.abs(first_R / sizes[0] - (total - first_R) / sizes[1]) >= abs(rates[0] - rates[1]) - 1e-12
    return float((as_large.sum() + 1) / (RESAMPLES + 1))
