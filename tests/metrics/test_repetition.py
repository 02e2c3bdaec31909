"""N-gram measures by hand, and the rate of responses that end in a loop."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import regex

from sae_posttrain.languages import UNSPACED_SCRIPTS
from sae_posttrain.metrics import LoopSettings, distinct_n, looped_share, rep_n, repetition_rate
from sae_posttrain.metrics.interval import share_interval
from sae_posttrain.metrics.units import units_of

LOOP = "So we wait:" + "And then we wait again. " * 20
FINE = "The train left at noon and nobody on the platform knew where it would go."


@pytest.mark.parametrize(
    ("sequence", "n", "expected"),
    [
        ([1, 2, 3, 1, 2, 3], 1, 3 / 6),
        ([1, 2, 3, 1, 2, 3], 2, 2 / 5),
        ([1, 2, 3, 1, 2, 3], 6, 0),
        ([1, 2, 3], 4, 0),
        ([], 1, 0),
        ("the cat and the cat", 2, 1 / 4),
        ("the cat, the cat!", 2, 1 / 5),
        ("人人都说好人", 1, 2 / 6),
        ("GPU很快，GPU很快", 2, 2 / 6),
        ("コーヒー", 1, 1 / 4),
        ("มา มา", 2, 1 / 3),
        ("काम काम", 1, 1 / 2),
        ("고양이 고양이", 1, 1 / 2),
        (np.array([4, 4, 4, 4, 4]), 4, 1 / 2),
    ],
)
def test_repeated_and_distinct_n_grams_by_hand(sequence: Any, n: Any, expected: Any) -> None:
    assert rep_n(sequence, n) == pytest.approx(expected)
    assert distinct_n(sequence, n) == pytest.approx(1 - expected)


def spans(text: str) -> Any:
    units = units_of(text)
    found = list(zip(units.starts.tolist(), units.ends.tolist(), strict=True))
    assert [text[start:end] for start, end in found] == [units.distinct[number] for number in units.numbers]
    return found


def test_units_are_words_and_single_characters() -> None:
    """The oracle is the pattern that says it."""
    unspaced = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS)
    rng = random.Random(0)
    alphabet = "abé ёж काम 中文 かな ไทย한국 _1²½,.!\n\t\u3000\u200d😀\ud83d"
    for _ in range(300):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 20)))
        assert [text[a:b] for a, b in spans(text)] == regex.findall(rf"[^\W{unspaced}]+|\S", text)


def test_n_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        rep_n("a b", 0)


def test_rate_counts_responses_that_end_in_a_loop() -> None:
    report = repetition_rate([LOOP, FINE, LOOP + FINE, "", LOOP[:-7]])
    assert (report.loops.hits, report.loops.total, report.rate) == (2, 5, 0.4)
    assert (report.loops.low, report.loops.high) == share_interval([1, 0, 0, 0, 1], [1] * 5)
    assert report.period == 24
    shares = [looped_share(text) for text in (LOOP, FINE, LOOP + FINE, "", LOOP[:-7])]
    assert report.looped_share == pytest.approx(sum(shares) / 5)
    assert report.start == pytest.approx((11 / len(LOOP) + 11 / len(LOOP[:-7])) / 2)
    assert report.rep_4 == pytest.approx(sum(rep_n(text, 4) for text in (LOOP, FINE, LOOP + FINE, "", LOOP[:-7])) / 5)
    assert 0 < report.distinct_1 < 1


def test_loops_are_told_apart_by_period_and_by_where_they_begin() -> None:
    texts = ["x" * 200, "0123456789 " * 10 + "ab" * 300, "word by word " * 20, FINE + "abcdefg" * 20]
    report = repetition_rate(texts)
    assert report.periods == ((1, 1, 1), (2, 3, 1), (4, 7, 1), (8, 15, 1))
    assert report.starts == (2, 1, 0, 1, 0, 0, 0, 0, 0, 0)
    assert sum(report.starts) == report.loops.hits
    assert repetition_rate([FINE]).periods == ()
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["periods"][1] == {"from": 2, "to": 3, "loops": 1}
    assert plain["starts"] == list(report.starts)
    assert "loops by period in characters: 1-1: 1, 2-3: 1" in report.table()


def test_ids_are_measured_in_tokens() -> None:
    report = repetition_rate([[1, 2] * 40, [1, 2] * 40 + [0], [*range(80)]])
    assert (report.loops.hits, report.unit, report.period, report.start) == (1, "tokens", 2, 0)
    assert "period 2 tokens" in report.table()


def test_thresholds_reach_the_search() -> None:
    lines = "one and two\n" * 6
    assert repetition_rate([lines]).loops.hits == 0
    report = repetition_rate([lines], LoopSettings(min_length=60))
    assert (report.loops.hits, report.looped_share) == (1, 1.0)
    assert repetition_rate([lines], LoopSettings(min_length=60, min_repeats=7)).loops.hits == 0


def test_samples_of_one_prompt_are_not_independent() -> None:
    responses = ([LOOP] * 8 + [FINE] * 8 * 9) * 10
    apart = repetition_rate(responses).loops
    together = repetition_rate(responses, clusters=[index // 8 for index in range(len(responses))]).loops
    assert apart.rate == together.rate == 0.1
    assert together.high - together.low > 2 * (apart.high - apart.low)
    wider = repetition_rate(responses, confidence=0.99).loops
    assert wider.low < apart.low < apart.high < wider.high


def test_report_is_json_and_a_table() -> None:
    plain = json.loads(json.dumps(repetition_rate([LOOP, FINE]).to_dict()))
    assert (plain["rate"], plain["looped"], plain["unit"], plain["period"]) == (0.5, 1, "characters", 24)
    lines = repetition_rate([LOOP, FINE], ended=[False, True]).table().splitlines()
    assert lines[1].split()[:3] == ["1", "2", "50.000"]
    assert len(lines) == 7
    assert len(repetition_rate([FINE], ended=[False]).table().splitlines()) == 4
    assert "for 1 responses it is not known why they ended" in repetition_rate([LOOP, FINE], ended=[None, True]).table()
    assert repetition_rate([FINE]).period is None


@pytest.mark.parametrize(
    ("responses", "options", "message"),
    [
        ([], {}, "nothing to measure: there are no responses."),
        (["a", "b"], {"clusters": [1]}, "2 responses but 1 clusters"),
        (["a"], {"ended": [True, None]}, "ended has 2 entries and there are 1 responses"),
        (["a"], {"confidence": 95}, "confidence must lie between 0 and 1"),
    ],
)
def test_bad_input_is_named(responses: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repetition_rate(responses, **options)


def test_reasons_in_place_of_ended_are_refused() -> None:
    """The text "length" is true to Python, and would have counted as an end."""
    with pytest.raises(ValueError, match="ended must hold True, False or None, got 'length'"):
        repetition_rate(["a", "b"], ended=[None, "length"])
