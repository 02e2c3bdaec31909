"""How probable a result of a proof is by chance: over cases, over random directions, and over several tests."""

# C cases

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLIPS = 10_000


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of tests, so that the chance of any false finding is at most the level.

    Args:
        p_values: of each test, in any order.

    Returns:
        The corrected p-values, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    given = np.asarray(p_values, dtype=float)
    order = given.argsort(kind="stable")
    factors = np.arange(len(given), 0, -1)
    corrected = np.empty_like(given)
    corrected[order] = np.maximum.accumulate(factors * given[order]).clip(max=1.0)
    return [float(value) for value in corrected]


def chance_among_draws(value: float, draws: Sequence[float]) -> float:
    """Two-sided p-value of a value, if it came from the distribution of some draws, which is taken to be normal.

    Args:
        value: the result of the features.
        draws: the results of random directions; fewer than two give 1.

    Example:
        >>> round(chance_among_draws(-3.0, [0.5, -0.5, 1.0, -1.0, 0.0]), 3)
        0.026

    Source: the t-test of one new observation against a sample (prediction interval).
    """
    if len(draws) < 2:
        return 1.0
    spread = float(np.std(draws, ddof=1)) * (1 + 1 / len(draws)) ** 0.5
    distance = abs(value - float(np.mean(draws)))
    if spread == 0:
        return float(distance == 0)
    return _two_sided_t(distance / spread, len(draws) - 1)


def _two_sided_t(t: float, freedom: int) -> float:
    """Student's t, whose density is `cos(angle) ** (freedom - 1)` over `angle = arctan(t / sqrt(freedom))`."""
    start = float(np.arctan(t / freedom**0.5))
    areas = []
    for low in (start, 0.0):
        angles = np.linspace(low, np.pi / 2, 20_001)
        areas.append(np.trapezoid(np.cos(angles).clip(min=0.0) ** (freedom - 1), angles))
    return float(areas[0] / areas[1])


def chance_over_cases(difference_C: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of a mean difference, by flipping the sign of each case's difference at random.

    Args:
        difference_C: of each case.
        seed: random seed of the flips.

    Example:
        >>> chance_over_cases([0.0, 0.0])
        1.0
    """
    values = np.asarray(difference_C, dtype=float)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(FLIPS, len(values)))
    as_large = np.abs(signs @ values) >= abs(values.sum()) - 1e-12
    return float((as_large.sum() + 1) / (FLIPS + 1))
