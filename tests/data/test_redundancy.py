"""Redundancy of a benchmark: the closed form against every subset, and against sampling."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from sae_posttrain.data import ranking_agreement, ranking_redundancy, redundancy
from sae_posttrain.data.redundancy import kendall_tau
from sae_posttrain.discovery.firing import FiringSets


def random_sets(examples: int, features: int, share: float, seed: int = 0) -> FiringSets:
    rng = np.random.default_rng(seed)
    rates = rng.random(features) * 2 * share
    return FiringSets.of((np.flatnonzero(rng.random(features) < rates) for _ in range(examples)), d_sae=features)


def fired(sets: FiringSets, part: tuple[int, ...] | np.ndarray) -> int:
    return len(set().union(*(sets[example].tolist() for example in part)))


def test_the_curve_is_the_mean_over_all_subsets() -> None:
    sets = random_sets(7, 20, 0.2)
    whole = fired(sets, tuple(range(7)))
    found = redundancy(sets)
    for n in range(1, 8):
        by_hand = np.mean([fired(sets, part) for part in combinations(range(7), n)]) / whole
        assert found.coverage[n - 1] == pytest.approx(by_hand, abs=1e-12)
    assert found.features == whole
    assert found.auc == pytest.approx(found.coverage.mean(), abs=1e-12)
    assert found.redundancy == pytest.approx(found.coverage.sum() / whole, abs=1e-12)


def test_the_curve_is_what_ten_thousand_samples_say() -> None:
    sets = random_sets(60, 300, 0.05, seed=1)
    found, rng = redundancy(sets), np.random.default_rng(2)
    matrix_EK = np.zeros((60, 300), dtype=bool)
    for example in range(60):
        matrix_EK[example, sets[example]] = True
    for n in (1, 5, 20, 59):
        drawn = [matrix_EK[rng.choice(60, n, replace=False)].any(0).sum() / found.features for _ in range(10_000)]
        error = np.std(drawn) / 100
        assert found.coverage[n - 1] == pytest.approx(np.mean(drawn), abs=5 * error + 1e-12)


def test_a_benchmark_of_copies_is_more_redundant_than_one_of_different_examples() -> None:
    copies = redundancy(FiringSets.of([[0, 1, 2]] * 10, d_sae=40))
    different = redundancy(FiringSets.of([[3 * n, 3 * n + 1, 3 * n + 2] for n in range(10)], d_sae=40))
    assert copies.auc == pytest.approx(1.0)
    assert copies.redundancy > different.redundancy
    assert different.coverage == pytest.approx(np.arange(1, 11) / 10)
    assert copies.examples_for(0.9) == 1
    assert different.examples_for(0.9) == 9


def test_a_large_benchmark_is_exact_at_both_ends() -> None:
    found = redundancy(random_sets(20_000, 50, 0.3, seed=3))
    assert found.coverage[-1] == 1.0
    assert found.coverage[0] == pytest.approx(found.firing.sum() / 20_000 / found.features)
    assert (np.diff(found.coverage) >= -1e-12).all()
    assert found.auc == pytest.approx(found.coverage.mean(), rel=1e-9)


def test_a_benchmark_that_fires_nothing_has_no_redundancy() -> None:
    assert np.isnan(redundancy(FiringSets.of([[], []], d_sae=4)).redundancy)


def test_a_benchmark_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        redundancy(FiringSets.of([], d_sae=4))


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share=0: expected more than 0"):
        redundancy(FiringSets.of([[1]], d_sae=4)).examples_for(0)


def test_models_rank_on_a_part_as_on_the_whole_when_examples_agree() -> None:
    ability = np.array([0.1, 0.4, 0.6, 0.9])[:, None]
    agreeing = (ability > np.full(50, 0.5)).astype(float) + ability  # the same order on every example
    assert ranking_agreement(agreeing, [1, 10, 50], draws=10) == pytest.approx([1, 1, 1])
    rng = np.random.default_rng(0)
    noisy = (rng.random((4, 400)) < ability).astype(float)
    small, large, whole = ranking_agreement(noisy, [3, 100, 400], draws=50)
    assert small < large <= whole == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("scores", "sizes", "says"),
    [
        (np.ones((1, 5)), [2], "at least two models"),
        (np.ones((3, 5)), [2], "no ranking"),
        (np.arange(15).reshape(3, 5), [6], "sizes has 6; expected sizes from 1 to 5"),
    ],
)
def test_scores_that_rank_nothing_are_refused(scores: np.ndarray, sizes: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ranking_agreement(scores, sizes)


def test_the_mean_over_all_sizes_is_that_over_all_subsets() -> None:
    kendalltau = pytest.importorskip("scipy.stats").kendalltau
    rng = np.random.default_rng(1)
    scores = (rng.random((5, 6)) < np.linspace(0.2, 0.9, 5)[:, None]).astype(float)
    whole = scores.mean(axis=1)

    def tau(n: int) -> float:
        parts = [kendalltau(scores[:, part].mean(axis=1), whole).statistic for part in combinations(range(6), n)]
        return float(np.nan_to_num(parts).mean())

    by_hand = np.mean([tau(n) for n in range(1, 7)])
    assert ranking_redundancy(scores, draws=200) == pytest.approx(by_hand, abs=0.04)


def test_sizes_between_are_interpolated_where_a_benchmark_is_large() -> None:
    rng = np.random.default_rng(2)
    scores = (rng.random((4, 120)) < np.array([0.2, 0.4, 0.6, 0.8])[:, None]).astype(float)
    every = ranking_agreement(scores, list(range(1, 121, 4)), draws=20).mean()
    assert ranking_redundancy(scores, draws=20) == pytest.approx(every, abs=0.03)


def test_models_with_the_same_scores_in_another_order_are_equal() -> None:
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating-point numbers."""
    scores = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    with pytest.raises(ValueError, match="no ranking"):
        ranking_agreement(scores, [2])
    whole = np.append(scores.mean(axis=1), 0.5)
    assert kendall_tau(whole[None], np.array([1.0, 1.0, 2.0])) == pytest.approx([1])


def test_tau_is_scipys() -> None:
    kendalltau = pytest.importorskip("scipy.stats").kendalltau
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (40, 6)).astype(float), rng.integers(0, 4, 6).astype(float)
    expected = np.nan_to_num([kendalltau(row, second).statistic for row in first])
    assert kendall_tau(first, second) == pytest.approx(expected)
    assert kendall_tau(np.ones((1, 6)), second).tolist() == [0]
