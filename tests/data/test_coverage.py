"""Coverage of target features: against counting by hand, every subset of examples, and random draws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from sae_posttrain.data import coverage_at, coverage_curve, target_coverage
from sae_posttrain.discovery.firing import FiringSets

D_SAE = 30
TARGETS = [1, 4, 5, 8, 11, 20, 29]


def random_firing(examples: int = 7, seed: int = 0) -> FiringSets:
    rng = np.random.default_rng(seed)
    return FiringSets.of([rng.choice(D_SAE - 1, rng.integers(0, 7), replace=False) for _ in range(examples)], D_SAE)


def fired(firing: FiringSets, examples: tuple[int, ...]) -> set[int]:
    return {int(feature) for example in examples for feature in firing[example]}


def test_missing_and_weak_targets_are_those_counted_by_hand() -> None:
    firing = random_firing()
    found = target_coverage(firing, [*reversed(TARGETS), 4])  # in any order, and twice
    counts = {feature: sum(feature in firing[example] for example in range(7)) for feature in TARGETS}
    assert found.targets.tolist() == TARGETS
    assert found.counts.tolist() == list(counts.values())
    assert found.missing.tolist() == [feature for feature, count in counts.items() if count == 0]
    assert found.weak(2).tolist() == [feature for feature, count in counts.items() if count == 1]
    assert 29 in found.missing
    assert found.share == pytest.approx(np.mean([count > 0 for count in counts.values()]))


@pytest.mark.parametrize("covered", [[], [4, 29], [4, 29, 7]])  # 7 is no target
def test_the_curve_is_the_mean_over_all_subsets(covered: list[int]) -> None:
    firing = random_firing()
    curve = coverage_curve(firing, TARGETS, covered=covered)
    assert curve.budgets.tolist() == list(range(8))
    for n, expected in zip(curve.budgets, curve.expected, strict=True):
        shares = [
            len((fired(firing, chosen) | set(covered)) & set(TARGETS)) / len(TARGETS)
            for chosen in combinations(range(7), int(n))
        ]
        assert expected == pytest.approx(np.mean(shares))


def test_the_band_holds_what_single_draws_give() -> None:
    firing = random_firing(60, seed=3)
    curve = coverage_curve(firing, TARGETS, covered=[29], points=7, draws=2000)
    rng = np.random.default_rng(9)
    for n, low, high in zip(curve.budgets, curve.low, curve.high, strict=True):
        draws = [tuple(rng.choice(60, n, replace=False)) for _ in range(600)]
        shares = [len((fired(firing, draw) | {29}) & set(TARGETS)) / len(TARGETS) for draw in draws]
        assert np.mean([low - 1e-9 <= share <= high + 1e-9 for share in shares]) >= 0.93
    assert curve.low[0] == curve.high[0] == pytest.approx(1 / 7)
    assert curve.low[-1] == curve.high[-1] == pytest.approx(curve.expected[-1])


def test_data_sets_are_compared_at_one_budget() -> None:
    curves = {name: coverage_curve(random_firing(size, size), TARGETS) for name, size in (("a", 7), ("b", 12))}
    found = coverage_at(curves, 5)
    assert found == {name: pytest.approx(curve.expected[5]) for name, curve in curves.items()}
    with pytest.raises(ValueError, match="a has 7 examples; the budget 8"):
        coverage_at(curves, 8)


def test_a_small_budget_of_a_large_data_set_is_exact() -> None:
    """A straight line from 0 to the curve's next point, 256 examples, would say 0.18."""
    rng = np.random.default_rng(0)
    firing = FiringSets.of([[feature] for feature in rng.integers(0, 200, 10_000)], 200)
    curve = coverage_curve(firing, range(200), budgets=[100, 20_000], draws=50)
    never = np.prod((10_000 - firing.counts()[:, None] - np.arange(100)) / (10_000 - np.arange(100)), axis=1)
    assert coverage_at({"a": curve}, 100)["a"] == pytest.approx(1 - never.mean())
    assert curve.low[curve.budgets == 100] < 1 - never.mean() < curve.high[curve.budgets == 100]
    assert curve.budgets[-1] == 10_000
    with pytest.raises(ValueError, match=r"The curve of a does not hold 101 examples: .* budgets=\[101\]"):
        coverage_at({"a": curve}, 101)
    with pytest.raises(ValueError, match=r"budgets=\[-1\]"):
        coverage_curve(firing, range(200), budgets=[-1])


def test_nothing_fires() -> None:
    curve = coverage_curve(FiringSets.of([[], [2]], D_SAE), [7], draws=3)
    assert curve.expected.tolist() == curve.low.tolist() == curve.high.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("targets", "message"),
    [([], "no targets"), ([30], "feature 30; the dictionary has features 0 to 29"), ([-1], "-1")],
)
def test_wrong_targets_are_refused(targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target_coverage(random_firing(), targets)
