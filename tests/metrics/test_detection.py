"""Precision, recall and F1, against counting by hand and a bootstrap that draws examples one by one."""

from __future__ import annotations

import numpy as np
import pytest

from sae_posttrain.metrics.detection import Detection


def f1_by_hand(detected: list[bool], actual: list[bool]) -> float:
    both = sum(d and a for d, a in zip(detected, actual, strict=True))
    precision, recall = both / max(1, sum(detected)), both / max(1, sum(actual))
    return 2 * precision * recall / (precision + recall) if both else 0.0


def test_counts_and_interval_are_those_by_hand() -> None:
    rng = np.random.default_rng(0)
    actual = rng.random(120) < 0.4
    detected = actual ^ (rng.random(120) < 0.2)
    found = Detection.of(detected, actual)
    assert found.total == 120
    assert found.true_positives == sum(d and a for d, a in zip(detected, actual, strict=True))
    by_class = [(detected == actual)[actual == one].mean() for one in (True, False)]
    assert found.balanced_accuracy == pytest.approx(np.mean(by_class))
    assert found.f1 == pytest.approx(f1_by_hand(detected.tolist(), actual.tolist()))
    drawn = [f1_by_hand(detected[row].tolist(), actual[row].tolist()) for row in rng.integers(0, 120, (4000, 120))]
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.01)
    assert found.to_dict()["f1"] == found.f1


def test_a_detector_that_finds_nothing_scores_zero() -> None:
    found = Detection.of([False, False], [True, False])
    assert (found.precision, found.recall, found.f1, found.low) == (0, 0, 0, 0)


@pytest.mark.parametrize("number", [1, 4, 50])
def test_few_examples_without_a_mistake_prove_little(number: int) -> None:
    """The bounds are those at which a result like this one has a probability of 2.5%."""
    share = 0.025 ** (1 / number)
    right = Detection.of([True] * number + [False] * 9, [True] * number + [False] * 9)
    assert (right.low, right.high) == (pytest.approx(2 * share / (1 + share)), 1)
    wrong = Detection.of([False] * number + [True], [True] * number + [False])
    share = 1 - 0.025 ** (1 / (number + 1))
    assert (wrong.low, wrong.high) == (0, pytest.approx(2 * share / (1 + share)))


def test_where_there_is_nothing_to_find_f1_is_unknown() -> None:
    found = Detection.of([False, False], [False, False])
    assert (found.f1, found.low, found.high, found.balanced_accuracy) == (0, 0, 1, 0.5)


def test_detectors_that_do_equally_well_have_the_same_balanced_accuracy() -> None:
    def balanced(hits: int, right: int) -> float:
        detected = [n < hits for n in range(10)] + [n >= right for n in range(10)]
        return Detection.of(detected, [True] * 10 + [False] * 10, resamples=1).balanced_accuracy

    assert len({balanced(hits, 9 - hits) for hits in range(10)}) == 1


def test_a_detector_that_always_says_yes_scores_two_thirds_on_balanced_labels() -> None:
    always = Detection.of([True] * 10, [True, False] * 5)
    assert (always.f1, always.balanced_accuracy) == (pytest.approx(2 / 3), 0.5)


@pytest.mark.parametrize(("detected", "actual"), [([], []), ([True], [True, False])])
def test_nothing_to_count_is_refused(detected: list[bool], actual: list[bool]) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        Detection.of(detected, actual)
