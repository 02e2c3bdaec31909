"""Greedy choice of examples, against a greedy choice without shortcuts and against the best choice."""

from __future__ import annotations

from itertools import combinations
from math import e

import numpy as np
import pytest

from sae_posttrain.data import length_matched_coverage, redundancy, select_by_coverage
from sae_posttrain.discovery.firing import FiringSets


def random_rows(seed: int, examples: int = 12, features: int = 30) -> list[set[int]]:
    rng = np.random.default_rng(seed)
    return [set(np.flatnonzero(rng.random(features) < 0.15).tolist()) for _ in range(examples)]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_plain_greedy_choice_and_keeps_its_guarantee(seed: int) -> None:
    rows = random_rows(seed)
    found = select_by_coverage(FiringSets.of(rows, d_sae=30), 4)
    covered: set[int] = set()
    for chosen, gained in zip(found.examples, found.gained, strict=True):
        gains = [len(row - covered) for row in rows]
        best = max(gains)
        assert gained == best
        assert chosen == min(n for n, gain in enumerate(gains) if gain == best and (gain or n not in found.examples))
        covered |= rows[chosen]
    optimum = max(len(set().union(*part)) for part in combinations(rows, 4))
    assert len(covered) >= (1 - 1 / e) * optimum
    assert found.coverage[-1] == pytest.approx(len(covered) / len(set().union(*rows)))


def test_every_example_is_chosen_once_when_all_are_wanted() -> None:
    found = select_by_coverage(FiringSets.of(random_rows(0), d_sae=30), 12)
    assert sorted(found.examples) == list(range(12))
    assert found.coverage[-1] == 1.0


def test_it_covers_more_than_random_choice() -> None:
    rows = random_rows(1, examples=200, features=500)
    sets, rng = FiringSets.of(rows, d_sae=500), np.random.default_rng(0)
    chosen = select_by_coverage(sets, 5).coverage[-1]
    drawn = [
        len(set().union(*(rows[n] for n in rng.choice(200, 5, replace=False)))) / len(set().union(*rows))
        for _ in range(200)
    ]
    assert chosen > max(drawn)


@pytest.mark.parametrize("n", [0, 13])
def test_a_number_out_of_range_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 12"):
        select_by_coverage(FiringSets.of(random_rows(0), d_sae=30), n)


def test_matched_rows_are_as_long_as_the_chosen_ones() -> None:
    """Long texts fire many features here: random rows of the same lengths cover more than random rows."""
    rng = np.random.default_rng(0)
    lengths = np.repeat([2, 20], 50)
    rows = [rng.choice(400, size=length, replace=False).tolist() for length in lengths]
    sets = FiringSets.of(rows, d_sae=400)
    chosen = select_by_coverage(sets, 8)
    assert {int(lengths[example]) for example in chosen.examples} == {20}
    matched = length_matched_coverage(sets, lengths, chosen.examples, draws=50, bins=2)
    plain = redundancy(sets).coverage[7]
    assert matched.shape == (50, 8)
    assert (np.diff(matched, axis=1) >= 0).all()
    long_rows = FiringSets.of(rows[50:], d_sae=400)  # drawing from the long rows alone, in closed form
    expected = redundancy(long_rows).coverage * redundancy(long_rows).features / redundancy(sets).features
    assert matched.mean(axis=0) == pytest.approx(expected[:8], abs=0.01)
    assert plain < matched[:, -1].mean() < chosen.coverage[-1]


def test_a_length_for_each_example_is_needed() -> None:
    with pytest.raises(ValueError, match="2 lengths were given for 12 examples"):
        length_matched_coverage(FiringSets.of(random_rows(0), d_sae=30), [1, 2], [0])
