"""The p-values of a proof against other implementations, and what they decide."""

from __future__ import annotations

import numpy as np
import pytest

from sae_posttrain.inspection.diagnose_answers import Counted
from sae_posttrain.inspection.diagnose_chance import chance_among_draws, chance_over_cases, holm
from sae_posttrain.inspection.diagnose_trials import CauseTest, TokenTest, answer_test, corrected

TOKEN = TokenTest(1.0, (1.0, 1.0), None, 0.5, 1.0, 1.0)


def test_the_correction_is_that_of_an_example_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and never below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]


def test_the_chance_among_draws_is_a_t_test_of_one_new_value() -> None:
    stats = pytest.importorskip("scipy.stats")
    draws = np.random.default_rng(0).normal(size=7)
    for value in (-4.0, -0.3, 0.0, 2.5):
        spread = draws.std(ddof=1) * np.sqrt(1 + 1 / 7)
        expected = 2 * stats.t.sf(abs(value - draws.mean()) / spread, 6)
        assert chance_among_draws(value, draws.tolist()) == pytest.approx(expected, rel=1e-5)
    assert chance_among_draws(1.0, [1.0, 1.0]) == 1.0
    assert chance_among_draws(2.0, [1.0, 1.0]) == 0.0
    assert chance_among_draws(2.0, [1.0]) == 1.0


def test_the_chance_over_cases_is_that_of_all_sign_flips() -> None:
    values = np.array([1.0, 2.0, -0.5, 3.0, 1.5, 0.2, 0.9, -0.1])
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(values))).reshape(len(values), -1)
    exact = float((np.abs(values @ signs) >= values.sum() - 1e-12).mean())
    assert chance_over_cases(values.tolist()) == pytest.approx(exact, abs=0.01)


def counted(hits: int) -> Counted:
    return Counted(tuple((n, n < hits) for n in range(12)))


def trial(hits: int, random: tuple[int, ...]) -> CauseTest:
    answers = answer_test([counted(hits), *map(counted, random)], [], dense=False)
    return CauseTest(((1, hits),), 12, answers, TOKEN)


def test_one_of_many_suspects_is_no_cause_by_chance() -> None:
    """A difference that would do for one suspect does not do for ten."""
    alone = corrected([trial(8, (11, 11, 11))])[0]
    assert alone.p_value == alone.corrected_p < 0.05
    assert alone.is_cause
    among = corrected([trial(8, (11, 11, 11)), *[trial(11, (11, 11, 11))] * 9])[0]
    assert among.p_value == alone.p_value
    assert among.corrected_p == pytest.approx(10 * alone.p_value)
    assert not among.is_cause


def test_a_cause_is_rarer_than_under_every_draw() -> None:
    """One random direction that cures as many shows that the number of cures is nothing special."""
    assert trial(3, (12, 12, 12)).is_rarer
    assert not trial(3, (12, 12, 3)).is_rarer
