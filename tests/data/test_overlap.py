"""Overlap of benchmarks, against sets and against a correlation by hand."""

from __future__ import annotations

from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from sae_posttrain.data import expected_overlap, order_of_benchmarks, overlap, partial_correlation
from sae_posttrain.data.overlap import missed, new_examples, rank_correlation
from sae_posttrain.discovery.firing import FiringSets

SETS = {"small": [[0, 1], [1]], "large": [[0, 1, 2], [3, 4], [5]], "other": [[7], []]}


def test_shares_are_those_of_the_sets() -> None:
    unions = {name: set().union(*rows) for name, rows in SETS.items()}
    found = overlap({name: FiringSets.of(rows, d_sae=9) for name, rows in SETS.items()})
    for row, one in enumerate(unions.values()):
        for column, other in enumerate(unions.values()):
            shared = len(one & other)
            assert found.covered[row, column] == pytest.approx(shared / len(one))
            assert found.similarity[row, column] == pytest.approx(shared / min(len(one), len(other)))
    assert found.most_covered("small") == ("large", 1.0)
    assert found.most_covered("other")[1] == 0.0


def test_benchmarks_of_different_saes_are_refused() -> None:
    with pytest.raises(ValueError, match="all read with the same SAE"):
        overlap({"a": FiringSets.of([[0]], d_sae=4), "b": FiringSets.of([[0]], d_sae=8)})
    with pytest.raises(ValueError, match="Got 1 benchmarks"):
        overlap({"a": FiringSets.of([[0]], d_sae=4)})


def test_partial_correlation_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    control = rng.normal(size=28)
    first = control + rng.normal(size=28)
    second = control + 0.5 * first + rng.normal(size=28)
    r = np.corrcoef([first, second, control])
    by_hand = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_correlation(first.tolist(), second.tolist(), control.tolist()) == pytest.approx(by_hand)


def test_what_the_control_explains_wholly_has_no_partial_correlation() -> None:
    control = [1.0, 2.0, 3.0, 5.0]
    assert np.isnan(partial_correlation([2 * one for one in control], [0.0, 1.0, 0.0, 1.0], control))
    with pytest.raises(ValueError, match="at least four"):
        partial_correlation([1, 2], [1, 2], [1, 2])


def sets_of(rows: dict[str, list[list[int]]], d_sae: int = 9) -> dict[str, FiringSets]:
    return {name: FiringSets.of(of_one, d_sae=d_sae) for name, of_one in rows.items()}


def test_what_is_new_fires_nowhere_else() -> None:
    found = overlap(sets_of(SETS))
    for row, (name, rows) in enumerate(SETS.items()):
        own = set().union(*rows)
        elsewhere = set().union(*(one for other, of_other in SETS.items() if other != name for one in of_other))
        assert found.only_here[row] == len(own - elsewhere)
        assert found.new[row] == pytest.approx(len(own - elsewhere) / len(own))
        new = {example: len(set(one) - elsewhere) for example, one in enumerate(rows)}
        assert dict(new_examples(sets_of(SETS), name)) == {example: n for example, n in new.items() if n}
    assert found.new[0] == 0  # the others cover `small`, so it may be dropped


def test_benchmarks_are_kept_in_the_order_of_what_they_add() -> None:
    order = order_of_benchmarks(sets_of(SETS))
    assert [list(SETS)[place] for place in order.examples] == ["large", "other", "small"]
    assert order.gained == (6, 1, 0)


def random_benchmark(seed: int, examples: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [np.flatnonzero(rng.random(9) < 0.25).tolist() for _ in range(examples)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_parts_of_equal_size_have_the_mean_overlap_of_all_parts(n: int) -> None:
    rows = {"a": random_benchmark(0, 6), "b": random_benchmark(1, 4), "c": random_benchmark(2, 5)}
    found = expected_overlap(sets_of(rows), n)

    def parts(name: str) -> list[set[int]]:
        return [set().union(*part) for part in combinations(rows[name], n)]

    for row, one in enumerate(rows):
        assert found.sizes[row] == pytest.approx(np.mean([len(part) for part in parts(one)]))
        for column, other in enumerate(rows):
            if row != column:
                shared = np.mean([len(a & b) for a, b in product(parts(one), parts(other))])
                assert found.shared[row, column] == pytest.approx(shared)
        left, right = (parts(name) for name in rows if name != one)
        alone = np.mean([len(a - b - c) for a, b, c in product(parts(one), left, right)])
        assert found.only_here[row] == pytest.approx(alone)
        disjoint = [
            len(set().union(*(rows[one][e] for e in first)) & set().union(*(rows[one][e] for e in second)))
            for first in combinations(range(len(rows[one])), n)
            for second in combinations(set(range(len(rows[one]))) - set(first), n)
        ]
        expected = np.mean(disjoint) if disjoint else np.nan
        assert found.shared[row, row] == pytest.approx(expected, nan_ok=True)


def test_disjoint_parts_of_different_examples_share_nothing() -> None:
    """Exactly nothing: a rounding error would be shown as -0.000."""
    found = expected_overlap(sets_of({"a": [[0], [1]], "b": [[0, 1], [0, 1]]}), 1)
    assert found.covered.tolist() == [[0, 1], [0.5, 1]]


def test_a_large_benchmark_has_the_probabilities_of_exact_fractions() -> None:
    firing = FiringSets.of(([feature for feature in range(9) if row < 5**feature // 20] for row in range(20_000)), 9)
    counts = [5**feature // 20 for feature in range(9)]
    for n in (1, 700, 10_000, 20_000):
        exact = [comb(20_000 - count, n) / comb(20_000, n) for count in counts]
        assert missed(firing, n) == pytest.approx(exact, rel=1e-11, abs=1e-300)


@pytest.mark.parametrize("n", [0, 5])
def test_a_part_of_impossible_size_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 4, the size of the smallest"):
        expected_overlap(sets_of({"a": random_benchmark(0, 6), "b": random_benchmark(1, 4)}), n)


def test_ranks_with_ties_correlate_as_scipy_says() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = rng.integers(0, 6, 20), rng.integers(0, 6, 20)
        assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
