"""Means of probabilities by language and script, and the comparison of two runs on the same prompts."""

from __future__ import annotations

import numpy as np
import pytest

from sae_posttrain.metrics.expectation import ExpectedSwitch, expected_switch_report
from sae_posttrain.metrics.expected_comparison import compare_expected


def answers(scale: float = 1.0, count: int = 200, seed: int = 0) -> list[ExpectedSwitch]:
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        into = {"Hani": scale * rng.beta(0.5, 20), "Hang": 0.5 * scale * rng.beta(0.5, 20)}
        found.append(ExpectedSwitch("en", index // 2, sum(into.values()), into))
    return found


def test_means_by_language_and_script() -> None:
    found = [
        ExpectedSwitch("en", "a", 0.3, {"Hani": 0.2, "Cyrl": 0.1}, begun=0.05),
        ExpectedSwitch("en", "b", 0.1, {"Hani": 0.1}),
        ExpectedSwitch("zh", "c", 0.5, {"Cyrl": 0.5}),
    ]
    report = expected_switch_report(found)
    assert report.rate == pytest.approx(0.3)
    assert report.begun.rate == pytest.approx(0.05 / 3)
    assert report.languages["en"].rate == pytest.approx(0.2)
    # A script that is not named has probability 0, and an answer's own script is nothing that it could leave for.
    rates = {pair: (mean.rate, mean.total) for pair, mean in report.pairs.items()}
    assert rates == {
        ("all", "Cyrl"): (pytest.approx(0.2), 3),
        ("all", "Hani"): (pytest.approx(0.15), 2),
        ("en", "Hani"): (pytest.approx(0.15), 2),
        ("en", "Cyrl"): (pytest.approx(0.05), 2),
        ("zh", "Cyrl"): (0.5, 1),
    }
    assert report.to_dict()["pairs"][0]["script"] == "Cyrl"
    assert "30.0000" in report.table()


def test_the_interval_of_a_mean_draws_whole_prompts() -> None:
    """Two samples of a prompt that are the same count as one: as wide as the interval of the prompts alone."""
    once = [ExpectedSwitch("en", index, value, {}) for index, value in enumerate(np.linspace(0, 0.2, 100))]
    twice = [one for one in once for _ in range(2)]
    narrow, wide = expected_switch_report(once).overall, expected_switch_report(twice).overall
    assert (narrow.low, narrow.high) == (pytest.approx(wide.low), pytest.approx(wide.high))
    normal = 1.96 * np.std(np.linspace(0, 0.2, 100)) / 10
    assert narrow.high - narrow.low == pytest.approx(2 * normal, rel=0.1)
    (single,) = expected_switch_report(once[:1]).languages.values()
    assert (single.low, single.high) == (0, 1)


def test_a_run_that_leaves_less_is_told_from_one_that_does_not() -> None:
    report, against = expected_switch_report(answers(0.6)), expected_switch_report(answers(1.0))
    comparison = compare_expected(report, against)
    assert [one.into for one in comparison.differences] == ["any", "Hani", "Hang"]
    for one in comparison.differences:
        assert one.change == pytest.approx(-0.4)
        assert (one.change_low, one.change_high) == (pytest.approx(-0.4), pytest.approx(-0.4))
        assert one.low < one.difference < one.high < 0
        assert one.p_value < 0.01
    assert "-40.0%" in comparison.table()
    assert comparison.to_dict()["scripts"][1]["into"] == "Hang"


def test_runs_that_are_alike_are_not_told_apart() -> None:
    same = compare_expected(expected_switch_report(answers()), expected_switch_report(answers()))
    assert same.differences[0].change == 0
    assert same.differences[0].p_value == 1
    p_values, covered = [], 0
    for seed in range(40):
        runs = [expected_switch_report(answers(seed=2 * seed + run, count=60)) for run in range(2)]
        one = compare_expected(*runs, seed=seed, resamples=400).differences[0]
        p_values.append(one.p_value)
        covered += one.low <= 0 <= one.high
    assert 32 <= covered <= 40
    assert 0.3 < np.mean(p_values) < 0.7


def test_runs_with_different_numbers_of_samples_are_compared() -> None:
    comparison = compare_expected(expected_switch_report(answers()[::2]), expected_switch_report(answers()))
    assert comparison.differences[0].prompts == 100


def test_a_rate_of_zero_has_no_relative_change() -> None:
    nothing = expected_switch_report([ExpectedSwitch("en", index, 0.0, {}) for index in range(3)])
    one = compare_expected(nothing, nothing).differences[0]
    assert (one.change, one.difference, one.p_value) == (None, 0, 1)
    assert "–" in compare_expected(nothing, nothing).table()


def test_refusals() -> None:
    report = expected_switch_report(answers())
    with pytest.raises(ValueError, match=r"same prompts: 0 are in the first only .*1 in the second only \(such as 100"):
        compare_expected(report, expected_switch_report(answers(count=202)))
    with pytest.raises(ValueError, match="There are no answers"):
        expected_switch_report([])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        expected_switch_report(answers(), confidence=1.5)
