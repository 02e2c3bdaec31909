"""The arithmetic of a model diff, against loops over units, permutations and bounds."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from sae_posttrain.inspection.changes import exceeded, false_shares, largest_scores, paired_change

TOKENS_U = np.array([3.0, 5.0, 2.0, 7.0, 4.0])


def sums(seed: int, features: int = 6) -> np.ndarray:
    values = np.random.default_rng(seed).exponential(size=(len(TOKENS_U), features)) * TOKENS_U[:, None]
    values[:, -1] = 0  # a feature that never fires
    return values


def by_hand(base_UK: np.ndarray, tuned_UK: np.ndarray, feature: int) -> tuple[float, float]:
    """The difference and its error, one unit after the other."""
    units, total = len(TOKENS_U), sum(TOKENS_U)
    difference = sum(tuned_UK[u, feature] - base_UK[u, feature] for u in range(units)) / total
    squares = sum((tuned_UK[u, feature] - base_UK[u, feature] - difference * TOKENS_U[u]) ** 2 for u in range(units))
    return difference, float(np.sqrt(squares * units / (units - 1)) / total)


def score_by_hand(base_UK: np.ndarray, tuned_UK: np.ndarray, feature: int, offset: float) -> float:
    difference, error = by_hand(base_UK, tuned_UK, feature)
    return difference / (error + offset) if error + offset else 0.0


def test_the_change_and_its_error_are_those_of_a_ratio_of_sums() -> None:
    base_UK, tuned_UK = sums(0), sums(1)
    found = paired_change(base_UK, tuned_UK, TOKENS_U)
    expected = [by_hand(base_UK, tuned_UK, feature) for feature in range(6)]
    np.testing.assert_allclose(found.difference, [one for one, _ in expected])
    np.testing.assert_allclose(found.error, [error for _, error in expected])
    assert found.offset == pytest.approx(np.median([error for _, error in expected[:5]]))
    assert found.score[-1] == 0
    low, high = found.interval(0.95)
    np.testing.assert_allclose(high - low, 2 * 1.959964 * found.error, rtol=1e-6)


def test_the_error_is_the_spread_that_other_texts_show() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, size=60).astype(float)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        shift = rng.normal(0.5, 1.0, size=(60, 1))  # per unit, so that tokens of one unit are alike
        return np.zeros((60, 1)), shift * tokens[:, None]

    changes = [paired_change(*draw(), tokens) for _ in range(400)]
    spread = np.std([one.difference[0] for one in changes])
    assert np.mean([one.error[0] for one in changes]) == pytest.approx(spread, rel=0.1)
    covered = [low[0] <= 0.5 <= high[0] for low, high in (one.interval(0.95) for one in changes)]
    assert 0.9 <= np.mean(covered) <= 0.99


def test_a_single_unit_has_no_error() -> None:
    found = paired_change(np.zeros((1, 2)), np.ones((1, 2)), np.array([4.0]))
    assert np.isnan(found.error).all()
    assert found.difference.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("cells", [4, 1 << 20])
def test_the_largest_scores_are_those_of_exchanged_units(cells: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("sae_posttrain.inspection.changes._CELLS", cells)
    base_UK, tuned_UK = sums(2), sums(3)
    flips_PU = np.array(list(product([-1.0, 1.0], repeat=len(TOKENS_U))))
    offset = 0.03
    found_P = largest_scores(tuned_UK - base_UK, TOKENS_U, flips_PU, offset)
    for flips, found in zip(flips_PU, found_P, strict=True):
        first = np.where(flips[:, None] < 0, tuned_UK, base_UK)
        second = np.where(flips[:, None] < 0, base_UK, tuned_UK)
        scores = [abs(score_by_hand(first, second, feature, offset)) for feature in range(6)]
        assert found == pytest.approx(max(scores))


def test_p_values_count_the_permutations_that_reach_a_score() -> None:
    largest_P = np.array([1.0, 2.0, 3.0, 4.0])
    assert exceeded(np.array([0.5, -2.0, 4.0, 9.0]), largest_P).tolist() == [1.0, 0.8, 0.4, 0.2]


def test_families_of_unchanged_features_rarely_pass() -> None:
    rng = np.random.default_rng(4)
    tokens, passed = np.full(20, 10.0), 0
    flips_PU = rng.choice([-1.0, 1.0], size=(200, 20))
    for _ in range(60):
        difference_UK = rng.normal(size=(20, 50)) * rng.uniform(0.1, 3.0, size=50)
        change = paired_change(np.zeros((20, 50)), difference_UK, tokens)
        p_K = exceeded(change.score, largest_scores(difference_UK, tokens, flips_PU, change.offset))
        passed += (p_K <= 0.05).any()
    assert passed <= 9  # 3 expected; 10 or more has a probability of 0.001


def false_share_by_hand(scores: Any, noise: Any, one: float) -> float:
    """The smallest estimate of all bounds that a score passes."""
    estimates = []
    for bound in (abs(score) for score in scores if abs(score) <= abs(one)):
        decoys = sum(abs(value) >= bound for row in noise for value in row)
        own = sum(abs(score) >= bound for score in scores)
        estimates.append(min(1.0, (1 + decoys) / (len(noise) * own)))
    return min(estimates)


@pytest.mark.parametrize("models", [1, 3])
def test_false_shares_count_decoys(models: int) -> None:
    rng = np.random.default_rng(5)
    score_K = np.concatenate([rng.normal(0, 1, 40).round(1), rng.normal(6, 1, 10).round(1)])
    noise_MK = rng.normal(0, 1, size=(models, 50)).round(1)
    found = false_shares(score_K, noise_MK)
    expected = [false_share_by_hand(score_K, noise_MK, one) for one in score_K]
    np.testing.assert_allclose(found, expected)
    assert found[40:].max() < 0.2 < found[:40].min()
    assert np.isnan(false_shares(score_K, np.empty((0, 50)))).all()
