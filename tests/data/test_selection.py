"""Greedy choice of examples, against a greedy choice without shortcuts and against the best choice."""

from __future__ import annotations

from itertools import combinations
from math import e

import numpy as np
import pytest

from sae_posttrain.data import select_by_coverage
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
