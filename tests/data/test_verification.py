"""Which synthesised examples fire their target, and how many would by chance: against loops and all permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from sae_posttrain.data import verify_targets
from sae_posttrain.discovery.firing import FiringSets

SETS = [[0, 3], [3], [1, 2], [0], [0, 2, 3], [], [1]]
TARGETS = [0, 0, 2, 2, 3, 3, 1]


def test_shares_are_those_counted_by_hand() -> None:
    found = verify_targets(FiringSets.of(SETS, 5), TARGETS)
    assert found.fires.tolist() == [target in one for one, target in zip(SETS, TARGETS, strict=True)]
    assert found.share == pytest.approx(4 / 7)
    others = [[other in one for other in {0, 1, 2, 3} - {target}] for one, target in zip(SETS, TARGETS, strict=True)]
    assert found.chance == pytest.approx(np.mean(others))
    assert 0 <= found.low <= found.share <= found.high <= 1


def test_the_p_value_is_that_of_exchanged_targets() -> None:
    found = verify_targets(FiringSets.of(SETS, 5), TARGETS, permutations=20_000)
    at_least = []
    for exchanged in permutations(range(4)):
        hits = sum(exchanged[target] in one for one, target in zip(SETS, TARGETS, strict=True))
        at_least.append(hits >= 4)
    assert found.p_value == pytest.approx(np.mean(at_least), abs=0.01)


def test_a_feature_that_always_fires_verifies_nothing() -> None:
    sets = [[0, 1, 2]] * 6
    found = verify_targets(FiringSets.of(sets, 3), [0, 0, 1, 1, 2, 2])
    assert (found.share, found.chance, found.p_value) == (1.0, 1.0, 1.0)


def test_a_single_target_has_no_chance_to_compare_with() -> None:
    found = verify_targets(FiringSets.of([[1], []], 3), [1, 1])
    assert found.share == 0.5
    assert np.isnan(found.chance)
    assert np.isnan(found.p_value)


def test_every_example_needs_a_target() -> None:
    with pytest.raises(ValueError, match="1 targets for 2 examples"):
        verify_targets(FiringSets.of([[1], []], 3), [1])
